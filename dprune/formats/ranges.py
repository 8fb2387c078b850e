"""Random access to the bytes of a shard, on a local disk or behind a URL."""

from __future__ import annotations

import os
import stat

from dprune.errors import InputError, unreadable
from dprune.formats.digests import RunningDigest
from dprune.formats.remote import RemoteBlocks, remote_version

_PIECE, _LOCAL_PIECE = 8 << 20, 1 << 18


class LocalBlocks:
    """A local file read by offset; the descriptor has no position, so forked workers can share it."""

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            # A pipe would be waited for.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise unreadable(path, error) from error
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is not a regular file, so it cannot be read by offset: name a .tar file.")
        self.size = status.st_size
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


def bytes_digest(location: str) -> str:
    """Return the XXH3-64 digest of all bytes of a shard, see `dprune.formats.digests`.

    Raises:
        InputError: it does not exist or cannot be read.
    """
    running, position = RunningDigest(), 0
    if not is_url(location):
        return _local_digest(location)
    blocks = RemoteBlocks(location)
    while piece := blocks.read(position, _PIECE):
        running.update(piece)
        position += len(piece)
    return running.hexdigest()


def _local_digest(path: str) -> str:
    running = RunningDigest()
    # Small enough to stay in a core's cache between its reading and its hashing.
    buffer = memoryview(bytearray(_LOCAL_PIECE))
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                running.update(buffer[:count])
    except OSError as error:
        raise unreadable(path, error) from error
    return running.hexdigest()


def version(location: str) -> tuple[str, str]:
    """Return the full name of a file and a token that changes when its content does, without reading it.

    Raises:
        InputError: the file does not exist.
    """
    try:
        if is_url(location):
            return location, remote_version(location)
        status = os.stat(location)
        # Copies keep size and modification time; inode and time of change are the file's own.
        token = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
        return os.path.realpath(location), "/".join(map(str, token))
    except (OSError, ValueError) as error:
        raise InputError(f"{location}: cannot be read: {error}.") from error
