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

MOST_REPEATS = 1 << 24
"""Up to which float32 counts."""

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
        `interval` takes every m-th: of n ranks cut into k spans of one length, the one in the middle of each.
        """
        if order == "interval":
            return np.sort(self.ids[self._spread(counts)])
        skipped = {"highest": self.sizes - counts, "middle": (self.sizes - counts) // 2}.get(order, 0 * counts)
        first = np.repeat(self.starts + skipped, self.sizes)
        last = np.repeat(self.starts + skipped + counts, self.sizes)
        position = np.arange(len(self.ids))
        return np.sort(self.ids[(position >= first) & (position < last)])

    def repeat(self, draws: IntArray, order: str, samples: int) -> npt.NDArray[np.float32]:
        """Return how often each of `samples` samples is drawn, float32 [samples].

        The draws of a group are shared out evenly among its candidates; one more goes to those that `keep` keeps of
        as many as are left over.
        """
        each, rest = np.divmod(draws, self.sizes)
        weights = np.zeros(samples, dtype=np.float32)
        weights[self.ids] = np.repeat(each, self.sizes)
        weights[self.keep(rest, order)] += 1
        return weights

    def _spread(self, counts: IntArray) -> IntArray:
        """Return the places in `ids` of the ranks floor((i + 1/2) n / k), i < k, of each group."""
        group = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
        places: IntArray = self.starts[group] + (2 * number + 1) * self.sizes[group] // (2 * counts[group])
        return places


@dataclass(frozen=True)
class Chosen:
    """What is chosen.

    Attributes:
        ranking: candidates by rank.
        candidates: the same as sorted ids.
        kept: sorted ids.
        weights: how often each sample is drawn, float32 [N], where samples are repeated.
    """

    ranking: Ranking
    candidates: IntArray
    kept: IntArray
    weights: npt.NDArray[np.float32] | None = None


def rank(
    candidates: IntArray, scores: npt.NDArray[Any] | None, groups: IntArray | None, order: str, seed: int
) -> Ranking:
    """Sort candidates inside their groups by score, ties by a seeded hash of the id.

    Args:
        candidates: sorted ids, int64 [n].
        scores: one score a sample, or None with order `random`.
        groups: one group a sample, or None for a single group.
        order: all rank alike but `random`, which ranks by a hash alone.
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
        order: `lowest`, `middle`, `highest`, `interval` or `random`.
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


def allot_draws(sizes: IntArray, amount: Amount | None, order: str, above: Sequence[IntArray] = ()) -> IntArray:
    """Decide how often each group is drawn from: all alike, but for what cannot be divided.

    Args:
        sizes: candidates of each group, int64 [groups].
        amount: draws of all groups together; None for the groups times what the largest has.
        order: as for `allot`.
        above: levels of groups above these; see `quotas.even`.

    Returns:
        int64 [groups].

    Raises:
        InputError: float32 cannot count how often a sample would come.
    """
    total = int(sizes.max(initial=0)) * len(sizes) if amount is None else amount.count(int(sizes.sum()), order)
    if total <= MOST_REPEATS * int(sizes.sum()):
        draws = quotas.even(total, sizes, above)
        if not (draws > MOST_REPEATS * sizes).any():
            return draws
    raise InputError(
        f"--keep {total:,} draws a sample more than {MOST_REPEATS:,} times, which float32 does not count: draw fewer."
    )


def division(quota: str, order: str) -> Division:
    """Return how counts are divided among groups by a quota, so that opposite orders complement each other."""
    if quota == "equal":
        return quotas.equal
    return quotas.proportional_rest if order == "highest" else quotas.proportional
