"""The groups that people name: by what they are called, by their numbers, or by ranges of these."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dprune.errors import InputError, UsageError
from dprune.selecting.partition import Grouping

MOST_SHOWN = 8
"""Names that a message lists."""
_NUMBERS = re.compile(r"-?[0-9]{1,19}|[0-9]{1,19}-[0-9]{1,19}")
"""A number or a range of them."""


def chosen_groups(text: str, grouping: Grouping) -> tuple[int, ...]:
    """Read the numbers of the groups that somebody names, in the order given.

    Args:
        text: names, numbers and ranges such as `dog,cat,3,10-19`, also line by line; a name that holds a comma stands
            on a line of its own or in double quotes. A name goes before a number, and where names are numbers, ranges
            are of these.
        grouping: whose groups they are.

    Raises:
        InputError: there is no such group.
        UsageError: none is named, or something is neither a name nor a number.
    """
    found = [number for item in _items(text, grouping.numbers) for number in _numbers(item, grouping)]
    if not found:
        wanted = ",".join(grouping.names.names[:2]) if grouping.names else "3,17,40-49"
        raise UsageError(f"--only: names no group, and nothing would be kept: give some, as in --only {wanted}.")
    return tuple(dict.fromkeys(found))


def _items(text: str, known: Mapping[str, int]) -> Iterator[str]:
    """Yield what a text names, one by one."""
    for line in text.split("\n"):
        words = line.replace(",", " ").split()
        if (whole := line.strip()) in known:
            yield whole
        elif all(_NUMBERS.fullmatch(word) for word in words):
            # Numbers may also stand apart by spaces, as numpy writes them.
            yield from words
        else:
            yield from filter(None, map(str.strip, _fields(line)))


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line], skipinitialspace=True))
    except csv.Error as error:
        raise UsageError(f"--only: cannot be read as names between commas ({error}): write a name a line.") from None


def _numbers(item: str, grouping: Grouping) -> Sequence[int]:
    """Return the groups that an item stands for: a name, a number, or a range of either where names are numbers."""
    if item in grouping.numbers:
        return _there(item, [grouping.numbers[item]], grouping)
    if not _NUMBERS.fullmatch(item):
        raise _unknown(item, grouping)
    if item.startswith("-"):
        raise UsageError(f"--only {item}: groups count from 0, and a negative number is no group.")
    low, _, high = item.partition("-")
    if not high:
        return _there(item, [int(low)], grouping)
    numbered = {number: int(name) for name, number in grouping.names.numbers.items() if name.isdecimal()}
    known = numbered or {number: number for number in sorted(grouping.present)}
    return _there(
        item, [n for n, value in known.items() if int(low) <= value <= int(high) and n in grouping.present], grouping
    )


def _there(item: str, numbers: Sequence[int], grouping: Grouping) -> Sequence[int]:
    """Refuse what no sample is in."""
    if numbers and grouping.present.issuperset(numbers):
        return numbers
    known = _listed(map(grouping.names.name, sorted(grouping.present)))
    raise InputError(
        f"--only {item}: there is no such {grouping.kind} with a sample in it; {grouping.title} has {known}."
    )


def _unknown(item: str, grouping: Grouping) -> InputError | UsageError:
    """Describe a name that is none, with the one that may have been meant."""
    if not grouping.names:
        return UsageError(
            f"--only {item}: is neither numbers (3,17,40-49) nor an @file of them, and {grouping.title} names no "
            "classes."
        )
    lower = {name.lower(): name for name in grouping.names.numbers}
    near = [name for name in lower if item.lower() in name] or difflib.get_close_matches(item.lower(), lower, 1)
    meant = f"did you mean {lower[near[0]]!r}?" if near else f"there are {_listed(grouping.names.numbers)}."
    return InputError(f"--only {item}: {grouping.title} has no class of that name: {meant}")


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    few = ", ".join(known[:MOST_SHOWN])
    return few if len(known) <= MOST_SHOWN else f"{few} and {len(known) - MOST_SHOWN:,} more"
