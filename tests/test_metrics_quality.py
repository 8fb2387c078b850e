"""Metrics of generated samples: other people's numbers, plain definitions, and what each metric must do."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dprune.errors import InputError, MismatchError
from dprune.measuring.groups import by_kmeans
from dprune.metrics import distances, kernel
from dprune.metrics.frechet import Frechet, Moments, frechet_distance, replicate_moments
from dprune.metrics.frechet_infinity import SPLITS, Extrapolation, drawn_halves, frechet_infinity
from dprune.metrics.inception_score import inception_score
from dprune.metrics.jackknife import Blocks, draw_halves
from dprune.metrics.kernel import cmmd, kid
from dprune.metrics.manifold import Manifold, manifold
from dprune.metrics.neighbour_classes import predict_classes
from dprune.metrics.prd import f_beta, prd, prd_curve
from dprune.metrics.shares import follow_training, shares
from dprune.metrics.vendi import vendi

ORACLE = load_file(Path(__file__).parent / "data" / "metrics.safetensors")
GENERATED, TRAIN, LOGITS = ORACLE["generated"], ORACLE["train"], ORACLE["generated_logits"]
NAMES = ("precision", "recall", "f_score", "density", "coverage")


def value(name: str) -> float:
    return float(ORACLE[f"value.{name}"])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def rotation(dimension: int) -> Tensor:
    return torch.linalg.qr(normal(dimension, dimension, seed=9, dtype=torch.float64)).Q


def frechet(x: Tensor, y: Tensor, blocks: Blocks | None = None) -> Frechet:
    if blocks is None:
        return frechet_distance(Moments.of(x), Moments.of(y))
    whole, replicates = replicate_moments(x, blocks)
    return frechet_distance(whole, Moments.of(y), replicates, blocks)


def loop(statistic: Callable[[Tensor], float], x: Tensor, blocks: Blocks) -> float:
    """Jackknife error by computing everything anew without each block."""
    replicates = [statistic(x[blocks.labels != block]) for block in range(len(blocks))]
    return blocks.estimate(statistic(x), replicates).error


# Other people's numbers.


def test_frechet_distance_is_that_of_pytorch_fid() -> None:
    assert frechet(GENERATED, TRAIN).distance.value == pytest.approx(value("frechet_distance"), rel=1e-9)


def test_inception_score_is_that_of_torch_fidelity() -> None:
    found = inception_score(LOGITS, seed=None)
    assert found.score.value == pytest.approx(value("inception_score_mean_10_splits_in_order"), rel=1e-9)
    assert found.deviation == pytest.approx(value("inception_score_std_10_splits_in_order"), rel=1e-9)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_recall_density_and_coverage_are_those_of_prdc(k: int) -> None:
    found = manifold(GENERATED, TRAIN, k, k)
    assert round(found.precision.value * 1200) == round(value(f"prdc_precision_k{k}") * 1200)
    assert round(found.recall.value * 1500) == round(value(f"prdc_recall_k{k}") * 1500)
    assert round(found.coverage.value * 1500) == round(value(f"prdc_coverage_k{k}") * 1500)
    assert found.density.value == pytest.approx(value(f"prdc_density_k{k}"), rel=1e-12)


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    found = manifold(GENERATED, TRAIN)
    assert round(found.precision.value * 1200) == round(value("precision_k3") * 1200)
    assert round(found.recall.value * 1500) == round(value("recall_k3") * 1500)
    assert found.f_score.value == pytest.approx(value("f_score_k3"), rel=1e-7)


def test_kid_is_that_over_all_pairs() -> None:
    assert kid(GENERATED, TRAIN).value == pytest.approx(value("kid_all_pairs_unbiased"), rel=1e-9)


def test_vendi_scores_are_those_of_the_package() -> None:
    scores = vendi(GENERATED, (1.0, 2.0))
    assert scores[1.0].value == pytest.approx(value("vendi_q1_cosine"), rel=1e-10)
    assert scores[2.0].value == pytest.approx(value("vendi_q2_cosine"), rel=1e-10)
    assert scores[1.0].value == pytest.approx(value("vendi_q1_from_kernel_matrix"), rel=1e-8)


# The jackknife reuses what it has and still gives what recomputing gives.


def test_errors_equal_those_of_computing_all_anew() -> None:
    x, y, blocks = GENERATED[:403], TRAIN[:501], Blocks.draw(403, seed=4)
    assert frechet(x, y, blocks).distance.error == pytest.approx(
        loop(lambda rows: frechet(rows, y).distance.value, x, blocks), rel=1e-6
    )
    assert kid(x, y, blocks).error == pytest.approx(loop(lambda rows: kid(rows, y).value, x, blocks), rel=1e-9)
    assert cmmd(x, y, blocks).error == pytest.approx(loop(lambda rows: cmmd(rows, y).value, x, blocks), rel=1e-7)
    found = manifold(x, y, blocks=blocks)
    for name in ("precision", "density"):
        expected = loop(lambda rows, name=name: getattr(manifold(rows, y), name).value, x, blocks)
        assert expected > 0
        assert getattr(found, name).error == pytest.approx(expected, rel=1e-9), name
    for q, estimate in vendi(x, blocks=blocks).items():
        assert estimate.error == pytest.approx(loop(lambda rows, q=q: vendi(rows, (q,))[q].value, x, blocks), rel=1e-7)


def test_errors_by_halves_equal_those_of_computing_all_anew() -> None:
    x, y, blocks = GENERATED[:400], TRAIN[:501], Blocks.draw(400, seed=4)
    others, differences = draw_halves(501, 20, 4, "reference"), []
    for ours, theirs in zip(blocks.halves().T, others.T, strict=True):
        first, second = (manifold(x[half], y[theirs]) for half in (~ours, ours))
        precise = [manifold(x[half], y).precision.value for half in (~ours, ours)]
        recall, coverage = ([getattr(half, name).value for half in (first, second)] for name in ("recall", "coverage"))
        f_scores = [2 * p * r / (p + r) for p, r in zip(precise, recall, strict=True)]
        differences.append([pair[0] - pair[1] for pair in (recall, f_scores, coverage)])
    found = manifold(x, y, blocks=blocks)
    for name, column in zip(("recall", "f_score", "coverage"), np.array(differences).T, strict=True):
        assert getattr(found, name).error == pytest.approx(column.std(ddof=1) / 2, rel=1e-6), name
    # Halves without neighbours enough tell nothing; means over generated points need none.
    few = manifold(x[:7], y, blocks=Blocks.draw(7))
    assert few.precision.error >= 0
    assert all(math.isnan(getattr(few, name).error) for name in ("recall", "f_score", "coverage"))


@pytest.mark.parametrize(("classes", "each", "count"), [(10, 40, 20), (10, 30, 15), (10, 25, 13), (50, 8, 8)])
def test_strata_are_spread_evenly_over_blocks_and_halves(classes: int, each: int, count: int) -> None:
    strata = np.random.default_rng(1).permutation(np.repeat(np.arange(classes), each))
    blocks = Blocks.draw(len(strata), 3, strata=strata)
    assert len(blocks) == count
    assert max(blocks.sizes) - min(blocks.sizes) <= 1
    held = np.stack([np.bincount(strata[blocks.labels == block], minlength=classes) for block in range(count)])
    assert np.ptp(held, axis=0).max() <= (2 if each % count else 0)
    in_half = np.stack([np.bincount(strata[half], minlength=classes) for half in blocks.halves().T])
    assert abs(in_half - each / 2).max() <= 1
    assert not np.array_equal(blocks.labels, Blocks.draw(len(strata), 4, strata=strata).labels)
    # A mean of strata that differ is as certain as they are, each by itself.
    x = torch.from_numpy(100.0 * strata + np.random.default_rng(0).normal(size=len(strata)))
    within = 1 / math.sqrt(len(strata))
    assert Blocks.draw(len(strata), 3).mean(x).error > 100 * within
    if each % count == 0:
        assert blocks.mean(x).error == pytest.approx(within, rel=0.5)


def test_errors_of_the_curve_equal_those_of_clustering_halves_on() -> None:
    """From the clusters of all, two steps of k-means."""
    x, y, blocks = normal(90, 4, seed=1) + 0.4, normal(70, 4, seed=2), Blocks.draw(90, 5, count=6)
    others = torch.from_numpy(draw_halves(70, 6, 5, "reference"))
    made: list[tuple[Tensor, Tensor, Tensor]] = []

    def clustering(some: Tensor, every: Tensor, k: int, seed: int) -> Tensor:
        made.append((some, every, by_kmeans(some, every, k, seed)))
        return made[-1][2]

    found = prd(x, y, clustering, seed=0, clusters=5, runs=3, blocks=blocks)
    some, rows, _ = made[0]
    shapes = (rows.unsqueeze(1) == some).all(2).any(1)
    assert int(shapes.sum()) == 140
    differences = []
    for ours, theirs in zip(torch.from_numpy(blocks.halves()).T, others.T, strict=True):
        scores = []
        for half in (~ours, ours):
            kept, curves = torch.cat([half, theirs]), []
            for _, _, label in made:
                first = torch.stack([rows[kept & shapes & (label == k)].mean(0) for k in range(5)])
                nearest = torch.cdist(rows[kept & shapes], first).argmin(1)
                second = torch.stack([rows[kept & shapes][nearest == k].mean(0) for k in range(5)])
                own = torch.cdist(rows[kept], second).argmin(1)
                sides = own[: int(half.sum())], own[int(half.sum()) :]
                curves.append(prd_curve(*(torch.bincount(side, minlength=5).double() for side in sides)))
            precision, recall = (torch.stack(parts).mean(0) for parts in zip(*curves, strict=True))
            scores.append([float(f_beta(precision, recall, beta)) for beta in (8, 1 / 8)])
        differences.append(np.subtract(*scores))
    for error, column in zip((found.f_8.error, found.f_1_8.error), np.array(differences).T, strict=True):
        assert error == pytest.approx(column.std(ddof=1) / 2, rel=1e-6)


def test_errors_by_halves_are_the_same_whatever_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, blocks = GENERATED[:203], TRAIN[:150], Blocks.draw(203)
    before = manifold(x, y, blocks=blocks)
    for name, size in (("distances.ROWS", 16), ("manifold.ROWS", 16), ("distances.COLUMNS", {"cpu": 23}),
                       ("halved.PAIRS", 100)):  # fmt: skip
        monkeypatch.setattr(f"dprune.metrics.{name}", size)
    after = manifold(x, y, blocks=blocks)
    for name in NAMES:
        assert getattr(after, name).error == pytest.approx(getattr(before, name).error, rel=1e-9), name
    same = torch.ones(40, 3)
    assert manifold(same, same, blocks=Blocks.draw(40)).recall.error == 0


def test_halves_are_random_complete_and_of_one_size() -> None:
    halves = Blocks.draw(101, seed=3).halves()
    assert halves.shape == (101, 20)
    assert set(halves.sum(0).tolist()) == {50}
    assert len({tuple(column) for column in halves.T.tolist()}) == 20
    assert not np.array_equal(halves, Blocks.draw(101, seed=4).halves())
    # The jackknife makes of a mean's halves what it makes of blocks of one sample: its standard error.
    x = torch.from_numpy(np.random.default_rng(0).normal(size=2000))
    blocks = Blocks.draw(2000, count=500)
    apart = [float(x[~half].mean() - x[half].mean()) for half in blocks.halves().T]
    found = blocks.estimate_by_halves(float(x.mean()), torch.tensor(apart, dtype=torch.float64))
    assert found.error == pytest.approx(float(x.std()) / math.sqrt(2000), rel=0.1)


def test_errors_of_the_inception_score_and_shares_equal_those_of_computing_all_anew() -> None:
    blocks = Blocks.draw(len(LOGITS))
    one_split = inception_score(LOGITS, 1, blocks=blocks).score
    assert one_split.error == pytest.approx(loop(lambda x: inception_score(x, 1).score.value, LOGITS, blocks), rel=1e-9)
    labels, theirs = ORACLE["cells_generated"], ORACLE["cells_train"]
    groups, blocks = int(theirs.max()) + 1, Blocks.draw(len(labels))
    found = shares(labels, theirs, groups, blocks)
    for name in ("total_variation", "entropy", "smallest"):
        expected = loop(lambda x, name=name: getattr(shares(x, theirs, groups), name).value, labels, blocks)
        assert getattr(found, name).error == pytest.approx(expected, rel=1e-9), name
    for group in range(groups):
        expected = loop(lambda x, group=group: float(shares(x, theirs, groups).generated[group]), labels, blocks)
        assert float(found.errors[group]) == pytest.approx(expected, rel=1e-9)
    trained = theirs[theirs > 1]
    followed = follow_training(labels, trained, groups, blocks)
    for name in ("total_variation", "slope"):
        expected = loop(lambda x, name=name: getattr(follow_training(x, trained, groups), name).value, labels, blocks)
        assert getattr(followed, name).error == pytest.approx(expected, rel=1e-9), name


@pytest.mark.parametrize("samples", [12, 30])
def test_errors_below_the_dimension_equal_those_of_computing_all_anew(samples: int) -> None:
    x, blocks = GENERATED[:samples], Blocks.draw(samples)
    assert len(blocks) == min(20, samples)
    expected = loop(lambda rows: frechet(rows, TRAIN).distance.value, x, blocks)
    assert frechet(x, TRAIN, blocks).distance.error == pytest.approx(expected, rel=1e-9)
    expected = loop(lambda rows: vendi(rows, (1.0,))[1.0].value, x, blocks)
    assert vendi(x, (1.0,), blocks)[1.0].error == pytest.approx(expected, rel=1e-9)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=1000)
    blocks = Blocks.draw(1000, count=1000)
    found = blocks.estimate(x.mean(), [(x.sum() - x[row]) / 999 for row in np.argsort(blocks.labels)])
    assert found.error == pytest.approx(x.std(ddof=1) / math.sqrt(1000), rel=1e-9)
    uneven = Blocks.draw(1003)
    assert set(uneven.sizes) == {50, 51}
    # A share of 1 without every block is certain, rounding or not.
    assert uneven.estimate(1.0, [1.0] * len(uneven)).error == 0
    assert not np.array_equal(uneven.labels, np.sort(uneven.labels))


# The Fréchet distance.


@pytest.mark.parametrize("samples", [(400, 300), (12, 300), (12, 9)])
def test_numpy_and_torch_compute_one_distance(samples: tuple[int, int]) -> None:
    """Also where a covariance is singular, and of halves."""
    x, y = (normal(count, 20, seed=seed) + seed for seed, count in enumerate(samples))
    blocks = Blocks.draw(len(x))
    apart = [
        [found.distance.value, found.distance.error, found.mean_term, found.covariance_term,
         frechet_infinity(found.distance, a, b, 3, blocks).height.value,
         frechet_infinity(found.distance, a, Moments.of(b), 3, blocks).height.error]
        for a, b in ((x, y), (x.numpy(), y.numpy()))
        for found in [frechet(a, b, blocks)]
    ]  # fmt: skip
    assert apart[1] == pytest.approx(apart[0], rel=1e-9, abs=1e-9, nan_ok=True)
    singular = Moments.of_covariance(100, np.zeros(20), np.diag(np.arange(20.0)))
    alike = Moments.of_covariance(100, torch.zeros(20), torch.diag(torch.arange(20.0)))
    whole, other = (frechet_distance(Moments.of(b), m).distance.value for b, m in ((x, alike), (x.numpy(), singular)))
    assert other == pytest.approx(whole, rel=1e-9)


def test_moments_by_any_road_are_the_same() -> None:
    x = normal(700, 9, dtype=torch.float64) + 1e4
    blocks = Blocks.draw(700)
    whole, replicates = replicate_moments(x, blocks)
    assert whole.count == 700
    np.testing.assert_allclose(whole.covariance(), np.cov(x.numpy().T), rtol=1e-9, atol=1e-11)
    for block, part in enumerate(replicates):
        rest = x[blocks.labels != block]
        assert part.count == len(rest)
        np.testing.assert_allclose(part.mean, rest.mean(0), rtol=1e-13)
        np.testing.assert_allclose(part.covariance(), np.cov(rest.numpy().T), rtol=1e-9, atol=1e-10)


def test_moments_in_chunks_and_their_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dprune.metrics.rows.CHUNK_BYTES", 8 * 9 * 2)
    few, many = normal(7, 9), normal(100, 9)
    root = Moments.of(few).root
    assert root is not None
    np.testing.assert_allclose(root.T @ root, Moments.of(few).scatter, atol=1e-12)
    np.testing.assert_allclose(Moments.of(many).covariance(), np.cov(many.double().numpy().T), rtol=1e-10, atol=1e-12)
    assert Moments.of(many).root is None


def test_frechet_distance_of_gaussians_by_the_closed_form() -> None:
    scales, other = torch.linspace(0.1, 3, 20, dtype=torch.float64), torch.linspace(2, 0.5, 20, dtype=torch.float64)
    turn = rotation(20)
    first = Moments.of_covariance(1000, torch.zeros(20), turn @ torch.diag(scales**2) @ turn.T)
    second = Moments.of_covariance(1000, torch.full((20,), 0.5), turn @ torch.diag(other**2) @ turn.T)
    found = frechet_distance(first, second)
    assert found.mean_term == pytest.approx(5)
    assert found.covariance_term == pytest.approx(float((scales - other).square().sum()), rel=1e-12)


def test_singular_covariances_keep_their_digits() -> None:
    few, others = normal(30, 200, seed=1, dtype=torch.float64), normal(50, 200, seed=2, dtype=torch.float64)
    centred = [rows - rows.mean(0) for rows in (few, others)]
    cross = torch.linalg.svdvals(centred[0] @ centred[1].T).sum() / math.sqrt(29 * 49)
    traces = sum(float(torch.cov(rows.T).trace()) for rows in (few, others))
    found = frechet(few, others)
    assert found.covariance_term == pytest.approx(traces - 2 * float(cross), rel=1e-12)
    assert all(Moments.of(rows).undersampled for rows in (few, others))
    # Constant and repeated columns: what the others give, doubled for the repeated ones.
    x, y = normal(500, 6, seed=3), normal(400, 6, seed=4)
    plain = frechet(x, y).distance.value
    for widen in (lambda rows: torch.cat([rows, torch.full((len(rows), 2), 3.0)], 1), lambda rows: rows.repeat(1, 2)):
        copies = 2 if widen(x).shape[1] == 12 else 1
        assert frechet(widen(x), widen(y)).distance.value == pytest.approx(copies * plain, rel=1e-7)
    assert not any(Moments.of(rows).undersampled for rows in (x, y))
    statistics = Moments.of_covariance(30, few.mean(0), torch.cov(few.T))
    assert frechet_distance(statistics, Moments.of(others)).distance.value == pytest.approx(
        found.distance.value, rel=1e-9
    )


def infinity(x: Tensor, y: Tensor, blocks: Blocks | None = None, seed: int = 0) -> Extrapolation:
    return frechet_infinity(frechet(x, y, blocks).distance, x, y, seed, blocks)


@pytest.mark.parametrize(("n", "m", "dimension"), [(160, 160, 16), (100, 300, 10)])
def test_the_extrapolation_ends_at_the_distance_of_the_distributions(n: int, m: int, dimension: int) -> None:
    """Two Gaussians whose means are .8 apart, at ten samples a dimension."""
    draw, apart = np.random.default_rng(0), torch.eye(dimension, dtype=torch.float64)[0] * 0.8
    sides = [[torch.from_numpy(draw.normal(size=(count, dimension))) for count in (n, m)] for _ in range(25)]
    found = [infinity(x + apart, y, seed=seed).height.value for seed, (x, y) in enumerate(sides)]
    plain = [frechet(x + apart, y).distance.value for x, y in sides]
    assert np.mean(plain) > 1.05
    assert np.mean(found) == pytest.approx(0.64, abs=3 * np.std(found) / 5)
    assert np.std(found) < 0.5


def test_the_extrapolation_of_both_sides_is_that_of_their_halves() -> None:
    x, y = normal(200, 5, seed=1), normal(130, 5, seed=2) + 0.2
    found = infinity(x, y, Blocks.draw(200))
    assert found.both
    assert found.height.value == pytest.approx(2 * frechet(x, y).distance.value - found.halves, rel=1e-12)
    assert found.halves > frechet(x, y).distance.value
    assert found.height.value != infinity(x, y, seed=1).height.value
    assert found == infinity(x, y, Blocks.draw(200))
    # Of a reference that is known by its moments, the bias of its count remains.
    one = frechet_infinity(frechet(x, y).distance, x, Moments.of(y))
    assert not one.both
    assert found.height.value < one.height.value < frechet(x, y).distance.value


@pytest.mark.parametrize(("samples", "left"), [(5, -0.06), (10, -0.03), (20, -0.01)])
def test_what_is_left_of_the_bias_is_what_the_manual_says(samples: int, left: float) -> None:
    """Of a distance of zero to a distribution that is known for sure, where most is left."""
    dimension = 100
    reference = Moments.of_covariance(10**9, torch.zeros(dimension), torch.eye(dimension))
    plain, ends = [], []
    for seed in range(4):
        x = normal(samples * dimension, dimension, seed=seed, dtype=torch.float64)
        distance = frechet_distance(Moments.of(x), reference).distance
        plain.append(distance.value)
        ends.append(frechet_infinity(distance, x, reference, seed).height.value)
    assert np.mean(ends) / np.mean(plain) == pytest.approx(left, abs=0.015)


def test_the_error_of_the_extrapolation_equals_that_of_computing_all_anew() -> None:
    """Every half is taken anew from the rows that are left."""
    x, y, blocks = normal(203, 6, seed=1), normal(150, 6, seed=2) + 0.3, Blocks.draw(203)
    found = infinity(x, y, blocks)
    ours, theirs = drawn_halves(203, 0, "generated"), drawn_halves(150, 0, "reference")

    def anew(kept: npt.NDArray[np.bool_]) -> float:
        pairs = [
            frechet(x[kept & (ours >> s & 1 == half)], y[theirs >> s & 1 == half]).distance.value
            for s in range(SPLITS)
            for half in (0, 1)
        ]
        return 2 * frechet(x[kept], y).distance.value - sum(pairs) / len(pairs)

    assert np.bincount(ours).sum() == 203
    assert [int((ours >> s & 1).sum()) for s in range(SPLITS)] == [101] * SPLITS
    left_out = [anew(blocks.labels != block) for block in range(len(blocks))]
    assert found.height.replicates == pytest.approx(left_out, rel=1e-8)
    assert found.height.error == pytest.approx(blocks.estimate(found.height.value, left_out).error, rel=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("apart", "scale", "low", "high"), [(0.5, 1.5, 0.85, 1.3), (0.8, 1.0, 0.9, 1.45)])
def test_the_error_of_the_extrapolation_is_the_deviation_over_generated_sets(
    apart: float, scale: float, low: float, high: float
) -> None:
    draw = np.random.default_rng(0)
    y = torch.from_numpy(draw.normal(size=(320, 16)))
    shift, scales = torch.eye(16, dtype=torch.float64)[0] * apart, torch.linspace(1, scale, 16, dtype=torch.float64)
    found = []
    for seed in range(100):
        x = torch.from_numpy(draw.normal(size=(240, 16))) * scales + shift
        found.append(infinity(x, y, Blocks.draw(240, seed), seed).height)
    error = math.sqrt(np.mean([one.error**2 for one in found]))
    assert low < error / np.std([one.value for one in found], ddof=1) < high


# Kernels.


def test_kernel_distances_are_their_definitions_whatever_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(53, 8, seed=1), normal(41, 8, seed=2) * 2
    blocks = Blocks.draw(53)
    before = kid(x, y, blocks), cmmd(x, y, blocks)
    a, b = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (x, y))
    means = [torch.exp(-torch.cdist(*pair).square() / 200).mean() for pair in ((a, a), (b, b), (a, b))]
    assert before[1].value == pytest.approx(1000 * float(means[0] + means[1] - 2 * means[2]), rel=1e-9)
    monkeypatch.setattr(kernel, "CPU_TILE", 7)
    after = kid(x, y, blocks), cmmd(x, y, blocks)
    for one, other in zip(before, after, strict=True):
        assert (one.value, one.error) == pytest.approx((other.value, other.error), rel=1e-9)
    assert cmmd(x, x).value == pytest.approx(0, abs=1e-9)
    assert kid(x, x).value < 0


# Balls.


def brute(x: Tensor, y: Tensor, k: int, density_k: int) -> list[float]:
    """The definitions, by differences in float64."""
    a, b = x.double(), y.double()
    square = lambda p, q: (p[:, None] - q[None]).square().sum(2)  # noqa: E731
    ours, theirs, cross = square(a, a), square(b, b), square(a, b)
    radius = lambda table, k: table.sort(1).values[:, k]  # noqa: E731
    tie = 1e-12
    precision = (cross <= radius(theirs, k) * (1 + tie)).any(1).double().mean()
    recall = (cross <= radius(ours, k)[:, None] * (1 + tie)).any(0).double().mean()
    dense = cross < radius(theirs, density_k) * (1 - tie)
    f_score = 2 * precision * recall / (precision + recall) if precision + recall else precision
    density, coverage = dense.sum().double() / (density_k * len(a)), dense.any(0).double().mean()
    return [float(number) for number in (precision, recall, f_score, density, coverage)]


def numbers(found: Manifold) -> list[float]:
    return [getattr(found, name).value for name in NAMES]


@pytest.mark.parametrize("kind", ["normal", "whole numbers", "binary", "far from zero", "tight clusters"])
def test_balls_are_exact_where_points_lie_on_boundaries(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    tables = {
        "normal": lambda n: generator.normal(size=(n, 12)),
        "whole numbers": lambda n: generator.integers(0, 4, (n, 6)),
        "binary": lambda n: generator.integers(0, 2, (n, 16)),
        "far from zero": lambda n: generator.normal(size=(n, 12)) + 1000,
        "tight clusters": lambda n: generator.integers(0, 5, (n, 1)) * 100 + 1e-3 * generator.normal(size=(n, 12)),
    }
    x, y = (torch.from_numpy(tables[kind](n).astype(np.float32)) for n in (150, 170))
    expected = brute(x, y, 3, 5)
    assert numbers(manifold(x, y)) == pytest.approx(expected, rel=1e-12)
    for name, size in (("ROWS", 16), ("COLUMNS", {"cpu": 23})):
        monkeypatch.setattr(distances, name, size)
    assert numbers(manifold(x, y)) == pytest.approx(expected, rel=1e-12)


def test_identical_sets() -> None:
    x = normal(300, 10)
    assert numbers(manifold(x, x)) == [1, 1, 1, pytest.approx(1, rel=1e-12), 1]
    assert frechet(x, x).distance.value == pytest.approx(0, abs=1e-10)
    curve = prd(x, x, by_kmeans, runs=2)
    assert curve.f_8.value == pytest.approx(1)
    assert curve.f_1_8.value == pytest.approx(1)


@pytest.mark.parametrize("place", [0.0, 3.0])
def test_sets_that_are_one_point_are_on_its_boundary(place: float) -> None:
    """There is nothing inside balls without a radius, as prdc has it."""
    x, y = torch.full((300, 10), place), torch.full((280, 10), place)
    assert numbers(manifold(x, y)) == brute(x, y, 3, 5) == [1, 1, 1, 0, 0]


def test_disjoint_sets() -> None:
    x, y = normal(300, 10), normal(280, 10, seed=1) + 100
    blocks = Blocks.draw(300)
    found = manifold(x, y, blocks=blocks)
    assert numbers(found) == [0, 0, 0, 0, 0]
    assert found.f_score.error == 0
    curve = prd(x, y, by_kmeans, runs=2, blocks=blocks)
    assert curve.f_8.value == pytest.approx(0, abs=1e-6)
    assert frechet(x, y).mean_term == pytest.approx(10 * 100**2, rel=0.01)


def test_shuffles_and_rotations_change_nothing() -> None:
    order = torch.from_numpy(np.random.default_rng(0).permutation(1200))
    turn = rotation(48)
    x, y = GENERATED.double(), TRAIN.double()
    for ours, theirs in ((x[order], y.flip(0)), (x @ turn, y @ turn)):
        assert frechet(ours, theirs).distance.value == pytest.approx(value("frechet_distance"), rel=1e-9)
        assert numbers(manifold(ours, theirs)) == pytest.approx(numbers(manifold(x, y)), rel=1e-12)
        assert kid(ours, theirs).value == pytest.approx(value("kid_all_pairs_unbiased"), rel=1e-9)
        assert cmmd(ours, theirs).value == pytest.approx(cmmd(x, y).value, rel=1e-8)
        assert vendi(ours)[1].value == pytest.approx(value("vendi_q1_cosine"), rel=1e-9)


def test_float16_features_move_little() -> None:
    half = GENERATED.half()
    assert frechet(half, TRAIN.half()).distance.value == pytest.approx(value("frechet_distance"), rel=1e-4)
    assert numbers(manifold(half, TRAIN.half()))[:2] == pytest.approx([0.9825, 0.5113], abs=0.01)
    assert numbers(manifold(half, TRAIN.half())) == numbers(manifold(half.double(), TRAIN.half().double()))


# Inception score, Vendi score, curve, shares.


def test_inception_score_shuffles_by_the_seed() -> None:
    classes = torch.arange(1000) // 100
    logits = 20 * torch.nn.functional.one_hot(classes, 10).float()
    assert inception_score(logits, seed=None).score.value == pytest.approx(1, abs=1e-4)
    found = inception_score(logits, blocks=Blocks.draw(1000))
    assert found.score.value == pytest.approx(9.5, abs=0.4)
    assert found.score.error > 0
    assert found.score.value == pytest.approx(inception_score(logits).score.value, rel=1e-12)
    assert found.score.value != pytest.approx(inception_score(logits, seed=1).score.value, rel=1e-6)


def test_the_ends_of_the_curve_speak_of_supports() -> None:
    """Nearly no weight on one of the two leaves what the other reaches, however thinly."""
    few, many = torch.tensor([1.0, 9999.0]).double(), torch.tensor([9000.0, 1000.0]).double()
    precision, recall = prd_curve(few, many)
    assert recall[0].item() == pytest.approx(1, abs=1e-9)
    assert precision[-1].item() == pytest.approx(1, abs=1e-9)
    precision, recall = prd_curve(torch.tensor([0.0, 4.0]).double(), torch.tensor([3.0, 1.0]).double())
    assert (precision[-1].item(), recall[0].item()) == (pytest.approx(1), pytest.approx(0.25))


def test_vendi_counts_distinct_directions() -> None:
    basis = torch.eye(30)[:8].repeat(5, 1) * torch.arange(1, 41).unsqueeze(1)
    for x in (basis, basis[:16]):
        for q, estimate in vendi(x, (0.0, 0.1, 1.0, 2.0, math.inf)).items():
            assert estimate.value == pytest.approx(8, rel=1e-9), q
    # Of three directions in eight dimensions rounding leaves more eigenvalues than three, all but zero.
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(200, 3, generator=draw) @ torch.randn(3, 8, generator=draw)
    for x in (mixed.double(), mixed.double()[:5]):
        assert vendi(x, (0.0,))[0.0].value == pytest.approx(3, rel=1e-9)
    scores = [estimate.value for estimate in vendi(GENERATED).values()]
    assert scores == sorted(scores, reverse=True)
    assert vendi(torch.ones(9, 4))[1.0].value == pytest.approx(1)


def test_prd_of_histograms() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.0, 0.5, 0.5]).double()
    precision, recall = prd_curve(p, q)
    assert precision.max() == pytest.approx(0.5)
    assert recall.max() == pytest.approx(0.5)
    # Half of the mass is common: at slope 1 both are a half.
    assert (float(precision[500]), float(recall[500])) == pytest.approx((0.5, 0.5))
    assert float(f_beta(precision, recall, 8.0)) == pytest.approx(0.5)


def test_prd_tells_lost_modes_from_invented_ones() -> None:
    modes = 30 * normal(10, 6, seed=5)
    all_modes, half = (modes.repeat(60, 1) + normal(600, 6, seed=6)), (modes[:5].repeat(80, 1) + normal(400, 6, seed=7))
    lost, invented = (prd(*sets, by_kmeans, runs=3) for sets in ((half, all_modes), (all_modes, half)))
    assert lost.f_1_8.value > 0.8 > 0.7 > lost.f_8.value
    assert invented.f_8.value > 0.8 > 0.7 > invented.f_1_8.value
    again = prd(half, all_modes, by_kmeans, runs=3, blocks=Blocks.draw(400))
    assert again.f_8.value == pytest.approx(lost.f_8.value, rel=1e-12)
    assert again.f_8.error > 0


def test_shares_of_groups() -> None:
    found = shares(torch.tensor([0, 0, 0, 1, -1]), torch.tensor([0, 1, 2, 2, -1, -1]), 4)
    assert found.generated.tolist() == [0.75, 0.25, 0, 0]
    assert found.reference.tolist() == [0.25, 0.25, 0.5, 0]
    assert found.total_variation.value == 0.5
    assert found.entropy.value == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert (found.smallest.value, found.smallest_group, found.unlabelled) == (0, 2, 1)
    # A group that the reference does not have is not missed.
    found = shares(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1]), 3)
    assert (found.smallest.value, found.smallest_group) == (0.25, 0)
    with pytest.raises(InputError, match="outside -1 to 2"):
        shares(torch.tensor([3]), torch.tensor([0]), 3)
    with pytest.raises(InputError, match="no generated sample"):
        shares(torch.tensor([-1]), torch.tensor([0]), 3)
    assert found.errors.isnan().all()


def test_shares_follow_those_of_the_training_set_by_a_slope() -> None:
    """Held to numpy's straight line, and to what it is where nothing is left to estimate."""
    draw = np.random.default_rng(5)
    trained, made = draw.choice(6, 500, p=[0.4, 0.3, 0.15, 0.1, 0.05, 0]), draw.integers(0, 6, 300)
    found = follow_training(torch.from_numpy(made), torch.from_numpy(trained), 6)
    share, wanted = (np.bincount(some, minlength=6) / len(some) for some in (made, trained))
    assert found.training.tolist() == pytest.approx(wanted.tolist())
    assert found.slope is not None
    assert found.slope.value == pytest.approx(np.polyfit(wanted, share, 1)[0])
    assert found.total_variation.value == pytest.approx(np.abs(share - wanted).sum() / 2)
    same = follow_training(torch.from_numpy(trained), torch.from_numpy(trained), 6)
    assert same.slope is not None
    assert (same.slope.value, same.total_variation.value) == (pytest.approx(1), 0)
    flat = follow_training(torch.arange(6), torch.from_numpy(trained), 6)
    assert flat.slope is not None
    assert flat.slope.value == pytest.approx(0, abs=1e-12)
    # Of as many samples each, give or take one, there is nothing to follow.
    assert follow_training(torch.from_numpy(made), torch.tensor([0, 1, 2, 3, 4, 5, 5]), 6).slope is None
    assert follow_training(torch.from_numpy(made), torch.tensor([0, 1, 2, 3, 4, 5, 5, 5]), 6).slope is not None


