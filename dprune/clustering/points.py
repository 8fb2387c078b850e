"""The points that k-means clusters: each rank's slice of the features, on its device, ready for matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.clustering.kernels import chunks
from dprune.clustering.reading import read_rows, rows_at_once
from dprune.collectives import all_gather, all_sum, gather_rows
from dprune.errors import InputError
from dprune.formats.features import Features
from dprune.namespace import Array, Device, host, namespace, namespace_on, take_rows
from dprune.runtime import Monitor, ranks
from dprune.seeds import generator

# What divides by less would no longer scale to unit length, but magnify rests of rounding.
SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Points:
    """Rows of a feature matrix without those that hold no usable number.

    Attributes:
        x: this rank's points, float32 [n, d]: minus the mean of all for l2, scaled to unit length for cosine.
        valid: which rows of this rank's slice the points are, bool [rows].
        counts: points on each rank.
        metric: `l2` or `cosine`.
        centre: what was subtracted from the features, float32 [d]; zero for cosine.
        mean_square: mean squared norm over all ranks' points.
    """

    x: Array
    valid: npt.NDArray[np.bool_]
    counts: tuple[int, ...]
    metric: str
    centre: Array
    mean_square: float

    @property
    def total(self) -> int:
        """Points of all ranks."""
        return sum(self.counts)

    def over_samples(self, values: Array, missing: float) -> npt.NDArray[Any]:
        """Bring one value a point to the host, as one a sample: of all ranks on rank 0, of its own on another.

        Args:
            values: of this rank's points, [n].
            missing: value of the samples that are no points.
        """
        # Not a cached property: Python 3.11 locks it for all threads, so that ranks which are threads would wait for
        # each other for ever.
        found, kept = _gathered(values), _gathered(namespace(self.x).asarray(self.valid))
        out = np.full(len(kept), missing, dtype=found.dtype)
        out[kept] = found
        return out

    def place(self, centroids: Array) -> Array:
        """Bring centroids [k, d] from the features' space into that of `x`."""
        placed = namespace(self.x).asarray(centroids, dtype=self.x.dtype, device=self.x.device) - self.centre
        return unit(placed) if self.metric == "cosine" else placed

    def sample(self, count: int, seed: int, purpose: str) -> tuple[Array, npt.NDArray[np.int64]]:
        """Draw points of all ranks without replacement; which ones does not depend on the number of ranks.

        Args:
            count: points to draw.
            seed: seed of the run.
            purpose: what they are for.

        Returns:
            The rows, float32 [count, d] (complete on rank 0 only), and their positions among all points, ascending.
        """
        if count >= self.total:
            chosen = np.arange(self.total)
        else:
            chosen = np.sort(generator(seed, purpose).choice(self.total, count, replace=False, shuffle=False))
        alone = len(self.counts) == 1
        if alone and len(chosen) == self.total:
            return self.x, chosen
        first = 0 if alone else sum(self.counts[: ranks().rank])
        here = chosen[(chosen >= first) & (chosen < first + len(self.x))] - first
        rows = take_rows(self.x, namespace(self.x).asarray(here, device=self.x.device))
        return gather_rows(rows), chosen


def _gathered(rows: Array) -> npt.NDArray[Any]:
    """Bring rows to the host and, on rank 0, those of all ranks together."""
    found: npt.NDArray[Any] = host(gather_rows(rows if isinstance(rows, np.ndarray) else rows.cpu()))
    return found


def unit(rows: Array) -> Array:
    """Scale rows [n, d] to unit length; zero rows stay zero."""
    xp = namespace(rows)
    return rows / xp.clip(xp.linalg.vector_norm(rows, axis=1, keepdims=True), SMALLEST_NORM, None)


def load_points(
    features: Features, metric: str, device: Device, monitor: Monitor, chosen: npt.NDArray[np.int64] | None = None
) -> Points:
    """Read this rank's slice of the features.

    Rows that could not be decoded (NaN), that overflow float32 when squared, and for cosine those of zero length,
    which have no direction, are left out.

    Args:
        features: what to cluster.
        metric: `l2` or `cosine`.
        device: where the points are to be.
        monitor: told of the rows read.
        chosen: sorted ids of the samples that are clustered, None for all.

    Raises:
        InputError: no row is usable.
    """
    xp, worker, (samples, dimension) = namespace_on(device), ranks(), features.shape
    begin, end = (samples * rank // worker.world for rank in (worker.rank, worker.rank + 1))
    wanted = None if chosen is None else mask_of(chosen, begin, end)
    room = end - begin if wanted is None else int(wanted.sum())
    x = xp.empty((room, dimension), dtype=xp.float32, device=device)
    sums = xp.zeros(dimension, dtype=xp.float64, device=device)
    valid, filled, read = np.zeros(end - begin, dtype=np.bool_), 0, 0
    monitor.start("reading features", end - begin, "samples")
    for rows in read_rows(features, begin, end, device):
        here = slice(read, read := read + len(rows))
        kept = usable_rows(rows, metric)
        if wanted is not None:
            kept = kept & xp.asarray(wanted[here], device=device)
        valid[here] = host(kept)
        usable = rows if valid[here].all() else rows[kept]
        x[filled : filled + len(usable)] = usable
        sums += usable.sum(axis=0)
        filled += len(usable)
        monitor.advance(len(rows))
    counts = tuple(all_gather(xp.asarray([filled])).tolist())
    if not sum(counts):
        raise InputError(f"{features.name}: no sample has usable features: all are NaN, infinite or zero.")
    # Products of centred vectors lose the fewest digits; any centre is right as long as all ranks share it.
    mean = all_sum(sums) / sum(counts) if metric == "l2" else xp.zeros_like(sums)
    return _placed(x[:filled], valid, counts, metric, xp.asarray(mean, dtype=xp.float32))


def mask_of(chosen: npt.NDArray[np.int64], begin: int, end: int) -> npt.NDArray[np.bool_]:
    """Tell which of the samples from `begin` to `end` are chosen."""
    found = np.zeros(end - begin, dtype=np.bool_)
    found[chosen[(chosen >= begin) & (chosen < end)] - begin] = True
    return found


def usable_rows(rows: Array, metric: str) -> Array:
    """Tell which rows [n, d] hold numbers that a distance can be told of, bool [n]; for cosine zero has none."""
    xp = namespace(rows)
    # In float32 a square may be infinite, which is how such rows are found.
    with np.errstate(over="ignore"):
        norms = xp.linalg.vector_norm(rows, axis=1)
    return xp.isfinite(norms) & (norms > 0) if metric == "cosine" else xp.isfinite(norms)


def _placed(x: Array, valid: npt.NDArray[np.bool_], counts: tuple[int, ...], metric: str, centre: Array) -> Points:
    xp = namespace(x)
    squares = xp.zeros(1, dtype=xp.float64, device=x.device)
    for chunk in chunks(x, rows_at_once(x.shape[1], x.device)):
        if metric == "cosine":
            chunk[:] = unit(chunk)
        else:
            chunk -= centre
        squares += xp.square(xp.asarray(xp.linalg.vector_norm(chunk, axis=1), dtype=xp.float64)).sum()
    return Points(x, valid, counts, metric, centre, float(all_sum(squares)[0]) / sum(counts))
