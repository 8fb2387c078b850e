"""Standard errors by leaving out one block of the generated samples at a time, or by halves of them.

Bootstrap replicates hold duplicates, which bias Fréchet distances and the metrics of nearest neighbours; a jackknife
holds none. The reference is held fixed: what differs between two models that face one reference is their samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.metrics.differences import jackknife_error
from dprune.namespace import Array, beside, host, take_rows
from dprune.seeds import generator

COUNT = 20
FEWEST = 5
"""Blocks; and samples of each stratum, for blocks to hold some of each."""

Strata = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error.

    Attributes:
        value: the number.
        error: NaN where none was asked for or none can be told.
        replicates: the number without each block of samples, in their order; none without an error.
    """

    value: float
    error: float = math.nan
    replicates: tuple[float, ...] = ()

    def over(self, other: Estimate) -> Estimate:
        """Return the ratio to a number that varies independently, its error of first order; NaN over zero or NaN."""
        if not other.value or math.isnan(other.value):
            return Estimate(math.nan)
        error = math.hypot(self.error / other.value, self.value * other.error / other.value**2)
        return Estimate(self.value / other.value, error)


@dataclass(frozen=True)
class Blocks:
    """A random partition of samples into blocks of equal size, give or take one.

    Random, because samples are often sorted by class, and a block of one class would be no sample of the whole.

    Attributes:
        labels: block of each sample, int64 [n].
        sizes: samples in each block.
        seed: that they were drawn by.
        strata: what was spread evenly over them, int64 [n], or None.
    """

    labels: npt.NDArray[np.int64]
    sizes: tuple[int, ...]
    seed: int = 0
    strata: Strata | None = None

    @classmethod
    def draw(cls, samples: int, seed: int = 0, count: int = COUNT, strata: Strata | None = None) -> Blocks:
        """Partition `samples` samples into `count` blocks, or into single ones where there are fewer.

        Args:
            samples: how many there are.
            seed: seed of the partition.
            count: blocks.
            strata: the class of each sample, int64 [n], where the numbers of each class were fixed and not left to
                chance: every block gets a like share of each, so that errors do not hold what cannot vary. There
                are fewer blocks, down to half, where these get shares more alike.
        """
        count = min(count, samples)
        if strata is not None and count > 1:
            count = _evenest(strata, count)
        labels = _dealt(samples, count, generator(seed, "jackknife blocks"), strata)
        sizes = np.bincount(labels, minlength=count)
        return cls(labels, tuple(sizes.tolist()), seed, strata)

    @classmethod
    def whole(cls, x: Array) -> Blocks:
        """Put all rows of `x` [n, ...] into one block, without which nothing is left: no error can be told."""
        return cls(np.zeros(len(x), dtype=np.int64), (len(x),))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def remaining(self) -> tuple[int, ...]:
        """Samples that are left without each block."""
        return tuple(len(self.labels) - size for size in self.sizes)

    def rows(self, x: Array) -> Iterator[Array]:
        """Yield the rows of `x` [n, ...] that belong to each block."""
        order = np.argsort(self.labels, kind="stable")
        for ids in np.split(order, np.cumsum(self.sizes)[:-1]):
            yield take_rows(x, beside(x, ids))

    def without(self, block: int) -> npt.NDArray[np.int64]:
        """Return the places of the samples outside a block, int64 [m]."""
        return np.flatnonzero(self.labels != block)

    def one_hot(self) -> npt.NDArray[np.float64]:
        """Return membership as a matrix [n, blocks] of zeros and ones."""
        return np.eye(len(self))[self.labels]

    def without_each(self, sums: Array) -> Array:
        """Return the total of block sums [blocks, ...] without each block, of the same shape."""
        return sums.sum(0)[None] - sums

    def halves(self) -> npt.NDArray[np.bool_]:
        """Draw as many ways to halve the samples as there are blocks, bool [n, blocks]."""
        return draw_halves(len(self.labels), len(self), self.seed, "generated", self.strata)

    def estimate(self, value: float, replicates: Sequence[float] | Array) -> Estimate:
        """Put the standard error beside a value, see `jackknife_error`.

        Args:
            value: the statistic of all samples.
            replicates: the statistic without each block, in their order.
        """
        left_out = np.asarray(replicates if isinstance(replicates, Sequence) else host(replicates), dtype=np.float64)
        if len(left_out) < 2:
            return Estimate(value)
        return Estimate(value, jackknife_error(value, left_out, self.sizes), tuple(left_out.tolist()))

    def mean(self, values: Array) -> Estimate:
        """Return the mean of values [n] and its error; what is not finite is left out."""
        numbers = host(values).astype(np.float64)
        known = np.isfinite(numbers)
        weights = (np.where(known, numbers, 0.0), known)
        sums = np.stack([np.bincount(self.labels, each, len(self)) for each in weights], 1)
        with np.errstate(invalid="ignore"):
            mean, left_out = (both[..., 0] / both[..., 1] for both in (sums.sum(0), self.without_each(sums)))
        return self.estimate(float(mean), left_out)

    def estimate_by_halves(self, value: float, differences: Array) -> Estimate:
        """Put the standard error beside a value of which leaving out blocks would tell too large a one.

        Where a statistic hangs on which points are nearest, what samples do together is counted once for each of them
        by a jackknife (Efron and Stein, 1981). Halves that complement each other are independent: their difference
        varies twice as much as either, and so, as halves vary twice as much as all, four times as much as the
        statistic. It is written as replicates from which the jackknife makes that error, so that differences of two
        models are told in the same way.

        Args:
            value: the statistic of all samples.
            differences: of the statistic between both halves, for each of `halves`, float64 [blocks].
        """
        times = sum(self.sizes) / np.asarray(self.sizes, dtype=np.float64)
        return self.estimate(value, value + host(differences) * np.sqrt(times) / (2 * (times - 1)))


