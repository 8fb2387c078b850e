"""Images in tables: parquet files, and datasets that Hugging Face's library cached or saved.

Rows are read in order by the main process, each row group once, and workers get the encoded images. What a table is
known by are the names, sizes and row counts of its files and what these say of themselves: no row is read for it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dprune.errors import BadImage, InputError
from dprune.formats.members import LABEL_SUFFIX, image_suffix
from dprune.formats.provenance import Record, canonical, finite, parent_record
from dprune.formats.table_files import RecordBatch, TableFile, arrow, described
from dprune.packing.classes import escaped
from dprune.packing.in_order import InOrder
from dprune.packing.samples import Sample, row_keys
from dprune.packing.sources import MOST_BYTES
from dprune.packing.table_columns import Columns, TableChoice, choose_columns
from dprune.packing.table_places import find_tables
from dprune.runtime import Monitor, Silent, check_stop

UNKNOWN = "bin"
"""Suffix of images of no format that shards hold, until they are PNG."""
MOST_LABEL = (1 << 63) - 1
"""That readers of shards take: an int64."""


class TableSource(InOrder):
    """The rows of parquet or Arrow files as one table.

    Args:
        locations: files, globs and folders, see `is_table`.
        choice: which columns and which split of them.

    Raises:
        InputError: a file is damaged, lacks a column, or differs in its kind of labels from the others.
        UsageError: there are several splits to choose from.
    """

    trusted = False

    def __init__(self, locations: Sequence[str], choice: TableChoice) -> None:
        found, self._choice = find_tables(locations, choice.split), choice
        self._files, self.left_out = found.files, found.left_out
        self._columns = [_chosen(file, choice) for file in self._files]
        self._stops = list(itertools.accumulate(file.rows for file in self._files))
        if not self._stops[-1]:
            raise InputError(f"{locations[0]}: has no rows.")
        self._named, self._stated = _shared_labels(self._files, self._columns)
        # So that all splits number the classes alike.
        self._others = [file for file in found.others if self._named and _texts_of(file, choice)]
        first = self._columns[0]
        taken = {"split": found.split, "image_column": first.image, "label_column": first.label}
        self.options = {name: value for name, value in taken.items() if value is not None}
        self._monitor: Monitor = Silent()
        self.folders = {os.path.realpath(os.path.dirname(file.path) or ".") for file in self._files}

    @functools.cached_property
    def parents(self) -> dict[str, Record]:
        """The files by their names, sizes, row counts, and digests of their footers or, of Arrow, batches."""
        listing = hashlib.sha256()
        for file in (*self._files, *self._others):
            # Wherever they lie, and however they were named on the command line.
            line = f"{os.path.basename(file.path)}\0{os.path.getsize(file.path)}\0{file.rows}\0{file.digest}\n"
            listing.update(line.encode("utf-8", "surrogateescape"))
        return {"images": parent_record(None, listing.hexdigest())}

    @functools.cached_property
    def classes(self) -> Sequence[str]:  # type: ignore[override]
        """Names that the files state, or all labels that are texts, sorted, for which their column is read."""
        if not self._named:
            return self._stated
        names = set[str]()
        columns = [(file, columns.label or "") for file, columns in zip(self._files, self._columns, strict=True)]
        columns += [(file, _texts_of(file, self._choice)) for file in self._others]
        for file, column in columns:
            for labels in self._column(file, column):
                names.update(label for label in labels if label is not None)
        return sorted(map(escaped, names))

    def has_labels(self) -> bool:
        """Tell whether there is a column of labels."""
        return any(columns.named is not None for columns in self._columns)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._stops[-1]

    def keys(self) -> Iterable[str]:
        """Names of the images' files without suffixes where each row has its own, else row numbers."""
        return self._file_names() or row_keys(len(self))

    def _file_names(self) -> list[str]:
        """Return what images are called, with dots as `_`, empty where a row has no name or shares it."""
        if any(columns.path is None for columns in self._columns):
            return []
        found = list[str]()
        for file, columns in zip(self._files, self._columns, strict=True):
            for paths in self._column(file, columns.image, columns.path):
                found += map(_key, paths)
                if "" in found[-len(paths) :]:
                    return []
        return found if len(set(found)) == len(found) else []

    def _column(self, file: TableFile, name: str, field: str | None = "") -> Iterator[list[Any]]:
        """Yield the values of a column, or of a field of it, piece by piece."""
        for batch in file.batches([f"{name}.{field}" if field else name]):
            check_stop(self._monitor)
            with described(file.path):
                values = _field(batch, name, field or "").to_pylist()
            yield values

    def prepare(self, monitor: Monitor) -> None:
        """Read the names of classes where labels are texts; the names of files are read for the keys."""
        self._monitor = monitor
        len(self.classes)

    def samples(self, begin: int) -> Iterator[Sample]:
        """Yield the rows as samples; files that paths lead to are read by whoever wants them whole."""
        first = 0
        for file, columns, stop in zip(self._files, self._columns, self._stops, strict=True):
            if begin < stop:
                for batch in file.batches(columns.wanted, max(begin, first) - first):
                    with described(file.path):
                        samples = list(self._batch(file, columns, batch))
                    yield from samples
            first = stop

    def _batch(self, file: TableFile, columns: Columns, batch: RecordBatch) -> Iterator[Sample]:
        contents = _values(batch, columns.image, columns.content)
        paths = _values(batch, columns.image, columns.path)
        beside = _beside(batch, columns.beside)
        for content, path, label, others in zip(
            contents, paths, self._labels(file, columns, batch), beside, strict=False
        ):
            members = [(UNKNOWN, b"") if content is None else (image_suffix(content) or UNKNOWN, content)]
            if label is not None:
                members.append((LABEL_SUFFIX, str(label).encode()))
            # A path is relative to the table's folder.
            whole = os.path.join(os.path.dirname(file.path), path) if path else None
            later = functools.partial(_image_at, whole) if content is None else None
            yield Sample("", [*members, *others], later=later)

    def _labels(self, file: TableFile, columns: Columns, batch: RecordBatch) -> Iterator[int | None]:
        """Yield the number of each row's class; negative ones stand for none, as where labels are not published."""
        if columns.label is None or columns.named is None:
            return itertools.repeat(None, batch.num_rows)
        values = batch.column(columns.label).to_pylist()
        if columns.named:
            return (None if value is None else self._numbers[escaped(value)] for value in values)
        most = max((value for value in values if value is not None), default=-1)
        if self.classes and most >= len(self.classes):
            raise InputError(
                f"{file.path}: holds the label {most}, but names {len(self.classes):,} classes: give another "
                "--label-column, or none."
            )
        if most > MOST_LABEL:
            raise InputError(
                f"{file.path}: holds the label {most}, more than 63 bits: give another --label-column, or none."
            )
        return (None if value is None or value < 0 else int(value) for value in values)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}


