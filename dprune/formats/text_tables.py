"""Text that names samples: a list of keys, one a line, or a table as CSV or TSV, with a header or without.

    key,score
    000000012,0.25
    000000047,1.5

A header is a first row with a column called `id` or `key`. Without one, the first column holds the names.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from dprune.errors import InputError
from dprune.formats.arrays import HEAD, not_an_array
from dprune.formats.marked_text import parse_text

ID = "id"
KEYS = ("key", "__key__", "file", "file_name", "filename", "path", "image")
"""What columns of keys are called, in any case; of several the first in this order counts."""
_ALONE = (ID, KEYS[0])
"""What the only column is called; other words are more likely a key themselves."""

_DELIMITERS = "\t,;"
_MOST_CELL = 1 << 20
# What no text holds, but files of nearly all other formats at their beginning.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class TextRow(NamedTuple):
    """A row of a table.

    Attributes:
        number: of its last line, from 1.
        cells: texts of its columns.
    """

    number: int
    cells: Sequence[str]


class TextTable:
    """A text that names samples.

    Attributes:
        name: what messages call it.
        record: its provenance, None for one made elsewhere.
        head: names of its columns in lower case, empty without a header.
    """

    def __init__(self, name: str, data: bytes) -> None:
        """Read the header.

        Raises:
            InputError: it is no text, or not the text that its provenance speaks of.
        """
        self.name = name
        text, self.record = parse_text(name, data)
        self._first = 2 if self.record is not None else 1
        self._text = _decoded(name, text)
        first = self._text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
        heads = {delimiter: _columns(first, delimiter) for delimiter in _DELIMITERS}
        # Of a list of keys the record tells that its first line is no header, whatever it says.
        is_list = self.record is not None and self.record["options"].get("format") == "keys"
        found = next((delimiter for delimiter, head in heads.items() if _names_samples(head) and not is_list), "")
        self.head = heads.get(found, ())
        self._delimiter = found or next((delimiter for delimiter in _DELIMITERS if delimiter in first), ",")

    @functools.cached_property
    def lines(self) -> list[TextRow]:
        """Every line that is not empty as one cell, however many columns it would have."""
        lines = enumerate(self._text.split("\n"), self._first)
        return [TextRow(number, (text.rstrip("\r"),)) for number, text in lines if text.rstrip("\r")]

    @functools.cached_property
    def rows(self) -> list[TextRow]:
        """Rows below the header, all with as many cells.

        Raises:
            InputError: a row has more or fewer, or is none of a table.
        """
        rows = self._parsed()[bool(self.head) :]
        width = len(self.head) or (len(rows[0].cells) if rows else 0)
        if wrong := next((row for row in rows if len(row.cells) != width), None):
            than = "the header" if self.head else "the first row"
            raise InputError(f"{self.at(wrong)} has {len(wrong.cells)} columns, and {than} {width}: {_MEND}.")
        return rows

    def _parsed(self) -> list[TextRow]:
        reader = csv.reader(io.StringIO(self._text, newline=""), delimiter=self._delimiter, strict=True)
        limit = csv.field_size_limit(_MOST_CELL)
        try:
            above = self._first - 1
            return [TextRow(above + reader.line_num, cells) for cells in reader if any(cells)]
        except csv.Error as error:
            line = self._first - 1 + reader.line_num
            raise InputError(f"{self.name}: line {line:,} is not a row of a table ({error}): {_MEND}.") from error
        finally:
            csv.field_size_limit(limit)

    def at(self, row: TextRow) -> str:
        """Return what messages call a row."""
        return f"{self.name}: line {row.number:,}"

    def place(self, names: Sequence[str]) -> int | None:
        """Return the place of the first of some columns that the header has, None for none."""
        return next((self.head.index(name) for name in names if name in self.head), None)


_MEND = "mend the table"


def is_text(path: str) -> bool:
    """Tell whether a file begins as text does, and not as a file of another format."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return bool(head.strip()) and not _CONTROL.search(head)


def _decoded(name: str, data: bytes) -> str:
    """Return UTF-8 as text, bytes of names that are none as halves of characters.

    Raises:
        InputError: it is no text.
    """
    if data.startswith(_UTF16):
        raise InputError(f"{name}: is UTF-16: save it as UTF-8.")
    if _CONTROL.search(data[:HEAD]):
        raise not_an_array(name, data[:HEAD])
    if b"\0" in data:
        raise InputError(f"{name}: line {data[: data.index(0)].count(10) + 1:,} holds a zero byte: save it as UTF-8.")
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _columns(line: str, delimiter: str) -> tuple[str, ...]:
    """Return the cells of a line in lower case."""
    try:
        cells = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return ()
    return tuple(cell.strip().lower() for cell in cells)


def _names_samples(head: Sequence[str]) -> bool:
    return not {*_ALONE, *(KEYS if len(head) > 1 else ())}.isdisjoint(head)
