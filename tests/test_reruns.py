"""What a command says and does when it is run again on what it has made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import dprune, sample, write_tar
from test_pipeline import shell

from dprune.formats.publish import publish_bytes

LONG_AGO = 1_000_000_000
NANO = ("--arch", "nano/2", "--batch-size", 8, "--micro-batch", 8, "--device", "cpu", "--log-every", 2)
DRAWS = ("--draws", 4, "--device", "cpu")
CHAIN: dict[str, tuple[object, ...]] = {
    "packed": ("pack", "raw", "--shard-size", 10, "--workers", 0),
    "features": ("embed", "packed", "--model", "pixels", "--image-size", 8),
    "clusters.safetensors": ("cluster", "features", "-k", 3),
    "sweep": ("cluster", "features", "--sweep", "2:6:2"),
    "random.npy": ("score", "random", "features"),
    "distance.npy": ("score", "cluster-distance", "clusters.safetensors"),
    "keep.npy": ("select", "distance.npy", "--clusters", "clusters.safetensors", "--keep", "50%"),
    "joined.txt": ("select", "distance.npy", "--keep", "4", "--or", "keep.npy", "--format", "keys",
                   "--shards", "packed"),
    "pruned": ("pack", "packed", "--subset", "keep.npy", "--workers", 0),
    "vae": ("train-vae", "packed", "--image-size", 16, "--width", 8, "--codes", 16, "--perceptual", "none", "--steps",
            2, "--batch-size", 4, "--micro-batch", 4, "--device", "cpu", "--workers", 0),
    "latents": ("encode", "packed", "--vae", "vae/model.safetensors", "--device", "cpu", "--workers", 0),
    "dit": ("train-dit", "latents", *NANO, "--steps", 4, "--save-every", 2),
    "el2n.npy": ("score", "el2n", "latents", "--model", "dit/model.safetensors", *DRAWS),
    "grand.npy": ("score", "grand", "latents", "--model", "dit/model.safetensors", "--el2n", "both.npy", *DRAWS),
    "monotonicity.npy": ("score", "monotonicity", "latents", "dit", *DRAWS),
    "moso.npy": ("score", "moso", "latents", "dit", *DRAWS),
    "generated": ("sample", "dit/model.safetensors", "--vae", "vae/model.safetensors", "--seeds", "0-5", "--steps", 1,
                  "--device", "cpu", "--grid", "grid.png"),
    "drawn": ("embed", "generated", "--model", "pixels", "--image-size", 8),
    "metrics.json": ("eval", "drawn", "features", "--k", 2, "--density-k", 2),
    "again.json": ("eval", "drawn", "features", "--metrics", "fid", "--against", "metrics.json"),
    "memorization.json": ("memorization", "drawn", "features", "--pairs", "pairs.npy"),
    "report": ("report", "metrics.json", "memorization.json"),
}  # fmt: skip
OF_THE_RUN = {
    "shards_made": 0,
    "device": None,
    "sampling_img_per_s": None,
    "decoding_and_png_img_per_s": None,
}
"""What only a run can tell, and what is said of it when there was nothing to do."""


class Runs(NamedTuple):
    """The summaries of a command's first run and second, and the files that the second found."""

    first: dict[str, Any]
    second: dict[str, Any]
    before: dict[Path, bytes]
    times: dict[Path, float]


def contents(path: Path) -> dict[Path, bytes]:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {each: each.read_bytes() for each in files}


def run_twice(name: str) -> Runs:
    command = (*CHAIN[name], "-o", name, "--json")
    first = json.loads(dprune(*command).ok().out)
    before = contents(Path(name))
    for path in (*before, Path(name)):
        os.utime(path, (LONG_AGO, LONG_AGO))
    result = dprune(*command).ok()
    assert "is up to date" in result.err
    return Runs(first, json.loads(result.out), before, {path: path.stat().st_mtime for path in (Path(name), *before)})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Runs]]:
    folder = tmp_path_factory.mktemp("chain")
    members = [part for row in range(24) for part in sample(f"s{row:03d}", row, row % 3)]
    write_tar(folder / "raw" / "000000.tar", members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPRUNE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield {name: run_twice(name) for name in CHAIN}
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", CHAIN)
def test_a_rerun_sums_up_what_the_first_run_did(runs: dict[str, Runs], name: str) -> None:
    first, second, *_ = runs[name]
    assert (first.pop("up_to_date"), second.pop("up_to_date")) == (False, True)
    assert list(first) == list(second)
    assert {**first, **{key: value for key, value in OF_THE_RUN.items() if key in first}} == second


@pytest.mark.parametrize("name", CHAIN)
def test_a_rerun_changes_nothing_but_times(runs: dict[str, Runs], name: str) -> None:
    assert contents(Path(name)) == runs[name].before
    path = Path(name)
    looked_at = [path] if path.is_file() else [path, path / "manifest.json"]
    looked_at += [path / inside for inside in ("model.safetensors", "report.html") if (path / inside).exists()]
    assert all(runs[name].times[each] > LONG_AGO for each in looked_at)


def test_a_table_of_a_sweep_that_is_damaged_is_named(runs: dict[str, Runs]) -> None:
    table = Path("sweep/sweep.csv")
    whole = table.read_bytes()
    publish_bytes(table, b"k,inertia\n2,few\n")
    dprune(*CHAIN["sweep"], "-o", "sweep", "--json").fails(3, "sweep.csv", "remove it")
    publish_bytes(table, whole)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_is_satisfied_by_what_is_up_to_date(tmp_path: Path) -> None:
    """It runs a rule again whose input is newer, and after that no more."""
    write_tar(tmp_path / "shards" / "000000.tar", [part for row in range(6) for part in sample(f"s{row}", row)])
    (tmp_path / "Makefile").write_text(
        "features/manifest.json: shards\n\tdprune embed shards --model pixels --image-size 4 -o features\n"
        "random.npy: features/manifest.json\n\tdprune score random features -o random.npy\n"
    )
    shell("make random.npy", tmp_path)
    for path in (tmp_path / "random.npy", tmp_path / "features/manifest.json"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    again = shell("make random.npy", tmp_path)
    assert again.stderr.count("is up to date") == 2
    third: subprocess.CompletedProcess[str] = shell("make random.npy", tmp_path)
    assert "dprune" not in third.stdout
    assert "'random.npy' is up to date" in third.stdout
