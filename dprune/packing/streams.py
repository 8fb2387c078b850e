"""Shards that arrive as a stream (stdin, `pipe:` and URLs), which webdataset reads from front to back."""

from __future__ import annotations

import contextlib
import hashlib
import io
import select
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

from dprune.errors import InputError, Interrupted
from dprune.formats.members import IMAGE_SUFFIXES
from dprune.formats.provenance import Record, parent_record
from dprune.formats.ranges import is_url, remote
from dprune.formats.tar import COMPRESSED_MAGIC, END_MARKER
from dprune.packing.sources import Sample, local_folders
from dprune.runtime import Monitor, check_stop

PIPE = "pipe:"
LOOK_AGAIN_S = 0.2


def is_stream(source: str) -> bool:
    """Tell a source that can be read once, and only from the front."""
    return source == "-" or source.startswith(PIPE) or is_url(source)


class Stream:
    """A stream that can be stopped while it waits, and that remembers its last bytes.

    Those tell a whole tar from one that was cut between two members.
    """

    def __init__(self, source: str, monitor: Monitor) -> None:
        self._command: subprocess.Popen[bytes] | None = None
        self._monitor = monitor
        self._file = self._open(source)
        self._tail = b""
        self._compressed = False

    def _open(self, source: str) -> Any:
        if source == "-":
            return _unbuffered(sys.stdin.buffer)
        if source.startswith(PIPE):
            command = source.removeprefix(PIPE)
            self._command = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, bufsize=0)
            return self._command.stdout
        system, path = remote(source)
        return system.open(path, "rb")

    def read(self, size: int = -1) -> bytes:
        """Read from the stream.

        Raises:
            Interrupted: the monitor asked to stop while nothing came.
        """
        if isinstance(self._file, io.FileIO):
            while not select.select([self._file], [], [], LOOK_AGAIN_S)[0]:
                check_stop(self._monitor)
        data: bytes = self._file.read(size)
        if not self._tail:
            self._compressed = data.startswith(COMPRESSED_MAGIC)
        self._tail = (self._tail + data)[-len(END_MARKER) :]
        return data

    def finish(self) -> None:
        """Read what is left, and look how the stream ended.

        Raises:
            EOFError: the end marker is missing, or the command failed.
        """
        while self.read(1 << 20):
            pass
        if self._command is not None and (code := self._command.wait()):
            raise EOFError(f"the command ended with exit code {code}")
        # Compressed streams have checks of their own.
        if not self._compressed and self._tail != END_MARKER:
            raise EOFError("it ends without a tar end marker, so samples are missing: send it again")

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


class Streams:
    """The samples of streamed shards, once, with a running digest of their members."""

    trusted = True
    classes: Sequence[str] = ()

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources
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
        """Yield samples in order.

        Raises:
            InputError: a stream cannot be read, is cut short, or is no tar.
            Interrupted: the monitor asked to stop.
        """
        for source in self._sources:
            name = "stdin" if source == "-" else source
            try:
                with contextlib.closing(Stream(source, monitor)) as stream:
                    yield from self._samples(name, stream)
                    stream.finish()
            except Interrupted:
                # webdataset adds the stream to what it passes on.
                check_stop(monitor)
                raise
            except (tarfile.TarError, EOFError, OSError, ValueError, ImportError) as error:
                reason = str(error.args[0] if error.args else type(error).__name__).rstrip(".")
                raise InputError(f"{name}: cannot be read as a stream of shards: {reason}.") from error
        self._ended = True

    def _samples(self, name: str, stream: Stream) -> Iterator[Sample]:
        from webdataset.tariterators import group_by_keys, tar_file_expander

        for found in group_by_keys(tar_file_expander([{"url": name, "stream": stream}])):
            if (sample := self._sample(found)) is not None:
                yield sample

    def _sample(self, found: dict[str, Any]) -> Sample | None:
        key = found["__key__"]
        members = [(name, content) for name, content in found.items() if not name.startswith("__")]
        for suffix, content in members:
            self._sha.update(f"{key}.{suffix}\0{len(content)}\n".encode("utf-8", "surrogateescape"))
        names = [suffix for suffix, _ in members]
        images = [names.index(suffix) for suffix in IMAGE_SUFFIXES if suffix in names]
        return Sample(key, members, images[0]) if images else None
