"""The order of training: concatenated permutations, cut into batches, the same for any number of processes."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from dprune.seeds import generator

Positions = npt.NDArray[np.int64]


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

    def positions(self, step: int) -> Positions:
        """Return the batch of a step as positions in the training set, int64 [batch_size]."""
        begin, end = step * self.batch_size, (step + 1) * self.batch_size
        pieces = []
        while begin < end:
            epoch, first = divmod(begin, self.size)
            last = min(self.size, first + end - begin)
            pieces.append(self._epoch(epoch)[first:last])
            begin += last - first
        return np.concatenate(pieces)

    def epochs(self, steps: int) -> float:
        """How often each sample was taken, on average, in so many steps."""
        return steps * self.batch_size / self.size


def share(positions: Positions, rank: int, world: int) -> Positions:
    """Return a rank's contiguous share of a batch; shares differ by one sample at most."""
    return np.array_split(positions, world)[rank]


def micro_batches(positions: Positions, most: int) -> list[Positions]:
    """Cut positions into the fewest pieces of at most `most` samples, as equal as can be."""
    return np.array_split(positions, -(-len(positions) // most))
