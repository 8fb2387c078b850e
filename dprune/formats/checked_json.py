"""JSON of files that dprune or others wrote: parsed within bounds, and held to the shape that a reader counts on.

    manifest = shaped(name, read_json(path), Object({"kind": Text(), "shards": ListOf(Text(), least=1)}))

A shape says of parsed JSON what is wrong with it. `misfit` returns that in a few words, and `shaped` raises it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from dprune.errors import InputError, unreadable
from dprune.formats.regular import check_regular

MOST_BYTES = 256 << 20
"""The largest text that is parsed: manifests of a million shards are smaller."""
DEEPEST = 48
"""Tables and lists within each other; those of dprune take a dozen."""
INT64 = (1 << 63) - 1
AGAIN = "copy the file again, or remove it and make it again"
"""The remedy for a damaged file."""


def read_json(path: str | Path, remedy: str = AGAIN) -> Any:
    """Read a JSON file, see `parse_json`.

    Raises:
        FileNotFoundError: there is none.
        InputError: it cannot be read, is no regular file, or is not valid JSON.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    return parse_json(str(path), data, remedy)


def parse_json(name: str, data: bytes | str, remedy: str = AGAIN) -> Any:
    """Parse JSON that nobody vouches for.

    Args:
        name: what messages call the file that it is from.
        data: UTF-8, or text.
        remedy: what messages tell people to do.

    Raises:
        InputError: it is no JSON, no UTF-8, too large or too deep, names a key twice, or holds whole numbers beyond
            int64, numbers beyond float64, NaN, or halves of characters other than those that stand for bytes of names.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"{name}: is too large for such a file, more than {MOST_BYTES >> 20} MiB: {remedy}.")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        content = json.loads(
            text, parse_int=_whole, parse_float=_number, parse_constant=_no_number, object_pairs_hook=_table
        )
        if "\\u" in text:
            # U+DC80 to U+DCFF stand for bytes of names of files; no other half of a pair comes through.
            json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except UnicodeEncodeError:
        reason = "it holds half of a character"
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deep"
    else:
        if not _is_deeper(content, DEEPEST):
            return content
        reason = "it is nested too deep"
    raise InputError(f"{name}: is not valid JSON ({reason}): {remedy}.")


def _whole(text: str) -> int:
    if len(text) > 20 or not -INT64 - 1 <= int(text) <= INT64:
        raise ValueError("a whole number takes more than 64 bits")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is too large")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"JSON has no {text}")


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_shown(twice)} occurs twice in an object")
    return table


def _is_deeper(content: Any, levels: int) -> bool:
    level = [content]
    for _ in range(levels):
        nested = [entry.values() if isinstance(entry, dict) else entry for entry in level
                  if isinstance(entry, dict | list)]  # fmt: skip
        level = [item for entry in nested for item in entry]
    return bool(level)


class Shape(Protocol):
    """What parsed JSON is to be."""

    def misfit(self, content: Any, place: str = "it") -> str:
        """Say what is wrong with the content at a place, or return an empty string."""
        ...


def shaped(name: str, content: Any, shape: Shape, remedy: str = AGAIN) -> Any:
    """Return parsed JSON that has a shape.

    Raises:
        InputError: it has not; the message names the file, the place and the remedy.
    """
    if problem := shape.misfit(content):
        raise InputError(f"{name}: is damaged ({problem}): {remedy}.")
    return content


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`."""

    least: int = 0
    most: int = INT64

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        # JSON's true is an int to Python.
        if type(content) is int and self.least <= content <= self.most:
            return ""
        upper = f" to {self.most:,}" if self.most < INT64 else ""
        return f"{place} is {_shown(content)}, not a whole number from {self.least:,}{upper}"


