"""What a command says that was given what another one is for."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune, sample, write_tar
from stores import generated_features, latent_store
from test_cli import subcommands

from dprune.formats.arrays import write_array
from dprune.formats.clusters import Clusters
from dprune.formats.provenance import make_record, parent_record
from dprune.formats.publish import publish_json
from dprune.shell.next_steps import LEGS, NAMES, TAKES, TAKES_OF


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of each kind of file, in the folder where commands run."""
    for name, content in sample("a", 1):
        (tmp_path / "flat").mkdir()
        (tmp_path / "by class" / "cat").mkdir(parents=True)
        (tmp_path / "flat" / name).write_bytes(content)
        (tmp_path / "by class" / "cat" / name).write_bytes(content)
    write_tar(tmp_path / "shards" / "000000.tar", [part for row in range(4) for part in sample(f"s{row}", row)])
    generated_features(tmp_path / "features", np.random.default_rng(0).normal(size=(9, 3)))
    latent_store(tmp_path / "latents")
    some = np.zeros(4, dtype=np.int32)
    Clusters(np.zeros((1, 2), np.float32), some, some.astype(np.float32), some.astype(np.float32),
             np.array([4])).write(tmp_path / "clusters.safetensors")  # fmt: skip
    write_array(tmp_path / "scores.npy", np.arange(4, dtype=np.float32), make_record("score random", {}))
    for command in ("train-vae", "train-dit", "train-baseline gan"):
        record = make_record(command, {"steps": 3})
        publish_json(tmp_path / command.split()[0] / "manifest.json", {"kind": "run", "provenance": record})
    encoded = make_record("encode", {"network": {"kind": "pixels"}})
    record = make_record("train-dit", {"steps": 3}, parents={"latents": parent_record(encoded, "cafe")})
    publish_json(tmp_path / "on-pixels" / "manifest.json", {"kind": "run", "provenance": record})
    (tmp_path / "package" / "img" / "twitter" / "64").mkdir(parents=True)
    (tmp_path / "package" / "img" / "twitter" / "64" / "a.png").write_bytes(b"")
    (tmp_path / "results" / "one").mkdir(parents=True)
    (tmp_path / "results" / "one" / "metrics.json").write_text("{}")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.png", b"")
    np.savez(tmp_path / "arrays.npz", mu=np.zeros(3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


PACK = "dprune pack {} -o shards"
EMBED = "dprune embed {} -o features"
CLUSTER = "dprune cluster {} -o clusters.safetensors"
DISTANCE = "dprune score cluster-distance {} -o scores.npy"
ENCODE = "dprune encode {} --vae vae -o latents"


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("embed flat", f"run {PACK.format('flat')}, and give shards"),
        ("embed 'by class'", f"run {PACK.format(chr(39) + 'by class' + chr(39))}, and give shards"),
        (
            "embed images.zip",
            f"is an archive of images, and dprune embed takes a folder of shards: run "
            f"{PACK.format('images.zip')}, and give shards",
        ),
        ("embed package", f"run {PACK.format('package')}, and give shards"),
        ("train-vae flat", f"run {PACK.format('flat')}, and give shards"),
        ("cluster flat", f"run {PACK.format('flat')}, then {EMBED.format('shards')}, and give features"),
        ("cluster shards", f"run {EMBED.format('shards')}, and give features"),
        ("cluster latents", "dprune embed SHARDS -o features makes one"),
        ("pack features", "dprune pack takes images, shards or tables of images: give one of these"),
        ("embed features", "dprune pack IMAGES -o shards makes one"),
        ("train-dit shards", f"run {ENCODE.format('shards')}, and give latents"),
        ("train-dit features", f"{ENCODE.format('SHARDS')} makes one"),
        ("score el2n shards --model train-dit", f"run {ENCODE.format('shards')}, and give latents"),
        ("score moso shards train-dit", f"run {ENCODE.format('shards')}, and give latents"),
        ("score cluster-distance features", f"run {CLUSTER.format('features')}, and give clusters.safetensors"),
        (
            "score random train-dit",
            "run dprune sample train-dit --vae vae --seeds 0-9999 -o generated, and give generated",
        ),
        ("select clusters.safetensors --keep 2", f"run {DISTANCE.format('clusters.safetensors')}, and give scores.npy"),
        ("select scores.npy --clusters features --keep 2", "--clusters takes a file of clusters: run dprune cluster"),
        ("train-dit latents --subset clusters.safetensors", "--subset takes a subset: run dprune score"),
        ("encode shards --vae train-dit", "--vae takes an autoencoder: dprune train-vae SHARDS -o vae makes one"),
        (
            "sample train-vae --vae train-vae --seeds 0",
            "dprune sample takes a DiT: dprune train-dit LATENTS -o dit makes one",
        ),
        ("sample train-dit --vae train-vae --seeds 0", "a folder without model.safetensors, which a training writes"),
        ("eval latents features", "is a latent store, and dprune eval takes images, shards or their features"),
        (
            "memorization train-dit features",
            "run dprune sample train-dit --vae vae --seeds 0-9999 -o generated, and give generated",
        ),
        ("embed on-pixels", "run dprune sample on-pixels --seeds 0-9999 -o generated, and give generated"),
        ("embed train-baseline", "run dprune sample train-baseline --seeds 0-9999 -o generated, and give generated"),
        (
            "score moso latents train-baseline",
            "is the run of a baseline's training, and dprune score moso takes the run",
        ),
        ("report features", "run dprune eval features REFERENCE -o metrics.json, and give metrics.json"),
        ("report results", "give results/*/metrics.json"),
    ],
)
def test_what_is_to_be_run_first_is_told(place: Path, command: str, remedy: str) -> None:
    dprune(*shlex.split(command), "-o", "out").fails(3, remedy)
    assert not (place / "out").exists()


