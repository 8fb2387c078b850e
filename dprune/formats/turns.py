"""Turns: which of the missing pieces of an output this process makes, and when.

A worker with RANK and WORLD_SIZE makes its share, every WORLD_SIZEth piece, and knows that others make the rest. A task
of a SLURM array cannot know: some of the array may have been submitted again by themselves, or each task may make
another output. So it takes pieces as they come. It begins with its share, claims what it makes as long as it makes it,
and goes on with all that is missing and that no living process has claimed. Where a file system cannot lock, two may
make the same piece, in equal bytes.

How many pieces it takes at a time is by "factoring" (Hummel, Schonberg and Flynn, CACM 35, 1992): its part of a half of
what is missing, so that what is left evens out tasks that are slow, late, or killed.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from dprune.formats.claims import POLL_S, at_work, free, workers
from dprune.formats.temporary import temporary_name
from dprune.runtime import ArrayTask, Monitor, array_task, check_stop, ranks

T = TypeVar("T")

MOST = 128
"""Pieces that a task claims at a time: each is a file that stays open."""
LOOKS = 3
"""How often a task finds everything claimed before it ends: who looks for leftovers locks each for a moment, too."""


def own_pieces(count: int) -> range:
    """Return the numbers of the pieces, of `count`, that this worker begins with: of a rank, all that are its own."""
    task, here = array_task(), ranks()
    return range(task.number % task.count, count, task.count) if task else range(here.rank, count, here.world)


def due_pieces(count: int) -> range:
    """Return the numbers of the pieces without which this worker's output is not whole."""
    return range(count) if array_task() else own_pieces(count)


def is_shared() -> bool:
    """Tell whether other processes may work on the same output."""
    return array_task() is not None or ranks().world > 1


class Turns:
    """One worker's turns at the pieces of one output; in an array, others see it at work until it ends.

    Attributes:
        dealt: numbers of the pieces that were this worker's to make so far; none comes twice.

    Args:
        mark: what the temporary file is named after that stands for a task at work.
    """

    def __init__(self, mark: Path) -> None:
        self._mark, self._task = mark, array_task()
        self._shown, self._held = contextlib.ExitStack(), dict[int, contextlib.ExitStack]()
        self.dealt: set[int] = set()

    def __enter__(self) -> Turns:
        if self._task is not None:
            self._shown.enter_context(at_work(self._mark))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go(list(self._held))
        self._shown.close()

    def deal(
        self, count: int, missing: Callable[[Iterable[int]], list[int]], claim: Callable[[int], Path], most: int = MOST
    ) -> Iterator[list[int]]:
        """Yield numbers of missing pieces for this worker to make, some at a time, claimed until they are made.

        The next may be asked for before those are made, so that nothing waits.

        Args:
            count: of all pieces.
            missing: tells which of some pieces are.
            claim: gives the file that stands for a piece while it is made.
            most: pieces at a time.
        """
        if self._task is not None:
            yield from self._as_they_come(self._task, count, missing, claim, most)
        elif batch := [number for number in missing(own_pieces(count)) if number not in self.dealt]:
            self.dealt.update(batch)
            yield batch

    def _as_they_come(
        self, task: ArrayTask, count: int, missing: Callable[[Iterable[int]], list[int]], claim: Callable[[int], Path],
        most: int,
    ) -> Iterator[list[int]]:  # fmt: skip
        # All tasks are taken to be at work until they have had the time to show.
        left, expected, looks = list(range(count)), task.count, 0
        while looks < LOOKS and (left := [number for number in missing(left) if number not in self.dealt]):
            self._let_go(set(self._held).difference(missing(self._held)))
            half = -(-len(left) // (2 * max(expected, workers(self._mark))))
            unclaimed = (number for number in _in_order(left, task) if self._hold(number, claim(number)))
            # Looked at again: another task may have made some of them before they were claimed.
            batch = missing(sorted(itertools.islice(unclaimed, min(most, half))))
            expected, looks = expected // 2, 0 if batch else looks + 1
            if batch:
                self.dealt.update(batch)
                yield batch
            else:
                time.sleep(POLL_S)

    def _hold(self, number: int, claim: Path) -> bool:
        with contextlib.ExitStack() as stack:
            if stack.enter_context(free(claim)):
                self._held[number] = stack.pop_all()
        return number in self._held

    def _let_go(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._held.pop(number).close()

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[bool]:
        """Hold what one task of an array does for all, and tell whether no other is at it; ranks never wait."""
        mine, claim = self._task is None, self._mark.with_name(temporary_name(what, "0-of-1"))
        with contextlib.ExitStack() as claims:
            for look in range(0 if mine else LOOKS):
                time.sleep(POLL_S if look else 0)
                if mine := claims.enter_context(free(claim)):
                    break
            yield mine

    @contextlib.contextmanager
    def first(self, what: str, monitor: Monitor) -> Iterator[None]:
        """Hold the same as soon as no other is at it.

        Raises:
            Interrupted: the monitor asked to stop meanwhile.
        """
        while True:
            with self.alone(what) as mine:
                if mine:
                    yield
                    return
            check_stop(monitor)


def _in_order(numbers: Sequence[int], task: ArrayTask) -> list[int]:
    """Sort the pieces of other shares behind those of the task's own, and first those that their own tasks do last."""

    def key(number: int) -> tuple[int, int]:
        other = (number - task.number) % task.count
        return other, -number if other else number

    return sorted(numbers, key=key)


def peeked(items: Iterator[T]) -> Iterator[T] | None:
    """Return the iterator as it was if anything comes of it, None if not."""
    for first in items:
        return itertools.chain([first], items)
    return None