@dataclass(frozen=True)
class Real:
    """A number from `least` to `most`, whole or not."""

    least: float = -math.inf
    most: float = math.inf

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        if type(content) in (int, float) and math.isfinite(content) and self.least <= content <= self.most:
            return ""
        bounds = "" if math.isinf(self.least) else f" of at least {self.least:g}"
        bounds += "" if math.isinf(self.most) else f" and at most {self.most:g}"
        return f"{place} is {_shown(content)}, not a number{bounds}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        return "" if isinstance(content, bool) else f"{place} is {_shown(content)}, not true or false"


@dataclass(frozen=True)
class Text:
    """A text of at most so many characters."""

    most: int = 1 << 20

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        if not isinstance(content, str):
            return f"{place} is {_shown(content)}, not text"
        return "" if len(content) <= self.most else f"{place} is longer than {self.most:,} characters"


@dataclass(frozen=True)
class Hex:
    """A digest: so many hexadecimal digits."""

    digits: int

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        if isinstance(content, str) and len(content) == self.digits and not content.strip("0123456789abcdef"):
            return ""
        return f"{place} is {_shown(content)}, not a digest of {self.digits} digits"


@dataclass(frozen=True)
class FileName:
    """The name of a file in the same folder, never one of a file elsewhere."""

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        if problem := Text(4096).misfit(content, place):
            return problem
        inside = content not in ("", ".", "..") and "\0" not in content and content == Path(content).name
        return "" if inside else f"{place} is {_shown(content)}, a file outside its folder"


@dataclass(frozen=True)
class OneOf:
    """One of a few texts or numbers."""

    choices: tuple[Any, ...]

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        if any(type(content) is type(choice) and content == choice for choice in self.choices):
            return ""
        return f"{place} is {_shown(content)}, not {' or '.join(map(_shown, self.choices))}"


@dataclass(frozen=True)
class Maybe:
    """Null, or what another shape says."""

    shape: Shape

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        return "" if content is None else self.shape.misfit(content, place)


@dataclass(frozen=True)
class Anything:
    """Whatever JSON can hold."""

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        return ""


@dataclass(frozen=True)
class ListOf:
    """A list of `least` to `most` entries of one shape.

    Attributes:
        shape: of each entry.
        least: entries.
        most: entries.
        unique: whether no entry comes twice; a text names the key of tables that differs.
    """

    shape: Shape
    least: int = 0
    most: int = INT64
    unique: bool | str = False

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        if not isinstance(content, list):
            return f"{place} is {_shown(content)}, not a list"
        if not self.least <= len(content) <= self.most:
            return f"{place} has {len(content):,} entries"
        for number, entry in enumerate(content):
            if problem := self.shape.misfit(entry, f"{place}[{number}]"):
                return problem
        return self._repeated(content, place) if self.unique else ""

    def _repeated(self, content: Sequence[Any], place: str) -> str:
        keys = [entry[self.unique] for entry in content] if isinstance(self.unique, str) else content
        seen: set[Any] = set()
        for key in keys:
            if key in seen:
                return f"{place} holds {_shown(key)} twice"
            seen.add(key)
        return ""


@dataclass(frozen=True)
class Object:
    """A JSON object; keys that nobody speaks of are left alone.

    Attributes:
        needed: shape of each key that must be there.
        optional: shape of each that may.
        others: shape of all other values.
    """

    needed: Mapping[str, Shape] = field(default_factory=dict)
    optional: Mapping[str, Shape] = field(default_factory=dict)
    others: Shape = field(default_factory=Anything)

    def misfit(self, content: Any, place: str = "it") -> str:
        """See `Shape`."""
        if not isinstance(content, dict):
            return f"{place} is {_shown(content)}, not an object"
        begin = "" if place == "it" else f"{place}."
        if missing := [name for name in self.needed if name not in content]:
            return f"{begin}{missing[0]} is missing"
        shapes = {**self.optional, **self.needed}
        problems = (shapes.get(name, self.others).misfit(value, f"{begin}{name}") for name, value in content.items())
        return next((problem for problem in problems if problem), "")


def _shown(value: Any) -> str:
    """Show a value of JSON in a message."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 32 else f"{text[:24]}…"