def test_the_class_is_that_of_most_neighbours_and_of_the_nearer_ones_where_as_many() -> None:
    line = torch.tensor([[0.0], [1.0], [2.2], [3.6], [5.4], [100.0]])
    classes, x = torch.tensor([0, 1, 1, 2, 2, 3]), torch.tensor([[-1.0], [6.0], [99.0]])
    # Two of class 1 and two of class 2 are among the five nearest of both; nan has none.
    assert predict_classes(x, line, classes, 4).tolist() == [1, 2, 2]
    assert predict_classes(x, line, classes, 4, 1).tolist() == [0, 2, 3]
    assert predict_classes(line[5:], line, classes, 4, 1, exclude=torch.tensor([5])).tolist() == [2]
    assert predict_classes(torch.tensor([[torch.nan], [0.1]]), line, classes, 4, 1).tolist() == [-1, 0]


def test_classes_are_predicted_as_by_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, classes = normal(70, 3, seed=1), normal(90, 3, seed=2), torch.arange(90) % 7
    order = torch.cdist(x.double(), y.double()).argsort(1)[:, :5]
    expected = []
    for row in order.tolist():
        votes = [classes[i].item() for i in row]
        ranks = {c: (votes.count(c), -sum(n for n, v in enumerate(votes) if v == c), -c) for c in votes}
        expected.append(max(ranks, key=ranks.__getitem__))
    assert len(set(expected)) == 7
    assert predict_classes(x, y, classes, 7).tolist() == expected
    monkeypatch.setattr("dprune.metrics.rows.CHUNK_BYTES", 8 * 7 * 9)
    assert predict_classes(x, y, classes, 7).tolist() == expected


