"""The groups that a selection chooses inside of: clusters, classes or others, or strata of both, and their names."""

from __future__ import annotations

import csv
import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dprune.errors import InputError, UsageError
from dprune.formats.arrays import Array
from dprune.formats.class_names import NAMELESS, ClassNames
from dprune.formats.clusters import Clusters
from dprune.formats.sample_labels import SampleLabels
from dprune.selecting.quotas import IntArray

CLUSTER, CLASS, GROUP, STRATUM = "cluster", "class", "group", "stratum"
MOST_SHOWN = 8
"""Names that a message lists."""
_NUMBERS = re.compile(r"-?[0-9]{1,19}|[0-9]{1,19}-[0-9]{1,19}")
"""A number or a range of them."""


@dataclass(frozen=True)
class Axis:
    """One way in which samples are grouped.

    Attributes:
        title: what messages call the file that says so.
        kind: `cluster`, `class` or `group`.
        values: number of each sample's group, int64 [N]; below 0 for none.
        names: what the numbers are called.
    """

    title: str
    kind: str
    values: IntArray
    names: ClassNames = NAMELESS

    @functools.cached_property
    def present(self) -> frozenset[int]:
        """The groups that have samples."""
        return frozenset(np.unique(self.values[self.values >= 0]).tolist())

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each group by what it is called, also of classes that have names and no samples."""
        return self.names.numbers | {self.names.name(number): number for number in sorted(self.present)}

    def counts(self, kept: IntArray, candidates: IntArray) -> dict[str, int]:
        """Count the ids that are kept by group, those groups included that have candidates alone."""
        groups = np.unique(self.values[np.union1d(kept, candidates)])
        found = np.searchsorted(groups, self.values[kept])
        counts = np.bincount(found, minlength=len(groups))
        return {self.names.name(group): count for group, count in zip(groups.tolist(), counts.tolist(), strict=True)}


@dataclass(frozen=True)
class Groups:
    """What a selection chooses inside of: each of the groups of one axis, or each pair of those of two.

    Attributes:
        axes: one or two; it is the last whose groups people choose among.
    """

    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, clusters: Clusters | None, labels: Array | None) -> Groups | None:
        """Return the groups that clusters and labels make, None without either."""
        axes = []
        if clusters is not None:
            axes.append(Axis(clusters.name, CLUSTER, clusters.assignment.astype(np.int64)))
        if labels is not None:
            known = (CLASS, labels.class_names) if isinstance(labels, SampleLabels) else (GROUP, NAMELESS)
            axes.append(Axis(labels.name, known[0], labels.values, known[1]))
        return cls(tuple(axes)) if axes else None

    @property
    def title(self) -> str:
        """What messages call the files that say which sample is in which group."""
        return " and ".join(axis.title for axis in self.axes)

    @functools.cached_property
    def values(self) -> IntArray:
        """Number of each sample's group, int64 [N]; below 0 for none."""
        return self._strata[0] if len(self.axes) > 1 else self.axes[0].values

    @functools.cached_property
    def _strata(self) -> tuple[IntArray, IntArray]:
        """The stratum of each sample, in the order of both axes, and the groups [strata, 2] that each is of."""
        pairs = np.stack([axis.values for axis in self.axes], axis=1)
        grouped = (pairs >= 0).all(1)
        found, places = np.unique(pairs[grouped], axis=0, return_inverse=True)
        strata = np.full(len(pairs), -1, dtype=np.int64)
        strata[grouped] = places.reshape(-1)
        return strata, found

    def name(self, number: int) -> str:
        """Return what a group is called; a stratum `CLUSTER/CLASS`."""
        numbers = [number] if len(self.axes) == 1 else self._strata[1][number].tolist()
        return "/".join(axis.names.name(number) for axis, number in zip(self.axes, numbers, strict=True))

    def counts(self, kept: IntArray, candidates: IntArray) -> dict[str, dict[str, int]]:
        """Count the ids that are kept by the groups of each axis, and by stratum where there are two."""
        found = {axis.kind: axis.counts(kept, candidates) for axis in self.axes}
        if len(self.axes) > 1:
            kept, candidates = (ids[self.values[ids] >= 0] for ids in (kept, candidates))
            names = ClassNames(tuple(map(self.name, range(len(self._strata[1])))))
            found[STRATUM] = Axis(self.title, STRATUM, self.values, names).counts(kept, candidates)
        return found

    def among(self, numbers: Iterable[int] | None) -> IntArray:
        """Return the sorted ids of the samples in some groups of the last axis, None for all that are in a group."""
        grouped = self.values >= 0
        if numbers is not None:
            grouped &= np.isin(self.axes[-1].values, list(numbers))
        return np.flatnonzero(grouped)

    def chosen(self, text: str) -> tuple[int, ...]:
        """Read the groups that somebody names, in the order given.

        Args:
            text: names, numbers and ranges such as `dog,cat,3,10-19`, also line by line; a name that holds a comma
                stands on a line of its own or in double quotes.

        Raises:
            InputError: there is no such group.
            UsageError: none is named, or something is neither.
        """
        axis = self.axes[-1]
        found = [number for item in _items(text, axis.numbers) for number in _numbers(item, axis)]
        if not found:
            wanted = ",".join(axis.names.names[:2]) if axis.names else "3,17,40-49"
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


def _numbers(item: str, axis: Axis) -> Sequence[int]:
    """Return the groups that an item stands for: a name, a number, or a range of either where names are numbers."""
    if item in axis.numbers:
        return _there(item, [axis.numbers[item]], axis)
    if not _NUMBERS.fullmatch(item):
        raise _unknown(item, axis)
    if item.startswith("-"):
        raise UsageError(f"--only {item}: groups count from 0, and a negative number is no group.")
    low, _, high = item.partition("-")
    if not high:
        return _there(item, [int(low)], axis)
    numbered = {number: int(name) for name, number in axis.names.numbers.items() if name.isdecimal()}
    known = numbered or {number: number for number in sorted(axis.present)}
    return _there(item, [n for n, value in known.items() if int(low) <= value <= int(high) and n in axis.present], axis)


def _there(item: str, numbers: Sequence[int], axis: Axis) -> Sequence[int]:
    """Refuse what no sample is in."""
    if numbers and axis.present.issuperset(numbers):
        return numbers
    known = _listed(map(axis.names.name, sorted(axis.present)))
    raise InputError(f"--only {item}: there is no such {axis.kind} with a sample in it; {axis.title} has {known}.")


def _unknown(item: str, axis: Axis) -> InputError | UsageError:
    """Describe a name that is none, with the one that may have been meant."""
    if not axis.names:
        return UsageError(
            f"--only {item}: is neither numbers (3,17,40-49) nor an @file of them, and {axis.title} has no names of "
            "classes."
        )
    lower = {name.lower(): name for name in axis.names.numbers}
    near = [name for name in lower if item.lower() in name] or difflib.get_close_matches(item.lower(), lower, 1)
    meant = f"did you mean {lower[near[0]]!r}?" if near else f"there are {_listed(axis.names.numbers)}."
    return InputError(f"--only {item}: {axis.title} has no class of that name: {meant}")


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    few = ", ".join(known[:MOST_SHOWN])
    return few if len(known) <= MOST_SHOWN else f"{few} and {len(known) - MOST_SHOWN:,} more"
