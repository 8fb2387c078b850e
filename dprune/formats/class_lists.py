"""Lists of classes or other groups as people write them: names, numbers, and ranges of numbers."""

from __future__ import annotations

import csv
import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dprune.errors import InputError, UsageError
from dprune.formats.class_names import NAMELESS, ClassNames

MOST_OF_A_RANGE = 1 << 20
MOST_OF_AN_ITEM = 40
"""Characters in a message."""
_NUMBERS = re.compile(r"-?[0-9]{1,18}|[0-9]{1,18}-[0-9]{1,18}")
"""A number or a range of them."""


@dataclass(frozen=True)
class ClassList:
    """What may be in a list, and how messages speak of it.

    Attributes:
        option: that the list is given by.
        title: what has the classes: a file.
        kind: what they are, such as `class`.
        names: what they are called.
        present: numbers that can be chosen, None for whatever is written.
        otherwise: what else the option takes.
    """

    option: str
    title: str
    kind: str = "class"
    names: ClassNames = NAMELESS
    present: frozenset[int] | None = None
    otherwise: str = "numbers such as 3,17,40-49"

    def parse(self, text: str) -> tuple[int, ...]:
        """Read the numbers of what is listed, in the order given.

        Args:
            text: names, numbers and ranges such as `dog,cat,3,10-19`, also line by line; a name that holds a comma
                stands on a line of its own or in double quotes. A name goes before a number. Where names are numbers,
                ranges are of these, and where all of them are, as with folders 1 to 12, so is every number.

        Raises:
            InputError: there is no such class.
            UsageError: something is neither a name nor a number.
        """
        return tuple(number for item in self._items(text) for number in self._numbers(item))

    def _items(self, text: str) -> Iterator[str]:
        """Yield what a text names, one by one."""
        for line in text.split("\n"):
            words = line.replace(",", " ").split()
            if (whole := line.strip()) in self._known:
                yield whole
            elif all(_NUMBERS.fullmatch(word) for word in words):
                # Numbers may also stand apart by spaces, as numpy writes them.
                yield from words
            else:
                yield from filter(None, map(str.strip, self._fields(line)))

    def _fields(self, line: str) -> list[str]:
        try:
            return next(csv.reader([line], skipinitialspace=True))
        except csv.Error as error:
            raise UsageError(f"{self.option}: cannot be read ({error}): write one name a line to a file.") from None

    @functools.cached_property
    def _known(self) -> Mapping[str, int]:
        return self.names.numbers | {self.names.name(number): number for number in sorted(self.present or ())}

    def _numbers(self, item: str) -> Sequence[int]:
        if item in self._known:
            return self._there(item, [self._known[item]])
        if not _NUMBERS.fullmatch(item):
            raise self._unknown(item)
        if item.startswith("-"):
            raise UsageError(f"{self._at(item)}: numbers count from 0, and a negative one is no {self.kind}.")
        low, _, high = item.partition("-")
        if not high and len(self._numbered) == len(self.names.numbers) > 0:
            raise self._unknown(item)
        return self._there(item, self._between(int(low), int(high)) if high else [int(low)])

    def _at(self, item: str) -> str:
        return f"{self.option} {item if len(item) <= MOST_OF_AN_ITEM else item[:MOST_OF_AN_ITEM] + '...'}"

    @functools.cached_property
    def _numbered(self) -> Mapping[int, int]:
        """The number that is the name of each class that is called by one."""
        return {number: int(name) for name, number in self.names.numbers.items() if name.isdecimal()}

    def _between(self, low: int, high: int) -> list[int]:
        """Return the numbers of a range, of the names where these are numbers."""
        if numbered := self._numbered:
            return [n for n in sorted(numbered) if low <= numbered[n] <= high and n in (self.present or numbered)]
        if self.present is not None:
            return sorted(number for number in self.present if low <= number <= high)
        return list(range(low, min(high + 1, low + MOST_OF_A_RANGE)))

    def _there(self, item: str, numbers: Sequence[int]) -> Sequence[int]:
        """Refuse what is not there to be chosen."""
        if numbers and (self.present is None or all(number in self.present for number in numbers)):
            return numbers
        if self.present is None:
            raise UsageError(f"{self._at(item)}: holds no number: write the smaller one first.")
        known = self.names.listed(sorted(self.present))
        what = f"there is no such {self.kind} with a sample in it"
        raise InputError(f"{self._at(item)}: {what}; {self.title} has {known}.")

    def _unknown(self, item: str) -> InputError | UsageError:
        """Describe a name that is none, with the one that may have been meant."""
        if not self.names:
            return UsageError(
                f"{self._at(item)}: give {self.otherwise}; names of classes are not known from {self.title}."
            )
        lower = {name.lower(): name for name in self.names.numbers}
        near = [name for name in lower if item.lower() in name] or difflib.get_close_matches(item.lower(), lower, 1)
        every = self.names.listed(self.names.numbers.values())
        meant = f"did you mean {lower[near[0]]!r}?" if near else f"there are {every}."
        return InputError(f"{self._at(item)}: {self.title} has no class of that name: {meant}")
