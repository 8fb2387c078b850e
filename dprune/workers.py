"""An ordered map over worker processes: the one place that starts, waits for and ends them.

No wait is in vain: it looks at the monitor's wish to stop, and at whether the workers live. Tasks and results travel
through sockets, the arrays of a result through memory that the workers inherit; so neither the size of /dev/shm nor
the number of files that may be open limits what is under way.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import register_after_fork
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from dprune.errors import DpruneError
from dprune.runtime import Monitor, Silent, check_stop

T = TypeVar("T")
R = TypeVar("R")

LOOK_AGAIN_S = 0.2
"""Between two looks at the wish to stop."""
LAST_TASK_S = 2.0
"""That workers get to end what they are at, before they are killed."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Workers(Generic[T, R]):
    """Worker processes that apply one function.

    Args:
        function: of one task. The workers are forked: what it holds is not copied.
        count: of the processes; with 0 this one does the work.
        ahead: chunks that a worker gets before the result of its first is waited for.
        chunk: tasks that travel together.
        room: bytes that the arrays of a chunk's results take at most, each rounded up to 64; arrays beyond that, and
            all other results, are copied through the socket.
        monitor: is asked whether to stop in every wait.
    """

    def __init__(
        self, function: Callable[[T], R], count: int, *, ahead: int = 2, chunk: int = 1, room: int = 0,
        monitor: Monitor | None = None,
    ) -> None:  # fmt: skip
        self._function, self._chunk, self._monitor = function, chunk, monitor or Silent()
        self._window = ahead * count
        self._crew: list[_Worker] = []
        try:
            self._slots = _Slots(self._window, room)
            for _ in range(count):
                self._crew.append(_Worker(function, self._slots))
        except OSError as error:
            self.close()
            raise DpruneError(
                f"{count} worker processes cannot be started ({(error.strerror or str(error)).lower()}): "
                "give fewer --workers, 0 for none."
            ) from error

    def __enter__(self) -> Workers[T, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, by force if they do not end."""
        for worker in self._crew:
            worker.connection.close()
        end = time.monotonic() + LAST_TASK_S
        for worker in self._crew:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._crew.clear()

    def map(self, tasks: Iterable[T]) -> Generator[R]:
        """Yield the function's results in the order of the tasks, which are taken one by one as workers want them.

        What the function raises is raised here.

        Raises:
            DpruneError: a worker was killed.
            Interrupted: the monitor asked to stop while a worker was waited for.
        """
        if not self._crew:
            yield from map(self._function, tasks)
            return
        waiting: deque[_Worker] = deque()
        try:
            for number, chunk in enumerate(_batched(tasks, self._chunk)):
                if len(waiting) == self._window:
                    yield from self._next(waiting)
                worker = min(self._crew, key=lambda worker: worker.given)
                worker.give(number % self._window, chunk)
                waiting.append(worker)
            while waiting:
                yield from self._next(waiting)
        finally:
            if waiting:
                # Results that nobody will ask for would be taken for those of the next tasks.
                self.close()

    def _next(self, waiting: deque[_Worker]) -> list[R]:
        worker = waiting[0]
        while not worker.results:
            self._take_what_came()
        waiting.popleft()
        slot, message, sizes = worker.results.popleft()
        results: list[R] | Exception = pickle.loads(message, buffers=self._slots.taken(slot, sizes))
        if isinstance(results, Exception):
            raise results
        return results

    def _take_what_came(self) -> None:
        """Take results of whichever workers have some, so that none waits to be rid of its own."""
        crew = {worker.connection: worker for worker in self._crew}
        ready = wait(list(crew), LOOK_AGAIN_S)
        if not ready:
            check_stop(self._monitor)
        for connection in ready:
            crew[connection].take()  # type: ignore[index]


class _Message(NamedTuple):
    """Results of a chunk, or what was raised instead: pickled, but for the arrays in the slot."""

    slot: int
    pickled: bytes
    sizes: list[int]


class _Slots:
    """Memory that workers inherit, one piece for each chunk that may be under way."""

    def __init__(self, count: int, room: int) -> None:
        self._room = room
        self._memory = memoryview(mmap.mmap(-1, count * room)) if count * room else memoryview(b"")

    def put(self, slot: int, results: object) -> _Message:
        """Pickle results, and put their arrays into a slot as far as they fit."""
        sizes: list[int] = []
        begin = end = slot * self._room

        def stays(buffer: pickle.PickleBuffer) -> bool:
            nonlocal end
            content = buffer.raw()
            if end + content.nbytes > begin + self._room:
                return True
            self._memory[end : end + content.nbytes] = content
            sizes.append(content.nbytes)
            end += _rounded(content.nbytes)
            return False

        return _Message(slot, pickle.dumps(results, 5, buffer_callback=stays), sizes)

    def taken(self, slot: int, sizes: list[int]) -> Iterator[bytearray]:
        """Copy the arrays of a slot, which is free for others then."""
        begin = slot * self._room
        for size in sizes:
            yield bytearray(self._memory[begin : begin + size])
            begin += _rounded(size)


def _rounded(size: int) -> int:
    return -(-size // 64) * 64


class _Worker:
    """One process as the main one sees it.

    Attributes:
        given: chunks that it has not answered.
        results: its answers in the order of the chunks, which nobody has asked for yet.
    """

    def __init__(self, function: Callable[[Any], Any], slots: _Slots) -> None:
        self.given = 0
        self.results: deque[_Message] = deque()
        self.connection, theirs = Pipe()
        # A worker that held the other end of its own or a sibling's line would never see it closed.
        register_after_fork(self.connection, Connection.close)
        work = multiprocessing.get_context("fork").Process(
            target=_work, args=(function, slots, theirs, os.getpid()), daemon=True
        )
        self.process: BaseProcess = work
        try:
            with _held_back():
                work.start()
        except OSError:
            self.connection.close()
            raise
        finally:
            theirs.close()

    def give(self, slot: int, chunk: tuple[Any, ...]) -> None:
        """Hand it a chunk; it reads along with its work, so that this does not wait.

        Raises:
            DpruneError: it was killed.
        """
        try:
            self.connection.send((slot, chunk))
        except OSError as error:
            raise self._killed() from error
        self.given += 1

    def take(self) -> None:
        """Take an answer.

        Raises:
            DpruneError: it was killed.
        """
        try:
            self.results.append(self.connection.recv())
        except (EOFError, OSError) as error:
            raise self._killed() from error
        self.given -= 1

    def _killed(self) -> DpruneError:
        return DpruneError("a worker process was killed, perhaps for want of memory: give fewer --workers, 0 for none.")


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Hold signals back, which a worker would take as this process does before it has made itself deaf."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(function: Callable[[Any], Any], slots: _Slots, connection: Connection, parent: int) -> None:
    """Apply the function until the main process closes the line: all that a worker does."""
    # The main process decides when to stop; batch systems signal all processes of a job at once.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    tasks: SimpleQueue[Any] = SimpleQueue()
    answers: SimpleQueue[_Message] = SimpleQueue()
    ended = threading.Event()
    # Both directions go on while it works: if either process waited for the other to read, both could do so for ever.
    for target, args in (
        (_die_with, (parent,)),
        (_receive, (connection, tasks, ended)),
        (_send, (connection, answers)),
    ):
        threading.Thread(target=target, args=args, daemon=True).start()
    while (task := tasks.get()) is not None and not ended.is_set():
        slot, chunk = task
        try:
            answers.put(slots.put(slot, [function(one) for one in chunk]))
        except Exception as error:  # noqa: BLE001 - whatever it is, the main process raises it
            answers.put(slots.put(slot, _portable(error)))


def _receive(connection: Connection, tasks: SimpleQueue[Any], ended: threading.Event) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            tasks.put(connection.recv())
    ended.set()
    tasks.put(None)


def _send(connection: Connection, answers: SimpleQueue[_Message]) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection.send(answers.get())


def _die_with(parent: int) -> None:
    """End this worker when the main process is gone, whose lines its siblings may keep open."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """Return an exception that the main process can read: itself where that goes, else what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - exceptions may refuse in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _batched(tasks: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    iterator = iter(tasks)
    while chunk := tuple(itertools.islice(iterator, size)):
        yield chunk
