"""Which samples the rows of a text are of: found by keys where these are known, else by ids."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.named import NamedSamples
from dprune.formats.text_tables import ID, KEYS, TextRow, TextTable

_ID = re.compile(r"[0-9]{1,18}")

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class TableSamples:
    """The samples of a text's rows.

    Attributes:
        table: the text.
        rows: of the table.
        ids: of their samples, int64 [rows].
        dataset: fingerprint of the dataset that the ids are of, None where that is the table's own.
    """

    table: TextTable
    rows: Sequence[TextRow]
    ids: npt.NDArray[np.int64]
    dataset: str | None

    def check_once(self) -> None:
        """Refuse rows of one sample.

        Raises:
            InputError: there are two.
        """
        order = np.argsort(self.ids, kind="stable")
        again = np.flatnonzero(np.diff(self.ids[order]) == 0)
        if len(again):
            first, second = (self.rows[int(place)] for place in order[again[0] : again[0] + 2])
            raise InputError(
                f"{self.table.at(second)} names the same sample as line {first.number:,}: keep one of them."
            )


def find_samples(table: TextTable, named: NamedSamples | None, *, whole_lines: bool) -> TableSamples:
    """Find the samples of the rows of a text.

    A header tells by the names of its columns whether they are keys or ids. Where it has both, ids count if they are of
    the dataset, and keys otherwise. Without a header the first column holds keys, or ids if no sample has such a key.

    Args:
        table: the text.
        named: the dataset, None where none is known, and only ids in a column of that name will do.
        whole_lines: whether each line may be a key as it stands, whatever it holds.

    Raises:
        InputError: a name is no sample's or two samples', or nothing says what the names are.
    """
    by_id, by_key = table.place([ID]), table.place(KEYS)
    ours = named is not None and table.record is not None and table.record.get("fingerprint") == named.fingerprint
    if by_id is not None and (by_key is None or named is None or ours):
        return TableSamples(table, table.rows, _ids(table, by_id), None)
    if named is None:
        raise _nobody_knows(table, is_subset=whole_lines)
    if by_key is not None:
        return _found(table, table.rows, by_key, named, _known(table, table.rows, by_key, named))
    if whole_lines and (known := _known(table, table.lines, 0, named)):
        _tell_of_numbers(table, known, named)
        return _found(table, table.lines, 0, named, known)
    if known := _known(table, table.rows, 0, named):
        _tell_of_numbers(table, known, named)
        return _found(table, table.rows, 0, named, known)
    if table.rows and all(_ID.fullmatch(row.cells[0].strip()) for row in table.rows):
        _log.info("%s: none of its names is a key of %s, and they are taken as ids.", table.name, named.title)
        return TableSamples(table, table.rows, _ids(table, 0), named.fingerprint)
    return _found(table, table.lines if whole_lines else table.rows, 0, named, {})


def _tell_of_numbers(table: TextTable, known: dict[str, int], named: NamedSamples) -> None:
    """Warn of keys that are ids of other samples: files 0.png to 99.png sort as 0, 1, 10, and 2 has the id 12."""
    if table.record is not None or not all(_ID.fullmatch(key) and int(key) < len(named) for key in known):
        return
    if any(int(key) != sample for key, sample in known.items()):
        _log.warning(
            "%s: its numbers are taken as keys of %s, whose ids are others: write id or key above the column.",
            table.name,
            named.title,
        )


def _nobody_knows(table: TextTable, *, is_subset: bool) -> InputError:
    if not table.head and all(_ID.fullmatch(row.cells[0].strip()) for row in table.rows):
        return InputError(
            f"{table.name}: may hold keys or ids: write id or key above the column, or name the dataset with "
            "--shards of dprune select."
        )
    remedy = f"dprune select --within {table.name} --shards SHARDS -o keep.npy makes ids of them"
    return InputError(
        f"{table.name}: holds keys, not ids, and nothing says which samples have them: "
        f"{remedy if is_subset else 'name the dataset with --shards of dprune select'}."
    )


def _known(table: TextTable, rows: Sequence[TextRow], column: int, named: NamedSamples) -> dict[str, int]:
    return named.find_each(table.name, [row.cells[column] for row in rows])


def _found(
    table: TextTable, rows: Sequence[TextRow], column: int, named: NamedSamples, known: dict[str, int]
) -> TableSamples:
    if lost := next((row for row in rows if row.cells[column] not in known), None):
        raise InputError(f"{table.at(lost)}: no sample of {named.title} has the key {lost.cells[column]!r}.")
    ids = np.array([known[row.cells[column]] for row in rows], dtype=np.int64)
    return TableSamples(table, rows, ids, named.fingerprint)


def _ids(table: TextTable, column: int) -> npt.NDArray[np.int64]:
    if wrong := next((row for row in table.rows if not _ID.fullmatch(row.cells[column].strip())), None):
        raise InputError(f"{table.at(wrong)}: {wrong.cells[column]!r} is not an id: ids are whole numbers from 0.")
    return np.array([int(row.cells[column]) for row in table.rows], dtype=np.int64)