def _chosen(file: TableFile, choice: TableChoice) -> Columns:
    # Names of columns may be no UTF-8, where a file is damaged.
    with described(file.path):
        return choose_columns(file, choice)


def _texts_of(file: TableFile, choice: TableChoice) -> str:
    """Return the column of a file of another split that names classes, "" where there is none."""
    try:
        columns = _chosen(file, choice)
    except InputError:
        return ""
    return columns.label or "" if columns.named else ""


def _shared_labels(files: Sequence[TableFile], columns: Sequence[Columns]) -> tuple[bool, Sequence[str]]:
    """Return whether labels are texts, and the names that all files state for numbers.

    Raises:
        InputError: two files do not agree.
    """
    without = [file for file, c in zip(files, columns, strict=True) if c.label is None]
    if without and len(without) < len(files):
        first = next(file for file in files if file not in without)
        raise InputError(
            f"{first.path} has a column of labels and {without[0].path} none: give another --label-column, or none."
        )
    known = [(file, c) for file, c in zip(files, columns, strict=True) if c.named is not None]
    for file, found in known[1:]:
        first, other = known[0]
        if found.named != other.named:
            kinds = ["texts" if kind else "whole numbers" for kind in (other.named, found.named)]
            raise InputError(
                f"{first.path} has {kinds[0]} as labels and {file.path} {kinds[1]}: pack them apart, or give another "
                "--label-column, or none."
            )
        if list(found.classes) != list(other.classes):
            raise InputError(f"{first.path} and {file.path} name their classes differently: pack them apart.")
    return (bool(known[0][1].named), known[0][1].classes) if known else (False, ())


def _field(batch: RecordBatch, name: str, field: str) -> Any:
    column = batch.column(name)
    if field:
        # Flattening, unlike taking a field, heeds which structs are null.
        fields = [part.name for part in column.type]
        column = column.flatten()[fields.index(field)]
    return column.cast(column.type.value_type) if arrow("pyarrow.types").is_dictionary(column.type) else column


def _values(batch: RecordBatch, name: str, field: str | None) -> Iterable[Any]:
    return itertools.repeat(None, batch.num_rows) if field is None else _field(batch, name, field).to_pylist()


def _key(path: str | None) -> str:
    name = (path or "").replace("\\", "/").rpartition("/")[2]
    return (name.rpartition(".")[0] or name).replace(".", "_")


def _beside(batch: RecordBatch, names: Sequence[str]) -> Iterator[list[tuple[str, bytes]]]:
    """Yield what is kept beside each image: the columns as one JSON object, where any are."""
    if not names:
        yield from itertools.repeat([], batch.num_rows)
        return
    for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        content = canonical(finite(dict(zip(names, values, strict=True))))
        yield [("json", content.encode("utf-8", "surrogateescape"))]


def _image_at(path: str | None) -> tuple[str, bytes]:
    """Read the image that a row names."""
    if path is None:
        raise BadImage("is null: its row holds neither bytes nor a path")
    if "://" in path:
        raise BadImage("is not in the table, which names where to fetch it from: use img2dataset")
    if not os.path.isfile(path):
        raise BadImage(f"is not in the table, and its file is missing: {os.path.basename(path)}")
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadImage(f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(content) > MOST_BYTES:
        raise BadImage("has more bytes than any image that can be decoded")
    return image_suffix(content) or UNKNOWN, content
