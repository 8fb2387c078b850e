"""The Fréchet distance between two sets of features: FID with Inception, FD-DINOv2 or FD-CLIP with other models.

Heusel et al. (2017): |mean difference|² + tr S1 + tr S2 - 2 tr (S1 S2)^½. With S = FᵀF the last trace is the sum of
the singular values of F1 F2ᵀ, so no square root of a matrix is needed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from dprune.errors import InputError
from dprune.formats.statistics import TOLERANCE
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.metrics.rows import check_dimensions, spans
from dprune.namespace import Array, beside, namespace, take_rows

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Moments:
    """Mean and scatter of a set of rows.

    Attributes:
        count: rows.
        mean: float64 [d].
        scatter: sum of the outer products of the centred rows, float64 [d, d].
        root: a matrix with rootᵀ root = scatter, float64 [r, d], kept while there are at most d rows: digits of
            a singular scatter are lost, those of its root are not.
        name: what messages call them, where they were read and not computed.
    """

    count: int
    mean: Array
    scatter: Array
    root: Array | None = None
    name: str = "statistics"

    @classmethod
    def of(cls, x: Array) -> Moments:
        """Take the moments of rows [n, d] of any float type, in float64, chunk by chunk."""
        parts = (cls._of_chunk(_double(x[low:high])) for low, high in spans(len(x), x.shape[1]))
        return cls.total(parts)

    @classmethod
    def _of_chunk(cls, rows: Array) -> Moments:
        mean = rows.mean(0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred, centred if len(rows) <= rows.shape[1] else None)

    @classmethod
    def of_covariance(cls, count: int, mean: Array, covariance: Array, name: str = "statistics") -> Moments:
        """Take moments from a statistics file: mean [d] and covariance [d, d] with divisor count - 1."""
        return cls(count, _double(mean), _double(covariance) * (count - 1), name=name)

    @classmethod
    def total(cls, parts: Iterable[Moments]) -> Moments:
        """Combine the moments of disjoint sets of rows."""
        return functools.reduce(cls.merge, parts)

    @property
    def dimension(self) -> int:
        """Length of a row."""
        return len(self.mean)

    @property
    def undersampled(self) -> bool:
        """Whether there are fewer rows than dimensions, where the distance is mostly bias."""
        return self.count < self.dimension

    def covariance(self) -> Array:
        """Return the covariance with divisor n - 1, float64 [d, d]."""
        return self.scatter / (self.count - 1)

    def merge(self, other: Moments) -> Moments:
        """Combine with the moments of other rows (Chan, Golub and LeVeque, 1983)."""
        count = self.count + other.count
        step = other.mean - self.mean
        weight = self.count * other.count / count
        root = None
        if self.root is not None and other.root is not None and count <= self.dimension:
            root = namespace(step).concat([self.root, other.root, step[None] * weight**0.5])
        scatter = _add_outer(self.scatter, step, weight)
        scatter += other.scatter
        return Moments(count, self.mean + step * (other.count / count), scatter, root)

    def without(self, part: Moments) -> Moments:
        """Take away the moments of some of the rows: Chan's update backwards."""
        count = self.count - part.count
        step = (self.mean - part.mean) * (self.count / count)
        mean = part.mean + step
        scatter = _add_outer(self.scatter - part.scatter, step, -part.count * count / self.count)
        return Moments(count, mean, scatter)

    @functools.cached_property
    def cholesky(self) -> Array | None:
        """L with L Lᵀ = covariance, lower triangular [d, d]; None where that is not positive definite for sure."""
        if self.count <= self.dimension:
            return None
        covariance = self.covariance()
        linalg = namespace(covariance).linalg
        try:
            lower = linalg.cholesky(covariance)
        except linalg.LinAlgError:
            return None
        # A pivot this much smaller than its variance is a rest of rounding.
        sound = lower.diagonal() ** 2 > 100 * self.dimension * EPSILON * covariance.diagonal()
        return lower if sound.all() else None

    @functools.cached_property
    def factor(self) -> Array:
        """F with Fᵀ F = covariance, float64 [r, d].

        Raises:
            InputError: there is none, since the covariance has negative eigenvalues that are no rests of rounding.
        """
        if self.root is not None:
            return self.root / math.sqrt(self.count - 1)
        if self.cholesky is not None:
            return self.cholesky.T
        xp = namespace(self.scatter)
        values, vectors = xp.linalg.eigh(self.covariance())
        if values[0] < -TOLERANCE * xp.linalg.vector_norm(values):
            raise InputError(
                f"{self.name}: its covariance has clearly negative eigenvalues, which no set of features has: make the "
                "statistics again."
            )
        real = values > self.dimension * EPSILON * values[-1]
        return xp.sqrt(values[real])[:, None] * vectors[:, real].T


