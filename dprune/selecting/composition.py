"""How a subset is composed of groups: exact counts of named ones, or a tail of counts that decay over all of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from dprune.errors import InputError, UsageError
from dprune.selecting.partition import Partition
from dprune.selecting.quotas import Division, IntArray

_COUNT = re.compile(r"[0-9]{1,18}")
_EXAMPLE = "give GROUP:N for each, as in 0:1000,1:500,5-9:20"


def read_counts(text: str, partition: Partition) -> dict[int, int]:
    """Read how many samples somebody wants of groups.

    Args:
        text: pairs such as `0:1000,dog:20,5-9:100`, or `@FILE` for those of a file, where they may stand line by line.
        partition: of whose last grouping the groups are.

    Returns:
        Counts by the groups' numbers, ascending.

    Raises:
        InputError: there is no such group.
        UsageError: a pair is none, or a group is named twice.
    """
    found: dict[int, int] = {}
    option, text = partition.listed("--counts", text)
    for pair in _pairs(option, text):
        groups, _, count = pair.rpartition(":")
        if not groups or not _COUNT.fullmatch(count.strip()):
            raise UsageError(f"{option} {pair}: is no pair of a group and a count: {_EXAMPLE}.")
        for number in partition.numbers(option, groups.strip()):
            if number in found:
                raise UsageError(f"{option} {pair}: {partition.last.names.name(number)} stands twice: name it once.")
            found[number] = int(count)
    if not any(found.values()):
        raise UsageError(f"{option.removesuffix(':')}: asks for no sample: {_EXAMPLE}.")
    return dict(sorted(found.items()))


def _pairs(option: str, text: str) -> list[str]:
    try:
        rows = [*csv.reader(text.splitlines(), skipinitialspace=True)]
    except csv.Error as error:
        raise UsageError(f"{option}: cannot be read ({error}): write one pair a line to a file.") from None
    return [stripped for row in rows for pair in row if (stripped := pair.strip())]


def tail_counts(share: Fraction, sizes: IntArray) -> IntArray:
    """Let counts decay exponentially from the first group to the last, as in long-tailed CIFAR.

    Group c of C gets floor(n * share^(c / (C - 1))) samples, with the largest n for which every group has as many
    (Cui, Jia, Lin, Song, Belongie: Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019, where all
    classes have n).

    Args:
        share: of the first group's count that the last one gets.
        sizes: samples in each group, int64 [groups].

    Returns:
        int64 [groups].
    """
    decay = float(share) ** (np.arange(len(sizes)) / max(len(sizes) - 1, 1))
    largest = int((np.ceil((sizes + 1) / decay) - 1).min(initial=sizes[0])) if len(sizes) else 0
    counts: IntArray = np.floor(largest * decay).astype(np.int64)
    # A product may be rounded up to one more than there are.
    return np.minimum(counts, sizes)


def compose(
    wanted: Mapping[int, int], groups: IntArray, sizes: IntArray, divide: Division, names: Partition
) -> IntArray:
    """Decide how many samples each group gives, where these are divided among its strata if it has any.

    Args:
        wanted: counts by the number of a group; those that are not in it give none.
        groups: the number of the group of each stratum, int64 [strata]; where there are no strata, of each group.
        sizes: candidates of each, int64 [strata].
        divide: among the strata of a group.
        names: what the groups are called.

    Raises:
        InputError: a group has fewer candidates than are wanted.
    """
    counts = np.zeros(len(sizes), dtype=np.int64)
    for number, count in wanted.items():
        strata = groups == number
        if count > (there := int(sizes[strata].sum())):
            name = names.last.names.name(number)
            raise InputError(
                f"--counts {name}:{count}: {names.last.kind} {name} has {there:,} samples to choose from: ask for at "
                "most that."
            )
        counts[strata] = divide(count, sizes[strata])
    return counts
