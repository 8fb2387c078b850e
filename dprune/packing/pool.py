"""An ordered map over worker processes that keeps few results in memory and survives whatever ends it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Generic, TypeVar

from dprune.errors import DpruneError

T = TypeVar("T")
R = TypeVar("R")

# A chunk costs one exchange with a worker; photos of 10 MB make 16 results a worker as much as one should hold.
CHUNK = 8
AHEAD = 2


class Workers(Generic[T, R]):
    """Worker processes that apply one function; with `count` 0 the main process does."""

    def __init__(self, function: Callable[[T], R], count: int) -> None:
        self._function = function
        self._ahead = AHEAD * count
        self._pool: ProcessPoolExecutor | None = None
        if count:
            # The function may hold a list of millions of files: forked workers need no copy of it.
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(count, context, initializer=_prepare, initargs=(function, os.getpid()))

    def __enter__(self) -> Workers[T, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, tasks: Iterable[T]) -> Iterator[R]:
        """Yield the function's results in the order of the tasks.

        Raises:
            DpruneError: a worker was killed.
        """
        if self._pool is None:
            yield from map(self._function, tasks)
            return
        chunks = _batched(tasks)
        waiting: deque[Future[list[R]]] = deque()
        try:
            for chunk in chunks:
                waiting.append(self._pool.submit(_apply, chunk))
                if len(waiting) > self._ahead:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DpruneError("a worker was killed, perhaps for want of memory: use fewer --workers.") from error


def _batched(tasks: Iterable[T]) -> Iterator[tuple[T, ...]]:
    iterator = iter(tasks)
    while chunk := tuple(itertools.islice(iterator, CHUNK)):
        yield chunk


_worker_function: Callable[..., Any] | None = None


def _prepare(function: Callable[..., Any], parent: int) -> None:
    global _worker_function
    _worker_function = function
    # The main process decides when to stop; a worker that kept its handlers could not be ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """End this worker when the main process is gone, whose pipes its siblings keep open."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _apply(chunk: tuple[Any, ...]) -> list[Any]:
    assert _worker_function is not None
    return [_worker_function(task) for task in chunk]
