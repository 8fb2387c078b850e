"""Atomic publishing: a file appears under its name whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dprune.errors import DpruneError
from dprune.formats.digests import with_check
from dprune.formats.provenance import json_text

STDOUT = "-"


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


def temporary(path: Path) -> Path:
    """Return the name under which this worker writes `path` before it is whole.

    It is the same at every run, so that a rerun replaces what a killed run left.
    """
    return path.with_name(f".{path.name}.{os.environ.get('RANK', '0')}.tmp")


@contextlib.contextmanager
def publish(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when the block ends without an exception.

    Raises:
        DpruneError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    partial = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        # Errors that name a file of their own come from reading an input inside the block.
        if isinstance(error, OSError) and error.filename in (None, str(partial), str(path), str(path.parent)):
            raise DpruneError(f"cannot write {path}: {(error.strerror or str(error)).lower()}.") from error
        raise


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
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with publish(path) as file:
        file.write(data)


def publish_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Publish a JSON object with its digest, indented and with sorted keys; see `digests.without_check`."""
    content = with_check(content)
    publish_bytes(path, json_text(content, indent=2, sort_keys=True).encode() + b"\n")
