"""Signals before, between and after the work, which a job's monitor takes: they end the command at once.

Nothing is lost then, and nothing would look at a flag: what takes time is importing, downloading, and waiting for
other ranks. Nothing here imports what takes time itself, since this is the first that a command does.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
INTERRUPTED = 130
STOPPED = 75

_leaving = threading.Lock()
_wakeup: int | None = None


def listen() -> None:
    """Take signals, even while the main thread is in C code, where Python would let them wait."""
    global _wakeup
    reads, _wakeup = os.pipe()
    os.set_blocking(_wakeup, False)
    signal.set_wakeup_fd(_wakeup, warn_on_full_buffer=False)
    threading.Thread(target=_leave_when_told, args=(reads,), daemon=True).start()
    for number in taken():
        signal.signal(number, leave)
    # Registered first, this runs last: what follows takes the interpreter apart, and the exit code stands.
    atexit.register(_ignore)


def taken() -> list[signal.Signals]:
    """Return the signals that ask to stop; a shell has what it puts into the background ignore SIGINT."""
    return [*STOPS, *([] if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else [signal.SIGINT])]


def work_begins() -> None:
    """Leave signals to the handlers alone, which may want to end the work at a safe point."""
    global _wakeup
    if _wakeup is not None and threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
        os.close(_wakeup)
        _wakeup = None


def leave(number: int, frame: FrameType | None = None) -> None:
    """End the process at once, with the sentence and the exit code of a signal."""
    if not _leaving.acquire(blocking=False):
        return
    told = "interrupted." if number == signal.SIGINT else "stopped; run the same command again to go on."
    with contextlib.suppress(OSError):
        os.write(2, f"dprune: error: {told}\n".encode())
    os._exit(INTERRUPTED if number == signal.SIGINT else STOPPED)


def _leave_when_told(reads: int) -> None:
    while number := os.read(reads, 1):
        if number[0] in (*STOPS, signal.SIGINT):
            leave(number[0])
    os.close(reads)


def _ignore() -> None:
    for number in taken():
        signal.signal(number, signal.SIG_IGN)
