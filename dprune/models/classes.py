"""The classes that a model was trained on, and those that images get by their seeds; nothing here imports torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.seeds import hash_ids

IntArray = npt.NDArray[np.int64]

LONGEST_CYCLE = 1 << 22


@dataclass(frozen=True)
class TrainedClasses:
    """Classes 0 to `count` - 1, and how many samples of each were trained on.

    A class without any has a row in the model's table that nothing was learnt by, so images get other classes unless
    somebody names it.

    Attributes:
        count: labels that there are.
        samples: of each class, None where that is not known.
    """

    count: int
    samples: tuple[int, ...] | None = None

    @classmethod
    def of(cls, network: Mapping[str, Any], classes: int) -> TrainedClasses:
        """Read what a model's file says.

        Args:
            network: see `ModelFile`; empty for a file made elsewhere.
            classes: rows of its table, of which those of a model that it began with may be beyond its labels.
        """
        count, samples = network.get("label_count", 0), tuple(network.get("class_counts", ()))
        count = count if 0 < count <= classes else classes
        return cls(count, samples if len(samples) == count and any(samples) else None)

    @functools.cached_property
    def empty(self) -> IntArray:
        """Classes that no sample was trained on, as far as that is known."""
        return np.flatnonzero(np.array(self.samples) == 0) if self.samples else np.empty(0, dtype=np.int64)

    @functools.cached_property
    def present(self) -> IntArray:
        """All other classes."""
        return np.setdiff1d(np.arange(self.count), self.empty)

    def balanced(self, seeds: IntArray) -> IntArray:
        """Return seed modulo classes; what would be empty ones take turns with the others."""
        rounds, labels = np.divmod(seeds, self.count)
        turn = rounds * len(self.empty) + np.searchsorted(self.empty, labels)
        return np.where(np.isin(labels, self.empty), self.present[turn % len(self.present)], labels)

    def random(self, seeds: IntArray) -> IntArray:
        """Return classes that are equally probable, by a hash of the seed."""
        labels = _hashed("classes of samples", seeds, self.count)
        others = self.present[_hashed("classes in the place of empty ones", seeds, len(self.present))]
        return np.where(np.isin(labels, self.empty), others, labels)

    def proportional(self, seeds: IntArray) -> IntArray:
        """Return classes in the shares of the training set, which `samples` have to be known for.

        The first n seeds have each class as often as its share of n, rounded (Sainte-Laguë's method, whose counts for
        fewer images are part of those for more, as those of largest remainders are not); the first N, for N training
        samples, exactly as the training set has it, and so on every N, up to four million.
        """
        return self._cycle[seeds % len(self._cycle)]

    @functools.cached_property
    def _cycle(self) -> IntArray:
        samples = np.array(self.samples)
        if (times := -(-int(samples.sum()) // LONGEST_CYCLE)) > 1:
            # Rounded up, so that no class is lost.
            samples = -(-samples // times)
        labels = np.repeat(np.arange(self.count), samples)
        number = np.arange(len(labels)) - np.repeat(samples.cumsum() - samples, samples)
        # The j-th sample of a class comes where its class is owed j and a half.
        order: IntArray = np.argsort((number + 0.5) / samples[labels], kind="stable")
        return labels[order]


def _hashed(purpose: str, seeds: IntArray, count: int) -> IntArray:
    return (hash_ids(0, purpose, seeds) % np.uint64(count)).astype(np.int64)
