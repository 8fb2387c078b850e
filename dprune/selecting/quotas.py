"""How many samples each group gives, in whole numbers that add up exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Division = Callable[[int, IntArray], IntArray]
"""From how many samples to give, and the sizes of groups, to how many each gives."""


def proportional(total: int, sizes: IntArray) -> IntArray:
    """Divide `total` among groups in proportion to their sizes by the largest-remainder method (Hamilton's).

    Args:
        total: samples to give, at most the sum of `sizes`.
        sizes: samples in each group, int64 [groups].

    Returns:
        int64 [groups] that sums to `total`; equal remainders go to the groups named first.
    """
    counts, remainders = np.divmod(total * sizes, max(int(sizes.sum()), 1))
    most_owed = np.argsort(-remainders, kind="stable")
    counts[most_owed[: total - int(counts.sum())]] += 1
    return counts


def proportional_rest(total: int, sizes: IntArray) -> IntArray:
    """Divide like `proportional`, but so that each group gives what the division of the rest leaves it.

    Keeping the highest `total` of all groups is then the exact complement of keeping the lowest of the rest.
    """
    return sizes - proportional(int(sizes.sum()) - total, sizes)


def equal(total: int, sizes: IntArray) -> IntArray:
    """Take as many from each group; a smaller one gives all it has and the others make up for it.

    Args:
        total: samples to give, at most the sum of `sizes`.
        sizes: samples in each group, int64 [groups].

    Returns:
        int64 [groups] that sums to `total`; what cannot be divided goes to the groups named first.
    """
    low, high = 0, int(sizes.max(initial=0))
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if int(np.minimum(sizes, level).sum()) <= total else (low, level - 1)
    counts = np.minimum(sizes, low)
    counts[np.flatnonzero(sizes > low)[: total - int(counts.sum())]] += 1
    return counts


def nested(total: int, sizes: IntArray, above: Sequence[IntArray]) -> IntArray:
    """Divide from the top down: `equal` among the highest groups, then what each gets among those inside it.

    So a region of the data that was cut into many groups gives no more than another (Vo et al., 2024, arXiv
    2405.15613, hierarchical sampling).

    Args:
        total: samples to give, at most the sum of `sizes`.
        sizes: samples in each group, int64 [groups].
        above: in which group of the next level each is: first of `sizes`, int64 [groups], then of each level by number.

    Returns:
        int64 [groups] that sums to `total`.
    """
    if not above:
        return equal(total, sizes)
    held, place, higher = _joined(sizes, above)
    counts = np.zeros_like(sizes)
    for number, share in enumerate(nested(total, held, higher).tolist()):
        inside = place == number
        counts[inside] = equal(share, sizes[inside])
    return counts


def even(total: int, sizes: IntArray, above: Sequence[IntArray] = ()) -> IntArray:
    """Divide among groups that may give their samples more than once: whatever their sizes, as many each.

    Args:
        total: samples to give.
        sizes: samples in each group, int64 [groups].
        above: levels of groups above these, which are as many each, too; see `nested`.

    Returns:
        int64 [groups] that sums to `total`; what cannot be divided goes to the groups named first.
    """
    counts = np.full(len(sizes), total // max(len(sizes), 1), dtype=np.int64)
    counts[: total - int(counts.sum())] += 1
    if not above:
        return counts
    held, place, higher = _joined(sizes, above)
    for number, share in enumerate(even(total, held, higher).tolist()):
        counts[place == number] = even(share, sizes[place == number])
    return counts


def alike(sizes: IntArray, above: Sequence[IntArray]) -> int:
    """Return how many samples the highest groups give if each gives what the smallest has; see `nested`."""
    while above:
        sizes, _, above = _joined(sizes, above)
    return int(sizes.min(initial=sizes.sum())) * len(sizes)


def _joined(sizes: IntArray, above: Sequence[IntArray]) -> tuple[IntArray, IntArray, Sequence[IntArray]]:
    """Return the sizes of the groups of the next level, which of them each group is in, and what is above them."""
    names, place = np.unique(above[0], return_inverse=True)
    held = np.zeros(len(names), dtype=np.int64)
    np.add.at(held, place, sizes)
    return held, place, [level[names] if not number else level for number, level in enumerate(above[1:])]


def capped(divide: Division, total: int, sizes: IntArray, cap: int | None) -> IntArray:
    """Divide so that no group gives more than `cap`; the others make up for it as far as they can.

    Args:
        divide: one of the divisions above.
        total: samples to give; reduced to what the cap allows.
        sizes: samples in each group, int64 [groups].
        cap: most that a group may give, None for no bound.
    """
    if cap is None:
        return divide(total, sizes)
    total = min(total, int(np.minimum(sizes, cap).sum()))
    full = np.zeros(len(sizes), dtype=bool)
    counts = divide(total, sizes)
    while (counts > cap).any():
        full |= counts > cap
        counts = np.full(len(sizes), cap, dtype=np.int64)
        counts[~full] = divide(total - cap * int(full.sum()), sizes[~full])
    return counts
