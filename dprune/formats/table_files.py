"""Parquet and Arrow files: their rows in batches of a few megabytes, and what tells one such file from another.

pyarrow reads them and is imported only here. Parquet is read column chunk by column chunk through a small buffer, so
that row groups of any size take as much memory as one of their pages; Arrow files are mapped, and what was read of them
is let go.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dprune.errors import InputError, unreadable
from dprune.formats.regular import check_regular

BATCH_ROWS, BATCH_BYTES = 256, 8 << 20
"""Rows that are taken at once, and about how many bytes of them."""
_BUFFER = 1 << 20
_LET_GO = 64 << 20
"""Bytes of a mapped file that are read before their memory is given back."""
_PARQUET, _ARROW_FILE, _ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
_FOOTER_END = 8
"""Bytes behind a parquet file's footer: its length and the magic."""
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
LONGEST_REASON = 120
"""Of what a library says of a damaged file, which may hold whatever it found there."""
AGAIN = "copy or make it again"

# A pyarrow.RecordBatch, and a pyarrow.Schema; pyarrow has no types, and may be missing.
RecordBatch = Any
Schema = Any


def arrow(module: str = "pyarrow") -> Any:
    """Import pyarrow or one of its modules.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"parquet and Arrow files need the Python package pyarrow, which cannot be imported ({error}): "
            "pip install 'dprune[parquet]'."
        ) from error


@dataclass(frozen=True)
class TableFile(ABC):
    """One file of rows.

    Attributes:
        path: of the file.
        rows: number of them.
        schema: `pyarrow.Schema` of the columns.
        digest: of what the file says of itself: of parquet the footer, of Arrow the schema, and the rows and the sizes
            of the columns of each batch. The rows themselves are not read for it.
    """

    path: str
    rows: int
    schema: Schema
    digest: str

    def batches(self, columns: Sequence[str], begin: int = 0) -> Iterator[RecordBatch]:
        """Yield the rows from `begin` on in batches of at most `BATCH_ROWS`.

        Args:
            columns: that are wanted; `image.path` is a field of one that holds structs.
            begin: first row.

        Raises:
            InputError: the file is damaged.
        """
        with described(self.path):
            for batch in self._batches(columns, begin):
                held = batch.get_total_buffer_size()
                size = min(BATCH_ROWS, max(1, BATCH_BYTES * batch.num_rows // max(1, held)))
                for first in range(0, batch.num_rows, size):
                    yield batch.slice(first, size)

    @abstractmethod
    def _batches(self, columns: Sequence[str], begin: int) -> Iterator[RecordBatch]:
        """Yield the rows from `begin` on as the file has them."""


def open_table(path: str) -> TableFile:
    """Read what a file of rows says of itself.

    Raises:
        InputError: it is neither parquet nor Arrow, damaged or cut short, or pyarrow is missing.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file:
            head = file.read(len(_ARROW_FILE))
    except OSError as error:
        raise unreadable(path, error) from error
    arrow()
    with described(path):
        if head.startswith(_PARQUET):
            return ParquetFile.open(path)
        if head.startswith((_ARROW_FILE, _ARROW_STREAM)):
            return ArrowFile.open(path)
    raise InputError(f"{path}: is neither a parquet nor an Arrow file, or its beginning is damaged: {AGAIN}.")


