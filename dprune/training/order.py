"""The order of training: concatenated epochs, cut into batches, the same for any number of processes.

An epoch is a permutation of the samples, of which weights repeat some and leave out others. What it holds follows from
the seed and its number alone, so that a run that goes on needs no memory of what it did.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dprune.seeds import generator

Positions = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]

UNIT = 1 << 32
"""Parts of a visit that shares of an epoch are counted in."""
MOST = 1 << 30
"""Visits that an epoch may have: its parts are to fit 64 bits."""
POOLS = 10
"""How many pools the curriculum has, of which each adds as many samples."""


class Visits(NamedTuple):
    """The samples of a batch, or of a part of one.

    A sample may be visited several times in a batch. What is random in a visit is drawn by the sample's id and by how
    often it was visited before, so that all visits are independent.

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

    @classmethod
    def joined(cls, pieces: list[Visits]) -> Visits:
        """Join consecutive visits."""
        return cls(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))

    def cut(self, begin: int, end: int) -> Visits:
        """Return some consecutive visits."""
        return Visits(self.positions[begin:end], self.before[begin:end])


@dataclass(frozen=True, eq=False)
class Drawing:
    """How often the samples of a training set are drawn, and which come first.

    Attributes:
        weights: how often relative to others, float64 [n], above 0; None for all alike.
        easiest: positions from the easiest to the hardest sample, int64 [n]; None for all at once.
    """

    weights: Weights | None = None
    easiest: Positions | None = None

    @property
    def even(self) -> bool:
        """Whether each sample comes once an epoch, from the beginning on."""
        return self.weights is None and self.easiest is None


EVEN = Drawing()


def epoch_length(weights: Weights) -> int:
    """Visits of an epoch: what the weights add up to, so that whole numbers are counts, and one a sample at least."""
    # A half that was scaled may have lost its last bit.
    return max(int(np.floor(weights.sum().round(6) + 0.5)), len(weights))


