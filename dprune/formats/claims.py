"""Claims: no two processes do the same share, or the same piece, of the same work at once.

A claim is an empty temporary file by an agreed name, and so goes with the process that holds it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from dprune.errors import DpruneError
from dprune.formats.temporary import in_children_null, is_at, lock, opened, sweep, temporary, temporary_name
from dprune.runtime import Monitor, Ranks, check_stop

CLAIM, TASK, PIECE = "claim", "task", "piece"
"""What temporary files in a folder are named after that stand for a worker's share, a task of an array at work, and a
piece that it has in hand."""
PATIENCE_S = 10.0
"""How long a process waits for another, which may be about to end."""
POLL_S = 0.05
ATTEMPTS = 20
"""How often a file is made again whose folder vanishes."""

Made = TypeVar("Made")

_log = logging.getLogger("dprune")


def claim_in(folder: str | Path, here: Ranks) -> Path:
    """Return the claim of a worker's share of a folder."""
    return Path(folder) / temporary_name(CLAIM, f"{here.rank}-of-{here.world}")


def claim_beside(path: str | Path, here: Ranks) -> Path:
    """Return the claim of a worker's share of a file."""
    return Path(path).with_name(temporary_name(Path(path).name, f"{here.rank}-of-{here.world}"))


def claim_of(folder: str | Path, number: int, count: int) -> Path:
    """Return the claim of one piece of what goes into a folder."""
    return Path(folder) / temporary_name(PIECE, f"{number}-of-{count}")


@contextlib.contextmanager
def claimed(claim: Path, output: str, monitor: Monitor, patience: float | None = None) -> Iterator[None]:
    """Hold a claim until the block ends, where the file system can.

    Args:
        claim: its file, whose folder is made.
        output: what messages call the work.
        monitor: whose request to stop ends the waiting.
        patience: seconds to wait for another process that holds it, by default `PATIENCE_S`.

    Raises:
        DpruneError: another process still holds it, or the folder cannot be made or written.
        Interrupted: the monitor asked to stop meanwhile.
    """
    with _inside(claim.parent, output):
        descriptor = _taken(claim, output)
        if descriptor is None:
            _log.info("another process is making %s: waiting for it.", output)
            descriptor = _taken_later(claim, output, monitor, PATIENCE_S if patience is None else patience)
        with _kept(claim, descriptor):
            yield


@contextlib.contextmanager
def free(claim: Path) -> Iterator[bool]:
    """Hold a claim until the block ends, unless another process holds it, and tell which; without waiting.

    Raises:
        DpruneError: the folder cannot be made or written.
    """
    with _inside(claim.parent, str(claim.parent)):
        descriptor = _taken(claim, str(claim.parent))
        if descriptor is None:
            yield False
        else:
            with _kept(claim, descriptor):
                yield True


@contextlib.contextmanager
def at_work(mark: Path) -> Iterator[None]:
    """Let others count this process until the block ends, by a temporary file: see `workers`.

    Raises:
        DpruneError: the folder cannot be made or written.
    """
    with _inside(mark.parent, str(mark.parent)), contextlib.ExitStack() as stack:
        with _explained(str(mark.parent)):
            _made_in(mark.parent, lambda: stack.enter_context(temporary(mark)))
        yield


def workers(mark: Path) -> int:
    """Count the processes at work by a mark; where the file system cannot lock, dead ones too."""
    return len(sweep(mark.parent, mark.name))


@contextlib.contextmanager
def _inside(folder: Path, output: str) -> Iterator[None]:
    """Make a folder, and remove it where the work failed before it wrote anything."""
    made = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    with _explained(output):
        _made_in(folder, lambda: None)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def _made_in(folder: Path, make: Callable[[], Made]) -> Made:
    """Make a file in a folder, which whoever made it may be removing as empty at that very moment."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return make()
    folder.mkdir(parents=True, exist_ok=True)
    return make()


@contextlib.contextmanager
def _explained(output: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DpruneError(f"cannot write {output}: {reason}: give another -o.") from error


@contextlib.contextmanager
def _kept(claim: Path, descriptor: int) -> Iterator[None]:
    try:
        with in_children_null(descriptor):
            yield
    finally:
        with contextlib.suppress(OSError):
            claim.unlink(missing_ok=True)
        os.close(descriptor)


def _taken_later(claim: Path, output: str, monitor: Monitor, patience: float) -> int:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        check_stop(monitor)
        time.sleep(POLL_S)
        if (descriptor := _taken(claim, output)) is not None:
            return descriptor
    raise DpruneError(f"{output}: another process is making it: wait for it to end, or give another -o.")


def _taken(claim: Path, output: str) -> int | None:
    """Return the locked file of a claim, None if another process holds it."""
    with _explained(output):
        descriptor = _made_in(claim.parent, lambda: opened(claim, os.O_CREAT))
    # The one who held it removes it, and the next may have been quicker.
    if lock(descriptor) and is_at(claim, descriptor):
        return descriptor
    os.close(descriptor)
    return None
