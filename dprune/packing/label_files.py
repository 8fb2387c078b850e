"""Labels that people keep in files of their own: CSV and TSV, JSON and JSON lines, told apart by what they hold."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dprune.errors import InputError
from dprune.formats.checked_json import parse_json
from dprune.formats.images import readable_suffixes

# What a row says of its image; None where it says that there is no label.
Label = str | int | None

FILE_FIELDS = ("file_name", "filename", "file", "path", "file_path", "filepath", "image", "image_name", "image_path",
               "image_id", "img", "key", "id", "name")  # fmt: skip
LABEL_FIELDS = ("label", "labels", "class", "class_name", "classname", "category", "target", "class_id", "label_id")
"""Names of columns and fields that are understood, in any case; of several the first in this order counts."""
MOST_BYTES = 256 << 20
_MEND = "mend the file of labels"
_DELIMITERS = "\t;, "
_LOOKED_AT = 50
_WHOLE = re.compile(r"[+-]?\d{1,18}(?:\.0+)?")

Row = tuple[str, Any]


def read_labels(title: str, data: bytes) -> dict[str, Label]:
    """Read which image has which label.

    A table has a row for each image, with a header or two columns, the file and its label. JSON is an object of labels
    by file, a list of objects or of pairs, or an object of such a list called `labels`, as `dataset.json` of StyleGAN
    and EDM is; JSON lines have an object on each line, as `metadata.jsonl` of Hugging Face's image folders.

    Args:
        title: what messages call the file.
        data: its content.

    Returns:
        Labels by the names of the images, see `plain_name`; whole numbers also where they were written as text.

    Raises:
        InputError: it is none of these, is damaged, names an image twice, or a label is neither a name nor a number.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"{title}: is too large for a file of labels, more than {MOST_BYTES >> 20} MiB.")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if "\0" in text:
        raise InputError(f"{title}: is not text: give labels as CSV or JSON in UTF-8.")
    rows = _of_json(title, text) if text.lstrip()[:1] in ("{", "[") else _of_table(title, text)
    found: dict[str, Label] = {}
    for name, value in rows:
        if (plain := plain_name(name)) in found:
            raise InputError(f"{title}: names {name!r} twice: give each image one label.")
        found[plain] = as_label(f"{title}: {name}", value)
    if not found:
        raise InputError(f"{title}: holds no labels: {_MEND}.")
    return found


