"""Levels of clusters, and selections that divide from the top down."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune, torchrun
from safetensors.numpy import load_file, save_file

from dprune.formats.tensors import read_metadata
from dprune.selecting.quotas import alike, equal, nested


def islands(seed: int = 0) -> np.ndarray:
    """Three islands of 4 hills each; the first island has nine tenths of the points, the second nine of ten others."""
    rng = np.random.default_rng(seed)
    far = np.array([[0, 0], [1000, 0], [0, 1000]], dtype=np.float64)
    near = np.array([[0, 0], [30, 0], [0, 30], [30, 30]], dtype=np.float64)
    counts = np.array([[900, 600, 200, 100], [90, 60, 30, 9], [4, 3, 2, 1]])
    centres = (far[:, None] + near).reshape(-1, 2)
    owner = rng.permutation(np.repeat(np.arange(12), counts.ravel()))
    return (centres[owner] + rng.normal(size=(len(owner), 2))).astype(np.float32)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", islands())
    return tmp_path / "x.npy"


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_levels_are_clusters_of_centroids(features: Path, tmp_path: Path, metric: str) -> None:
    asked = ("--metric", metric, "--engine", "torch", "--seed", 3)
    dprune("cluster", features, "--levels", "12,3,2", "-o", tmp_path / "c.safetensors", *asked).ok()
    dprune("cluster", features, "-k", 12, "-o", tmp_path / "one.safetensors", *asked).ok()
    found, one = load_file(tmp_path / "c.safetensors"), load_file(tmp_path / "one.safetensors")
    # The lowest level is what it is without others.
    for name, values in one.items():
        np.testing.assert_array_equal(found[name], values)
    assert {name: str(values.dtype) for name, values in found.items() if name not in one} == {
        "level_1": "int32", "level_2": "int32"}  # fmt: skip
    # Each level is the clustering of the centroids below, each of which counts once.
    np.save(tmp_path / "centroids.npy", one["centroids"])
    again = ("cluster", tmp_path / "centroids.npy", "-k", 3, "-o", tmp_path / "up.safetensors", *asked)
    dprune(*again).ok()
    np.testing.assert_array_equal(found["level_1"], load_file(tmp_path / "up.safetensors")["assignment"])
    assert found["level_2"].shape == (3,)
    assert set(found["level_2"].tolist()) == {0, 1}
    record = read_metadata(tmp_path / "c.safetensors")
    assert record is not None
    assert record["options"]["levels"] == [12, 3, 2]
    assert "levels" not in (read_metadata(tmp_path / "one.safetensors") or {})["options"]


def test_islands_are_found_whatever_their_numbers(features: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.safetensors"
    summary = json.loads(dprune("cluster", features, "--levels", "12,3", "-o", output, "--json").ok().out)
    assert (summary["k"], summary["levels"]) == (12, [12, 3])
    found = load_file(output)
    x = np.load(features)
    island = (x[:, 0] > 500) + 2 * (x[:, 1] > 500)
    assert len({(int(a), int(b)) for a, b in zip(island, found["level_1"][found["assignment"]], strict=True)}) == 3
    assert json.loads(dprune("info", output, "--json").ok().out)["files"][0]["content"]["levels"] == [12, 3]
    assert b"levels" in dprune("info", output).ok().out
    # The same again is up to date, other levels are others.
    assert "up to date" in dprune("cluster", features, "--levels", "12,3", "-o", output).ok().err
    dprune("cluster", features, "--levels", "12,4", "-o", output).fails(3, "levels")


@pytest.mark.slow
def test_two_ranks_find_the_same_levels(features: Path, tmp_path: Path) -> None:
    asked = ("cluster", features, "--levels", "12,3", "--engine", "torch", "-o")
    dprune(*asked, tmp_path / "one.safetensors").ok()
    torchrun(*asked, tmp_path / "two.safetensors").ok()
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    np.testing.assert_array_equal(one["level_1"], two["level_1"])


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--levels", "12"], 2, ["--levels", "K,K"]),
        (["--levels", "3,12"], 2, ["--levels", "smaller"]),
        (["--levels", "12,12"], 2, ["--levels", "smaller"]),
        (["--levels", "12,0"], 2, ["--levels"]),
        (["--levels", "12,3", "-k", "12"], 2, ["--levels", "-k"]),
        (["--levels", "12,3", "--sweep", "2:3"], 2, ["--levels", "--sweep"]),
        (["--levels", "99999,3"], 3, ["--levels", "samples"]),
    ],
)
def test_levels_that_cannot_be(features: Path, tmp_path: Path, args: list[str], code: int, words: list[str]) -> None:
    dprune("cluster", features, "-o", tmp_path / "c.safetensors", *args).fails(code, *words)


def test_equal_quotas_divide_from_the_top_down(tmp_path: Path) -> None:
    # Clusters 0 to 4 of sizes 10, 10, 10, 10 and 4; the first four are one cluster above, the last is another.
    assignment = np.repeat(np.arange(5), [10, 10, 10, 10, 4]).astype(np.int32)
    plain = {"assignment": assignment, "distance": np.arange(44, dtype=np.float32)}
    save_file(plain, tmp_path / "plain.safetensors")
    save_file(plain | {"level_1": np.array([0, 0, 0, 0, 1], dtype=np.int32)}, tmp_path / "c.safetensors")

    def kept(clusters: str, *args: object) -> list[int]:
        dprune("select", "--order", "random", "--clusters", tmp_path / clusters, "--quota", "equal", "--overwrite",
               "-o", tmp_path / "kept.npy", *args).ok()  # fmt: skip
        return np.bincount(assignment[np.load(tmp_path / "kept.npy")], minlength=5).tolist()

    # Half of 8 is all of the last cluster; the other half is one of each of the four.
    assert kept("c.safetensors", "--keep", 8) == [1, 1, 1, 1, 4]
    assert kept("plain.safetensors", "--keep", 8) == [2, 2, 2, 1, 1]
    # What the last cannot give, the others do; what cannot be divided goes to the first.
    assert kept("c.safetensors", "--keep", 15) == [3, 3, 3, 2, 4]
    assert kept("c.safetensors", "--keep", 44) == [10, 10, 10, 10, 4]
    # Without an amount each of the highest gives what the smallest of them has.
    assert kept("c.safetensors") == [1, 1, 1, 1, 4]
    assert kept("c.safetensors", "--cap", 2) == [1, 1, 0, 0, 2]
    assert kept("c.safetensors", "--keep", 10, "--cap", 2) == [2, 2, 2, 2, 2]
    # Of classes inside clusters, the clusters divide first, and then their classes.
    np.save(tmp_path / "label.npy", np.where(assignment == 4, np.arange(44) % 4, 0))
    assert kept("c.safetensors", "--groups", tmp_path / "label.npy", "--keep", 8) == [1, 1, 1, 1, 4]
    # A selection by proportion knows no levels.
    dprune("select", "--order", "random", "--clusters", tmp_path / "c.safetensors", "--keep", "1/2", "-o",
           tmp_path / "half.npy").ok()  # fmt: skip
    assert np.bincount(assignment[np.load(tmp_path / "half.npy")]).tolist() == [5, 5, 5, 5, 2]


def test_nested_division() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(0, 30, 12)
        above = [rng.integers(0, 5, 12), rng.integers(0, 2, 5)]
        total = int(rng.integers(0, sizes.sum() + 1))
        counts = nested(total, sizes, above)
        assert counts.sum() == total
        assert (counts <= sizes).all()
        # What one of the highest gives is its share, and what is in it divides that in the same way.
        top = above[1][above[0]]
        names = np.unique(top)
        given = np.array([counts[top == name].sum() for name in names])
        held = np.array([sizes[top == name].sum() for name in names])
        np.testing.assert_array_equal(given, equal(total, held))
        assert nested(alike(sizes, above), sizes, above).sum() == held.min() * len(held)
    np.testing.assert_array_equal(nested(7, sizes, []), equal(7, sizes))


def test_levels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    plain = {"assignment": np.array([0, 1, 2], dtype=np.int32), "distance": np.ones(3, dtype=np.float32)}
    wrong = {
        "short": {"level_1": np.array([0, 0], dtype=np.int32)},
        "negative": {"level_1": np.array([0, -1, 0], dtype=np.int32)},
        "floats": {"level_1": np.zeros(3, dtype=np.float32)},
        "higher": {"level_1": np.array([0, 1, 2], dtype=np.int32), "level_2": np.array([0], dtype=np.int32)},
    }
    for name, levels in wrong.items():
        save_file(plain | levels, tmp_path / f"{name}.safetensors")
        dprune("select", "--order", "random", "--clusters", tmp_path / f"{name}.safetensors", "--quota", "equal",
               "-o", tmp_path / "kept.npy").fails(3, f"{name}.safetensors", "level")  # fmt: skip