@contextlib.contextmanager
def described(path: str) -> Iterator[None]:
    """Turn whatever pyarrow raises over a file into one sentence."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if error.errno:
            raise unreadable(path, error) from error
        raise _damaged(path, error) from error
    except Exception as error:  # damaged files make it raise nearly anything
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> InputError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:LONGEST_REASON].rstrip(".")
    return InputError(f"{path}: is damaged or cut short ({reason}): {AGAIN}.")


@dataclass(frozen=True)
class ParquetFile(TableFile):
    """A parquet file.

    Attributes:
        groups: rows of each row group.
    """

    groups: Sequence[int]

    @classmethod
    def open(cls, path: str) -> ParquetFile:
        """Read the footer."""
        footer = _parquet_footer(path)
        with arrow("pyarrow.parquet").ParquetFile(path) as file:
            meta = file.metadata
            groups = [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
            if sum(groups) != meta.num_rows or min(groups, default=0) < 0:
                raise ValueError("its row groups are not as many rows as it states")
            return cls(path, meta.num_rows, file.schema_arrow, hashlib.sha256(footer).hexdigest(), groups)

    def _batches(self, columns: Sequence[str], begin: int) -> Iterator[RecordBatch]:
        starts = list(itertools.accumulate(self.groups, initial=0))
        wanted = [number for number in range(len(self.groups)) if starts[number + 1] > begin]
        if not wanted:
            return
        passed = starts[wanted[0]]
        # Without a buffer a column chunk is read whole, and with threads or a buffer before it several are.
        with arrow("pyarrow.parquet").ParquetFile(
            self.path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        ) as file:
            rows = _rows_at_once(file.metadata)
            for batch in file.iter_batches(rows, row_groups=wanted, columns=list(columns), use_threads=False):
                if passed + batch.num_rows > begin:
                    yield batch.slice(max(0, begin - passed))
                passed += batch.num_rows
        if passed != self.rows:
            raise ValueError("it holds fewer rows than it states")


def _parquet_footer(path: str) -> bytes:
    """Return the bytes of a parquet file's footer."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _FOOTER_END))
        end = file.read()
        length = int.from_bytes(end[:4], "little")
        if not end.endswith(_PARQUET) or length + _FOOTER_END > size:
            raise ValueError("it has no footer")
        file.seek(size - _FOOTER_END - length)
        return file.read(length)


def _rows_at_once(meta: Any) -> int:
    """Return how many rows make a batch, by the sizes that the footer states."""
    # What it states of single columns is not asked for: where that is damaged, pyarrow ends the process.
    size = sum(int(meta.row_group(number).total_byte_size) for number in range(meta.num_row_groups))
    return min(BATCH_ROWS, max(1, BATCH_BYTES * int(meta.num_rows) // max(1, size)))


@dataclass(frozen=True)
class ArrowFile(TableFile):
    """An Arrow file, or a stream in a file as Hugging Face's datasets are cached.

    Attributes:
        counts: rows of each batch.
    """

    counts: Sequence[int]

    @classmethod
    def open(cls, path: str) -> ArrowFile:
        """Walk over the batches; of the rows nothing is read, since the file is mapped."""
        reading = _Mapped(path)
        sha, counts = hashlib.sha256(reading.schema.serialize()), []
        for batch in reading.batches():
            sizes = [0 if part is None else part.size for column in batch.columns for part in column.buffers()]
            sha.update(f"{batch.num_rows} {sizes}\n".encode())
            counts.append(batch.num_rows)
        return cls(path, sum(counts), reading.schema, sha.hexdigest(), counts)

    def _batches(self, columns: Sequence[str], begin: int) -> Iterator[RecordBatch]:
        names = list(dict.fromkeys(name if name in self.schema.names else name.rpartition(".")[0] for name in columns))
        passed = 0
        for batch in _Mapped(self.path).batches():
            if passed + batch.num_rows > begin:
                wanted = batch.select(names)
                # The offsets of damaged bytes and texts may lead anywhere, and pyarrow follows them.
                wanted.validate(full=True)
                yield wanted.slice(max(0, begin - passed))
            passed += batch.num_rows
        if passed != self.rows:
            raise ValueError("it holds other rows than when it was opened")


class _Mapped:
    """The batches of a mapped Arrow file, whose memory is given back as they go by."""

    def __init__(self, path: str) -> None:
        pa = arrow()
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._source = pa.BufferReader(pa.py_buffer(self._map))
        self._is_stream = self._map[: len(_ARROW_STREAM)] == _ARROW_STREAM
        # A stream that ends between two batches would pass for a whole one.
        if self._is_stream and self._map[-len(_END_OF_STREAM) :] != _END_OF_STREAM:
            raise ValueError("its end is missing")
        self._reader = pa.ipc.open_stream(self._source) if self._is_stream else pa.ipc.open_file(self._source)
        self.schema: Schema = self._reader.schema

    def batches(self) -> Iterator[RecordBatch]:
        """Yield the batches; what one says is read only where it is looked at."""
        held = 0
        for batch in self._reader if self._is_stream else map(self._reader.get_batch, range(self._number())):
            yield batch
            held += batch.get_total_buffer_size()
            if held > _LET_GO:
                self._map.madvise(mmap.MADV_DONTNEED)
                held = 0

    def _number(self) -> int:
        return int(self._reader.num_record_batches)
