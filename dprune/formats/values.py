"""One value a sample, score or group: a .npy, or a table as text with a column of names and one of values."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import NPY_MAGIC, Array, check_role, read_groups, read_scores
from dprune.formats.class_names import ClassNames
from dprune.formats.named import NamedSamples
from dprune.formats.publish import STDOUT
from dprune.formats.sample_labels import SampleLabels
from dprune.formats.table_samples import TableSamples, find_samples
from dprune.formats.text_tables import ID, KEYS, TextRow, TextTable
from dprune.formats.whole_files import read_file, read_stdin

COLUMNS = {"scores": ("score",), "groups": ("group", "label", "class")}
"""What the column of values is called where there are several, by what the values are; the first of these counts."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?|nan", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")


@dataclass(frozen=True)
class Listed:
    """Values that a table gives to some samples.

    Attributes:
        found: the samples of its rows.
        values: of those, float64 or int64 [rows].
        missing: value of all other samples.
        class_names: what the values are called, None where they are numbers.
    """

    found: TableSamples
    values: npt.NDArray[Any]
    missing: float
    class_names: ClassNames | None = None

    @property
    def least(self) -> int:
        """The smallest number of samples that a dataset with all of these can have."""
        return int(self.found.ids.max(initial=-1)) + 1

    @property
    def _last(self) -> str:
        """The row with the largest id."""
        return self.found.table.at(self.found.rows[int(self.found.ids.argmax())])

    def of_all(self, count: int) -> Array:
        """Return one value a sample of a dataset with so many.

        Raises:
            InputError: a row is of a sample beyond these, or there are too many for memory.
        """
        ids, table = self.found.ids, self.found.table
        if self.least > count:
            raise InputError(f"{self._last} has the id {ids.max()}, and there are {count:,} samples: give theirs.")
        try:
            values = np.full(count, self.missing, dtype=self.values.dtype)
        except MemoryError as error:
            raise InputError(
                f"{self._last} has the id {ids.max()}, and so many samples do not fit into memory: mend the table."
            ) from error
        values[ids] = self.values
        if self.class_names is None:
            return Array(table.name, values, table.record, dataset=self.found.dataset)
        return SampleLabels(table.name, values, table.record, dataset=self.found.dataset, class_names=self.class_names)


def whole(
    scores: Array | Listed | None, groups: Array | Listed | None, *counted: Sized | None
) -> tuple[Array | None, Array | None]:
    """Return scores and groups with a value for each sample.

    Args:
        scores: as `read_values` gives them, None for none.
        groups: likewise.
        counted: what else is as long as there are samples. Where nothing is, these are those that a table knows.

    Raises:
        InputError: a table has a row of a sample beyond these.
    """
    given = [value for value in (scores, groups) if value is not None]
    counts = [len(value) for value in counted if value is not None]
    counts += [len(value.values) for value in given if isinstance(value, Array)]
    count = counts[0] if counts else max((value.least for value in given if isinstance(value, Listed)), default=0)
    found = [value.of_all(count) if isinstance(value, Listed) else value for value in (scores, groups)]
    return found[0], found[1]


def read_values(path: str, role: str, named: NamedSamples | None) -> Array | Listed:
    """Read scores or groups.

    Args:
        path: .npy, or text as `find_samples` takes it; `FILE:COLUMN` names the column of values where a table has
            several; a dash for stdin.
        role: `scores`, where no value is NaN, or `groups`, where it is -1.
        named: the dataset that they are of, None where no keys of it are known.

    Raises:
        InputError: it is none of these, a sample comes twice or is not there, or a value is no number.
    """
    path, column = _split(path)
    name = "stdin" if path == STDOUT else path
    data = read_stdin() if path == STDOUT else read_file(path)
    if data.startswith(NPY_MAGIC):
        if column:
            raise InputError(f"{name}:{column}: a .npy has no columns: leave the name out.")
        return (read_scores if role == "scores" else read_groups)(path, data)
    table = TextTable(name, data)
    place = _column(table, role, column)
    found = find_samples(table, named, whole_lines=False)
    found.check_once()
    if not found.rows:
        raise InputError(f"{name}: holds no values: write a sample and its value in each row.")
    cells = [row.cells[place].strip() for row in found.rows]
    if role == "scores":
        _check_form(found, cells, _NUMBER, "number")
        return Listed(found, np.array([float(cell or "nan") for cell in cells]), np.nan)
    if not any(map(_WHOLE.fullmatch, cells)) and not all(_NUMBER.fullmatch(cell) for cell in cells if cell):
        return _numbered(found, cells)
    _check_form(found, cells, _WHOLE, "whole number")
    numbers = [int((cell or "-1").partition(".")[0]) for cell in cells]
    return Listed(found, np.array(numbers, dtype=np.int64), -1)


def _numbered(found: TableSamples, cells: Sequence[str]) -> Listed:
    """Number classes by their names as sorted, as `dprune pack` does; an empty cell is of none."""
    names = ClassNames(tuple(sorted(set(cells) - {""})))
    return Listed(found, np.array([names.numbers.get(cell, -1) for cell in cells], dtype=np.int64), -1, names)


def _split(path: str) -> tuple[str, str]:
    """Part the name of a column from that of a file."""
    before, colon, column = path.rpartition(":")
    if colon and not os.path.exists(path) and (before == STDOUT or os.path.exists(before)):
        return before, column
    return path, ""


def _column(table: TextTable, role: str, asked: str) -> int:
    """Find the column of values.

    Raises:
        InputError: there is none, or there are several and nothing says which.
    """
    if asked:
        return _asked(table, asked)
    width = len(table.head) or (len(table.rows[0].cells) if table.rows else 2)
    naming = {table.place([ID]), table.place(KEYS)} if table.head else {0}
    # A column without a name is pandas' index.
    others = [place for place in range(width) if place not in naming and (not table.head or table.head[place])]
    called = table.place(COLUMNS[role])
    if called is not None or len(others) == 1:
        return others[0] if called is None else called
    if not others:
        check_role(Array(table.name, np.empty(0), table.record), role)
        raise InputError(
            f"{table.name}: has one column and no {role}: write a value after each name, or give a subset with "
            "--within."
        )
    if not table.head:
        raise InputError(f"{table.name}: has {width} columns and no header: name them in a first line.")
    shown = " and ".join(table.head[place] for place in others)
    raise InputError(f"{table.name}: has the columns {shown}: say which one counts, by {table.name}:COLUMN.")


def _asked(table: TextTable, asked: str) -> int:
    place = table.place([asked.strip().lower()])
    if place is None:
        has = f"the columns {', '.join(table.head)}" if table.head else "no header"
        raise InputError(f"{table.name}: has no column {asked!r}: it has {has}.")
    return place


def _check_form(found: TableSamples, cells: Sequence[str], form: re.Pattern[str], kind: str) -> None:
    """Refuse cells that are neither empty nor numbers of a kind.

    Raises:
        InputError: there is one.
    """
    for row, cell in zip(found.rows, cells, strict=True):
        if cell and not form.fullmatch(cell):
            raise _no_value(found.table, row, cell, kind)


def _no_value(table: TextTable, row: TextRow, cell: str, kind: str) -> InputError:
    hint = " If it is a header, call the column of names id or key." if not table.head and row is table.rows[0] else ""
    return InputError(f"{table.at(row)}: {cell[:40]!r} is not a {kind}: mend the table.{hint}")
