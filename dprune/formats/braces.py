"""Brace expressions as bash and WebDataset write them, counted before they are written out.

parse("{train,val}-{000000..000146}.tar").count == 294
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

DEEPEST = 16
"""Braces within each other."""
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_NUMBERS = re.compile(r"(-?[0-9]{1,99})\.\.(-?[0-9]{1,99})(?:\.\.-?([0-9]{1,99}))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?([0-9]{1,99}))?")


class Words(Protocol):
    """Texts that an expression stands for, in order."""

    @property
    def count(self) -> int:
        """How many; it may be more than any machine holds."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Write them out."""
        ...


@dataclass(frozen=True)
class Literal:
    """A text that stands for itself."""

    text: str
    count: int = 1

    def __iter__(self) -> Iterator[str]:
        """See `Words`."""
        yield self.text


@dataclass(frozen=True)
class Steps:
    """A range of numbers, or of places in the alphabet.

    Attributes:
        first: number it begins with.
        last: number that it reaches at most.
        step: between two, without its sign.
        width: of numbers, filled up with zeros; 0 for letters.
    """

    first: int
    last: int
    step: int
    width: int

    @property
    def count(self) -> int:
        """See `Words`."""
        return abs(self.last - self.first) // self.step + 1

    def __iter__(self) -> Iterator[str]:
        """See `Words`."""
        sign = 1 if self.last >= self.first else -1
        for number in range(self.first, self.last + sign, sign * self.step):
            yield f"{number:0{self.width}d}" if self.width else ALPHABET[number]


@dataclass(frozen=True)
class Choice:
    """One of several expressions."""

    among: tuple[Words, ...]

    @property
    def count(self) -> int:
        """See `Words`."""
        return sum(words.count for words in self.among)

    def __iter__(self) -> Iterator[str]:
        """See `Words`."""
        return itertools.chain.from_iterable(self.among)


@dataclass(frozen=True)
class Row:
    """Expressions behind each other."""

    parts: Sequence[Words]

    @property
    def count(self) -> int:
        """See `Words`."""
        return math.prod(part.count for part in self.parts)

    def __iter__(self) -> Iterator[str]:
        """See `Words`."""
        return map("".join, itertools.product(*self.parts))


def parse(text: str) -> Words:
    """Read a brace expression; a backslash takes the meaning from the character behind it.

    Raises:
        ValueError: the braces are not balanced, or there are too many within each other.
    """
    parser = _Parser(text)
    found = parser.row("}", 0)
    if parser.at < len(text):
        raise ValueError("the braces are not balanced")
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def row(self, ends: str, depth: int) -> Row:
        """Read up to one of the characters that end it."""
        parts: list[Words] = []
        while self.at < len(self.text) and self.text[self.at] not in ends:
            parts.append(self._braces(depth + 1) if self.text[self.at] == "{" else self._literal(ends))
        return Row(parts)

    def _literal(self, ends: str) -> Literal:
        begin = self.at
        while self.at < len(self.text) and self.text[self.at] not in "{" + ends:
            self.at += 2 if self.text[self.at] == "\\" else 1
        return Literal(re.sub(r"\\(.)", r"\1", self.text[begin : self.at], flags=re.DOTALL))

    def _braces(self, depth: int) -> Words:
        if depth > DEEPEST:
            raise ValueError(f"braces are nested more than {DEEPEST} deep")
        begin = self.at + 1
        among: list[Words] = []
        while not among or self.text[self.at] == ",":
            self.at += 1
            among.append(self.row(",}", depth))
            if self.at >= len(self.text):
                raise ValueError("the braces are not balanced")
        inside = self.text[begin : self.at]
        self.at += 1
        if len(among) > 1:
            return Choice(tuple(among))
        return _steps(inside) or Row((Literal("{"), *among, Literal("}")))


def _steps(text: str) -> Steps | None:
    """Read what stands between two braces as a range, None if it is none."""
    if match := _NUMBERS.fullmatch(text):
        first, last = match[1], match[2]
        filled = any(number.lstrip("-").startswith("0") and number.lstrip("-") != "0" for number in (first, last))
        return Steps(int(first), int(last), int(match[3] or 1) or 1, max(len(first), len(last)) if filled else 1)
    if match := _LETTERS.fullmatch(text):
        return Steps(ALPHABET.index(match[1]), ALPHABET.index(match[2]), int(match[3] or 1) or 1, 0)
    return None
