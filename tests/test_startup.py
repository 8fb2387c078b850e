"""What commands do without torch, whose import takes a second: reruns, plans, refusals, and small clusterings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dprune, sample, write_tar

from dprune.clustering import single
from dprune.formats.clusters import read_clusters

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="torch tells whether a GPU can be used")

# Runs commands one after the other in one process, and stops at the first that imports torch.
RUN_ALL = """
import json, sys
from dprune.cli import cli
for command in json.load(sys.stdin):
    try:
        cli(command, prog_name="dprune")
    except SystemExit as end:
        print("ENDED", end.code, *command, flush=True)
    assert not {"torch", "torchvision", "timm", "open_clip", "sklearn"} & sys.modules.keys(), command
"""


def run_all(commands: Sequence[Sequence[object]], folder: Path) -> list[int]:
    """Run commands without torch, and return their exit codes."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", RUN_ALL], input=words, cwd=folder, env={**os.environ}, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    ended = [line.split() for line in done.stdout.splitlines() if line.startswith("ENDED")]
    assert [line[2:] for line in ended] == json.loads(words), done.stderr
    return [int(line[1]) for line in ended]


@pytest.fixture
def made(tmp_path: Path) -> dict[str, list[object]]:
    """Commands by what they made in the folder: every stage from images to a report, of twelve of them."""
    write_tar(tmp_path / "images" / "000000.tar", [part for i in range(12) for part in sample(f"s{i}", i, i % 2)])
    pixels, tiny = ("--model", "pixels", "--image-size", 4), ("--steps", 1, "--batch-size", 2)
    commands: dict[str, list[object]] = {
        "shards": ["pack", "images"],
        "features": ["embed", "shards", *pixels],
        "clusters.safetensors": ["cluster", "features", "-k", 2],
        "distance.npy": ["score", "cluster-distance", "clusters.safetensors"],
        "keep.npy": ["select", "distance.npy", "--keep", "50%"],
        "vae": ["train-vae", "shards", "--preset", "tiny", "--image-size", 16, *tiny],
        "latents": ["encode", "shards", "--vae", "vae/model.safetensors"],
        "dit": ["train-dit", "latents", "--subset", "keep.npy", "--arch", "nano/2", *tiny],
        "el2n.npy": ["score", "el2n", "latents", "--model", "dit/model.safetensors", "--draws", 2],
        "generated": [
            "sample",
            "dit/model.safetensors",
            "--vae",
            "vae/model.safetensors",
            "--seeds",
            "0-7",
            "--steps",
            1,
        ],
        "metrics.json": ["eval", "generated", "shards", *pixels, "--metrics", "fid"],
        "memorization.json": ["memorization", "generated", "shards", *pixels, "--subset", "keep.npy"],
        "report": ["report", "metrics.json", "memorization.json"],
    }
    return {name: [*command, "-o", name] for name, command in commands.items()}


def test_reruns_plans_and_bad_inputs_need_no_torch(
    made: dict[str, list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in made.values():
        dprune(*command).ok()
    assert run_all(list(made.values()), tmp_path) == [0] * len(made)
    plans = [[*command[:-1], f"new-{name}", "--dry-run"] for name, command in made.items()]
    assert run_all(plans, tmp_path) == [0] * len(made)
    # The first input comes before all options, and after the method of a score.
    missing = [[word if word != first_input(command) else "missing" for word in command] for command in made.values()]
    assert run_all(missing, tmp_path) == [3] * len(made)


def first_input(command: Sequence[object]) -> object:
    return command[2] if command[0] == "score" else command[1]


def test_clusters_of_arrays_are_made_without_torch(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))
    pytest.importorskip("faiss")
    commands = [["cluster", "x.npy", "-k", 3, "--metric", metric, "-o", f"{metric}.safetensors"]
                for metric in ("l2", "cosine")]  # fmt: skip
    assert run_all(commands, tmp_path) == [0, 0]


def test_distances_of_arrays_are_computed_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name, samples in (("x", 90), ("y", 200), ("held", 30)):
        np.save(f"{name}.npy", draw.normal(size=(samples, 6)).astype(np.float32))
    spoilt = np.load("x.npy")
    spoilt[3] = np.nan
    np.save("spoilt.npy", spoilt)
    fid = ["--metrics", "fid", "-o"]
    commands: list[list[object]] = [
        ["eval", "x.npy", "y.npy", "--save-stats", "stats.safetensors", *fid, "plain.json"],
        ["eval", "x.npy", "stats.safetensors", "-o", "stats.json"],
        ["eval", "spoilt.npy", "y.npy", "--fid-infinity", "--held-out", "held.npy", *fid, "more.json"],
        ["eval", "held.npy", "y.npy", "--jackknife", 0, "--device", "cpu", *fid, "few.json"],
    ]
    assert run_all(commands, tmp_path) == [0] * len(commands)
    plain, stats = (json.loads(Path(name).read_text())["metrics"] for name in ("plain.json", "stats.json"))
    assert stats["frechet_distance"] == pytest.approx(plain["frechet_distance"], rel=1e-9)
    dprune("eval", "x.npy", "y.npy", "--metrics", "fid,kid", "-o", "torch.json").ok()
    by_torch = json.loads(Path("torch.json").read_text())["metrics"]
    known = {key: number for key, number in plain.items() if number is not None}
    assert len(known) > 3
    assert known == pytest.approx({key: by_torch[key] for key in known}, rel=1e-9)


def test_large_clusterings_go_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    x, places = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32), []
    np.save(tmp_path / "x.npy", x)
    loaded = single.load_points
    monkeypatch.setattr(single, "load_points", lambda *args: (places.append(args[2]), loaded(*args))[1])
    for name in ("small", "large"):
        dprune("cluster", tmp_path / "x.npy", "-k", 5, "-o", tmp_path / name, "--seed", 3).ok()
        monkeypatch.setattr(single, "WORTH_TORCH", x.size * 5 - 1)
    assert places == ["cpu", torch.device("cpu")]
    one, other = (read_clusters(str(tmp_path / name)) for name in ("small", "large"))
    assert (one.assignment == other.assignment).all()
    np.testing.assert_allclose(one.centroids, other.centroids, rtol=1e-5, atol=1e-6)
