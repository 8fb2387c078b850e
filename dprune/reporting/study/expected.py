"""What a study should have: a table of its trainings, whether they have results yet or not."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dprune.errors import InputError, unreadable
from dprune.formats.provenance import digest

HEADS = ("line", "pruned", "result")


class ExpectedTraining(NamedTuple):
    """One row of the table.

    Attributes:
        line: what the study calls the line.
        pruned: its pruning ratio, 0 for the unpruned.
        path: one of its result files, as the table says it.
        mark: digest of that result, empty where it is not among those of the report.
    """

    line: str
    pruned: float
    path: str
    mark: str


@dataclass(frozen=True)
class Expected:
    """The whole table, and a digest of it and of the results that it names."""

    trainings: tuple[ExpectedTraining, ...] = ()
    digest: str = ""

    @classmethod
    def open(cls, name: str, marks: Mapping[str, str]) -> Expected:
        """Read a CSV with the columns `line`, `pruned` and `result`, a row for each training.

        Args:
            name: of the file. Paths in it are relative to its folder.
            marks: digests of the results that there are, by the real paths of their files.

        Raises:
            InputError: it is no such table.
        """
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            raise unreadable(f"--expect {name}", error) from error
        try:
            rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
            if not set(HEADS) <= set(rows.fieldnames or ()):
                raise InputError(f"--expect {name}: its first row must name the columns {', '.join(HEADS)}.")
            found = [_training(name, rows.line_num, row, marks) for row in rows]
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"--expect {name}: is no CSV in UTF-8: give a table of {', '.join(HEADS)}.") from error
        if not found:
            raise InputError(f"--expect {name}: lists no training: write a row for each.")
        return cls(tuple(dict.fromkeys(found)), digest(found))


def _training(name: str, number: int, row: dict[str, str | None], marks: Mapping[str, str]) -> ExpectedTraining:
    line, pruned, path = ((row[head] or "").strip() for head in HEADS)
    try:
        ratio = float(pruned)
    except ValueError:
        ratio = -1.0
    if not (line and path and 0 <= ratio < 1):
        raise InputError(
            f"--expect {name}: line {number:,} needs a line, a pruning ratio from 0 to less than 1, and a result file."
        )
    where = os.path.realpath(os.path.join(os.path.dirname(name), path))
    return ExpectedTraining(line, ratio, path, marks.get(where, ""))
