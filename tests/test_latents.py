"""Latent stores as a format: what the reader gives, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import dprune
from safetensors.numpy import load_file, save_file

from dprune.errors import InputError
from dprune.formats.arrays import read_array
from dprune.formats.latents import CODEBOOK_FILE, MOST_CLASSES, SUMS, latent_tensors, open_latents, part_sums
from dprune.formats.provenance import make_record, record_digest
from dprune.formats.publish import publish_json
from dprune.formats.stores import Store
from dprune.formats.tensor_files import TensorFile
from dprune.formats.tensors import write_tensors

COUNTS = {"a.tar": 0, "b.tar": 3, "c.tar": 4}
BAD = 1
"""Row of b.tar that could not be decoded."""


def make_latents(folder: Path, kind: str, *, flips: bool = False, seed: int = 0, **changed: Any) -> Store:
    """A store of random latents; the first of its parts is empty."""
    network = {"kind": kind, "channels": 3, "size": 2, "codes": 5 if kind == "vq" else 0, "image_size": 8}
    record = make_record("encode", {"network": network | changed, "flips": flips, "precision": "float32"})
    store = Store(folder, "latents", tuple(COUNTS), (), record)
    store.publish_manifest()
    random = np.random.default_rng(seed)
    if kind == "vq":
        store.publish_beside(CODEBOOK_FILE, {"codebook": random.normal(size=(5, 3)).astype(np.float32)})
    for shard, count in COUNTS.items():
        tensors: dict[str, Any] = {"label": np.arange(count), "valid": np.ones(count, dtype=np.bool_)}
        for name, row in latent_tensors(network, flips).items():
            values = (
                random.integers(0, 5, (count, *row.shape)) if kind == "vq" else random.normal(2, 3, (count, *row.shape))
            )
            tensors[name] = values.astype(row.dtype)
        if shard == "b.tar":
            for name in tensors.keys() - {"label"}:
                tensors[name][BAD] = 0
        tensors[SUMS[kind]] = part_sums(network, tensors)
        bad = [{"row": BAD, "key": "x", "reason": "none"}] if shard == "b.tar" else []
        store.publish_part(shard, tensors, f"digest of {shard}", count, bad)
    return store


@pytest.mark.parametrize("flips", [False, True])
def test_codes(flips: bool, tmp_path: Path) -> None:
    make_latents(tmp_path, "vq", flips=flips)
    latents = open_latents(tmp_path)
    assert (len(latents), latents.classes, latents.flips) == (7, 4, flips)
    assert latents.labels().tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert np.flatnonzero(~latents.valid()).tolist() == [BAD]
    names = ["codes", "codes_flipped"][: 1 + flips]
    assert list(latents.tensors) == names
    used = np.concatenate([np.concatenate(latents.mapped(name))[latents.valid()] for name in names])
    assert latents.codebook is not None
    values = latents.codebook.astype(np.float64)[used].reshape(-1, 3)
    np.testing.assert_allclose(latents.mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(latents.std, values.std(0), rtol=1e-6)


@pytest.mark.parametrize("flips", [False, True])
def test_moments(flips: bool, tmp_path: Path) -> None:
    make_latents(tmp_path, "kl", flips=flips)
    latents = open_latents(tmp_path)
    assert latents.codebook is None
    stacked = {name: np.concatenate(latents.mapped(name))[latents.valid()].astype(np.float64)
               for name in latents.tensors}  # fmt: skip
    means = np.concatenate([stacked[name] for name in stacked if name.startswith("mean")])
    variances = np.exp(np.concatenate([stacked[name] for name in stacked if name.startswith("logvar")]))
    assert len(means) == 6 * (1 + flips)
    np.testing.assert_allclose(latents.mean, means.mean((0, 2, 3)), rtol=1e-6)
    # The variance of a draw is that of the means and the mean of the posterior's variances.
    np.testing.assert_allclose(latents.std**2, means.var((0, 2, 3)) + variances.mean((0, 2, 3)), rtol=1e-5)


def test_maps_cannot_be_written_to_and_lie_on_the_disk(tmp_path: Path) -> None:
    store = make_latents(tmp_path, "kl")
    parts = open_latents(tmp_path).mapped("mean")
    assert [part.shape for part in parts] == [(0, 3, 2, 2), (3, 3, 2, 2), (4, 3, 2, 2)]
    assert isinstance(parts[1], np.memmap)
    for part, shard in zip(parts, COUNTS, strict=True):
        assert part.dtype == np.float16
        np.testing.assert_array_equal(part, load_file(store.path(shard))["mean"])
        with pytest.raises(ValueError, match="read-only"):
            part[...] = 0


def test_arrays_are_written_in_their_order_whatever_their_memory_is(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4).transpose(0, 2, 1)
    write_tensors(tmp_path / "x.safetensors", {"a": values}, {})
    np.testing.assert_array_equal(TensorFile.open(tmp_path / "x.safetensors").mapped("a"), values)


def test_a_constant_channel_has_a_deviation_to_divide_by(tmp_path: Path) -> None:
    store = make_latents(tmp_path / "vq", "vq")
    codebook = load_file(tmp_path / "vq" / CODEBOOK_FILE)["codebook"]
    codebook[:, 1] = 0.1
    store.publish_beside(CODEBOOK_FILE, {"codebook": codebook})
    latents = open_latents(tmp_path / "vq")
    assert latents.std[1] == 1
    assert latents.mean[1] == np.float32(0.1)
    assert (latents.std[[0, 2]] < 2).all()


def test_sums_do_not_depend_on_how_many_rows_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = {"kind": "kl", "channels": 3, "size": 4, "codes": 0, "image_size": 8}
    random = np.random.default_rng(0)
    tensors = {name: random.normal(size=(50, 3, 4, 4)).astype(np.float16) for name in ("mean", "logvar")}
    tensors["valid"] = np.arange(50) != 7
    found = [part_sums(network, tensors)]
    monkeypatch.setattr("dprune.formats.latents._ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(part_sums(network, tensors), found[0])


def test_as_the_parent_of_scores(tmp_path: Path) -> None:
    make_latents(tmp_path / "vq", "vq")
    dprune("score", "random", tmp_path / "vq", "-o", tmp_path / "s.npy").ok()
    scores = read_array(tmp_path / "s.npy")
    latents = open_latents(tmp_path / "vq")
    assert scores.record is not None
    assert scores.record["parents"]["latents"] == {
        "digest": latents.as_parent()["digest"],
        "record": record_digest(latents.record),
    }
    assert scores.fingerprint == latents.fingerprint


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        open_latents(folder)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    for word in (str(folder), *words):
        assert word in said


def test_what_is_no_store_of_latents(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such folder")
    refused(tmp_path, "is not a store of latents")
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file", "is a file")
    Store(tmp_path / "f", "features", ("a.tar",), (), make_record("embed", {})).publish_manifest()
    refused(tmp_path / "f", "is not a store of latents")
    Store(
        tmp_path / "g", "latents", ("a.tar",), (), make_record("encode", {"network": {"kind": "vq"}})
    ).publish_manifest()
    refused(tmp_path / "g", "does not say what made the latents", "encode")


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_parts_that_are_missing_damaged_or_of_other_shapes(kind: str, tmp_path: Path) -> None:
    store = make_latents(tmp_path, kind)
    path = store.path("c.tar")
    whole, part = path.read_bytes(), load_file(path)
    latent, sums = ("codes" if kind == "vq" else "logvar"), SUMS[kind]
    path.unlink()
    refused(tmp_path, "lacks the files of 1 of 3 shards (c.tar)")
    path.write_bytes(whole[:-1])
    refused(tmp_path, "lacks the files of 1 of 3 shards (c.tar)")
    for changed in ({latent: part[latent][:, :1]}, {latent: part[latent].astype(np.float32)}, {sums: part[sums][:2]}):
        store.publish_part("c.tar", {**part, **changed}, "digest of c.tar", 4, [])
        refused(tmp_path, "c.safetensors", f"its tensor {next(iter(changed))!r} is ", "remove the file")
    store.publish_part("c.tar", {name: part[name] for name in part if name != "valid"}, "digest of c.tar", 4, [])
    refused(tmp_path, "its tensor 'valid' is missing")
    store.publish_part("c.tar", {**part, sums: part[sums] * 0 + (1 if kind == "vq" else np.nan)}, "digest", 4, [])
    refused(tmp_path, "the sums in its files do not match its 7 samples")
    path.write_bytes(whole)
    assert len(open_latents(tmp_path)) == 7


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (3_000_000_000, ("sample 5 has the label 3,000,000,000, of 4 different labels", "number the labels from 0")),
        (MOST_CLASSES, ("sample 5 has the label 131,072",)),
        (-2, ("sample 5 has the label -2", "-1 (none)")),
    ],
)
def test_labels_that_no_table_could_hold(label: int, words: tuple[str, ...], tmp_path: Path) -> None:
    store = make_latents(tmp_path, "vq")
    part = load_file(store.path("c.tar"))
    part["label"] = np.array([1, 0, label, 1])
    store.publish_part("c.tar", part, "digest of c.tar", 4, [])
    refused(tmp_path, *words)
    dprune("train-dit", tmp_path, "--arch", "nano/1", "-o", tmp_path / "run").fails(3, *words)
    assert words[0] in dprune("info", tmp_path).fails(3).err.replace("\n", " ")
    part["label"][2] = MOST_CLASSES - 1
    store.publish_part("c.tar", part, "digest of c.tar", 4, [])
    assert open_latents(tmp_path).classes == MOST_CLASSES


def test_a_codebook_that_is_missing_damaged_or_of_another_store(tmp_path: Path) -> None:
    store = make_latents(tmp_path / "vq", "vq")
    path = tmp_path / "vq" / CODEBOOK_FILE
    whole = path.read_bytes()
    path.unlink()
    refused(tmp_path / "vq", "codebook.safetensors: no such file")
    path.write_bytes(whole[:-3])
    refused(tmp_path / "vq", "is not a whole safetensors file")
    store.publish_beside(CODEBOOK_FILE, {"codebook": np.zeros((5, 2), dtype=np.float32)})
    refused(tmp_path / "vq", "holds no codebook of float32 [5, 3]", "remove the file")
    save_file({"codebook": load_file(path)["codebook"]}, path)
    refused(tmp_path / "vq", "was made with other options")


def test_a_store_without_any_image(tmp_path: Path) -> None:
    store = make_latents(tmp_path, "vq")
    for shard, count in COUNTS.items():
        part = load_file(store.path(shard))
        part["valid"][:] = False
        store.publish_part(shard, {**part, "code_counts": part["code_counts"] * 0}, "digest", count, [])
    refused(tmp_path, "holds no image that could be decoded")


def test_manifests_of_people_who_mean_ill(tmp_path: Path) -> None:
    make_latents(tmp_path, "vq")
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    for network in ({"kind": "vq", "channels": "3"}, {"kind": "gan"}, [], None):
        manifest["provenance"]["options"]["network"] = network
        publish_json(path, manifest)
        refused(tmp_path, "does not say what made the latents")
