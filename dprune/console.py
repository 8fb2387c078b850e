"""Talk on stderr: messages, warnings, progress. stdout is kept for data."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from dprune import signals
from dprune.errors import InputError, Interrupted, writing_stdout
from dprune.formats.readable import clock, presentable, speed
from dprune.runtime import Silent, ranks, work_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress, TaskID

PLAIN_INTERVAL_S = 30.0
SPEED_PERIOD_S = 300.0
MARK_S = 1.0
"""Time between measurements of speed that are kept."""
SHORTEST_S = 0.1
"""Time in which units came, below which it says nothing of their speed."""
SHOW_CURSOR = b"\x1b[?25h"
LONGEST = 4000
"""Characters of a message; a name or a value may have a million."""

_log = logging.getLogger("dprune")
_verbosity = 0


class _Handler(logging.StreamHandler[Any]):
    """Looks stderr up at each message, because test runners and progress bars replace it."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"dprune: {prefix}{_sentence(record.getMessage())}"

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _sentence(text: str) -> str:
    """Return what is said on one line, whoever wrote the names in it."""
    shown = presentable(text)
    # What is wrong stands at the end, behind the name that is too long.
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]}…{shown[-LONGEST // 2 :]}"


def set_verbosity(level: int) -> None:
    """Show errors only (-1), what happened (0, the default), or details (1 and more).

    Of a process group only rank 0 talks; the tasks of an array job all do.
    """
    global _verbosity
    _verbosity = level
    if not _log.handlers:
        _log.addHandler(_Handler())
        _log.propagate = False
    here = ranks()
    if here.group and here.rank > 0:
        level = -1
    _log.setLevel(logging.ERROR if level < 0 else logging.INFO if level == 0 else logging.DEBUG)


def verbosity() -> int:
    """The level that `set_verbosity` was given, at most 2."""
    return _verbosity


def encode_all() -> None:
    """Have stdout and stderr write characters that their encoding lacks as escapes, rather than fail."""
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        # Closed ones have no encoding any more.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Tell what happened."""
    _log.info(text)


def fail(text: str) -> None:
    """Say why the command ends; every rank does, since each may have a reason of its own."""
    with contextlib.suppress(OSError):
        print(f"dprune: error: {_sentence(text)}", file=sys.stderr)


def fail_at_length(text: str) -> None:
    """Say in several lines why the command ends."""
    with contextlib.suppress(OSError):
        print(presentable(text, keep="\n\t"), file=sys.stderr, end="")


def emit_json(content: Any, *, indent: int | None = None) -> None:
    """Write data to stdout as JSON, see `emit`."""
    # JSON may hold this one as it is, and `presentable` would write it in a way that JSON lacks.
    emit(json.dumps(content, indent=indent).replace("\x7f", "\\u007f"))


class Found(Protocol):
    """What a look at files found."""

    @property
    def problems(self) -> Sequence[str]:
        """All that is wrong, a sentence each."""

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""

    def text(self, columns: int | None) -> str:
        """Return it for people, None for no terminal."""


def emit_found(found: Found, *, as_json: bool) -> None:
    """Write what was found to stdout, as a table where that is a terminal."""
    if as_json:
        emit_json(found.as_json(), indent=2)
    else:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        emit(found.text(columns), styled=columns is not None)


def check_found(found: Found) -> None:
    """Refuse what has problems.

    Raises:
        InputError: there is one.
    """
    if problems := found.problems:
        raise InputError(problems[0] if len(problems) == 1 else f"{len(problems)} problems, the first: {problems[0]}")


def emit(text: str, *, styled: bool = False) -> None:
    """Write lines to stdout.

    Of a process group only rank 0 writes.

    Args:
        text: for people.
        styled: whether it holds the codes of colours, and is presentable but for them.

    Raises:
        DpruneError: stdout is closed or full.
        BrokenPipeError: nobody reads it any more.
    """
    here = ranks()
    if here.group and here.rank > 0:
        return
    with writing_stdout():
        print(text if styled else presentable(text, keep="\n\t"), flush=True)


class Speedometer:
    """How fast units came in the last minutes.

    It measures from the first on, whose time is also that of all that had to come before, such as compiling.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, done: int) -> None:
        """Note that `done` units are done at `now`, in seconds."""
        marks = self._marks
        if len(marks) > 1 and now - marks[-2][0] < MARK_S:
            marks.pop()
        marks.append((now, done))
        while len(marks) > 2 and marks[1][0] < now - SPEED_PERIOD_S:
            marks.popleft()

    def rate(self) -> float | None:
        """Return units a second, None before units came that can be timed."""
        if len(self._marks) < 2:
            return None
        (begun, before), (now, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - begun) if now - begun >= SHORTEST_S and done > before else None


class TerminalMonitor:
    """Progress as a bar on a terminal and as a line every 30 s elsewhere, and the flag that signals set.

    SIGTERM, SIGUSR1 and SIGUSR2 ask to stop at the next safe point, as does the deadline; so does a first SIGINT where
    the same command would go on from there, and elsewhere it is raised. A second one ends the process at once.

    Args:
        stop_after: seconds to the deadline, None for none.
        resumes: whether the same command goes on where it was stopped.
    """

    def __init__(self, stop_after: float | None = None, *, resumes: bool = True) -> None:
        self._deadline = None if stop_after is None else time.monotonic() + stop_after
        self._resumes = resumes
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label, self._unit = "", ""
        self._total: int | None = None
        self._note = ""
        self._done, self._spoke = 0, 0.0
        self._measured = Speedometer()

    def __enter__(self) -> TerminalMonitor:
        if threading.current_thread() is threading.main_thread():
            for number in signals.taken():
                self._previous[number] = signal.signal(number, self._on_signal)
        work_for(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_stage()
        work_for(Silent())
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if isinstance(value, Interrupted) and self._signal == signal.SIGINT:
            value.exit_code = signals.INTERRUPTED

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self._signal = number == self._signal == signal.SIGINT, number
        if again:
            if self._bar is not None:
                os.write(2, SHOW_CURSOR)
            signals.leave(number)
        if number == signal.SIGINT and not self._resumes:
            raise KeyboardInterrupt
        if number == signal.SIGINT and _log.isEnabledFor(logging.INFO):
            # Not by the log: what it may be writing just now cannot be written into.
            with contextlib.suppress(OSError):
                os.write(2, b"dprune: stopping as soon as what is done is saved; Ctrl-C again stops at once.\n")

    def stop_requested(self) -> bool:
        """Tell whether a signal came or the deadline passed."""
        return self._signal is not None or (self._deadline is not None and time.monotonic() >= self._deadline)

    def start(self, label: str, total: int | None, unit: str) -> None:
        """End the stage before and begin one of `total` units; until the first, signals end the command at once."""
        signals.work_begins()
        self._end_stage()
        self._label, self._total, self._unit = presentable(label), total, unit
        self._note = ""
        self._done, self._spoke = 0, time.monotonic()
        self._measured = Speedometer()
        if sys.stderr.isatty() and _log.isEnabledFor(logging.INFO):
            self._bar = _make_bar(self._how_fast)
            self._task = self._bar.add_task(self._label, total=total)
            self._bar.start()

    def advance(self, count: int = 1) -> None:
        """Report `count` more units done."""
        self._done += count
        now = time.monotonic()
        self._measured.mark(now, self._done)
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)
        elif now - self._spoke >= PLAIN_INTERVAL_S:
            self._spoke = now
            say(self._line())

    def note(self, text: str) -> None:
        """Show what the work says of itself, from the next line on."""
        self._note = presentable(text)

    def _line(self) -> str:
        of = "" if self._total is None else f" of {self._total:,}"
        return ", ".join(filter(None, (f"{self._label}: {self._done:,}{of} {self._unit}", self._how_fast())))

    def _how_fast(self) -> str:
        """Say how fast it goes and how long the rest takes, once that was measured, and what was noted."""
        rate, said = self._measured.rate(), []
        if rate is not None:
            said.append(speed(rate, self._unit))
            if self._total is not None:
                said.append(f"{clock(max(0, self._total - self._done) / rate)} left")
        return ", ".join([*said, *filter(None, [self._note])])

    def _end_stage(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


def _make_bar(how_fast: Callable[[], str]) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Words(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(how_fast(), style="progress.data.speed")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Words())
    return Progress(*columns, console=Console(stderr=True), transient=True)