def test_the_mean_of_blocks_leaves_out_what_is_not_finite() -> None:
    values, blocks = torch.cat([normal(90)[:, None].flatten(), torch.full((10,), torch.nan)]), Blocks.draw(100, 3)
    found = blocks.mean(values)
    assert found.value == pytest.approx(float(values[:90].double().mean()), rel=1e-12)
    expected = [float(values[blocks.labels != block].nanmean()) for block in range(20)]
    assert found.replicates == pytest.approx(expected, rel=1e-5)


# What cannot be right says so.


@pytest.mark.parametrize("metric", [kid, cmmd, manifold, partial(prd, clustering=by_kmeans)])
def test_unusable_rows_are_one_clear_error(metric: Callable[[Tensor, Tensor], object]) -> None:
    x, bad = normal(20, 4), normal(20, 4)
    bad[3, 1] = torch.nan
    with pytest.raises(InputError, match="1 rows of the generated"):
        metric(bad, x)
    with pytest.raises(InputError, match="1 rows of the reference"):
        metric(x, bad)
    with pytest.raises(MismatchError, match="4 dimensions and the reference 5"):
        metric(x, normal(20, 5))
    with pytest.raises(InputError, match="generated"):
        metric(x[:0], x)


def test_unusable_statistics_are_one_clear_error() -> None:
    x, bad = normal(20, 4), normal(20, 4)
    bad[3, 1] = torch.nan
    with pytest.raises(InputError, match="reference features hold NaN"):
        frechet(x, bad)
    with pytest.raises(MismatchError):
        frechet(x, normal(20, 5))
    with pytest.raises(InputError, match="1 generated"):
        frechet(x[:1], x)
    indefinite = Moments.of_covariance(50, torch.zeros(4), 2 - torch.eye(4))
    with pytest.raises(InputError, match="clearly negative eigenvalues"):
        frechet_distance(indefinite, indefinite)
    with pytest.raises(InputError, match="at least 4"):
        manifold(x[:3], x)
    with pytest.raises(InputError, match="at least 10"):
        inception_score(x[:9])
    with pytest.raises(InputError, match="at least 4"):
        infinity(x[:3], x)


def test_features_too_large_to_compute_with() -> None:
    x = torch.full((8, 4), 1e30)
    with pytest.raises(InputError, match="reach 1e\\+30"):
        manifold(x, x)
