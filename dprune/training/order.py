"""The order of training: concatenated permutations, cut into batches, the same for any number of processes."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dprune.seeds import generator

Positions = npt.NDArray[np.int64]


class Visits(NamedTuple):
    """The samples of a batch, or of a part of one.

    Where the set is smaller than the batch, a sample is visited several times in it. What is random in a visit is
    drawn by the sample's id and by how often it was visited before, so that all visits are independent.

    Attributes:
        positions: of the samples in the training set, int64 [n].
        before: how often each was visited before, int64 [n].
    """

    positions: Positions
    before: npt.NDArray[np.int64]

    @classmethod
    def first(cls, positions: Positions) -> Visits:
        """Visit samples as if none had been visited before."""
        return cls(positions, np.zeros_like(positions))


class Order:
    """Which samples each step takes.

    No tail is dropped, so that every sample comes once an epoch, and sets smaller than a batch fill it several times.

    Args:
        size: samples of the training set.
        batch_size: samples of a step.
        seed: of the run.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size, self.batch_size = size, batch_size
        # A batch may begin in one epoch and end in the next.
        self._epoch = functools.lru_cache(maxsize=2)(
            lambda epoch: generator(seed, f"training order of epoch {epoch}").permutation(size)
        )

    def visits(self, step: int) -> Visits:
        """Return the batch of a step, of `batch_size` visits."""
        begin, end = step * self.batch_size, (step + 1) * self.batch_size
        # Every sample comes once an epoch.
        before = np.arange(begin, end) // self.size
        pieces = []
        while begin < end:
            epoch, first = divmod(begin, self.size)
            last = min(self.size, first + end - begin)
            pieces.append(self._epoch(epoch)[first:last])
            begin += last - first
        return Visits(np.concatenate(pieces), before)

    def distinct(self, step: int) -> int:
        """Count the distinct samples in the batch of a step."""
        begin, end = step * self.batch_size, (step + 1) * self.batch_size
        # Only where two epochs are cut do their orders matter.
        if begin // self.size == (end - 1) // self.size:
            return self.batch_size
        whole = -(-begin // self.size)
        return self.size if (whole + 1) * self.size <= end else len(np.unique(self.visits(step).positions))

    def epochs(self, steps: int) -> float:
        """How often each sample was taken, on average, in so many steps."""
        return steps * self.batch_size / self.size


def share(visits: Visits, rank: int, world: int) -> Visits:
    """Return a rank's contiguous share of a batch; shares differ by one sample at most."""
    return _cut(visits, world)[rank]


def micro_batches(visits: Visits, most: int) -> list[Visits]:
    """Cut visits into the fewest pieces of at most `most` samples, as equal as can be."""
    return _cut(visits, -(-len(visits.positions) // most))


def _cut(visits: Visits, pieces: int) -> list[Visits]:
    return [Visits(*piece) for piece in zip(*(np.array_split(part, pieces) for part in visits), strict=True)]
