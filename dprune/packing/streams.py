"""Shards that arrive as a stream (stdin, `pipe:`, URLs and compressed tars), read from front to back."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import importlib
import io
import logging
import lzma
import os
import re
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, cast

from dprune.errors import DpruneError, InputError, unreadable
from dprune.formats.members import MemberChoice, split_name
from dprune.formats.provenance import Record, parent_record
from dprune.formats.ranges import is_url
from dprune.formats.remote import RemoteStream
from dprune.formats.shard_index import LeftOut, most_frequent, named_twice, not_adjacent
from dprune.formats.tar import COMPRESSED_MAGIC, TarLink, TarMember, truncated, walk
from dprune.packing.samples import Sample
from dprune.packing.sources import MOST_BYTES, is_called_an_image, local_folders
from dprune.runtime import Monitor, check_stop

PIPE = "pipe:"
LOOK_AGAIN_S = 0.2
_CHUNK = 1 << 16
_COMPRESSED_TAR = re.compile(r"\.(tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_LONGEST_MAGIC = max(map(len, COMPRESSED_MAGIC))

_log = logging.getLogger("dprune")


def is_stream(source: str) -> bool:
    """Tell a source that can be read once, and only from the front."""
    return source == "-" or source.startswith(PIPE) or is_url(source)


def is_compressed(path: str) -> bool:
    """Tell a local file that is compressed, whatever its name, by its first bytes."""
    # Opening what is no file, as a FIFO, might wait for ever.
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(_LONGEST_MAGIC).startswith(COMPRESSED_MAGIC)
    except OSError as error:
        raise unreadable(path, error) from error


def compressed_tars(location: str) -> list[str]:
    """Return the compressed tars of a folder that holds no folders, images or other tars."""
    if not os.path.isdir(location):
        return []
    with os.scandir(location) as entries:
        names = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    if any(folder or name.endswith(".tar") or is_called_an_image(name) for name, folder in names.items()):
        return []
    return [os.path.join(location, name) for name in sorted(names) if _COMPRESSED_TAR.search(name)]


class Stream:
    """A stream that can be stopped while it waits."""

    def __init__(self, source: str, monitor: Monitor) -> None:
        self._command: subprocess.Popen[bytes] | None = None
        self._monitor = monitor
        self._file = self._open(source)
        self._ahead = b""

    def _open(self, source: str) -> Any:
        if source == "-":
            return _unbuffered(sys.stdin.buffer)
        if source.startswith(PIPE):
            command = source.removeprefix(PIPE)
            self._command = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, bufsize=0)
            return self._command.stdout
        if not is_url(source):
            return open(source, "rb", buffering=0)
        return RemoteStream(source, self._monitor)

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end, and leave them to be read."""
        while len(self._ahead) < size and (data := self._next(size - len(self._ahead))):
            self._ahead += data
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        """Read from the stream.

        Raises:
            EOFError: the stream's command failed.
            Interrupted: the monitor asked to stop while nothing came.
        """
        if not self._ahead:
            return self._next(size)
        size = len(self._ahead) if size < 0 else size
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def _next(self, size: int) -> bytes:
        # What is passed over gives nobody else the time to ask.
        check_stop(self._monitor)
        if isinstance(self._file, io.FileIO):
            while not select.select([self._file], [], [], LOOK_AGAIN_S)[0]:
                check_stop(self._monitor)
        data: bytes = self._file.read(size)
        if not data and self._command is not None and (code := self._exit_code(self._command)):
            raise EOFError(f"the command ended with exit code {code}")
        return data

    def _exit_code(self, command: subprocess.Popen[bytes]) -> int:
        # It may go on for long after it has closed its output, or have ended of the Ctrl-C that is meant for both.
        code: int | None = None
        while code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = command.wait(LOOK_AGAIN_S)
            check_stop(self._monitor)
        return code

    def close(self) -> None:
        """Close the stream and end its command."""
        self._file.close()
        if self._command is not None and self._command.poll() is None:
            self._command.kill()
            self._command.wait()


def _unbuffered(stream: Any) -> Any:
    """Return stdin without Python's buffer, whose content nothing can wait for."""
    try:
        return io.FileIO(stream.fileno(), closefd=False)
    except (OSError, AttributeError):
        return stream


def _decompressed(name: str, stream: Stream) -> Any:
    """Return a file that decompresses the stream if its first bytes call for it."""
    first = stream.peek(_LONGEST_MAGIC)
    gz, bz, xz, zst = (first.startswith(magic) for magic in COMPRESSED_MAGIC)
    file = cast(IO[bytes], stream)
    if gz:
        return gzip.GzipFile(fileobj=file)
    if bz:
        return bz2.BZ2File(file)
    if xz:
        return lzma.LZMAFile(file)
    if not zst:
        return stream
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError:
        raise InputError(
            f"{name}: is compressed with zstd, which needs the Python package zstandard: install it, or let a "
            "command decompress it, as in pipe:'zstd -dc FILE'."
        ) from None
    return zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)


