"""Sources that are read from front to back, many samples at a time."""

from __future__ import annotations

import itertools
import os
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator

from dprune.packing.samples import Sample
from dprune.packing.sources import Source


class InOrder(Source):
    """Samples that are costly to come to, and cheap from there on.

    Packing reads each of them once, in the main process. Others may load single samples, and do well to keep the order.

    Attributes:
        passed_over: samples that are read in vain rather than looked up anew.
    """

    passed_over = 4096
    _place: tuple[int, int, Iterator[Sample]] | None = None

    @abstractmethod
    def samples(self, begin: int) -> Iterator[Sample]:
        """Yield the samples from number `begin` on."""

    def read(self, begin: int, end: int) -> Iterator[int | Sample]:
        """Yield samples; where the last call ended, this one goes on."""
        for number in range(begin, end):
            yield self._sample(number)

    def load(self, number: int) -> Sample:
        """Read one sample."""
        return self._sample(number).whole()

    def _sample(self, number: int) -> Sample:
        process, place, samples = self._place or (0, 0, iter(()))
        # What a forked worker inherits is the main process's place, whose open file it must not use.
        if process != os.getpid() or not place <= number <= place + self.passed_over:
            samples = self.samples(number)
        elif number > place:
            deque(itertools.islice(samples, number - place), maxlen=0)
        found = next(samples)
        self._place = (os.getpid(), number + 1, samples)
        return found