@dataclass(frozen=True)
class Frechet:
    """A Fréchet distance and what it is made of.

    Attributes:
        distance: the squared distance that the literature calls FID or FD.
        mean_term: the part that the means cause.
        covariance_term: the part that the covariances cause.
    """

    distance: Estimate
    mean_term: float
    covariance_term: float


def frechet_distance(
    generated: Moments, reference: Moments, replicates: Iterable[Moments] = (), blocks: Blocks | None = None
) -> Frechet:
    """Compute the Fréchet distance of Heusel et al. (2017) in float64.

    Args:
        generated: moments of the generated features.
        reference: moments of the reference features.
        replicates: moments of the generated features without each block, see `replicate_moments`.
        blocks: the blocks; without them there is no standard error.

    Raises:
        InputError: a side has fewer than two samples, or its moments are not finite, or a covariance is none.
        MismatchError: the dimensions differ.
    """
    for role, moments in (("generated", generated), ("reference", reference)):
        if moments.count < 2:
            raise InputError(
                f"{moments.count} {role} samples have no covariance: a Fréchet distance needs at least two."
            )
        if not math.isfinite(float(moments.scatter.sum()) + float(moments.mean.sum())):
            raise InputError(f"the statistics of the {role} features hold NaN or infinity: leave such samples out.")
    check_dimensions(generated.dimension, reference.dimension)
    mean_term, covariance_term = frechet_terms(generated, reference)
    distance = Estimate(mean_term + covariance_term)
    if blocks is not None:
        distance = blocks.estimate(distance.value, [sum(frechet_terms(moments, reference)) for moments in replicates])
    return Frechet(distance, mean_term, covariance_term)


def frechet_terms(generated: Moments, reference: Moments) -> tuple[float, float]:
    """Return the parts of the distance that the means and the covariances cause; it is their sum."""
    mean_term = ((generated.mean - reference.mean) ** 2).sum()
    traces = generated.scatter.trace() / (generated.count - 1) + reference.scatter.trace() / (reference.count - 1)
    return float(mean_term), max(0.0, float(traces - 2 * _cross_trace(generated, reference)))


def _cross_trace(generated: Moments, reference: Moments) -> Array:
    """Return tr (S1 S2)^½.

    With both covariances definite it is the sum of the roots of the eigenvalues of Lᵀ S L; with a singular one,
    whose zeros would come out as roots of rounding errors, singular values keep all digits.
    """
    xp = namespace(generated.scatter)
    if generated.cholesky is not None and reference.cholesky is not None:
        lower = reference.cholesky
        values = xp.linalg.eigvalsh(lower.T @ generated.covariance() @ lower)
        return xp.sqrt(xp.clip(values, 0, None)).sum()
    return xp.linalg.svdvals(generated.factor @ reference.factor.T).sum()


def replicate_moments(x: Array, blocks: Blocks) -> tuple[Moments, Iterator[Moments]]:
    """Take the moments of all rows, and those without each block by taking the block's away again.

    Every row is read once, and one [d, d] matrix a block is held. Of at most d rows, whose scatter is singular, the
    remaining ones are read again.

    Args:
        x: features [n, d] of any float type.
        blocks: which rows to leave out together.
    """
    if len(x) <= x.shape[1]:
        remaining = (beside(x, blocks.without(block)) for block in range(len(blocks)))
        return Moments.of(x), (Moments.of(take_rows(x, places)) for places in remaining)
    parts = [Moments.of(rows) for rows in blocks.rows(x)]
    whole = Moments.total(parts)
    return whole, (whole.without(part) for part in parts)


def _double(x: Array) -> Array:
    return namespace(x).asarray(x, dtype=namespace(x).float64)


def _add_outer(scatter: Array, step: Array, weight: float) -> Array:
    """Return scatter + weight · step stepᵀ."""
    added = namespace(step).outer(step, step * weight)
    added += scatter
    return added
