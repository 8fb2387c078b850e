"""Differences of metrics: paired, unpaired and mixed, held to the jackknife itself and to the truth."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dprune.metrics.differences import (
    NORMAL,
    PAIRED,
    UNPAIRED,
    Difference,
    Sampling,
    measured,
    sampling_difference,
)
from dprune.metrics.frechet import Moments, frechet_distance, replicate_moments
from dprune.metrics.jackknife import Blocks
from dprune.metrics.kernel import kid
from dprune.metrics.manifold import manifold
from dprune.metrics.vendi import vendi

SIZES = (6, 6, 5, 5, 5)
BLOCKS = Blocks(torch.arange(27) % 5, SIZES)


def sampling(seed: int, pairing: str | None = "same", shift: float = 0.0) -> Sampling:
    replicates = np.random.default_rng(seed).normal(10 + shift, 1, len(SIZES))
    found = BLOCKS.estimate(10.0 + shift, replicates)
    return Sampling(found.value, found.error, found.replicates, SIZES, pairing)


def test_a_difference_is_jackknifed_where_both_are_paired() -> None:
    ours, theirs = sampling(0, shift=3), sampling(1)
    found = sampling_difference([(1, ours)], [(1, theirs)])
    direct = BLOCKS.estimate(3.0, np.subtract(ours.replicates, theirs.replicates))
    assert (found.value, found.kind) == (3.0, PAIRED)
    assert found.error == pytest.approx(direct.error, rel=1e-12)
    assert found.half_width == pytest.approx(NORMAL * direct.error, rel=1e-12)
    assert found.told_apart == (abs(found.value) > found.half_width)


@pytest.mark.parametrize("change", [{"pairing": None}, {"pairing": "other"}, {"replicates": ()}, {"sizes": (9,) * 3}])
def test_errors_are_put_together_where_nothing_pairs_them(change: dict) -> None:
    ours, theirs = sampling(0), replace(sampling(1), **change)
    found = sampling_difference([(1, ours)], [(1, theirs)])
    assert found.kind == UNPAIRED
    assert found.error == pytest.approx(math.hypot(ours.error, theirs.error), rel=1e-12)


def test_what_is_the_same_differs_by_nothing() -> None:
    one = sampling(3)
    found = sampling_difference([(1, one)], [(1, one)])
    assert (found.value, found.error, found.half_width, found.told_apart) == (0, 0, 0, False)


def test_without_an_error_on_a_side_there_is_none() -> None:
    found = sampling_difference([(1, sampling(0, shift=9))], [(1, Sampling(1.0, None))])
    assert (found.value, found.error, found.half_width, found.kind) == (18.0, None, None, "")
    assert not found.told_apart


def test_several_samplings_are_paired_one_by_one_and_then_put_together() -> None:
    ours, theirs = ([(0.5, sampling(s + n, f"seeds {n}", shift)) for n in range(2)] for s, shift in ((0, 1.0), (5, 0)))
    single = [sampling_difference([(1, a)], [(1, b)]) for (_, a), (_, b) in zip(ours, theirs, strict=True)]
    found = sampling_difference(ours, list(reversed(theirs)))
    assert (found.value, found.kind) == (1.0, PAIRED)
    assert found.error == pytest.approx(math.hypot(*(one.error / 2 for one in single)), rel=1e-12)


def test_trainings_that_share_their_noise_do_not_count_as_independent() -> None:
    """Three trainings with the same samples as the one that they are held to: no error is left."""
    one = sampling(0)
    ours = [(1 / 3, replace(one, value=one.value + n, replicates=tuple(r + n for r in one.replicates)))
            for n in range(3)]  # fmt: skip
    found = sampling_difference(ours, [(1, one)])
    assert found.value == pytest.approx(1)
    assert found.error == pytest.approx(0, abs=1e-12)
    assert found.kind == PAIRED


def test_a_sampling_that_the_other_side_lacks_adds_its_own_error() -> None:
    shared, other = sampling(0), sampling(1, "other")
    found = sampling_difference([(0.5, shared), (0.5, other)], [(1, shared)])
    assert found.kind == UNPAIRED
    assert found.error == pytest.approx(math.hypot(shared.error / 2, other.error / 2), rel=1e-12)


def test_samplings_are_read_out_of_results() -> None:
    metrics = {"kid": 0.5, "kid_se": 0.1, "recall": None, "zero_count": 3, "odd": True}
    details = {"jackknife": {"sizes": [2, 3], "pairing": "p", "replicates": {"kid": [0.4, 0.6]}}}
    assert measured(metrics, details, "kid") == Sampling(0.5, 0.1, (0.4, 0.6), (2, 3), "p")
    assert measured(metrics, {}, "kid") == Sampling(0.5, 0.1)
    assert measured(metrics, details, "zero_count") == Sampling(3.0, None, (), (2, 3), "p")
    assert [measured(metrics, details, key) for key in ("recall", "odd", "fid")] == [None] * 3


# The truth.


def _metrics(x: np.ndarray, y: Tensor, blocks: Blocks) -> dict[str, Sampling]:
    rows = torch.from_numpy(x)
    whole, replicates = replicate_moments(rows, blocks)
    found = {"frechet": frechet_distance(whole, Moments.of(y), replicates, blocks).distance}
    found |= {"kid": kid(rows, y, blocks), "vendi": vendi(rows, (1.0,), blocks)[1.0]}
    balls = manifold(rows, y, blocks=blocks)
    found |= {name: getattr(balls, name) for name in ("precision", "recall", "density", "coverage")}
    return {name: Sampling(e.value, e.error, e.replicates, blocks.sizes, "noise") for name, e in found.items()}


def _root_mean_square(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.slow
def test_paired_errors_are_those_of_the_difference() -> None:
    """200 times two models make 200 images of one noise, and of noise of their own, which pairing does no harm."""
    draw = np.random.default_rng(0)
    y, stretch = torch.from_numpy(draw.normal(0, 1, (300, 4)) + 0.5), np.diag([1.2, 0.8, 1, 1])
    found: dict[str, list[tuple[Difference, Difference, float]]] = defaultdict(list)
    for _ in range(200):
        noise, other = (draw.normal(0, 1, (200, 4)) for _ in range(2))
        blocks = Blocks.draw(200)
        models = (noise, *(z @ stretch + 0.2 * np.tanh(z) + 0.1 for z in (noise, other)))
        theirs, ours, apart = (_metrics(x, y, blocks) for x in models)
        for name, base in theirs.items():
            shared, own = (sampling_difference([(1, one[name])], [(1, base)]) for one in (ours, apart))
            found[name].append((shared, own, math.hypot(apart[name].error, base.error)))
    for name, rows in found.items():
        shared, own, errors = zip(*rows, strict=True)
        true = [float(np.std([one.value for one in some], ddof=1)) for some in (shared, own)]
        stated = [_root_mean_square([one.error for one in some]) for some in (shared, own)]
        print(f"{name}: stated / true {stated[0] / true[0]:.2f}, of their own {stated[1] / true[1]:.2f}; "
              f"paired / unpaired {stated[0] / stated[1]:.2f}")  # fmt: skip
        assert 0.85 < stated[0] / true[0] < 1.15, name
        assert stated[0] < 0.8 * stated[1], name
        assert stated[1] == pytest.approx(_root_mean_square(list(errors)), rel=0.1), name


def test_a_baseline_of_both_sides_is_no_difference() -> None:
    """The distance of held-out samples has an error, and is one number whatever the models are."""
    baseline = [(1.0, Sampling(0.07, 0.01))]
    assert sampling_difference(baseline, baseline) == Difference(0.0)
    assert not sampling_difference(baseline, baseline).says_something
    assert sampling_difference(baseline, [(1.0, Sampling(0.08, 0.01))]).error == pytest.approx(0.01 * 2**0.5)
