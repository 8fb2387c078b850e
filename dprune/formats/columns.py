"""Single columns of parquet files, whole, as pyarrow has them: keys, uids and what became of a row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.regular import check_regular
from dprune.formats.table_files import arrow, described

# A pyarrow.ChunkedArray; pyarrow has no types, and may be missing.
Column = Any


def has_arrow() -> bool:
    """Tell whether pyarrow, which reads parquet, can be imported."""
    try:
        arrow("pyarrow.parquet")
    except InputError:
        return False
    return True


def count_rows(path: Path) -> int:
    """Return the rows of a parquet file by its footer.

    Raises:
        InputError: it is damaged or no parquet file, or pyarrow is missing.
    """
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def read_columns(path: Path, names: Sequence[str]) -> dict[str, Column]:
    """Read those of some columns that a parquet file has.

    Raises:
        InputError: it is damaged or no parquet file, or pyarrow is missing.
    """
    with _opened(path) as file:
        there = [name for name in names if name in file.schema_arrow.names]
        table = file.read(there, use_threads=False)
        return {name: table.column(name) for name in there}


def column_names(path: Path) -> list[str]:
    """Return the names of a parquet file's columns; raises as `count_rows`."""
    with _opened(path) as file:
        return [str(name) for name in file.schema_arrow.names]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    check_regular(path)
    try:
        parquet = arrow("pyarrow.parquet")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    with described(str(path)), parquet.ParquetFile(path) as file:
        yield file


def padded_ascii(column: Column, width: int, fill: str) -> npt.NDArray[np.uint8]:
    """Return texts filled up from the left to one width, as ASCII, uint8 [n, width], without a step in Python for each.

    Raises:
        ValueError: a text is null, empty, longer or no ASCII; the message shows it.
    """
    compute, types = arrow("pyarrow.compute"), arrow("pyarrow.types")
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise ValueError(f"they are {kind}, not text")
    texts = compute.utf8_lpad(column.cast("string"), width, fill).combine_chunks()
    wrong = compute.or_kleene(
        compute.equal(compute.binary_length(column.cast("string").combine_chunks()), 0),
        compute.not_equal(compute.binary_length(texts), width),
    )
    place = compute.index(compute.fill_null(wrong, True), True).as_py()
    if place >= 0:
        raise ValueError(f"row {place} holds {column[place].as_py()!r}")
    # Both kernels make arrays anew, so that the texts lie from the beginning of the buffer on.
    buffer = b"" if texts.buffers()[2] is None else texts.buffers()[2]
    return np.frombuffer(buffer, dtype=np.uint8)[: len(texts) * width].reshape(-1, width)


def find_rows(column: Column, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the first row of a column that holds each of the texts, -1 for none, int64 [len(texts)]."""
    compute = arrow("pyarrow.compute")
    wanted = arrow().array([text.encode("utf-8", "surrogateescape") for text in texts], "binary")
    rows = compute.index_in(wanted, value_set=column.cast("binary"), skip_nulls=True)
    found: npt.NDArray[np.int64] = compute.fill_null(rows, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found
