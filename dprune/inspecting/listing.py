"""The samples that a file speaks of, one by one: ids with the keys, shards and labels that belong to them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.arrays import NPY_MAGIC, Array, misshapen, read_array
from dprune.formats.clusters import read_clusters
from dprune.formats.kinds import kind_of
from dprune.formats.members import MemberChoice
from dprune.formats.named import NamedSamples
from dprune.formats.named_sources import open_named
from dprune.formats.provenance import check_same_dataset, finite
from dprune.formats.publish import STDOUT
from dprune.formats.readable import presentable
from dprune.formats.sample_tables import group_column, number_column, sample_columns
from dprune.formats.subsets import narrowed, read_chosen
from dprune.formats.whole_files import read_file, read_stdin
from dprune.inspecting.inspect_files import kind_of_array

SHOWN = 20
"""Rows on a terminal, where no number was asked for."""
_GROUPS = ("cluster", "group")


@dataclass(frozen=True)
class Listing:
    """Samples and what is known of each.

    Attributes:
        name: what messages call the file that names them.
        named: what they are of.
        ids: of the samples that the file names, sorted.
        values: what it says of all samples, by the name of a column.
        head: how many to list, None where nobody said so.
    """

    name: str
    named: NamedSamples
    ids: npt.NDArray[np.int64]
    values: Mapping[str, npt.NDArray[Any]]
    head: int | None

    @property
    def problems(self) -> list[str]:
        """None: what is wrong with the file was raised."""
        return []

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold: one object a sample, null for what is not known."""
        columns = self._columns(self.head)
        rows = [
            {name: None if value == "" else finite(value) for name, value in zip(columns, row, strict=True)}
            for row in zip(*columns.values(), strict=True)
        ]
        return {"name": self.name, "dataset": self.named.title, "count": len(self.ids), "samples": rows}

    def text(self, columns: int | None) -> str:
        """Return rows: with tabs between the columns, or as a table for a terminal of so many columns."""
        if columns is None:
            return "\n".join("\t".join(row) for row in _rows(self._columns(self.head)))
        return self._table(columns)

    def _columns(self, most: int | None) -> dict[str, Sequence[Any]]:
        """Return the columns of the first samples; to read the labels of all may take a minute."""
        first = self.ids[:most]
        columns = sample_columns(first, self.named)
        for name, values in self.values.items():
            columns |= (group_column if name in _GROUPS else number_column)(name, values[first])
        return columns

    def _table(self, width: int) -> str:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        columns = self._columns(self.head or SHOWN)
        head, *rows = _rows(columns)
        table = Table(box=None, pad_edge=False)
        for name, values in zip(head, columns.values(), strict=True):
            numbers = all(isinstance(value, int | float) or value == "" for value in values)
            table.add_column(Text(name, style="cyan"), justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=width)
        console.print(Text(presentable(f"{self.name}: {len(self.ids):,} samples of {self.named.title}"), style="bold"))
        console.print(table)
        if (more := len(self.ids) - len(rows)) > 0:
            console.print(Text(f"and {more:,} more: --head N lists N of them, and a pipe gets all.", style="dim"))
        return screen.getvalue().removesuffix("\n")


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """Return the names of columns, and below them what a terminal can show of each row."""
    return [list(columns), *([presentable(str(cell)) for cell in row] for row in zip(*columns.values(), strict=True))]


def open_listing(
    files: Sequence[str], shards: Sequence[str], members: MemberChoice | None = None, head: int | None = None
) -> Listing:
    """List the samples that a file names.

    Args:
        files: one subset, in any form that `read_chosen` takes, scores or groups as .npy, or clusters; `-` for stdin.
        shards: what its ids are of, as `open_named` takes it.
        members: which members of shards are images and labels, None for the default.
        head: how many to list, None for all.

    Raises:
        UsageError: there are several files.
        InputError: it is none of these, or damaged.
        MismatchError: it is of another dataset.
    """
    if len(files) > 1:
        raise UsageError("--shards lists the samples of one file: name one FILE.")
    named = open_named(shards, members)
    name, ids, values = _read(files[0], named)
    return Listing(name, named, ids, values, head)


def _read(path: str, named: NamedSamples) -> tuple[str, npt.NDArray[np.int64], dict[str, npt.NDArray[Any]]]:
    """Read which samples a file names, and what it says of all by the name of a column."""
    everything = np.arange(len(named), dtype=np.int64)
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder, and --shards lists the samples of one file: name a subset or scores.")
    if kind_of(path) == "clusters":
        clusters = read_clusters(path)
        _hold(clusters.name, clusters.fingerprint, len(clusters), named)
        return clusters.name, everything, {"cluster": clusters.assignment, "distance": clusters.distance}
    data = read_stdin() if path == STDOUT else read_file(path)
    if data.startswith(NPY_MAGIC) and (column := _column(array := read_array(path, data))):
        _hold(array.name, array.fingerprint, len(array.values), named)
        return array.name, everything, {column: array.values}
    chosen = read_chosen(path, named, data)
    return chosen.name, narrowed(chosen, named.title, named.fingerprint, len(named)), {}


def _column(array: Array) -> str:
    """Return what an array of one value a sample is called, nothing for a subset."""
    kind = kind_of_array(array.values, array.record)
    if kind == "scores" and not misshapen(array.values, kind):
        return "score"
    return "group" if kind == "labels" else ""


def _hold(name: str, fingerprint: str | None, count: int, named: NamedSamples) -> None:
    check_same_dataset({name: fingerprint, named.title: named.fingerprint})
    if count != len(named):
        raise MismatchError(
            f"{name} has {count:,} samples and {named.title} {len(named):,}: name the dataset that it was made from."
        )