def test_results_beside_stores_are_named_without_the_manifests_of_these(place: Path) -> None:
    (place / "features").rename(place / "results" / "features")
    (place / "results" / "one" / "memorization.json").write_text("{}")
    dprune("report", "results", "-o", "out").fails(3, "give results/*/memorization.json results/*/metrics.json.")


@pytest.mark.parametrize("folder", ["study", "study/one"])
def test_a_folder_of_runs_with_a_picture_is_not_one_of_images(place: Path, folder: str) -> None:
    (place / folder).mkdir(parents=True)
    (place / "train-dit").rename(place / folder / "dit")
    (place / folder / "grid.png").write_bytes(b"")
    failed = dprune("sample", "study", "--vae", "train-vae", "--seeds", 0, "-o", "out").fails(3, "study")
    assert "pack" not in failed.err


def test_what_is_wrong_with_the_right_kind_is_told_as_ever(place: Path) -> None:
    (place / "shards" / "000000.tar").write_bytes(b"no tar")
    dprune("embed", "shards", "--model", "pixels", "--image-size", 4, "-o", "out").fails(3, "000000.tar")
    dprune("cluster", "nothing", "-o", "out").fails(3, "nothing: no such file or folder")
    dprune("cluster", "scores.npy", "-o", "out").fails(3, "features are floats of shape [n, d]")
    (place / "cut.npy").write_bytes((place / "scores.npy").read_bytes()[:130])
    for command in (["cluster", "cut.npy"], ["eval", "cut.npy", "features"], ["select", "cut.npy", "--keep", 2]):
        failed = dprune(*command, "-o", "out").fails(3, "cut.npy")
        assert "is an array, and" not in failed.err
    for path in ("arrays.npz", "results/one/metrics.json"):
        dprune("score", "random", path, "-o", "out").fails(3, "does not say what samples there are")


def test_the_table_speaks_of_kinds_and_commands_that_there_are() -> None:
    kinds = {*TAKES.values(), *(kind for takes in TAKES_OF.values() for kind in takes.values())}
    assert {*kinds, *(step.takes for step in LEGS), *(step.makes for step in LEGS)} <= NAMES.keys()
    named = {" ".join(path): {param.name for param in command.params} for path, command in subcommands()}
    assert all(takes.keys() <= named[command] for command, takes in TAKES_OF.items())
    assert TAKES.keys() <= set().union(*named.values())
    for step in LEGS:
        words = step.command.split()
        assert words[0] in named or " ".join(words[:2]) in named
