"""Sides of a measurement: what is opened, what fits together, and which samples take part."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import dprune, sample, write_tar
from safetensors.numpy import save_file

from dprune import options
from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.arrays import Array
from dprune.formats.features import open_features
from dprune.formats.provenance import make_record
from dprune.formats.publish import publish_json
from dprune.formats.shards import open_dataset
from dprune.formats.statistics import Statistics
from dprune.measuring.making import Embedding
from dprune.measuring.side_paths import SidePath
from dprune.measuring.sides import SubsetRows, chosen_ids, describe_side, load_side
from dprune.measuring.sources import FeatureSource, check_space, open_sources
from dprune.runtime import Silent

CPU = torch.device("cpu")
PIXELS = Embedding("pixels", "inception", image_size=4)
UNSTATED = Embedding(None, "pixels")


def store(shards: Path, output: Path, *args: object) -> Path:
    dprune("embed", shards, "--model", "pixels", "--image-size", 4, "--workers", 0, *args, "-o", output).ok()
    return output


def subset(*ids: int, fingerprint: str | None = None) -> Array:
    record = make_record("select", {}, fingerprint=fingerprint) if fingerprint else None
    return Array("keep.npy", np.array(ids, dtype=np.int64), record)


def opened(embedding: Embedding, **paths: Path) -> dict[str, FeatureSource]:
    """The sides that paths name by their roles."""
    return open_sources({role: SidePath.of(str(path)) for role, path in paths.items()}, embedding)


@pytest.fixture
def array(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(12, 3)))
    return tmp_path / "x.npy"


# What a path names.


def test_shards_are_told_from_features(shards: Path, array: Path, tmp_path: Path) -> None:
    save_file({"features": np.ones((2, 2))}, tmp_path / "t.safetensors")
    (tmp_path / "bare").mkdir()
    write_tar(tmp_path / "bare" / "0.tar", sample("a", 0))
    found = {
        "folder": shards, "bare folder": tmp_path / "bare", "tar": shards / "000000.tar",
        "range": shards / "{000000..000002}.tar", "glob": shards / "*.tar",
    }  # fmt: skip
    assert {SidePath.of(str(path)).holds for path in found.values()} == {"shards"}
    others = (array, tmp_path / "t.safetensors", store(shards, tmp_path / "store"), tmp_path / "none.npy")
    assert {SidePath.of(str(path)).holds for path in others} == {"features"}


def test_statistics_and_ids_are_told_from_features(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(2), sigma=np.eye(2))
    save_file({"covariance": np.eye(2)}, tmp_path / "s.safetensors")
    np.save(tmp_path / "ids.npy", np.arange(3))
    found = {name: SidePath.of(str(tmp_path / name)).holds for name in ("s.npz", "s.safetensors", "ids.npy")}
    assert found == {"s.npz": "statistics", "s.safetensors": "statistics", "ids.npy": "ids"}
    assert SidePath.of("-") == ("-", "ids")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "no such file or folder"),
        ("none.npy", "no such file or folder"),
        ("notes.zip", "holds no images that can be read (but 1 .txt)"),
        ("bare", "holds no images that can be read"),
        ("m.json", "is text, not a .npy array"),
        ("empty", "no image that can be used"),
    ],
)
def test_what_holds_no_features_is_one_sentence(tmp_path: Path, array: Path, name: str, words: str) -> None:
    with zipfile.ZipFile(tmp_path / "notes.zip", "w") as archive:
        archive.writestr("a.txt", b"")
    (tmp_path / "bare").mkdir()
    (tmp_path / "m.json").write_text("{}")
    write_tar(tmp_path / "empty" / "0.tar", [])
    with pytest.raises(InputError) as error:
        opened(UNSTATED, generated=tmp_path / name, reference=array)
    assert words in str(error.value)
    assert name in str(error.value)


# Features that are there, and features that are made.


def test_a_source_of_features_says_what_is_known(shards: Path, array: Path, tmp_path: Path) -> None:
    folder = store(shards, tmp_path / "store")
    known = opened(UNSTATED, generated=folder)["generated"]
    assert (known.name, known.model) == (str(folder), "pixels")
    assert known.fingerprint == open_dataset([str(shards)]).fingerprint
    assert known.open(Silent()).shape == (18, 48)
    unknown = opened(UNSTATED, reference=array)["reference"]
    assert (unknown.model, unknown.fingerprint, unknown.record) == (None, None, None)
    assert unknown.parent["external"]


def test_made_features_are_described_as_those_of_embed(shards: Path, tmp_path: Path) -> None:
    made = opened(PIXELS, a=shards)["a"]
    kept = opened(UNSTATED, a=store(shards, tmp_path / "store"))["a"]
    assert made.parent == kept.parent
    assert (made.model, made.fingerprint) == (kept.model, kept.fingerprint)
    found, expected = (source.open(Silent()) for source in (made, kept))
    assert np.array_equal(found.rows(0, 18), expected.rows(0, 18))


def test_nothing_is_made_before_it_is_opened(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(logging.getLogger("dprune"), "propagate", True)
    caplog.set_level(logging.INFO, "dprune")
    source = opened(PIXELS, a=shards)["a"]
    assert not (tmp_path / "cache" / "features").exists()
    source.open(Silent())
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "features").glob("*/*.safetensors")}
    assert len(parts) == 3
    assert "shards with pixels" in caplog.text
    caplog.clear()
    opened(PIXELS, a=shards)["a"].open(Silent())
    assert caplog.text == ""
    assert all(path.stat().st_mtime_ns == time for path, time in parts.items())
    opened(Embedding("pixels", "inception", image_size=5), a=shards)["a"].open(Silent())
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2


def statistics_of(features: dict[str, Any], dimension: int = 16) -> Statistics:
    """Statistics whose provenance has this record of the features."""
    record = make_record("eval statistics", {}, parents={"features": {"digest": "d", "provenance": features}})
    return Statistics("s", 5, np.zeros(dimension), np.eye(dimension), record)


def test_shards_are_embedded_like_the_other_side(shards: Path, tmp_path: Path) -> None:
    folder = store(shards, tmp_path / "store", "--color", "grey", "--normalize", "--dtype", "float32")
    made = opened(Embedding(None, "inception"), generated=shards, reference=folder)["generated"]
    assert made.record is not None
    expected = json.loads((folder / "manifest.json").read_text())["provenance"]["options"]
    assert made.record["options"] == expected
    stated = opened(Embedding(None, "inception", precision="fp32"), generated=shards, reference=folder)["generated"]
    assert stated.record == made.record
    with pytest.raises(UsageError, match="--precision bf16: pixels takes no such option"):
        opened(Embedding(None, "inception", precision="bf16"), generated=shards, reference=folder)
    behind = statistics_of(make_record("embed", expected))
    alone = open_sources({"generated": SidePath.of(str(shards))}, Embedding(None, "inception"), [behind])["generated"]
    assert alone.record == made.record


def test_features_of_principal_components_cannot_be_made_elsewhere(shards: Path, tmp_path: Path) -> None:
    folder = store(shards, tmp_path / "store", "--pca", 3)
    with pytest.raises(MismatchError, match="without --pca"):
        opened(UNSTATED, generated=shards, reference=folder)
    other = write_tar(tmp_path / "other" / "0.tar", [part for i in range(6) for part in sample(f"{i}", 50 + i)])
    apart = store(other, tmp_path / "o", "--pca", 3)
    with pytest.raises(MismatchError, match="pca"):
        opened(UNSTATED, generated=apart, reference=folder)
    assert opened(UNSTATED, generated=folder, reference=folder)


def test_the_weights_of_the_other_side_must_be_at_hand(shards: Path) -> None:
    record = make_record("embed", {"model": "timm:resnet10t", "weights": "ab" * 32, "normalize": False,
                                   "dtype": "float16", "precision": "float32"})  # fmt: skip
    with pytest.raises(MismatchError, match="timm:resnet10t and weights of SHA-256 abababababab: give that file"):
        open_sources({"generated": SidePath.of(str(shards))}, UNSTATED, [statistics_of(record)])


def test_options_of_making_features_need_shards(array: Path) -> None:
    for stated in (PIXELS, Embedding(None, "pixels", image_size=4), Embedding(None, "pixels", color="grey"),
                   Embedding(None, "pixels", precision="bf16")):  # fmt: skip
        with pytest.raises(UsageError, match="--model and its options"):
            opened(stated, generated=array)


@pytest.mark.parametrize(
    ("key", "value"),
    [("model", "inception"), ("weights", "x"), ("image_size", 5), ("crop_pct", 0.5), ("color", "grey"),
     ("normalize", True)],
)  # fmt: skip
def test_features_of_different_spaces_are_refused(key: str, value: object) -> None:
    ours: dict[str, Any] = {"model": "pixels", "image_size": 4, "normalize": False, "precision": "float32"}
    records = {"a": make_record("embed", ours), "elsewhere": None, "b": make_record("embed", {**ours, key: value})}
    with pytest.raises(MismatchError, match=f"a and b are features of different spaces \\({key}: "):
        check_space(records)
    check_space({**records, "b": make_record("embed", {**ours, "precision": "bfloat16", "dtype": "float32"})})
    check_space({**records, "b": make_record("other", {key: value})})


# Which samples take part.


def test_ids_of_a_subset(array: Path, shards: Path, tmp_path: Path) -> None:
    features = open_features(array)
    assert chosen_ids(features, None).tolist() == list(range(12))
    assert chosen_ids(features, subset(2, 5, 11)).tolist() == [2, 5, 11]
    assert chosen_ids(features, subset(2, 5, fingerprint="any")).tolist() == [2, 5]
    with pytest.raises(InputError, match=r"keep.npy: holds the id 12, and .*x.npy has 12 samples"):
        chosen_ids(features, subset(2, 12))
    with pytest.raises(InputError, match="no ids"):
        chosen_ids(features, subset())
    known = open_features(store(shards, tmp_path / "store"))
    assert chosen_ids(known, subset(1, fingerprint=known.fingerprint)).tolist() == [1]
    with pytest.raises(MismatchError, match=r"different datasets.*ffff"):
        chosen_ids(known, subset(1, fingerprint="f" * 64))


def test_rows_of_a_subset(array: Path) -> None:
    rows = SubsetRows(open_features(array), np.array([1, 4, 7, 8]))
    assert rows.shape == (4, 3)
    assert np.array_equal(rows.rows(1, 3), np.load(array)[[4, 7]])


def test_samples_without_finite_features_are_left_out(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float16)
    x[2], x[6, 1] = np.nan, np.inf
    np.save(tmp_path / "x.npy", x)
    features = open_features(tmp_path / "x.npy")
    side = load_side(features, np.array([1, 2, 3, 6, 8]), "generated", CPU)
    assert side.ids.tolist() == [1, 3, 8]
    assert (side.dropped, side.x.dtype) == (2, torch.float32)
    assert np.array_equal(side.x.numpy(), x[[1, 3, 8]].astype(np.float32))
    with pytest.raises(InputError, match="no held-out sample has features that are numbers"):
        load_side(features, np.array([2, 6]), "held-out", CPU)


def test_float64_features_keep_their_digits(array: Path) -> None:
    side = load_side(open_features(array), np.arange(12), "generated", CPU)
    assert side.x.dtype == torch.float64
    assert np.array_equal(side.x.numpy(), np.load(array))


def test_the_description_of_a_side(shards: Path, array: Path, tmp_path: Path) -> None:
    folder = store(shards, tmp_path / "store")
    sources = opened(UNSTATED, generated=folder, reference=array)
    known, unknown = (describe_side(role, source, 7, 1, 3) for role, source in sources.items())
    assert (known["role"], known["model"], known["count"], known["dropped"]) == ("generated", "pixels", 7, 1)
    assert (unknown["role"], unknown["model"], unknown["dimension"]) == ("reference", None, 3)
    assert unknown["digest"] == sources["reference"].parent["digest"]


def test_the_options_reach_the_command_as_one() -> None:
    found: list[Embedding] = []

    @click.command()
    @options.embeds(default="dinov2-b")
    def command(embedding: Embedding) -> None:
        found.append(embedding)

    def parse(*args: str) -> Embedding:
        result = CliRunner().invoke(command, args, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return found[-1]

    plain = parse("--workers", "0")
    assert plain == Embedding(None, "dinov2-b")
    assert not plain.stated
    args = "--model pixels --image-size 8 --color grey --precision fp32 --device cpu --batch-size 3 --workers 2"
    assert parse(*args.split()) == Embedding("pixels", "dinov2-b", None, 8, None, "grey", "fp32", "cpu", 3, 2)
    assert parse("--weights", "w").stated
    assert parse().workers is None


@pytest.mark.parametrize("command", ["eval", "memorization"])
def test_sides_that_were_swapped_or_are_one_are_told(command: str, shards: Path, tmp_path: Path) -> None:
    """What is sampled from a model stands first: precision and recall would be each other's."""
    real = store(shards, tmp_path / "real")
    dprune("pack", shards, "-o", tmp_path / "images").ok()
    manifest = json.loads((tmp_path / "images" / "manifest.json").read_text()) | {
        "provenance": make_record("sample", {})
    }
    publish_json(tmp_path / "images" / "manifest.json", manifest)
    generated = store(tmp_path / "images", tmp_path / "generated")

    def said(*sides: Path) -> str:
        return dprune(command, *sides, "-o", tmp_path / "m.json", "--dry-run").ok().err

    assert "give the generated samples first" in said(real, generated)
    assert "warning" not in said(generated, real)
    for same in (real, generated):
        assert "is both sides" in said(same, same)
