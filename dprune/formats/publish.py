"""Atomic publishing: a file appears under its name whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dprune.errors import DpruneError, InputError, writing_stdout
from dprune.formats.digests import with_check
from dprune.formats.provenance import json_text
from dprune.formats.temporary import is_temporary, temporary

STDOUT = "-"
_STDOUTS = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@dataclass(frozen=True)
class Output:
    """Where a job's output goes, and what the user said of it.

    Attributes:
        path: of the file or folder, or `-` for stdout.
        overwrite: whether what was made otherwise may be replaced.
        tags: what its provenance is to remember for the user.
    """

    path: str
    overwrite: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


def check_place(path: str | Path, option: str = "-o") -> None:
    """Refuse a place where no regular file can stand: replacing a device or a pipe helps nobody.

    Args:
        path: of a file or folder that is to be made.
        option: that names it.

    Raises:
        InputError: a device, a pipe or a socket is there, or it is in /dev or /proc, where files stand for others.
    """
    parent = os.path.realpath(os.path.dirname(path) or ".")
    try:
        special = stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR)
    except OSError:
        special = False
    if special or parent == "/dev" or f"{parent}/".startswith("/proc/"):
        remedy = "give - for stdout" if str(path) in _STDOUTS else f"give another {option}"
        raise InputError(f"{path}: is a device or a pipe, and an output is a file or folder: {remedy}.")


@contextlib.contextmanager
def publish(path: str | Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of `path` when the block ends without an exception.

    Args:
        path: of the file.
        replace: whether it does so where there is a file by then; else that one stays.

    Raises:
        DpruneError: the disk is full, or the folder cannot be written.
        InputError: what stands there is no regular file.
    """
    path = Path(path)
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _move(Path(file.name), path, replace=replace)
        sync(path.parent)
    except OSError as error:
        # Errors that name a file of their own come from reading an input inside the block.
        named = Path(error.filename or path)
        if named in (path, *path.parents) or is_temporary(named.name):
            raise DpruneError(f"cannot write {path}: {(error.strerror or str(error)).lower()}.") from error
        raise


def _move(partial: Path, path: Path, *, replace: bool) -> None:
    if replace:
        partial.replace(path)
        return
    with contextlib.suppress(FileExistsError):
        os.link(partial, path)


def sync(path: str | Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_bytes(path: str | Path, data: bytes) -> None:
    """Publish `data` at `path`, or write it to stdout when `path` is a dash."""
    if str(path) == STDOUT:
        with writing_stdout():
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return
    with publish(path) as file:
        file.write(data)


def publish_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Publish a JSON object with its digest, indented and with sorted keys; see `digests.without_check`."""
    content = with_check(content)
    publish_bytes(path, json_text(content, indent=2, sort_keys=True).encode() + b"\n")
