"""Hostile command lines and files, each wherever one is taken: a result or one sentence, no traceback, no hang."""

from __future__ import annotations

import os
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import Result, dprune, ends_within, sample, write_tar
from hostile import FILES
from stores import latent_store
from studies import Run, write_metrics
from test_cli import subcommands
from test_sample import make_dit, make_vae

from dprune.formats import remote

SECONDS = 20
"""For all that one test gives one command, which may import torch in that time."""

Sound = dict[str, str]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """Files that every command takes, by the names that command lines below call them by."""
    folder = tmp_path_factory.mktemp("sound")
    write_tar(folder / "shards" / "0.tar", [part for i in range(6) for part in sample(f"s{i}", i, i % 3)])
    draw = np.random.default_rng(0)
    for name, values in {
        "features": draw.normal(size=(12, 3)).astype(np.float32), "scores": draw.normal(size=12).astype(np.float32),
        "keep": np.arange(0, 12, 2), "groups": np.arange(12) % 3, "all": np.arange(33, dtype=np.float32) / 33,
    }.items():  # fmt: skip
        np.save(folder / f"{name}.npy", values)
    vae = make_vae(folder / "vae.safetensors")
    make_dit(folder / "dit.safetensors", vae)
    latent_store(folder / "latents")
    write_metrics(folder / "metrics.json", Run())
    files = {path.stem: str(path) for path in folder.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPRUNE_CACHE", str(folder / "cache"))
        dprune("cluster", files["features"], "-k", 2, "-o", folder / "clusters.safetensors").ok()
    return files | {"clusters": str(folder / "clusters.safetensors")}


def misdeed(result: Result, *words: object) -> str:
    """Say what is wrong with how a command ended, if people were not told in one sentence what to do."""
    errors = [line for line in result.err.splitlines() if "error: " in line.lower()]
    fine = result.code in (0, 2, 3) and len(errors) == (result.code != 0) and "Traceback" not in result.err
    return "" if fine else f"{words}: exit {result.code}: {result.err[-400:]}"


# Command lines.

VALUES = ["", " ", "-", "--", "0", "-1", "nan", "inf", "1e309", "1e-400", "0x10", "٣", "9" * 30, "9" * 5000,
          "-" + "9" * 30, str(1 << 63), "1:999999999999:1", "0-99999999999999", "1/0", "1.e999999999", "1,,2", ",",
          "@", "@/dev/zero", "/dev/null", ".", "{0..999999999}", "{" * 99, "[" * 9999, "\x1b[31m", "\udcff",
          "x" * 100_000, "pipe:true", "://", "s3://", "hf://", "memory://x", "cuda:99", "timm:none", "a=",
          "=b"]  # fmt: skip

LINES = {
    ("pack",): "{shards}",
    ("embed",): "{shards} --model pixels",
    ("cluster",): "{features}",
    ("score", "cluster-distance"): "{clusters}",
    ("score", "random"): "{features}",
    ("score", "k-center"): "{features}",
    ("score", "herding"): "{features}",
    ("score", "duplicates"): "{features}",
    ("score", "el2n"): "{latents} --model {dit}",
    ("score", "grand"): "{latents} --model {dit}",
    ("score", "monotonicity"): "{latents} {latents}",
    ("score", "moso"): "{latents} {latents} {latents}",
    ("score", "influence"): "{latents} --model {dit} --target {keep}",
    ("select",): "{scores} --keep 2",
    ("train-vae",): "{shards} --preset tiny",
    ("encode",): "{shards} --vae {vae}",
    ("train-dit",): "{latents} --arch nano/2",
    ("train-baseline",): "gan {shards} --preset tiny --unconditional",
    ("sample",): "{dit} --vae {vae} --seeds 0",
    ("eval",): "{features} {features}",
    ("memorization",): "{features} {features}",
    ("report",): "{metrics}",
    ("info",): "{keep}",
    ("status",): "{features} --array",
    ("help",): "score moso",
    ("completion",): "bash",
}


def line(text: str, sound: Sound) -> list[str]:
    return [word.format(**sound) for word in text.split()]


@pytest.mark.parametrize("path", [path for path, command in subcommands() if not isinstance(command, click.Group)],
                         ids=" ".join)  # fmt: skip
def test_any_value_of_any_option(
    path: tuple[str, ...], sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = dict(subcommands())[path]
    words = line(LINES[path], sound)
    found = []
    taking = [p for p in command.params if isinstance(p, click.Option) and not p.is_flag and not p.count]
    for number, option in enumerate(taking):
        # A fifth of them each, or it would take minutes.
        for value in VALUES[number % 5 :: 5]:
            own = ["--dry-run", *(["-o", "out"] if option.name != "output" else [])]
            own = [] if path in (("info",), ("status",)) else own
            with ends_within(SECONDS):
                result = dprune(*path, *words, max(option.opts, key=len), value, *own)
                found.append(misdeed(result, option.opts, value[:40]))
    assert not "\n".join(filter(None, found))


TAKERS = {
    "pack": "pack FILE --size 8 --workers 0",
    "pack keys": "pack {shards} --subset FILE --workers 0",
    "embed": "embed FILE --model pixels --image-size 4 --workers 0",
    "weights": "embed {shards} --model timm:resnet10t --weights FILE --workers 0",
    "cluster": "cluster FILE -k 2",
    "init": "cluster {features} --init FILE",
    "distance": "score cluster-distance FILE",
    "random": "score random FILE",
    "order": "score k-center FILE",
    "order in clusters": "score herding {features} --clusters FILE",
    "scored": "score el2n {latents} --model FILE",
    "latents": "score el2n FILE --model {dit}",
    "select": "select FILE --keep 2",
    "within": "select {scores} --keep 2 --within FILE",
    "of clusters": "select {scores} --keep 2 --clusters FILE",
    "groups": "select {scores} --keep 2 --groups FILE",
    "only": "select {scores} --keep 2 --groups {groups} --only @FILE",
    "vae": "encode {shards} --vae FILE --workers 0",
    "images": "encode FILE --vae {vae} --workers 0",
    "train": "train-dit FILE --arch nano/2 --dry-run",
    "subset": "train-dit {latents} --arch nano/2 --subset FILE --dry-run",
    "begin": "train-dit {latents} --arch nano/2 --init FILE --dry-run",
    "drawn": "train-dit {latents} --arch nano/2 --weights FILE --dry-run",
    "train images": "train-baseline gan FILE --preset tiny --dry-run",
    "sample": "sample FILE --vae {vae} --seeds 0 --dry-run",
    "decoder": "sample {dit} --vae FILE --seeds 0 --dry-run",
    "generated": "eval FILE {features}",
    "reference": "eval {features} FILE",
    "copies": "memorization FILE {features}",
    "report": "report FILE",
    "list": "embed @FILE --model pixels",
    "info": "info FILE",
    "status": "status FILE",
}


@pytest.mark.parametrize("taker", TAKERS)
def test_any_text_for_a_file(taker: str, sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "PAUSES_S", ())
    found = []
    for number, value in enumerate(VALUES):
        words = [word.replace("FILE", value) for word in line(TAKERS[taker], sound)]
        output = [] if taker in ("info", "status") else ["-o", f"of {number}"]
        with ends_within(SECONDS):
            found.append(misdeed(dprune(*words, *output), taker, value[:40]))
    assert not "\n".join(filter(None, found))


# Files.


@pytest.mark.parametrize("taker", TAKERS)
def test_any_file_anywhere(taker: str, sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    found = []
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    for name in (*FILES, "fifo", "folder", "/dev/null", "/dev/zero", "missing"):
        if taker == "weights" and not name.startswith(("tensors", "pickle", "zip", "fifo", "/dev", "empty")):
            # All others are alike to torch, which is slow to say so.
            continue
        words = [word.replace("FILE", name) for word in line(TAKERS[taker], sound)]
        output = [] if taker in ("info", "status") else ["-o", f"of {name.replace('/', ' ')}"]
        with ends_within(SECONDS):
            found.append(misdeed(dprune(*words, *output), taker, name))
    assert not "\n".join(filter(None, found))
    assert not Path("/tmp/owned.png").exists()
