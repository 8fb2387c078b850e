"""Shards that arrive as a stream (stdin, `pipe:` and URLs), which webdataset reads from front to back."""

from __future__ import annotations

import hashlib
import sys
import tarfile
from typing import TYPE_CHECKING, Any, BinaryIO

from dprune.errors import InputError
from dprune.formats.blocks import is_url, remote
from dprune.formats.shard_index import IMAGE_SUFFIXES
from dprune.formats.tar import COMPRESSED_MAGIC, END_MARKER
from dprune.packing.sources import Sample, local_folders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PIPE = "pipe:"


def is_stream(source: str) -> bool:
    """Tell a source that can be read once, and only from the front."""
    return source == "-" or source.startswith(PIPE) or is_url(source)


class TailKeeper:
    """Passes a stream on and remembers its last bytes, to tell a whole tar from one cut between two members."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.tail = b""
        self.compressed = False

    def read(self, size: int = -1) -> bytes:
        """Read from the stream."""
        data = self._stream.read(size)
        if not self.tail:
            self.compressed = data.startswith(COMPRESSED_MAGIC)
        self.tail = (self.tail + data)[-len(END_MARKER) :]
        return data

    def close(self) -> None:
        """Close the stream, which for a pipe tells how its command ended."""
        self._stream.close()

    def is_whole(self) -> bool:
        """Read what is left and look for the end marker; compressed streams have checks of their own."""
        while self.read(1 << 20):
            pass
        return self.compressed or self.tail == END_MARKER


class Streams:
    """The samples of streamed shards, once, with a running digest of their members."""

    trusted = True

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources
        self._sha = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 over the names and sizes of the members read so far."""
        return self._sha.hexdigest()

    @property
    def folders(self) -> set[str]:
        """Folders of the streams that are known to be local files."""
        return local_folders(self._sources)

    def __iter__(self) -> Iterator[Sample]:
        """Yield samples in order.

        Raises:
            InputError: a stream cannot be read, is cut short, or is no tar.
        """
        from webdataset.tariterators import group_by_keys, tar_file_expander

        for source in self._sources:
            name = "stdin" if source == "-" else source
            try:
                stream = TailKeeper(_open(source))
                files = tar_file_expander([{"url": name, "stream": stream}])
                for found in group_by_keys(files):
                    if (sample := self._sample(found)) is not None:
                        yield sample
                whole = stream.is_whole()
                stream.close()
            except (tarfile.TarError, EOFError, OSError, ValueError) as error:
                reason = str(error).split(" @ ")[0].strip("()'\"").split("\\n")[0]
                raise InputError(f"{name}: cannot be read as a stream of shards: {reason}.") from error
            if not whole:
                raise InputError(f"{name}: ends without a tar end marker, so samples are missing: send it again.")

    def _sample(self, found: dict[str, Any]) -> Sample | None:
        key = found["__key__"]
        members = [(name, content) for name, content in found.items() if not name.startswith("__")]
        for suffix, content in members:
            self._sha.update(f"{key}.{suffix}\0{len(content)}\n".encode("utf-8", "surrogateescape"))
        names = [suffix for suffix, _ in members]
        images = [names.index(suffix) for suffix in IMAGE_SUFFIXES if suffix in names]
        return Sample(key, members, images[0]) if images else None


def _open(source: str) -> Any:
    if source == "-":
        return sys.stdin.buffer
    if source.startswith(PIPE):
        from webdataset.gopen import gopen

        return gopen(source, "rb")
    system, path = remote(source)
    return system.open(path, "rb")
