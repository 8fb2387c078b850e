"""Random access to the bytes of a shard, on a local disk or behind a URL."""

from __future__ import annotations

import os

from dprune.errors import InputError, unreadable
from dprune.formats.remote import RemoteBlocks, remote_version


class LocalBlocks:
    """A local file read by offset; the descriptor has no position, so forked workers can share it."""

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise unreadable(path, error) from error
        self.size = os.fstat(self._descriptor).st_size
        if hasattr(os, "posix_fadvise"):
            # Headers and chosen samples are far apart: read-ahead would fetch what nobody asked for.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer at the end of the file."""
        data = os.pread(self._descriptor, size, offset)
        # One call returns at most 2 GiB.
        while len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
            data += more
        return data

    def __del__(self) -> None:
        """Close the file."""
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def is_url(location: str) -> bool:
    """Tell a URL from a path."""
    return "://" in location


def base_name(location: str) -> str:
    """Return the last part of a path or URL, without the query of a URL, which may hold a signature."""
    if is_url(location):
        location = location.partition("?")[0]
    return location.rstrip("/").rpartition("/")[2]


def open_blocks(location: str) -> LocalBlocks | RemoteBlocks:
    """Open a shard for reading by offset.

    Raises:
        InputError: it does not exist or cannot be read.
    """
    return RemoteBlocks(location) if is_url(location) else LocalBlocks(location)


def version(location: str) -> tuple[str, str]:
    """Return the full name of a file and a token that changes when its content does, without reading it.

    Raises:
        InputError: the file does not exist.
    """
    try:
        if is_url(location):
            return location, remote_version(location)
        status = os.stat(location)
        return os.path.realpath(location), f"{status.st_size}/{status.st_mtime_ns}"
    except (OSError, ValueError) as error:
        raise InputError(f"{location}: cannot be read: {error}.") from error
