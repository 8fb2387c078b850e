"""dprune score k-center and herding, and the job of orders over features."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dprune
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dprune.errors import InputError
from dprune.formats.features import ArrayFeatures
from dprune.runtime import Silent
from dprune.scoring import kernel_herding
from dprune.scoring.farthest_first import farthest_first
from dprune.scoring.kernel_herding import herding, mean_kernels
from dprune.scoring.orders import load_stored
from dprune.scoring.vectors import Vectors

CPU = torch.device("cpu")


def made(kind: str, n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows [n, d] in float64: scattered, in clusters, or each several times."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d))
    if kind == "clustered":
        x = random.normal(size=(12, d))[random.integers(0, 12, n)] * 3 + x * 0.3
    if kind == "copied":
        x = x[random.integers(0, max(1, n // 4), n)]
    return x


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute_k_center(x: np.ndarray, ties: np.ndarray, count: int) -> np.ndarray:
    """One sample at a time, by differences, in float64; distances of rounding alone are none."""
    away = np.square(x - x.mean(0)).sum(1)
    order = [int(np.lexsort((ties, away))[0])]
    nearest = np.full(len(x), np.inf)
    while len(order) < count:
        nearest = np.minimum(nearest, np.square(x - x[order[-1]]).sum(1))
        nearest[order] = -1
        order.append(int(np.lexsort((ties, -nearest))[0]))
    return np.array(order)


def brute_kernels(x: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-np.square(x[:, None] - x).sum(2) / (2 * width * width))


def brute_herding(x: np.ndarray, ties: np.ndarray, count: int, width: float) -> np.ndarray:
    """Each step looks at what every sample that is left would make of the discrepancy, in float64."""
    kernels, order = brute_kernels(x, width), list[int]()
    means = kernels.mean(1)
    while len(order) < count:
        n, left = len(order) + 1, np.setdiff1d(np.arange(len(x)), order)
        # Of |mean of the taken - mean of all|² what depends on the sample that is added; k(x, x) is 1.
        found = 2 * kernels[np.ix_(left, order)].sum(1) / n**2 - 2 * means[left] / n
        order.append(int(left[np.lexsort((ties[left], found.round(13)))[0]]))
    return np.array(order)


def discrepancy(kernels: np.ndarray, kept: np.ndarray) -> float:
    """Distance of the kernel mean embedding of what is kept to that of all."""
    square = kernels[np.ix_(kept, kept)].mean() - 2 * kernels[kept].mean() + kernels.mean()
    return float(np.sqrt(max(0.0, square)))


def radius(x: np.ndarray, kept: np.ndarray) -> float:
    """Largest distance of any sample to the nearest that is kept."""
    return float(np.sqrt(np.square(x[:, None] - x[kept]).sum(2).min(1).max()))


def scores(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["scattered", "clustered", "copied"])
@pytest.mark.parametrize("candidates", [1, 7, 60, 1000])
def test_k_center_is_that_of_brute_force(kind: str, candidates: int) -> None:
    x, ties = made(kind, 300, 6), np.random.default_rng(1).permutation(300)
    wanted = brute_k_center(x, ties, 300)
    found = farthest_first(torch.from_numpy(x), ties, 300, CPU, Silent(), candidates)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["scattered", "clustered", "copied"])
def test_k_center_in_float32_covers_as_well(kind: str) -> None:
    x, ties = unit(made(kind, 1500, 16)), np.random.default_rng(1).permutation(1500)
    wanted = brute_k_center(x, ties, 200)
    found = farthest_first(torch.from_numpy(x.astype(np.float32)), ties, 200, CPU, Silent(), 50)
    assert len(set(found.tolist())) == 200
    for n in (1, 10, 50, 200):
        assert radius(x, found[:n]) == pytest.approx(radius(x, wanted[:n]), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 11), st.integers(1, 3), st.integers(0, 10_000))
def test_k_center_covers_within_twice_the_best_radius(n: int, d: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(n, d)).round(1)
    order = farthest_first(torch.from_numpy(x), np.arange(n), n, CPU, Silent())
    for k in range(1, min(n, 4) + 1):
        best = min(radius(x, np.array(kept)) for kept in itertools.combinations(range(n), k))
        assert radius(x, order[:k]) <= 2 * best + 1e-6


def test_ranks_are_those_of_the_rows_scaled_to_unit_length(tmp_path: Path) -> None:
    x = made("clustered", 200, 5) * np.random.default_rng(2).uniform(1, 9, (200, 1))
    np.save(tmp_path / "x.npy", x)
    found = scores(dprune("score", "k-center", tmp_path / "x.npy").ok().out)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.argsort(), brute_k_center(unit(x), np.arange(200), 200))
    plain = scores(dprune("score", "k-center", tmp_path / "x.npy", "--metric", "l2").ok().out)
    np.testing.assert_array_equal(plain.argsort(), brute_k_center(x, np.arange(200), 200))


def test_copies_come_last_and_the_seed_says_which_is_one(tmp_path: Path) -> None:
    x = np.repeat(made("scattered", 20, 4), 5, axis=0)
    np.save(tmp_path / "x.npy", x)
    first, again, other = (scores(dprune("score", "k-center", tmp_path / "x.npy", "--seed", seed).ok().out)
                           for seed in (0, 0, 1))  # fmt: skip
    np.testing.assert_array_equal(first, again)
    for found in (first, other):
        assert sorted(found.argsort()[:20] // 5) == list(range(20))
    taken = first.argsort()[:20] % 5
    assert len(set(taken)) > 2, "not the first copy of each"
    assert (taken != other.argsort()[:20] % 5).any()


def test_each_cluster_is_ranked_by_itself(tmp_path: Path) -> None:
    x, cluster = made("clustered", 240, 5), np.random.default_rng(3).integers(-1, 4, 240).astype(np.int32)
    cluster[cluster == 2] = 0
    cluster[7] = 2
    np.save(tmp_path / "x.npy", x)
    save_file({"assignment": cluster}, tmp_path / "c.safetensors")
    args = ("score", "k-center", tmp_path / "x.npy", "--clusters", tmp_path / "c.safetensors")
    found = scores(dprune(*args).ok().out)
    assert np.isnan(found[cluster < 0]).all()
    for number in (0, 1, 3):
        ids = np.flatnonzero(cluster == number)
        own = brute_k_center(unit(x[ids]), np.arange(len(ids)), len(ids))
        np.testing.assert_array_equal(found[ids].argsort(), own)
    assert found[7] == 0


@pytest.mark.parametrize("method", ["k-center", "herding", "duplicates"])
def test_a_subset_is_scored_as_if_it_were_all(tmp_path: Path, method: str) -> None:
    random, x = np.random.default_rng(5), made("clustered", 200, 5)
    keep, cluster = np.sort(random.choice(200, 90, replace=False)), random.integers(-1, 3, 200).astype(np.int32)
    distance = random.random(200, dtype=np.float32)
    for name, some in (("all", np.arange(200)), ("some", keep)):
        np.save(tmp_path / f"{name}.npy", x[some])
        save_file({"assignment": cluster[some], "distance": distance[some]}, tmp_path / f"{name}.safetensors")
    np.save(tmp_path / "keep.npy", keep)
    for inside in ((), ("--clusters",)):
        found, alone = (
            scores(dprune("score", method, tmp_path / f"{name}.npy", *more,
                          *(word for option in inside for word in (option, tmp_path / f"{name}.safetensors"))).ok().out)
            for name, more in (("all", ("--subset", tmp_path / "keep.npy")), ("some", ()))
        )  # fmt: skip
        assert np.isnan(np.delete(found, keep)).all()
        np.testing.assert_allclose(found[keep], alone, rtol=1e-6)
    np.save(tmp_path / "none.npy", keep[:0])
    args = ("score", method, tmp_path / "all.npy", "--subset")
    dprune(*args, tmp_path / "none.npy").fails(3, "no sample is left")
    np.save(tmp_path / "far.npy", [200])
    dprune(*args, tmp_path / "far.npy").fails(3, "holds the id 200")


def test_up_to_ranks_a_share_and_leaves_no_sample_without_a_score(tmp_path: Path) -> None:
    x, cluster = made("scattered", 100, 5), np.repeat([0, 1], [30, 70]).astype(np.int32)
    np.save(tmp_path / "x.npy", x)
    save_file({"assignment": cluster}, tmp_path / "c.safetensors")
    command = ("score", "k-center", tmp_path / "x.npy")
    whole = scores(dprune(*command).ok().out)
    for amount, count in (("10%", 10), (".25", 25), (40, 40), ("100%", 100)):
        found = scores(dprune(*command, "--up-to", amount).ok().out)
        np.testing.assert_array_equal(found, np.minimum(whole, count))
    clustered = scores(dprune(*command, "--clusters", tmp_path / "c.safetensors", "--up-to", "10%").ok().out)
    assert [(clustered[cluster == 0] < 3).sum(), (clustered[cluster == 1] < 7).sum()] == [3, 7]
    assert set(clustered[cluster == 0]) == {0, 1, 2, 3}
    dprune(*command, "--up-to", 101).fails(3, "--up-to 101", "100 samples")
    dprune(*command, "--up-to", 1).fails(2, "--up-to 1", "all of them")
    dprune(*command, "--up-to", "-3").fails(2, "--up-to")


def test_record_tells_what_was_ranked_and_what_is_up_to_date(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", made("scattered", 50, 4))
    args = ("score", "k-center", tmp_path / "x.npy", "-o", tmp_path / "s.npy")
    found = json.loads(dprune(*args, "--up-to", "20%", "--json").ok().out)
    assert (found["scored"], found["not_scored"]) == (50, 0)
    record = json.loads((tmp_path / "s.npy").read_bytes().splitlines()[-1])
    assert record["command"] == "score k-center"
    assert record["options"] == {"metric": "cosine", "up_to": "0.2"}
    assert record["findings"] == {"ranked": 10}
    assert "up to date" in dprune(*args, "--up-to", "0.2").ok().err
    dprune(*args).fails(3, "made differently", "--overwrite")
    dprune(*args, "--metric", "l2", "--up-to", "20%").fails(3, "made differently")


def test_samples_without_features_are_not_scored(tmp_path: Path) -> None:
    x = made("scattered", 40, 4)
    x[3], x[5], x[8] = np.nan, 0, np.inf
    np.save(tmp_path / "x.npy", x)
    found = scores(dprune("score", "k-center", tmp_path / "x.npy").ok().out)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 5, 8]
    assert sorted(found[~np.isnan(found)]) == list(range(37))
    np.save(tmp_path / "none.npy", x[[3, 5]])
    dprune("score", "k-center", tmp_path / "none.npy").fails(3, "none.npy", "usable")


@pytest.mark.parametrize("x", [np.ones((1, 3)), np.ones((9, 3))])
def test_one_sample_and_samples_that_are_all_one(tmp_path: Path, x: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", x)
    found = scores(dprune("score", "k-center", tmp_path / "x.npy").ok().out)
    assert sorted(found) == list(range(len(x)))


def test_clusters_of_another_dataset_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", made("scattered", 20, 3))
    np.save(tmp_path / "y.npy", made("scattered", 21, 3))
    dprune("cluster", tmp_path / "y.npy", "-k", 2, "-o", tmp_path / "c.safetensors").ok()
    args = ("score", "k-center", tmp_path / "x.npy", "--clusters", tmp_path / "c.safetensors")
    dprune(*args).fails(3, "20 samples", "21")
    save_file({"assignment": np.full(20, -1, np.int32)}, tmp_path / "none.safetensors")
    dprune(*args[:-1], tmp_path / "none.safetensors").fails(3, "none.safetensors: no sample is left")


def median_width(x: np.ndarray) -> float:
    squares = np.square(x[:, None] - x).sum(2)[np.triu_indices(len(x), 1)]
    return float(np.sqrt(np.median(squares[squares > 1e-9])))


@pytest.mark.parametrize("kind", ["scattered", "clustered", "copied"])
@pytest.mark.parametrize("most_tabled", [1000, 0])
def test_herding_is_that_of_brute_force(kind: str, most_tabled: int) -> None:
    x, ties = made(kind, 151, 5), np.random.default_rng(1).permutation(151)
    wanted = brute_herding(x, ties, 151, 2.0)
    found, _ = herding(torch.from_numpy(x), ties, 151, CPU, Silent(), bandwidth=2.0, most_tabled=most_tabled)
    if kind == "copied":
        # Which of several copies comes is a matter of rounding.
        copy = np.unique(x, axis=0, return_inverse=True)[1].ravel()
        wanted, found = copy[wanted], copy[found]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("most_tabled", [1000, 0])
def test_herding_in_float32_is_as_near_to_all(most_tabled: int) -> None:
    x, ties = unit(made("clustered", 600, 16)), np.random.default_rng(1).permutation(600)
    found, width = herding(torch.from_numpy(x.astype(np.float32)), ties, 150, CPU, Silent(), most_tabled=most_tabled)
    assert width == pytest.approx(median_width(x), rel=1e-3)
    kernels, wanted = brute_kernels(x, width), brute_herding(x, ties, 150, width)
    for n in (5, 40, 150):
        assert discrepancy(kernels, found[:n]) == pytest.approx(discrepancy(kernels, wanted[:n]), rel=1e-3)


def test_herding_approaches_all_faster_than_chance() -> None:
    x, random = made("clustered", 1000, 8), np.random.default_rng(5)
    found, width = herding(torch.from_numpy(x), np.arange(1000), 200, CPU, Silent())
    kernels = brute_kernels(x, width)
    ours = [discrepancy(kernels, found[:n]) for n in (10, 40, 160)]
    chance = [np.mean([discrepancy(kernels, random.choice(1000, n, replace=False)) for _ in range(20)])
              for n in (10, 40, 160)]  # fmt: skip
    # Sixteen times the samples: a quarter of the distance by chance, and about a sixteenth by herding.
    assert 3 < chance[0] / chance[2] < 6
    assert ours[0] / ours[2] > 9
    assert ours[2] < chance[2] / 4


def test_steps_of_numpy_are_those_of_torch() -> None:
    vectors, ties = Vectors(torch.from_numpy(made("scattered", 150, 6)), CPU), np.random.default_rng(0).permutation(150)
    args = (vectors, mean_kernels(vectors, 0.05, Silent()), ties, 150, 0.05, Silent())
    np.testing.assert_array_equal(kernel_herding._by_numpy(*args), kernel_herding._plainly(*args))


def test_mean_kernels_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dprune.scoring.kernel_herding.TILE", {"cpu": 32})
    x = made("scattered", 101, 7)
    found = mean_kernels(Vectors(torch.from_numpy(x), CPU), 1 / 18, Silent())
    np.testing.assert_allclose(found.numpy(), brute_kernels(x, 3.0).mean(1), rtol=1e-13)


@pytest.mark.parametrize(("n", "d", "dtype"), [(1, 1, "float32"), (70, 5, "float32"), (50, 300, "float16")])
def test_steps_of_herding_in_one_pass(n: int, d: int, dtype: str) -> None:
    """The kernel for GPUs, in Triton's interpreter without one, and rows that stand for others of unit length."""
    pytest.importorskip("triton")
    from dprune.kernels.herding_step import HerdingSteps

    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    raw = torch.from_numpy(made("clustered", n, d)).to(getattr(torch, dtype))
    x = torch.nn.functional.normalize(raw.double()).numpy()
    ties, kernels = np.random.default_rng(1).permutation(n), brute_kernels(x, 1.0)
    means = torch.from_numpy(kernels.mean(1))
    order = torch.zeros(n + 1, dtype=torch.int32)
    order[0] = int(np.lexsort((ties, -kernels.mean(1)))[0])
    given = (
        raw,
        1 / raw.double().norm(dim=1).float(),
        torch.ones(n),
        means,
        means.clone(),
        ties,
        ties.argsort(),
        order,
    )
    placed = [torch.as_tensor(value).to(place, torch.int32 if i in (5, 6) else None) for i, value in enumerate(given)]
    HerdingSteps(*placed, 0.5).run(0, n)
    found = placed[-1].cpu().numpy()[:n]
    assert sorted(found) == list(range(n))
    for m in {1, n // 3, n // 2} - {0}:
        assert discrepancy(kernels, found[:m]) == pytest.approx(
            discrepancy(kernels, brute_herding(x, ties, m, 1.0)), rel=1e-3, abs=1e-6)  # fmt: skip


def test_herding_inside_clusters_has_a_mean_and_a_width_in_each(tmp_path: Path) -> None:
    x, cluster = made("clustered", 150, 5), np.repeat([0, 1, 4], [60, 89, 1]).astype(np.int32)
    np.save(tmp_path / "x.npy", x)
    save_file({"assignment": cluster}, tmp_path / "c.safetensors")
    args = ("score", "herding", tmp_path / "x.npy", "--clusters", tmp_path / "c.safetensors", "-o", tmp_path / "s.npy")
    dprune(*args).ok()
    found = np.load(tmp_path / "s.npy")
    for number in (0, 1):
        ids, rows = np.flatnonzero(cluster == number), unit(x[cluster == number])
        own = brute_herding(rows, np.arange(len(ids)), len(ids), median_width(rows))
        np.testing.assert_array_equal(found[ids].argsort()[:20], own[:20])
    assert found[-1] == 0
    record = json.loads((tmp_path / "s.npy").read_bytes().splitlines()[-1])
    assert record["options"] == {"metric": "cosine", "bandwidth": "median"}
    assert record["findings"]["bandwidth"] > 0
    dprune(*args, "--bandwidth", 2).fails(3, "made differently")
    dprune(*args, "--bandwidth", 0).fails(2, "--bandwidth")


def test_herding_of_copies_and_of_one_sample(tmp_path: Path) -> None:
    for x in (np.ones((1, 3)), np.ones((9, 3))):
        np.save(tmp_path / "x.npy", x)
        found = scores(dprune("score", "herding", tmp_path / "x.npy").ok().out)
        assert sorted(found) == list(range(len(x)))


def test_rows_as_they_are_stored_stand_for_those_of_unit_length() -> None:
    stored = (made("clustered", 120, 9) * np.random.default_rng(2).uniform(1, 9, (120, 1))).astype(np.float16)
    stored[4], stored[5] = np.nan, 0
    features, cluster = ArrayFeatures("x", stored), np.arange(1, 120)
    x, valid = load_stored(features, CPU, Silent(), cluster)
    assert np.flatnonzero(~valid).tolist() == [0, 4, 5]
    np.testing.assert_array_equal(x.numpy(), stored[valid])
    rows, ties = unit(stored[valid].astype(np.float64)), np.random.default_rng(1).permutation(117)
    means = mean_kernels(Vectors(x, CPU), 0.5, Silent())
    np.testing.assert_allclose(means.numpy(), brute_kernels(rows, 1.0).mean(1), rtol=1e-6)
    for most_tabled in (0, 1000):
        found, width = herding(x, ties, 40, CPU, Silent(), most_tabled=most_tabled)
        assert width == pytest.approx(median_width(rows), rel=1e-4)
        kernels, wanted = brute_kernels(rows, width), brute_herding(rows, ties, 40, width)
        assert discrepancy(kernels, found) == pytest.approx(discrepancy(kernels, wanted), rel=1e-3)
    with pytest.raises(InputError, match="usable"):
        load_stored(ArrayFeatures("x", stored[4:6]), CPU, Silent(), None)


@pytest.mark.parametrize("method", ["k-center", "herding"])
def test_a_signal_stops_a_ranking(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", made("scattered", 1200, 4))
    monkeypatch.setattr("dprune.console.TerminalMonitor.stop_requested", lambda monitor: True)
    dprune("score", method, tmp_path / "x.npy", "-o", tmp_path / "s.npy").fails(75, "begins anew")
    assert not (tmp_path / "s.npy").exists()


def test_features_and_clusters_of_two_datasets_do_not_mix(tmp_path: Path, shards: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in shards.glob("*.tar"):
        (other / f"other-{path.name}").write_bytes(path.read_bytes())
    for folder in (shards, other):
        dprune("embed", folder, "--model", "pixels", "--image-size", 4, "-o", f"{folder}-features").ok()
    dprune("cluster", f"{other}-features", "-k", 2, "-o", tmp_path / "c.safetensors").ok()
    for method in ("k-center", "herding"):
        args = ("score", method, f"{shards}-features", "--clusters", tmp_path / "c.safetensors")
        dprune(*args).fails(3, "different datasets")
        dprune("score", method, f"{other}-features", *args[3:], "-o", tmp_path / f"{method}.npy").ok()


def test_ranks_are_the_work_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", made("scattered", 20, 3))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    dprune("score", "herding", tmp_path / "x.npy", "-o", tmp_path / "s.npy").fails(2, "does not share its work")
