"""Files, pipes and stdin that are read whole, and so must have an end."""

from __future__ import annotations

import io
import math
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dprune.errors import InputError, UsageError, unreadable

MOST = 1 << 30
"""Bytes that come through a pipe, where they do not say themselves how many they are."""
BEHIND = 256 << 20
"""Bytes of provenance behind an array."""

_HEAD = 1 << 16


def read_stdin(magic: bytes = b"") -> bytes:
    """Read all of stdin, which can be asked for once.

    Args:
        magic: what it is to begin with; of anything else the beginning is returned, however long it goes on.

    Raises:
        UsageError: stdin is a terminal.
        InputError: it is closed, goes on for too long, or is empty, as it is for the second of two inputs that are `-`.
    """
    stream = sys.stdin.buffer
    if stream.isatty():
        raise UsageError("stdin is a terminal: pipe an array in, or name a file.")
    try:
        data = _piped("stdin", stream, magic)
    except OSError as error:
        raise unreadable("stdin", error) from error
    if not data:
        raise InputError("stdin: is empty: the command before the pipe wrote nothing, or two inputs are given as '-'.")
    return data


def read_file(path: str | Path, most: int | None = None, magic: bytes = b"") -> bytes:
    """Read a whole file or pipe.

    Args:
        path: of the file.
        most: bytes that a file of its kind can have, None for any number.
        magic: as for `read_stdin`, of a pipe.

    Raises:
        InputError: it cannot be read, is a device, many of which never end, or has more bytes than that.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise InputError(f"{path}: is a device: name a file.")
        # A pipe that nobody writes to would be waited for, and is empty.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            os.set_blocking(file.fileno(), True)
            if most is not None:
                return _at_most(str(path), b"", file, most)
            return file.read() if stat.S_ISREG(mode) else _piped(str(path), file, magic)
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError:
        raise InputError(f"{path}: no file has such a name.") from None


def _piped(name: str, stream: BinaryIO, magic: bytes) -> bytes:
    head = stream.read(_HEAD)
    if not head.startswith(magic):
        return head
    if head[8:9] == b"{":
        # A safetensors file, whose reader holds it to its header.
        return head + stream.read()
    return _at_most(name, head, stream, max(MOST, _array_bytes(head) + BEHIND))


def _at_most(name: str, head: bytes, stream: BinaryIO, most: int) -> bytes:
    data = head + stream.read(most + 1 - len(head))
    if len(data) > most:
        raise InputError(f"{name}: goes on for more than {most:,} bytes, too many for what it is read as.")
    return data


def _array_bytes(head: bytes) -> int:
    """Return how long a .npy array is by its header, 0 for anything else."""
    file = io.BytesIO(head)
    try:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[np.lib.format.read_magic(file)](file)
    except Exception:  # noqa: BLE001 - numpy evaluates the header; whoever reads the array says what is wrong with it
        return 0
    return file.tell() + math.prod(shape) * int(dtype.itemsize)


def count_lines(path: str | Path) -> int:
    """Count the lines of a file, 0 where there is none.

    Raises:
        InputError: it cannot be read.
    """
    return read_file(path).count(b"\n") if os.path.exists(path) else 0
