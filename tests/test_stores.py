"""Tensors, clusters, features from wherever, and stores."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dprune.errors import InputError, MismatchError
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.features import StoreFeatures, open_features
from dprune.formats.filling import Filling
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, make_record
from dprune.formats.shards import open_dataset
from dprune.formats.stores import Store
from dprune.formats.tensors import read_metadata, read_tensors, write_tensors

RECORD = make_record("score random", {"draws": 8}, seed=1, fingerprint="f" * 64)


def cut_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(100.0))
    return buffer.getvalue()[:50]


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.arange(3))
    return buffer.getvalue()


# Tensors and clusters.


def test_tensors_keep_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(3)}, RECORD)
    assert read_metadata(path) == RECORD
    name, tensors, record = read_tensors(path)
    assert (name, tensors["a"].tolist(), record) == (str(path), [0, 1, 2], RECORD)


def header(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a whole safetensors file"),
        (b"hello", "is not a whole safetensors file"),
        (header(b"[]"), "is not a whole safetensors file"),
        (header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', b"x" * 35), "is not a whole"),
        (header(b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}', b"xx"), "type BF16, which numpy lacks"),
        (header(b'{"__metadata__":{"dprune":"no json"}}'), "its metadata\\): is not valid JSON"),
    ],
)
def test_what_is_no_safetensors(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words):
        read_tensors(path)
    assert existing_record(path) in ({}, None)


def test_clusters_of_others(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_file({"assignment": np.array([1, 0, 1, -1])}, path)
    clusters = read_clusters(path)
    assert (clusters.sizes.tolist(), len(clusters), clusters.fingerprint) == ([1, 2], 4, None)
    assert np.isnan(clusters.distance).all()
    save_file({"assignment": np.array([1, 0]), "distance": np.zeros(3)}, path)
    with pytest.raises(InputError, match="'distance' has shape"):
        read_clusters(path)
    save_file({"assignment": np.array([1, 2]), "centroids": np.zeros((2, 3), dtype=np.float32)}, path)
    with pytest.raises(InputError, match="cluster 2 has no centroid: there are 2"):
        read_clusters(path)
    save_file({"features": np.zeros((2, 3), dtype=np.float32)}, path)
    with pytest.raises(InputError, match="holds no clusters"):
        read_clusters(path)


def test_clusters_come_back_as_they_were(tmp_path: Path) -> None:
    distance = np.array([0.5, np.nan], dtype=np.float32)
    written = Clusters(np.ones((1, 2), dtype=np.float32), np.array([0, -1], dtype=np.int32), distance, distance,
                       np.array([1]), label=np.array([4, -1]), record=RECORD)  # fmt: skip
    written.write(tmp_path / "c.safetensors")
    clusters = read_clusters(tmp_path / "c.safetensors")
    assert clusters.as_parent() == written.as_parent()
    assert clusters.label is not None
    assert clusters.label.tolist() == [4, -1]


# Features and stores.

COUNTS = {"a.tar": 3, "b.tar": 0, "c.tar": 4}


def make_store(folder: Path, missing: tuple[str, ...] = (), record: Record = RECORD) -> Store:
    store = Store(folder, "features", tuple(COUNTS), (), record)
    store.publish_manifest()
    first = 0
    for shard, count in COUNTS.items():
        features = np.arange(first * 2, (first + count) * 2, dtype=np.float16).reshape(count, 2)
        tensors = {"features": features, "label": np.arange(first, first + count) - 1}
        if shard not in missing:
            store.publish_part(shard, tensors, f"digest of {shard}", count, [])
        first += count
    return store


def test_rows_of_a_store_cross_its_parts(tmp_path: Path) -> None:
    make_store(tmp_path)
    features = open_features(tmp_path)
    assert isinstance(features, StoreFeatures)
    assert features.shape == (7, 2)
    every = np.arange(14, dtype=np.float32).reshape(7, 2)
    for begin in range(8):
        for end in range(begin, 8):
            rows = features.rows(begin, end)
            assert rows.dtype == np.float32
            np.testing.assert_array_equal(rows, every[begin:end])
    labels = features.labels()
    assert labels is not None
    assert labels.tolist() == list(range(-1, 6))
    assert features.as_parent()["provenance"] == RECORD


def test_the_consumer_of_a_store_says_which_parts_are_missing(tmp_path: Path) -> None:
    make_store(tmp_path, missing=("a.tar", "c.tar"))
    with pytest.raises(InputError, match=r"lacks the files of 2 of 3 shards \(a\.tar, c\.tar\): run the dprune score"):
        open_features(tmp_path)


def test_parts_of_other_options_are_missing(tmp_path: Path) -> None:
    make_store(tmp_path, record=make_record("embed", {"model": "other"}))
    store = make_store(tmp_path, missing=("b.tar",))
    assert [store.part(shard) is None for shard in COUNTS] == [False, True, False]
    older = Store(tmp_path, "features", tuple(COUNTS), (), {**RECORD, "dprune": "0.0.1"})
    assert older.part("a.tar") is not None


def test_parts_by_different_networks(tmp_path: Path) -> None:
    store = make_store(tmp_path, missing=("a.tar", "c.tar"))
    tensors = {"features": np.zeros((1, 2), dtype=np.float16)}
    for shard, weights in (("a.tar", "1" * 64), ("c.tar", "2" * 64)):
        store.publish_part(shard, tensors, "members", 1, [], {"weights": weights})
    with pytest.raises(MismatchError, match=r"a\.tar and c\.tar were made with different weights \(1{12} and 2{12}\)"):
        open_features(tmp_path)
    store.publish_part("c.tar", tensors, "members", 1, [], {"weights": "1" * 64})
    assert open_features(tmp_path).shape == (2, 2)


def filling(shards: Path, output: Path, **options: Any) -> Filling:
    return Filling(open_dataset([str(shards)]), "latents", make_record("encode", {"vae": "x"}), str(output), **options)


def fill(work: Filling, *names: str, **more: Any) -> None:
    work.store.publish_manifest()
    for name in names:
        size = work.sizes[name]
        work.store.publish_part(name, {"label": np.zeros(size.count)}, size.members, size.count, [], more)


def test_filling_a_store_of_any_kind(shards: Path, tmp_path: Path) -> None:
    work = filling(shards, tmp_path / "s")
    assert work.existing() is None
    fill(work, "000000.tar", "000002.tar")
    assert work.existing() == work.record
    assert work.missing(range(3)) == [1]
    assert not work.complete()
    fill(work, "000001.tar")
    assert work.complete()
    with pytest.raises(InputError, match="is a folder of latents, not of features"):
        Filling(work.dataset, "features", work.record, work.output).existing()


def test_a_filling_keeps_only_the_files_beside_the_parts_that_it_has(shards: Path, tmp_path: Path) -> None:
    for here in (True, False):
        work, folder = filling(shards, tmp_path / "s", extras={"codebook.safetensors": here}), tmp_path / "s"
        fill(work, "000000.tar")
        (folder / "codebook.safetensors").write_bytes(b"")
        work.tidy()
        kept = {"manifest.json", "000000.safetensors"} | ({"codebook.safetensors"} if here else set())
        assert {path.name for path in folder.iterdir()} == kept


def test_a_filling_refuses_parts_by_different_networks(shards: Path, tmp_path: Path) -> None:
    work = filling(shards, tmp_path / "s")
    fill(work, "000000.tar", weights="1" * 64)
    fill(work, "000002.tar", weights="2" * 64)
    with pytest.raises(MismatchError, match=r"000000\.tar and 000002\.tar were made with different weights"):
        work.missing(range(3))


def test_the_fingerprint_of_a_store_is_that_of_its_shards(shards: Path, tmp_path: Path) -> None:
    dataset = open_dataset([str(shards)])
    store = Store(tmp_path, "features", tuple(shard.name for shard in dataset.shards), dataset.records, RECORD)
    for shard in dataset.shards:
        index = shard.index()
        store.publish_part(shard.name, {"label": np.zeros(len(index))}, index.digest, len(index), [])
    assert store.fingerprint == dataset.fingerprint
    assert store.counts == dataset.counts


def test_workers_publish_the_same_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, "features", tuple(COUNTS), (), RECORD)
    seen = set()
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        store.publish_manifest()
        seen.add((tmp_path / "manifest.json").read_bytes())
    assert len(seen) == 1
    assert Store.open(tmp_path, "features") == store
    with pytest.raises(InputError, match="is not a store of latents"):
        Store.open(tmp_path, "latents")


def test_features_of_others(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float64).reshape(3, 2)
    np.save(tmp_path / "f.npy", values)
    label = np.array([1, 2, 3], dtype=np.int32)
    save_file({"features": values.astype(np.float16), "label": label}, tmp_path / "f.safetensors")
    for name in ("f.npy", "f.safetensors"):
        features = open_features(tmp_path / name)
        assert (features.shape, features.record, features.fingerprint) == ((3, 2), None, None)
        np.testing.assert_array_equal(features.rows(1, 3), values[1:3].astype(np.float32))
        assert features.rows(0, 1).dtype == np.float32
        assert features.as_parent()["external"] is True
    assert open_features(tmp_path / "f.npy").labels() is None
    labels = open_features(tmp_path / "f.safetensors").labels()
    assert labels is not None
    assert labels.dtype == np.int64


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(3), "features are floats of shape"),
        (np.zeros((3, 2), dtype=np.int64), "features are floats of shape"),
        (np.zeros((0, 2)), "neither a feature store nor|features are floats"),
        (np.zeros((2, 2, 2)), "features are floats of shape"),
    ],
)
def test_arrays_that_are_no_features(values: Any, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", values)
    with pytest.raises(InputError, match=words):
        open_features(tmp_path / "f.npy")


def test_files_that_are_no_features(tmp_path: Path) -> None:
    (tmp_path / "f.npy").write_bytes(cut_array())
    (tmp_path / "g.npy").write_bytes(archive())
    (tmp_path / "empty").mkdir()
    save_file({"label": np.zeros(3)}, tmp_path / "l.safetensors")
    save_file({"features": np.zeros((3, 2)), "label": np.zeros(3)}, tmp_path / "m.safetensors")
    for name in ("f.npy", "g.npy", "l.safetensors", "m.safetensors", "missing.npy", "missing.safetensors", "empty"):
        with pytest.raises(InputError, match=name):
            open_features(tmp_path / name)
