"""dprune score duplicates, held to float64 brute force and to what it is for."""

from __future__ import annotations

import io
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
from dprune.scoring.similarities import largest_similarities

CPU = torch.device("cpu")


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """One row after the other, in float64."""
    rows, found = unit(x.astype(np.float64)), np.full(len(x), -1.0)
    for place in range(1, len(order)):
        found[order[place]] = (rows[order[:place]] @ rows[order[place]]).max()
    return found


def order_of(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.argsort(np.square(unit(x) - centre).sum(1), kind="stable")


def scores(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(2, 9), st.integers(1, 80), st.integers(1, 80), st.integers(0, 10_000))
def test_cosines_are_those_of_brute_force_whatever_the_blocks(n: int, d: int, some: int, many: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d))[random.integers(0, max(1, 2 * n // 3), n)]
    order = random.permutation(n)
    rows = torch.from_numpy(unit(x).astype(np.float32))
    found, of = largest_similarities(rows, torch.from_numpy(order), CPU, Silent(), (some, many))
    np.testing.assert_allclose(found, brute(x, order), atol=2e-6)
    places = np.argsort(order)
    assert of[order[0]] == -1
    later = order[1:]
    assert (places[of[later]] < places[later]).all()
    np.testing.assert_allclose((unit(x)[of[later]] * unit(x)[later]).sum(1), found[later], atol=2e-6)


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """200 samples unlike each other; 0 to 19 come three times each, and 20 to 39 again, a little changed."""
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 64))
    near = unit(x[20:40]) + 0.02 * unit(random.normal(size=(20, 64)))
    # 80, since a copy may be scaled.
    every = np.concatenate([x, x[:20], 80 * x[:20], near])
    of = np.concatenate([np.arange(200), np.arange(20), np.arange(20), np.arange(20, 40)])
    mixed = random.permutation(len(every))
    np.save(tmp_path / "x.npy", every[mixed].astype(np.float32))
    return tmp_path / "x.npy", every[mixed], of[mixed]


@pytest.mark.parametrize("prefer", ["nearest", "furthest"])
def test_planted_duplicates_are_found_and_one_of_each_stays(planted: tuple, tmp_path: Path, prefer: str) -> None:
    path, _, of = planted
    dprune("score", "duplicates", path, "--prefer", prefer, "-o", tmp_path / "d.npy").ok()
    found = np.load(tmp_path / "d.npy")
    assert found.dtype == np.float32
    assert (found == -1).sum() == 1
    kept = scores(dprune("select", tmp_path / "d.npy", "--below", 0.95).ok().out)
    np.testing.assert_array_equal(np.sort(of[kept]), np.arange(200))
    assert (found > 0.9999).sum() == 40, "copies, of which two times twenty are not the first"
    assert ((found > 0.99) & (found < 0.9999)).sum() == 20, "what is a little changed"
    assert len(scores(dprune("select", tmp_path / "d.npy", "--below", 0.9999).ok().out)) == 220


def test_copies_to_the_bit_are_at_one(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(300, 96)).astype(np.float16)
    np.save(tmp_path / "x.npy", np.concatenate([x, x, x]))
    found = scores(dprune("score", "duplicates", tmp_path / "x.npy").ok().out)
    assert (found == 1).sum() == 600
    for set_of_copies in found.reshape(3, 300).T:
        assert (set_of_copies < 1).sum() == 1
    first = (found.reshape(3, 300) < 1).argmax(0)
    assert len(set(first)) == 3, "not always the first of the file"
    other = scores(dprune("score", "duplicates", tmp_path / "x.npy", "--seed", 1).ok().out)
    assert ((other.reshape(3, 300) < 1).argmax(0) != first).any()


def test_without_clusters_the_order_is_that_of_the_distance_to_the_mean(planted: tuple) -> None:
    path, x, _ = planted
    order = order_of(x, unit(x).mean(0))
    found = scores(dprune("score", "duplicates", path).ok().out)
    # Of two copies either may be the first.
    np.testing.assert_allclose(np.sort(found), np.sort(brute(x, order)), atol=2e-6)
    alone = np.random.default_rng(5).normal(size=(150, 12))
    np.save(path, alone)
    for prefer, order in (("nearest", order_of(alone, unit(alone).mean(0))),
                          ("furthest", order_of(alone, unit(alone).mean(0))[::-1])):  # fmt: skip
        found = scores(dprune("score", "duplicates", path, "--prefer", prefer).ok().out)
        np.testing.assert_allclose(found, brute(alone, order), atol=2e-6)


@pytest.mark.parametrize("told", [True, False])
def test_each_cluster_is_compared_with_itself_in_the_order_of_its_file(tmp_path: Path, told: bool) -> None:
    random = np.random.default_rng(2)
    x, distance = random.normal(size=(240, 5)), random.uniform(size=240).astype(np.float32)
    cluster = random.integers(-1, 4, 240).astype(np.int32)
    cluster[cluster == 2] = 0
    cluster[7], x[9] = 2, np.nan
    np.save(tmp_path / "x.npy", x)
    save_file({"assignment": cluster} | ({"distance": distance} if told else {}), tmp_path / "c.safetensors")
    found = scores(dprune("score", "duplicates", tmp_path / "x.npy", "--clusters", tmp_path / "c.safetensors").ok().out)
    assert np.isnan(found[cluster < 0]).all()
    assert np.isnan(found[9])
    assert found[7] == -1, "alone in its cluster"
    for number in (0, 1, 3):
        ids = np.flatnonzero((cluster == number) & ~np.isnan(x[:, 0]))
        order = np.argsort(distance[ids]) if told else order_of(x[ids], unit(x[ids]).mean(0))
        np.testing.assert_allclose(found[ids], brute(x[ids], order), atol=2e-6)


def test_samples_at_one_and_alone(tmp_path: Path) -> None:
    for x, wanted in ((np.ones((1, 3)), [-1]), (np.ones((4, 3)), [-1, 1, 1, 1]), (np.array([[1.0], [-2]]), [-1, -1])):
        np.save(tmp_path / "x.npy", x)
        assert sorted(scores(dprune("score", "duplicates", tmp_path / "x.npy").ok().out)) == wanted


def test_which_sample_each_is_a_duplicate_of(planted: tuple, tmp_path: Path) -> None:
    path, x, of = planted
    cluster = (of % 3).astype(np.int32)
    cluster[5] = -1
    save_file({"assignment": cluster}, tmp_path / "c.safetensors")
    args = ("score", "duplicates", path, "--clusters", tmp_path / "c.safetensors", "-o", tmp_path / "d.npy")
    dprune(*args, "--of", tmp_path / "of.npy").ok()
    found, ids = np.load(tmp_path / "d.npy"), np.load(tmp_path / "of.npy")
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids == -1, ~(found > -1))
    assert (ids == -1).sum() == 4, "the first of three clusters, and what is in none"
    known = np.flatnonzero(ids >= 0)
    np.testing.assert_array_equal(cluster[known], cluster[ids[known]])
    np.testing.assert_allclose((unit(x)[known] * unit(x)[ids[known]]).sum(1), found[known], atol=2e-6)
    repeats = np.flatnonzero(found > 0.99)
    np.testing.assert_array_equal(of[repeats], of[ids[repeats]])
    assert "up to date" in dprune(*args, "--of", tmp_path / "of.npy").ok().err
    dprune(*args, "--of", tmp_path / "new.npy").ok()
    np.testing.assert_array_equal(np.load(tmp_path / "new.npy"), ids)
    dprune(*args, "--of", "-").fails(2, "--of -")


def test_record_and_what_is_up_to_date(planted: tuple, tmp_path: Path) -> None:
    args = ("score", "duplicates", planted[0], "-o", tmp_path / "d.npy")
    dprune(*args).ok()
    record = json.loads((tmp_path / "d.npy").read_bytes().splitlines()[-1])
    assert record["command"] == "score duplicates"
    assert record["options"] == {"metric": "cosine", "prefer": "nearest"}
    assert "up to date" in dprune(*args).ok().err
    dprune(*args, "--prefer", "furthest").fails(3, "made differently")
    save_file({"assignment": np.zeros(9, np.int32)}, tmp_path / "c.safetensors")
    dprune(*args, "--clusters", tmp_path / "c.safetensors").fails(3, "260 samples", "9")