def draw_halves(samples: int, ways: int, seed: int, role: str, strata: Strata | None = None) -> npt.NDArray[np.bool_]:
    """Draw halves of a side.

    Args:
        samples: of the side.
        ways: to halve it.
        seed: seed of the halves.
        role: which side it is: halves of both are independent.
        strata: see `Blocks.draw`.

    Returns:
        Whether a sample is in the second half, the smaller one of an odd number, bool [samples, ways].
    """
    draw = generator(seed, f"halves of the {role} samples")
    drawn = [_dealt(samples, 2, draw, strata) for _ in range(ways)]
    return np.stack(drawn, 1) > 0


def _evenest(strata: Strata, count: int) -> int:
    """Return how many blocks, from half of `count` on, share out strata of one size with the least rest."""
    each = int(np.unique(strata, return_counts=True)[1].min())
    fewest = min(count, max(FEWEST, min(each, count // 2)))

    def unevenness(blocks: int) -> float:
        """Variance of how many of a stratum a block gets, over that of chance."""
        rest = each % blocks
        return rest * (1 - rest / blocks) / (1 - 1 / blocks)

    return min(range(count, fewest - 1, -1), key=unevenness)


def _dealt(samples: int, count: int, draw: np.random.Generator, strata: Strata | None) -> npt.NDArray[np.int64]:
    """Deal samples out at random in parts of equal size, give or take one, int64 [samples]."""
    labels = np.empty(samples, dtype=np.int64)
    order = draw.permutation(samples)
    if strata is None or count < 2:
        labels[order] = np.arange(samples) * count // max(1, samples)
        return labels
    # One stratum after the other, and each part once before any gets a second sample, in an order of its own each
    # time: else the rests of many small strata would pile up in the same parts.
    rounds = np.tile(np.arange(count), (-(-samples // count), 1))
    labels[order[np.argsort(strata[order], kind="stable")]] = draw.permuted(rounds, axis=1).reshape(-1)[:samples]
    return labels
