"""Scores from single draws, their standard errors, and how far another scoring would rank alike.

Draws come in pairs of a noise and its negative, which are not independent; so errors and halves are over pairs. What
a pair does to all samples alike moves no ranking, and is no part of an error: most of what a shared noise does.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.metrics.agreement import rank_correlation
from dprune.seeds import generator

Floats = npt.NDArray[np.float64]
# Makes scores [n] of what pairs of draws gave, [n, P, ...].
Scoring = Callable[[Floats], Floats]

MOST_SPLITS = 20
NOISY = 0.5
WANTED = 0.8
RELIABILITY = ("split_half", "reliability", f"draws_for_{WANTED}")
"""What `reliability` returns."""

_log = logging.getLogger("dprune")


def pair_scores(singles: npt.NDArray[np.floating]) -> Floats:
    """Combine noise levels and pairs of draws.

    Args:
        singles: single-draw scores [n, S, M] at S noise levels; draws 2k and 2k + 1 are a pair, one draw is alone.

    Returns:
        [n, M / 2] (or [n, 1]): the means of pairs, and where there are several noise levels, the means over these
        of the scores divided by the level's standard deviation over the samples. The mean over pairs is the score.
    """
    count, levels, draws = singles.shape
    total = np.zeros((count, max(1, draws // 2)))
    for level in range(levels):
        pairs = singles[:, level].astype(np.float64).reshape(count, -1, min(draws, 2)).mean(2)
        # A level at which all samples score alike ranks nothing, and is not divided by zero.
        deviation = float(pairs.mean(1).std()) if levels > 1 and count else 1.0
        total += pairs / (deviation or 1.0)
    found: Floats = total / levels
    return found


def standard_errors(pairs: Floats) -> Floats:
    """Return the standard error of each sample's score among the others, of scores that are means over pairs.

    Args:
        pairs: [n, P] for P of 2 and more; each pair's mean over the samples is removed.

    Returns:
        [n].
    """
    centred = pairs - pairs.mean(0)
    found: Floats = centred.std(1, ddof=1) / math.sqrt(pairs.shape[1])
    return found


def half_sample_errors(pairs: Floats, seed: int, score: Scoring) -> Floats:
    """Return the standard error of each sample's score among the others, of scores that are steps and no means.

    It is the deviation over half-samples of the pairs (McCarthy, "Pseudo-replication: half samples", 1969) of the
    score less its mean over the samples. The mean of a half deviates from that of all pairs by as much as that from
    its expectation, so that a step is crossed as often. The jackknife moves less and multiplies for it, which is
    wrong for steps, and the more so the more pairs there are.

    Args:
        pairs: [n, P, ...] for P of 2 and more.
        seed: chooses halves where there are many.
        score: makes scores of pairs.

    Returns:
        [n].
    """
    halves = _half_samples(pairs.shape[1], seed)
    total, squares = np.zeros(len(pairs)), np.zeros(len(pairs))
    for half in halves:
        found = score(pairs[:, half])
        found = found - found.mean()
        total, squares = total + found, squares + found**2
    return np.sqrt(np.maximum(squares - total**2 / len(halves), 0) / (len(halves) - 1))


def _half_samples(count: int, seed: int) -> list[list[int]]:
    """Return the halves of the splits; a pair that is left over is now in neither of them, now in one."""
    found = set[tuple[int, ...]]()
    for split in _splits(count, seed):
        over = set(range(count)).difference(*split)
        found |= {tuple(sorted(half)) for each in split for half in (each, (*each, *over))}
    return [list(half) for half in sorted(found)]


def mean_of_pairs(pairs: Floats) -> Floats:
    """Score by the mean over pairs [n, P]."""
    found: Floats = pairs.mean(1)
    return found


def split_half(pairs: Floats, seed: int, score: Scoring = mean_of_pairs) -> float:
    """Return the mean rank correlation between the scores by one half of the pairs and by another.

    Args:
        pairs: [n, P, ...] with P of 2 and more; of an odd number one pair is left out of each split.
        seed: chooses `MOST_SPLITS` splits where there are more.
        score: makes scores of pairs.
    """
    found = [
        rank_correlation(score(pairs[:, list(one)]), score(pairs[:, list(other)]))
        for one, other in _splits(pairs.shape[1], seed)
    ]
    return float(np.mean(found))


def _splits(count: int, seed: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    half = count // 2
    if math.comb(count, half) * math.comb(count - half, half) <= 2 * MOST_SPLITS:
        for one in itertools.combinations(range(count), half):
            for other in itertools.combinations(sorted(set(range(count)) - set(one)), half):
                if one < other:
                    yield one, other
        return
    draw = generator(seed, "split halves")
    for _ in range(MOST_SPLITS):
        order = draw.permutation(count).tolist()
        yield tuple(order[:half]), tuple(order[half : 2 * half])


def lengthened(correlation: float, factor: float) -> float:
    """Return the correlation of scores of `factor` times as many draws (Spearman 1910, Brown 1910)."""
    return factor * correlation / (1 + (factor - 1) * correlation)


def draws_for(wanted: float, correlation: float, draws: int) -> int | None:
    """Return how many draws would correlate as wanted.

    Args:
        wanted: correlation of two scores with as many draws as are asked for.
        correlation: of two scores of `draws` draws each.
        draws: of these scores, an even number.

    Returns:
        An even number, None where the scores do not correlate at all.
    """
    if not correlation > 0:
        return None
    factor = wanted * (1 - correlation) / (correlation * (1 - wanted))
    return max(2, 2 * math.ceil(factor * draws / 2 - 1e-9))


def reliability(pairs: Floats, seed: int, score: Scoring = mean_of_pairs) -> dict[str, Any]:
    """Say how well a score ranks, in what JSON can hold; empty for fewer than two pairs, which say nothing of it.

    Args:
        pairs: [n, P, ...].
        seed: of the splits.
        score: makes scores of pairs.

    Returns:
        `split_half`, the rank correlation between halves; `reliability`, that expected between this score and
        another with other noise; `draws_for_0.8`, draws with which it would be .8. None is for what is unknown.
    """
    count = pairs.shape[1]
    if count < 2:
        return {}
    half = split_half(pairs, seed, score)
    if math.isnan(half):
        return {"split_half": None, "reliability": None, f"draws_for_{WANTED}": None}
    whole = lengthened(half, count / (count // 2)) if half > 0 else half
    return {
        "split_half": round(half, 6),
        "reliability": round(whole, 6),
        f"draws_for_{WANTED}": draws_for(WANTED, half, 2 * (count // 2)),
    }


def warn_of_noise(name: str, found: dict[str, Any]) -> None:
    """Warn where the halves of a score hardly rank alike.

    Args:
        name: of the score.
        found: what `reliability` returned.
    """
    if not found:
        _log.warning("%s: one pair of draws gives neither a standard error nor a reliability: give --draws 4 or "
                     "more.", name)  # fmt: skip
        return
    half, draws = found["split_half"], found[f"draws_for_{WANTED}"]
    if half is not None and half < NOISY:
        remedy = f"about {draws:,} draws would reach {WANTED}" if draws else "more draws may not help"
        _log.warning("%s: the ranking is mostly noise (its halves correlate by %.2f): %s.", name, half, remedy)