class Epochs:
    """Concatenated epochs.

    Weights share out the visits of an epoch by systematic sampling: the shares lie end to end on a line, in a seeded
    order, and every whole number that falls into a share, once the line is shifted by a part of a visit, is a visit.
    So an epoch always has its length, and a sample comes as often as its share says, rounded down or up. The shift of
    an epoch is its number with the bits reversed (van der Corput, 1935), so that those of any 2^k epochs from a
    multiple of 2^k are evenly spaced: what a sample was owed in one it gets in another. Over the first E epochs its
    visits are off by less than the ones in the binary form of E, by less than one if that is a power of two; and how
    many they were is known without looking at any of these epochs.

    Attributes:
        size: samples.
        length: visits of an epoch.

    Args:
        size: samples.
        seed: of the run.
        weights: see `Drawing`.
        stage: tells these epochs from others of the run.
    """

    def __init__(self, size: int, seed: int, weights: Weights | None = None, stage: str = "") -> None:
        self.size, self._seed, self._stage = size, seed, stage
        self.length = size if weights is None else epoch_length(weights)
        self._weighs = weights is not None
        if weights is not None:
            self._line = generator(seed, f"line of weights{stage}").permutation(size)
            self._ends = np.cumsum(_parts(weights, self.length)[self._line])
        # A batch may begin in one epoch and end in the next.
        self._epoch = functools.lru_cache(maxsize=2)(self._ordered)

    def take(self, begin: int, end: int) -> Visits:
        """Return the visits from number `begin` to `end`, counted from 0."""
        pieces = []
        while begin < end:
            epoch, first = divmod(begin, self.length)
            last = min(self.length, first + end - begin)
            pieces.append(self._epoch(epoch).cut(first, last))
            begin += last - first
        return Visits.joined(pieces)

    def counts(self, end: int) -> npt.NDArray[np.int64]:
        """Return how often each sample comes in so many first visits, int64 [n]."""
        epoch, rest = divmod(end, self.length)
        return self._counts(epoch) + np.bincount(self._epoch(epoch).positions[:rest], minlength=self.size)

    def distinct(self, begin: int, end: int) -> int:
        """Count the distinct samples of some consecutive visits."""
        if self._weighs:
            return len(np.unique(self.take(begin, end).positions))
        # Only where two epochs are cut do their orders matter.
        if begin // self.size == (end - 1) // self.size:
            return end - begin
        whole = -(-begin // self.size)
        return self.size if (whole + 1) * self.size <= end else len(np.unique(self.take(begin, end).positions))

    def _ordered(self, epoch: int) -> Visits:
        order = generator(self._seed, f"training order of{self._stage} epoch {epoch}").permutation(self.length)
        before = self._counts(epoch)
        if not self._weighs:
            return Visits(order, before)
        counts = self._shared(self._upto(epoch, 0))
        positions = np.repeat(np.arange(self.size), counts)[order]
        return Visits(positions, before[positions] + _earlier(positions, counts))

    def _counts(self, epochs: int) -> npt.NDArray[np.int64]:
        """Return how often each sample comes in so many first epochs, int64 [n]."""
        if not self._weighs:
            return np.full(self.size, epochs)
        upto = np.zeros(self.size, np.int64)
        for bit in range(epochs.bit_length()):
            if epochs >> bit & 1:
                upto += self._upto(epochs >> bit + 1 << bit + 1, bit)
        return self._shared(upto)

    def _upto(self, epoch: int, bit: int) -> npt.NDArray[np.int64]:
        """Count the visits up to the end of each share in 2^bit epochs, whose shifts together make one finer line."""
        shift = int(f"{epoch:032b}"[::-1], 2)
        return -((shift - self._ends) >> 32 - bit)

    def _shared(self, upto: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        counts = np.empty(self.size, np.int64)
        counts[self._line] = np.diff(upto, prepend=0)
        return counts


class Stages:
    """A curriculum: pools that grow from the easiest samples to all, which are there from half of the run on.

    The first pool has a tenth of the samples, and each of the next a tenth more, for as many visits; a pool is visited
    in epochs of its own (Bengio et al., "Curriculum learning", 2009; the pacing is the linear one of Platanios et al.,
    2019, in steps).

    Attributes:
        size: samples.
        length: visits of an epoch of all samples.

    Args:
        size: samples.
        seed: of the run.
        drawing: with the samples from the easiest to the hardest.
        half: visits of the first half of the run.
    """

    def __init__(self, size: int, seed: int, drawing: Drawing, half: int) -> None:
        assert drawing.easiest is not None
        self.size, self._seed, self._weights = size, seed, drawing.weights
        self._easiest = drawing.easiest
        self._begins = [half * stage // (POOLS - 1) for stage in range(POOLS)]
        self._stage = functools.lru_cache(maxsize=2)(self._opened)
        self._before = functools.lru_cache(maxsize=2)(self._counted)
        self.length = size if self._weights is None else epoch_length(self._weights)

    def take(self, begin: int, end: int) -> Visits:
        """See `Epochs`."""
        pieces = []
        for stage, first in enumerate(self._begins):
            last = self._begins[stage + 1] if stage + 1 < POOLS else end
            if (b := max(begin, first)) < (e := min(end, last)):
                pool, epochs = self._stage(stage)
                visits = epochs.take(b - first, e - first)
                positions = pool[visits.positions]
                pieces.append(Visits(positions, self._before(stage)[positions] + visits.before))
        return Visits.joined(pieces)

    def distinct(self, begin: int, end: int) -> int:
        """See `Epochs`."""
        return len(np.unique(self.take(begin, end).positions))

    def _opened(self, stage: int) -> tuple[Positions, Epochs]:
        """Return a pool and its epochs."""
        if stage == POOLS - 1:
            return np.arange(self.size), Epochs(self.size, self._seed, self._weights)
        pool = np.sort(self._easiest[: -(-self.size * (stage + 1) // POOLS)])
        weights = None if self._weights is None else self._weights[pool]
        return pool, Epochs(len(pool), self._seed, weights, f" pool {stage},")

    def _counted(self, stage: int) -> npt.NDArray[np.int64]:
        """Return how often each sample comes before a stage, int64 [n]."""
        if not stage:
            return np.zeros(self.size, np.int64)
        pool, epochs = self._stage(stage - 1)
        found = self._before(stage - 1).copy()
        found[pool] += epochs.counts(self._begins[stage] - self._begins[stage - 1])
        return found


class Order:
    """Which samples each step takes.

    No tail is dropped, so that every sample comes once an epoch, or as often as its weight says, and sets smaller than
    a batch fill it several times.

    Attributes:
        length: visits of an epoch.
        whole_from: the step from which on all samples are drawn.

    Args:
        size: samples of the training set.
        batch_size: samples of a step.
        seed: of the run.
        drawing: how often they come, and which of them first.
        steps: of the run, half of which are the curriculum's.
    """

    def __init__(self, size: int, batch_size: int, seed: int, drawing: Drawing = EVEN, steps: int = 0) -> None:
        self.size, self.batch_size, self.drawing = size, batch_size, drawing
        self.whole_from = 0 if drawing.easiest is None else -(-steps // 2)
        self._sequence = (
            Epochs(size, seed, drawing.weights)
            if drawing.easiest is None
            else Stages(size, seed, drawing, steps * batch_size // 2)
        )
        self.length = self._sequence.length

    def visits(self, step: int) -> Visits:
        """Return the batch of a step, of `batch_size` visits."""
        return self._sequence.take(step * self.batch_size, (step + 1) * self.batch_size)

    def distinct(self, step: int) -> int:
        """Count the distinct samples in the batch of a step."""
        return self._sequence.distinct(step * self.batch_size, (step + 1) * self.batch_size)

    def epochs(self, steps: int) -> float:
        """How many epochs so many steps are; without weights, how often each sample was taken, on average."""
        return steps * self.batch_size / self.length


def share(visits: Visits, rank: int, world: int) -> Visits:
    """Return a rank's contiguous share of a batch; shares differ by one sample at most."""
    return _cut(visits, world)[rank]


def micro_batches(visits: Visits, most: int) -> list[Visits]:
    """Cut visits into the fewest pieces of at most `most` samples, as equal as can be."""
    return _cut(visits, -(-len(visits.positions) // most))


def _cut(visits: Visits, pieces: int) -> list[Visits]:
    return [Visits(*piece) for piece in zip(*(np.array_split(part, pieces) for part in visits), strict=True)]


def _parts(weights: Weights, length: int) -> npt.NDArray[np.int64]:
    """Share out the parts of an epoch's visits by weight, int64 [n]; the largest share takes what rounding leaves."""
    parts: npt.NDArray[np.int64] = np.rint(weights * (length * UNIT / weights.sum())).astype(np.int64)
    parts[parts.argmax()] += length * UNIT - parts.sum()
    return parts


def _earlier(positions: Positions, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how often each of some positions came before in the same array, given the counts of all samples."""
    if counts.max() < 2:
        return np.zeros_like(positions)
    found: npt.NDArray[np.int64] = np.empty_like(positions)
    found[positions.argsort(kind="stable")] = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
    return found
