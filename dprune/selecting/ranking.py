"""Selection: from scores, groups and subsets to the ids that are kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.seeds import hash_ids
from dprune.selecting import quotas
from dprune.selecting.amount import Amount
from dprune.selecting.quotas import Division, IntArray

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order of their groups, and inside each group from the lowest to the highest.

    Attributes:
        ids: candidates, int64 [n].
        names: the groups that have candidates, ascending, int64 [groups].
        sizes: candidates of each group, int64 [groups].
    """

    ids: IntArray
    names: IntArray
    sizes: IntArray

    @property
    def starts(self) -> IntArray:
        """Where each group begins in `ids`."""
        return np.cumsum(self.sizes) - self.sizes

    def group(self, number: int) -> IntArray:
        """Return the candidates of the number-th group, from the lowest to the highest."""
        start = int(self.starts[number])
        return self.ids[start : start + int(self.sizes[number])]

    def keep(self, counts: IntArray, order: str) -> IntArray:
        """Return the ids that each group keeps, sorted.

        `lowest` and `random` are the first ranks, `highest` the last, `middle` those from floor((n - k) / 2).
        """
        skipped = {"highest": self.sizes - counts, "middle": (self.sizes - counts) // 2}.get(order, 0 * counts)
        first = np.repeat(self.starts + skipped, self.sizes)
        last = np.repeat(self.starts + skipped + counts, self.sizes)
        position = np.arange(len(self.ids))
        return np.sort(self.ids[(position >= first) & (position < last)])


def rank(
    candidates: IntArray, scores: npt.NDArray[Any] | None, groups: IntArray | None, order: str, seed: int
) -> Ranking:
    """Sort candidates inside their groups by score, ties by a seeded hash of the id.

    Args:
        candidates: sorted ids, int64 [n].
        scores: one score a sample, or None with order `random`.
        groups: one group a sample, or None for a single group.
        order: `lowest`, `middle` and `highest` rank alike; `random` ranks by a hash alone.
        seed: seed of the hashes.
    """
    random = order == "random"
    keys: list[npt.NDArray[Any]] = [hash_ids(seed, "select random" if random else "select ties", candidates)]
    if scores is not None and not random:
        keys.append(scores[candidates])
    group = np.zeros(len(candidates), dtype=np.int64) if groups is None else groups[candidates]
    by_rank = np.lexsort((*keys, group))
    names, sizes = np.unique(group, return_counts=True)
    return Ranking(candidates[by_rank], names, sizes.astype(np.int64))


def allot(
    sizes: IntArray, amount: Amount | None, order: str, quota: str, cap: int | None, above: Sequence[IntArray] = ()
) -> IntArray:
    """Decide how many samples each group keeps.

    Args:
        sizes: candidates of each group, int64 [groups].
        amount: how much to keep; None keeps all that quota and cap allow.
        order: `lowest`, `middle`, `highest` or `random`.
        quota: `proportional` or `equal`.
        cap: most that a group may keep.
        above: levels of groups above these, among which an equal quota divides first; see `quotas.nested`.

    Raises:
        InputError: more are to be kept than there are.
    """
    available = int(sizes.sum())
    bound = sizes if cap is None else np.minimum(sizes, cap)
    if amount is not None:
        total = amount.count(available, order)
        if total > available:
            raise InputError(f"--keep {total:,} is more than the {available:,} candidates there are: keep fewer.")
        if total < 0:
            raise InputError(f"--prune {available - total:,} is more than the {available:,} candidates: prune fewer.")
    elif quota == "equal":
        total = quotas.alike(bound, above)
    else:
        total = available
    if above and quota == "equal":
        counts = quotas.nested(min(total, int(bound.sum())), bound, above)
    else:
        counts = quotas.capped(division(quota, order), total, sizes, cap)
    if amount is not None and counts.sum() < total:
        _log.warning("--cap %d leaves %d of the %d samples asked for.", cap, counts.sum(), total)
    return counts


def division(quota: str, order: str) -> Division:
    """Return how counts are divided among groups by a quota, so that opposite orders complement each other."""
    if quota == "equal":
        return quotas.equal
    return quotas.proportional_rest if order == "highest" else quotas.proportional
