"""The groups that a selection chooses inside of: clusters, classes or others, or strata of both, and their names."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dprune.errors import UsageError
from dprune.formats.arrays import Array
from dprune.formats.class_lists import ClassList
from dprune.formats.class_names import NAMELESS, ClassNames
from dprune.formats.clusters import Clusters
from dprune.formats.sample_labels import SampleLabels
from dprune.formats.whole_files import read_file
from dprune.selecting.quotas import IntArray

MOST_BYTES_OF_GROUPS = 8 << 20
"""Of a file that lists them."""
CLUSTER, CLASS, GROUP, STRATUM = "cluster", "class", "group", "stratum"


@dataclass(frozen=True)
class Grouping:
    """One way in which samples are grouped.

    Attributes:
        title: what messages call the file that says so.
        kind: `cluster`, `class` or `group`.
        values: number of each sample's group, int64 [N]; below 0 for none.
        names: what the numbers are called.
        levels: for each level above the groups, in which of its groups each one below is; see `Clusters`.
    """

    title: str
    kind: str
    values: IntArray
    names: ClassNames = NAMELESS
    levels: Sequence[IntArray] = ()

    @functools.cached_property
    def present(self) -> frozenset[int]:
        """The groups that have samples."""
        return frozenset(np.unique(self.values[self.values >= 0]).tolist())

    def counts(self, kept: IntArray, candidates: IntArray) -> dict[str, int]:
        """Count the ids that are kept by group, those groups included that have candidates alone."""
        groups, counts = _counts(self.values, kept, candidates)
        return dict(zip(map(self.names.name, groups.tolist()), counts.tolist(), strict=True))


@dataclass(frozen=True)
class Partition:
    """What a selection chooses inside of: each of the groups of one grouping, or each pair of those of two.

    Attributes:
        groupings: one or two; `last` is the one whose groups people name.
    """

    groupings: tuple[Grouping, ...]

    @classmethod
    def of(cls, clusters: Clusters | None, labels: Array | None) -> Partition | None:
        """Return the groups that clusters and labels make, None without either."""
        groupings = []
        if clusters is not None:
            levels = [level.astype(np.int64) for level in clusters.levels]
            groupings.append(Grouping(clusters.name, CLUSTER, clusters.assignment.astype(np.int64), levels=levels))
        if labels is not None:
            known = (CLASS, labels.class_names) if isinstance(labels, SampleLabels) else (GROUP, NAMELESS)
            groupings.append(Grouping(labels.name, known[0], labels.values, known[1]))
        return cls(tuple(groupings)) if groupings else None

    @property
    def last(self) -> Grouping:
        """Of clusters and classes the classes."""
        return self.groupings[-1]

    @property
    def kind(self) -> str:
        """What its groups are: `cluster`, `class`, `group` or `stratum`."""
        return STRATUM if len(self.groupings) > 1 else self.last.kind

    @property
    def title(self) -> str:
        """What messages call the files that say which sample is in which group."""
        return " and ".join(grouping.title for grouping in self.groupings)

    @functools.cached_property
    def values(self) -> IntArray:
        """Number of each sample's group, int64 [N]; below 0 for none."""
        return self._strata[0] if len(self.groupings) > 1 else self.groupings[0].values

    @functools.cached_property
    def _strata(self) -> tuple[IntArray, IntArray]:
        """The stratum of each sample, in the order of both groupings, and the groups [strata, 2] that each is of."""
        both = [grouping.values for grouping in self.groupings]
        grouped = np.logical_and(*(values >= 0 for values in both))
        (rows, row), (columns, column) = (np.unique(values[grouped], return_inverse=True) for values in both)
        found, places = np.unique(row * len(columns) + column, return_inverse=True)
        strata = np.full(len(grouped), -1, dtype=np.int64)
        strata[grouped] = places
        return strata, np.stack([rows[found // max(len(columns), 1)], columns[found % max(len(columns), 1)]], axis=1)

    def name(self, number: int) -> str:
        """Return what a group is called; a stratum `CLUSTER/CLASS`."""
        numbers = [number] if len(self.groupings) == 1 else self._strata[1][number].tolist()
        return "/".join(grouping.names.name(number) for grouping, number in zip(self.groupings, numbers, strict=True))

    def counts(self, kept: IntArray, candidates: IntArray) -> dict[str, dict[str, int]]:
        """Count the ids that are kept by the groups of each grouping, and by stratum where there are two."""
        found = {grouping.kind: grouping.counts(kept, candidates) for grouping in self.groupings}
        if len(self.groupings) > 1:
            kept, candidates = (ids[self.values[ids] >= 0] for ids in (kept, candidates))
            strata, counts = _counts(self.values, kept, candidates)
            found[STRATUM] = dict(zip(map(self.name, strata.tolist()), counts.tolist(), strict=True))
        return found

    def among(self, numbers: Iterable[int] | None) -> IntArray:
        """Return the sorted ids of the samples in some groups of `last`, None for all that are in a group."""
        grouped = self.values >= 0
        if numbers is not None:
            grouped &= np.isin(self.last.values, list(numbers))
        return np.flatnonzero(grouped)

    def of_last(self, numbers: IntArray) -> IntArray:
        """Return the groups of `last` that some groups are, or that strata are of."""
        return self._strata[1][numbers, -1] if len(self.groupings) > 1 else numbers

    def above(self, numbers: IntArray) -> list[IntArray]:
        """Return the levels above some groups as `quotas.nested` takes them: none where clusters have none.

        The strata of a cluster are the lowest level, and their cluster is above them.
        """
        levels = list(self.groupings[0].levels)
        if not levels:
            return []
        if len(self.groupings) > 1:
            return [self._strata[1][numbers, 0], *levels]
        return [levels[0][numbers], *levels[1:]]

    def listed(self, option: str, text: str) -> tuple[str, str]:
        """Return what messages call an option, and its text: of a file where it is `@FILE`."""
        if not text.startswith("@"):
            return option, text
        content = read_file(text[1:], MOST_BYTES_OF_GROUPS).decode("utf-8", "surrogateescape")
        return f"{option} {text}:", content

    def numbers(self, option: str, text: str) -> tuple[int, ...]:
        """Read the groups of `last` that a text names; see `ClassList`.

        Raises:
            InputError: there is no such group.
            UsageError: something is neither a name nor a number.
        """
        last = self.last
        return ClassList(option, last.title, last.kind, last.names, last.present).parse(text)

    def chosen(self, text: str) -> tuple[int, ...]:
        """Read the groups of `last` that somebody names with --only, each once.

        Args:
            text: of the option, or `@FILE` for that of a file.

        Raises:
            InputError: there is no such group.
            UsageError: none is named, or something is neither a name nor a number.
        """
        option, text = self.listed("--only", text)
        found = self.numbers(option, text)
        if not found:
            few = ",".join(self.last.names.names[:2]) or "3,17,40-49"
            what = "names no group, and nothing would be kept"
            raise UsageError(f"{option.removesuffix(':')}: {what}: give some, as in --only {few}.")
        return tuple(dict.fromkeys(found))


def _counts(values: IntArray, kept: IntArray, candidates: IntArray) -> tuple[IntArray, IntArray]:
    """Return the groups of some candidates and of what is kept, and how many each keeps."""
    groups = np.union1d(values[candidates], values[kept])
    return groups, np.bincount(np.searchsorted(groups, values[kept]), minlength=len(groups))
