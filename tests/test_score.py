"""dprune score random and cluster-distance."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune
from PIL import Image
from safetensors.numpy import save_file


def values(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data))


def test_random_is_uniform_and_belongs_to_seed_and_id(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20_000, 1), np.float32))
    np.save(tmp_path / "short.npy", np.zeros((100, 1), np.float32))
    first = values(dprune("score", "random", tmp_path / "x.npy").ok().out)
    other = values(dprune("score", "random", tmp_path / "x.npy", "--seed", 1).ok().out)
    short = values(dprune("score", "random", tmp_path / "short.npy").ok().out)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(first.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.03
    np.testing.assert_array_equal(first[:100], short)


def test_random_counts_shards(shards: Path) -> None:
    assert len(values(dprune("score", "random", shards).ok().out)) == 18


def test_random_counts_what_people_bring(tmp_path: Path) -> None:
    np.save(tmp_path / "vector.npy", np.zeros(5))
    np.save(tmp_path / "none.npy", np.zeros(0))
    save_file({"features": np.zeros((7, 2), np.float32)}, tmp_path / "features.safetensors")
    for name, count in (("vector.npy", 5), ("none.npy", 0), ("features.safetensors", 7)):
        assert len(values(dprune("score", "random", tmp_path / name).ok().out)) == count


def test_random_counts_a_tar_whose_first_member_begins_with_a_brace(tmp_path: Path, shards: Path) -> None:
    (first,) = sorted(shards.glob("*.tar"))[:1]
    with tarfile.open(first) as old, tarfile.open(tmp_path / "braces.tar", "w") as new:
        for member in old.getmembers():
            data = old.extractfile(member)
            member.name = "{a}" + member.name
            new.addfile(member, data)
    whole, renamed = (values(dprune("score", "random", path).ok().out) for path in (first, tmp_path / "braces.tar"))
    np.testing.assert_array_equal(renamed, whole)


def test_distances_that_are_none_are_not_scored(tmp_path: Path) -> None:
    distance = np.array([1, np.nan, 3, np.nan, 0.5], np.float32)
    assignment = np.where(np.isnan(distance), -1, 0).astype(np.int32)
    save_file({"assignment": assignment, "distance": distance}, tmp_path / "c.safetensors")
    args = ("score", "cluster-distance", tmp_path / "c.safetensors", "-o", tmp_path / "s.npy", "--json")
    found = json.loads(dprune(*args).ok().out)
    assert (found["scored"], found["not_scored"]) == (3, 2)
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), distance)


def make_what_holds_no_samples(folder: Path) -> None:
    np.save(folder / "whole.npy", np.zeros(1000))
    save_file({"x": np.zeros(1000)}, folder / "whole.safetensors")
    for kind in ("npy", "safetensors"):
        (folder / f"cut.{kind}").write_bytes((folder / f"whole.{kind}").read_bytes()[:-8])
    (folder / "header.npy").write_bytes((folder / "whole.npy").read_bytes()[:20])
    np.save(folder / "number.npy", np.float32(3))
    save_file({"count": np.array(4), "mean": np.zeros(2), "covariance": np.eye(2)}, folder / "statistics.safetensors")
    (folder / "metrics.json").write_text(json.dumps({"fid": 1.0, "text": "x" * 2000}))
    Image.new("RGB", (64, 64)).save(folder / "picture.png")
    np.savez(folder / "statistics.npz", mu=np.zeros(1000), sigma=np.eye(3))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut.npy", ["not a whole .npy array"]),
        ("header.npy", ["not a whole .npy array"]),
        ("number.npy", ["holds one number"]),
        ("cut.safetensors", ["not a whole safetensors file"]),
        ("whole.safetensors", ["no tensor called 'features'"]),
        ("statistics.safetensors", ["statistics", "does not say what samples there are", "give shards"]),
        ("metrics.json", ["a JSON file", "does not say what samples there are"]),
        ("picture.png", ["picture", "does not say what samples there are", "give shards"]),
        ("statistics.npz", ["an archive", "does not say what samples there are"]),
    ],
)
def test_what_holds_no_samples_is_refused(tmp_path: Path, name: str, words: list[str]) -> None:
    make_what_holds_no_samples(tmp_path)
    dprune("score", "random", tmp_path / name, "-o", tmp_path / "out.npy").fails(3, name, *words)
    assert not (tmp_path / "out.npy").exists()


def test_distance_is_that_of_the_clusters(tmp_path: Path) -> None:
    distance = np.array([3.0, np.nan, 1.0], np.float32)
    save_file({"assignment": np.array([0, -1, 1]), "distance": distance}, tmp_path / "c.safetensors")
    file = dprune("score", "cluster-distance", tmp_path / "c.safetensors").ok().out
    piped = dprune("score", "cluster-distance", "-", stdin=(tmp_path / "c.safetensors").read_bytes()).ok().out
    np.testing.assert_array_equal(values(file), distance)
    assert file == piped


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x": np.zeros(3)}, ["assignment"]),
        ({"assignment": np.zeros(3, np.int32)}, ["no distances"]),
        ({"assignment": np.zeros(3, np.int32), "distance": np.zeros(2, np.float32)}, ["'distance'", "3 samples"]),
        ({"assignment": np.full(3, 7), "centroids": np.zeros((2, 4), np.float32)}, ["cluster 7", "no centroid"]),
    ],
)
def test_what_is_no_clustering_is_refused(tmp_path: Path, tensors: dict[str, np.ndarray], words: list[str]) -> None:
    save_file(tensors, tmp_path / "c.safetensors")
    dprune("score", "cluster-distance", tmp_path / "c.safetensors").fails(3, *words)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    save_file({"assignment": np.zeros(1000, np.int32)}, tmp_path / "c.safetensors")
    data = (tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "c.safetensors").write_bytes(data[:-100])
    dprune("score", "cluster-distance", tmp_path / "c.safetensors").fails(3, "c.safetensors", "whole")
    dprune("score", "cluster-distance", "-", stdin=b"").fails(3, "stdin", "empty")
