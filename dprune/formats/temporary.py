"""Temporary files: no two have one name, and each is locked as long as the process that writes it lives.

The lock is flock's, which ends with its holder, however that dies and on whichever host. So a temporary file whose lock
is free is what a dead process left, and whoever comes across it may remove it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_NAME = re.compile(r"\.(.+)\.(\d+-[0-9a-f]{8}|\d+-of-\d+)\.tmp", re.DOTALL)
YOUNG_S, SKEW_S = 1.0, 60.0
"""Seconds in which whoever made a temporary file has locked it, and by which clocks of machines may differ."""
_LONGEST_STEM = 200
"""Bytes of a file's name that go into that of its temporary one; file systems take 255 in all."""

_held: set[int] = set()
"""Descriptors whose locks are to end with this process."""


def is_temporary(name: str) -> bool:
    """Tell whether a file has the name of a temporary one."""
    return _NAME.fullmatch(name) is not None


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[BinaryIO]:
    """Make a locked file beside `path` for writing; it is removed when the block ends, unless it was moved away."""
    with _made(path) as (partial, file), in_children_null(file.fileno()):
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _made(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    while True:
        partial = path.with_name(temporary_name(path.name, f"{os.getpid()}-{secrets.token_hex(4)}"))
        with partial.open("xb") as file:
            # Between the two, another process may have taken it for a leftover.
            if lock(file.fileno()) and is_at(partial, file.fileno()):
                yield partial, file
                return


def temporary_name(name: str, mark: str) -> str:
    """Return the name of a temporary file.

    Args:
        name: of the file that it is to become.
        mark: that tells it from others: process and a random number, or a worker's number and that of all.
    """
    data = name.encode("utf-8", "surrogateescape")
    if len(data) > _LONGEST_STEM:
        begin = data[: _LONGEST_STEM - 17].decode("utf-8", "ignore")
        name = f"{begin}-{hashlib.sha256(data).hexdigest()[:16]}"
    return f".{name}.{mark}.tmp"


def lock(descriptor: int) -> bool:
    """Lock an open file without waiting, and tell whether no other process holds it; some file systems lock nothing."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def opened(path: Path, flags: int = 0) -> int:
    """Open a file to lock it: for writing, which network file systems ask for, or one of another user for reading."""
    common = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | common | flags, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY | common)


def is_at(path: Path, descriptor: int) -> bool:
    """Tell whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def in_children_null(descriptor: int) -> Iterator[None]:
    """Keep processes that are forked meanwhile from holding the lock: some outlive this one."""
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)


def _let_go() -> None:
    if _held:
        null = os.open(os.devnull, os.O_RDWR)
        # Closed, the number could become that of another file, which this one's buffer would be written to.
        for descriptor in _held:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
        _held.clear()


os.register_at_fork(after_in_child=_let_go)


def sweep(folder: Path, name: str | None = None) -> list[Path]:
    """Remove temporary files that dead processes left in a folder.

    Args:
        folder: that is looked through; one that is not there holds none.
        name: of the file whose temporary ones are meant, None for all.

    Returns:
        Those that are left, as living processes write them or the file system locks nothing.
    """
    stem = None if name is None else stem_of(name)
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = [match for match in map(_NAME.fullmatch, names) if match and stem in (None, match[1])]
    return [path for match in found if not _removed(path := folder / match[0])]


def _removed(path: Path) -> bool:
    try:
        descriptor = opened(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(path, descriptor):
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


class Holder(NamedTuple):
    """A living process, by a temporary file that it holds.

    Attributes:
        stem: of its name, see `stem_of`.
        mark: of the process, see `temporary_name`.
    """

    stem: str
    mark: str


def stem_of(name: str) -> str:
    """Return what the temporary files of a file have in their names for its own."""
    match = _NAME.fullmatch(temporary_name(name, "0-of-1"))
    assert match is not None
    return match[1]


def holders(folder: Path, names: Iterable[str]) -> list[Holder]:
    """Return what living processes hold in a folder; where the file system locks nothing, nothing.

    It holds none of them itself, and gets into nobody's way but that of a process which begins at this very moment:
    that one waits for a twentieth of a second.

    Args:
        folder: where they are.
        names: of all its files.
    """
    found = [match for match in map(_NAME.fullmatch, names) if match]
    return [Holder(match[1], match[2]) for match in found if _is_held(folder / match[0])]


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        # What belongs to others is theirs to judge.
        return error.errno == errno.EACCES
    try:
        status = os.fstat(descriptor)
        if not status.st_size and -SKEW_S < time.time() - status.st_mtime < YOUNG_S:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False
