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

from dprune.runtime import Silent
from dprune.scoring.farthest_first import farthest_first

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
    dprune(*args[:-1], tmp_path / "none.safetensors").fails(3, "no sample in a cluster")
