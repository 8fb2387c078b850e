"""The ordered map over worker processes, and what becomes of it when they die, freeze or are too many."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dprune.errors import DpruneError, InputError, Interrupted
from dprune.runtime import Silent
from dprune.workers import Workers


class Stopping(Silent):
    """A monitor that asks to stop."""

    def stop_requested(self) -> bool:
        return True


def answer(task: object) -> object:
    """What workers do: a number is an array's seed, a function is called."""
    return task() if callable(task) else np.random.default_rng(int(str(task))).random(1000)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def refuse() -> None:
    raise InputError("no such thing")


class Odd(Exception):
    """An exception that cannot be pickled back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


def be_odd() -> None:
    raise Odd(1, 2)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("room", [0, 8000, 9000, 100_000])
def test_results_come_in_order_wherever_their_arrays_fit(chunk: int, room: int) -> None:
    with Workers(answer, 2, ahead=2, chunk=chunk, room=room) as workers:
        for begin in (0, 50):
            for number, found in enumerate(workers.map(range(begin, begin + 20)), begin):
                assert isinstance(found, np.ndarray)
                np.testing.assert_array_equal(found, answer(number))
                found[:] = 0


def test_large_tasks_and_results_do_not_wait_for_each_other() -> None:
    """Neither side reads while it writes; a socket holds a fifth of a megabyte."""
    with Workers(bytes.upper, 2) as workers:
        assert [len(found) for found in workers.map(b"x" * 3_000_000 for _ in range(12))] == [3_000_000] * 12


def test_tasks_are_taken_as_they_are_wanted() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with Workers(answer, 2, ahead=3) as workers:
        results = workers.map(tasks())
        next(results)
        assert len(taken) == 7
        results.close()


def test_what_is_raised_in_a_worker_is_raised_here() -> None:
    with Workers(answer, 1) as workers, pytest.raises(InputError, match="no such thing"):
        list(workers.map([refuse]))
    with Workers(answer, 1) as workers, pytest.raises(RuntimeError, match="Odd: odd"):
        list(workers.map([be_odd]))


@pytest.mark.parametrize("count", [1, 2])
def test_a_worker_that_is_killed_ends_the_wait(count: int) -> None:
    with Workers(answer, count) as workers, pytest.raises(DpruneError, match=r"killed.*--workers"):
        list(workers.map([1, 2, die, *range(40)]))


def test_a_wait_for_a_frozen_worker_can_be_stopped() -> None:
    with Workers(answer, 2, monitor=Stopping()) as workers:
        found = workers.map([freeze])
        with pytest.raises(Interrupted, match="same command"):
            next(found)


def test_workers_end_with_the_main_process_and_before_their_siblings() -> None:
    with Workers(os.getpid.__call__, 0):
        pass
    with Workers(answer, 2) as first, Workers(answer, 2) as second:
        processes = [worker.process for worker in first._crew]
        begun = time.monotonic()
        first.close()
        assert time.monotonic() - begun < 1.5, "the second's workers would keep the lines of the first's open"
        assert [process.exitcode for process in processes] == [0, 0]
        list(second.map([1, 2]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_workers_leave_signals_to_the_main_process(number: int) -> None:
    with Workers(answer, 1) as workers:
        tasks = iter([os.getpid, os.getppid])
        (worker,) = list(workers.map([next(tasks)]))
        os.kill(int(str(worker)), number)
        assert list(workers.map(tasks)) == [os.getpid()]


def test_more_workers_than_files_may_be_open() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, limits[1]))
    try:
        with pytest.raises(DpruneError, match=r"40 worker processes.*too many open files.*fewer --workers"):
            Workers(answer, 40)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_shared_memory_is_inherited_and_no_file() -> None:
    before = set(Path("/dev/shm").iterdir())
    with Workers(answer, 2, room=1 << 20) as workers:
        for _ in workers.map(range(4)):
            assert set(Path("/dev/shm").iterdir()) == before