def plain_name(name: str) -> str:
    """Return a path as all systems write it: with forward slashes, no leading `./`, and composed characters."""
    name = name.strip().replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    # Systems of Apple take the accents off their letters.
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def as_label(title: str, value: Any) -> Label:
    """Return a label as a name or a whole number, whichever it is.

    Args:
        title: what messages call it.
        value: text, or parsed JSON.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else text or None
    # Parsed JSON holds no other whole numbers of more than 64 bits.
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    shown = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else repr(value).lower()
    raise InputError(f"{title}: the label is {shown}, neither a name nor a whole number: {_MEND}.")


def _of_json(title: str, text: str) -> Iterator[Row]:
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and _is_object(lines[0]):
        # As one list, whose lines are those of the file in what is said of damage.
        return _of_objects(title, parse_json(title, "[" + ",\n".join(lines) + "]", _MEND))
    content = parse_json(title, text, _MEND)
    if isinstance(content, dict) and "labels" in content and not isinstance(content["labels"], str | int | float):
        content = content["labels"]
    if isinstance(content, list) and content and all(isinstance(entry, list) for entry in content):
        return _of_pairs(title, content)
    if isinstance(content, list):
        return _of_objects(title, content)
    if not isinstance(content, dict):
        raise InputError(f"{title}: holds no labels ({json.dumps(content)[:24]} was found instead): {_MEND}.")
    is_row = _field(content, FILE_FIELDS) and _field(content, LABEL_FIELDS)
    return _of_objects(title, [content]) if is_row else iter(content.items())


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json("", line), dict)
    except InputError:
        return False


def _of_pairs(title: str, pairs: Iterable[Sequence[Any]]) -> Iterator[Row]:
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise InputError(f"{title}: entry {number:,} is not a pair of a file and its label: {_MEND}.")
        yield pair[0], pair[1]


def _of_objects(title: str, objects: Sequence[Any]) -> Iterator[Row]:
    first = objects[0] if objects else {}
    name, label = (_field(first, fields) if isinstance(first, dict) else None for fields in (FILE_FIELDS, LABEL_FIELDS))
    if objects and (name is None or label is None):
        lacks, known = ("file", FILE_FIELDS) if name is None else ("label", LABEL_FIELDS)
        raise InputError(
            f"{title}: its objects have no field for the {lacks}, such as {' or '.join(known[:3])}: {_MEND}."
        )
    for number, entry in enumerate(objects, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get(name), str | int) or label not in entry:
            raise InputError(f"{title}: entry {number:,} lacks {name!r} or {label!r}: {_MEND}.")
        yield str(entry[name]), entry[label]


def _field(names: Iterable[str], known: Sequence[str]) -> str | None:
    """Return which of some names is the first of the known ones."""
    plain = {re.sub(r"[\s-]+", "_", name.strip().lower()): name for name in names}
    return next((plain[name] for name in known if name in plain), None)


def _of_table(title: str, text: str) -> Iterator[Row]:
    rows = _rows(title, text, _delimiter(title, text))
    if (head := next(rows, None)) is None:
        return
    first, second = head[1], next(rows, None)
    below = second[1] if second else []
    file, label = _columns(title, first, below)
    begin = [] if _is_header(first, below) else [head]
    for line, cells in itertools.chain(begin, [second] if second else [], rows):
        if len(cells) != len(first):
            raise InputError(f"{title}: line {line:,} has {len(cells)} columns, and the first {len(first)}: {_MEND}.")
        yield cells[file], cells[label]


def _rows(title: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(f"{title}: line {reader.line_num:,} is not a row of a table ({error}): {_MEND}.") from error


def _delimiter(title: str, text: str) -> str:
    """Find what parts the columns: what gives all rows as many, tabs before semicolons and commas before spaces."""
    counts = dict[str, list[int]]()
    for delimiter in sorted(_DELIMITERS, key=lambda d: (d != "\t", d == " ", text.find(d) % (len(text) + 1))):
        counts[delimiter] = []
        # Another delimiter may leave quotes open; that of the file is tried again.
        with contextlib.suppress(InputError):
            for _, cells in itertools.islice(_rows(title, text, delimiter), _LOOKED_AT):
                counts[delimiter].append(len(cells))
    parting = {delimiter: found for delimiter, found in counts.items() if found and found[0] > 1}
    if not parting:
        raise InputError(f"{title}: has one column: write a file and its label in each row, with a comma between them.")
    return next((delimiter for delimiter, found in parting.items() if len(set(found)) == 1), next(iter(parting)))


def _columns(title: str, first: Sequence[str], below: Sequence[str]) -> tuple[int, int]:
    """Find the columns of files and of labels."""
    name, label = _field(first, FILE_FIELDS), _field(first, LABEL_FIELDS)
    if len(first) == 2 and not _is_header(first, below):
        return 0, 1
    if len(first) == 2:
        at = first.index(name) if name is not None else 1 - first.index(label) if label is not None else 0
        return at, 1 - at
    if name is None or label is None:
        raise InputError(
            f"{title}: has {len(first)} columns and no header that tells the file from its label: call them file and "
            "label in the first row, or leave two columns."
        )
    return first.index(name), first.index(label)


def _is_header(first: Sequence[str], below: Sequence[str]) -> bool:
    """Tell a row of names of columns: by names that are understood, or because the row below is of another kind."""
    if any(map(has_image_suffix, first)):
        return False
    if _field(first, FILE_FIELDS) is not None or _field(first, LABEL_FIELDS) is not None:
        return True
    return any(map(has_image_suffix, below)) or (_are_whole(below[1:]) and not _are_whole(first[1:]))


def _are_whole(cells: Sequence[str]) -> bool:
    return bool(cells) and all(_WHOLE.fullmatch(cell.strip()) for cell in cells)


def has_image_suffix(name: str) -> bool:
    """Tell a name with a suffix of images that can be read."""
    stem, _, suffix = name.strip().rpartition(".")
    return bool(stem) and suffix.lower() in readable_suffixes()