class ForwardBytes:
    """The bytes of a stream as a walk over a tar reads them, where nothing is read twice but the last place."""

    def __init__(self, name: str, file: Any) -> None:
        self.name = name
        self.size = sys.maxsize
        """Number of bytes, known when the stream has ended."""
        self._file = file
        self._begin, self._held = 0, bytearray()

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer at the end of the stream.

        Raises:
            InputError: `offset` has gone by.
        """
        if offset < self._begin:
            raise InputError(f"{self.name}: is a stream, and cannot be read backwards: save it as a .tar file.")
        while self._begin + len(self._held) < offset and self._more():
            gone = min(len(self._held), offset - self._begin)
            del self._held[:gone]
            self._begin += gone
        del self._held[: offset - self._begin]
        self._begin = offset
        while len(self._held) < size and self._more():
            pass
        return bytes(self._held[:size])

    def _more(self) -> bool:
        data = self._file.read(_CHUNK)
        self._held += data
        if not data:
            self.size = min(self.size, self._begin + len(self._held))
        return bool(data)


class Streams:
    """The samples of streamed shards, once, with a running digest of their members."""

    trusted = True
    classes: Sequence[str] = ()
    left_out: Mapping[str, int] = {}

    def __init__(self, sources: Sequence[str], choice: MemberChoice | None = None) -> None:
        self._sources, self._choice = sources, choice or MemberChoice()
        self.options = {"streamed": True, **self._choice.options()}
        self._count, self._left = 0, LeftOut()
        self._sha = hashlib.sha256()
        self._ended = False

    @property
    def parents(self) -> dict[str, Record]:
        """The streams by a digest of their members' names and sizes, which is known when they have ended."""
        return {"stream": parent_record(None, self._sha.hexdigest() if self._ended else "unread")}

    @property
    def folders(self) -> set[str]:
        """Folders of the streams that are known to be local files."""
        return local_folders(self._sources)

    def read(self, monitor: Monitor) -> Iterator[Sample]:
        """Yield samples in order, and warn of keys without an image.

        Raises:
            InputError: a stream cannot be read, is cut short or damaged, is no tar, a key comes back in it, or none
                has an image.
            Interrupted: the monitor asked to stop.
        """
        for source in self._sources:
            name = "stdin" if source == "-" else source
            try:
                with contextlib.closing(Stream(source, monitor)) as stream:
                    yield from self._samples(ForwardBytes(name, _decompressed(name, stream)))
            except DpruneError:
                raise
            except Exception as error:  # decompressors and remote file systems raise nearly anything
                first = error.args[0] if error.args else type(error).__name__
                reason = str(getattr(error, "strerror", None) or first).rstrip(".")
                raise InputError(f"{name}: cannot be read as a stream of shards: {reason}.") from error
        self._ended = True
        self._tell_of_what_is_left_out(name if len(self._sources) == 1 else f"{len(self._sources)} streams")

    def _samples(self, tar: ForwardBytes) -> Iterator[Sample]:
        keys, suffixes = 0, Counter[str]()
        for key, members in _grouped(tar):
            for suffix, content in members.items():
                self._sha.update(f"{key}.{suffix}\0{len(content)}\n".encode("utf-8", "surrogateescape"))
            found = self._choice.standard(f"{tar.name}: {key}", list(members.items()))
            if found is not None:
                self._count += 1
                yield Sample(key, *found, trusted=True)
            else:
                keys += 1
                suffixes.update(members.keys())
        self._left += LeftOut(keys, most_frequent(suffixes))

    def _tell_of_what_is_left_out(self, title: str) -> None:
        why = self._left.words()
        if not self._count:
            raise InputError(f"{title}: holds no image that can be used: {why or 'it is empty'}.")
        if why:
            self.left_out = self._left.counts()
            _log.warning("%s: %s.", title, why)


def _grouped(tar: ForwardBytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield each key with the contents of its members by their suffixes."""
    seen: set[str] = set()
    key, found = "", dict[str, bytes]()
    for member in walk(tar):
        split = split_name(member.name)
        if split is None:
            continue
        if isinstance(member, TarLink):
            raise InputError(f"{tar.name}: holds links, which cannot be followed in a stream: save it as a .tar file.")
        if split[0] != key and found:
            yield key, found
            found = {}
        key, suffix = split
        if not found and key in seen:
            raise not_adjacent(tar.name, key)
        if suffix in found:
            raise named_twice(tar.name, member.name)
        seen.add(key)
        found[suffix] = _content(tar, member)
    if found:
        yield key, found


def _content(tar: ForwardBytes, member: TarMember) -> bytes:
    if member.size > MOST_BYTES:
        raise InputError(f"{tar.name}: {member.name} has {member.size:,} bytes, more than any image: leave it out.")
    content = tar.read(member.offset, member.size)
    if len(content) < member.size:
        raise truncated(tar, tar.size)
    return content
