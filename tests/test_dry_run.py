"""What --dry-run says: for people in a few lines, for programs as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune, sample, write_tar
from stores import latent_store

from dprune.formats.readable import size

PIXELS = ("--model", "pixels", "--image-size", 4)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where commands run, with three shards and scores."""
    for number in range(3):
        members = [part for row in range(4) for part in sample(f"s{number}{row}", row)]
        write_tar(tmp_path / "shards" / f"{number:06d}.tar", members)
    np.save(tmp_path / "scores.npy", np.arange(12, dtype=np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*args: object) -> list[str]:
    before = sorted(os.walk("."))
    lines = dprune(*args, "--dry-run").ok().out.decode().splitlines()
    assert sorted(os.walk(".")) == before
    return lines


def test_inputs_and_what_there_is_to_do_are_told(place: Path) -> None:
    total = size(sum(path.stat().st_size for path in (place / "shards").iterdir()))
    assert plan("embed", "shards", *PIXELS, "-o", "features") == [
        "would make features",
        f"  inputs   SHARDS shards (a folder of shards, {total})",
        "  work     images: 12, shards: 3",
    ]
    picture = ("--figure", "kept.png", "--shards", "shards")
    assert plan("select", "scores.npy", "--keep", "3", *picture, "-o", "keep.npy") == [
        "would make keep.npy",
        "  inputs   SCORES scores.npy (an array, 176 bytes)",
        f"           --shards shards (a folder of shards, {total})",
        "  beside   kept.png",
        "  work     kept: 3, candidates: 12",
    ]


@pytest.mark.parametrize("pattern", ["shards/*.tar", "shards/{000000..000002}.tar", "@list.txt"])
def test_inputs_that_are_named_together_are_told(place: Path, pattern: str) -> None:
    (place / "list.txt").write_text("shards\n")
    total = size(sum(path.stat().st_size for path in (place / "shards").iterdir()))
    assert plan("embed", pattern, *PIXELS, "-o", "features")[1] == f"  inputs   SHARDS {pattern} (3 files, {total})"


def test_what_is_there_already_is_told(place: Path) -> None:
    command = ("embed", "shards", *PIXELS, "-o", "features")
    dprune(*command).ok()
    assert plan(*command)[0] == "would do nothing: features is up to date"
    (place / "features" / "000001.safetensors").unlink()
    first, _, work, time = plan(*command)
    assert first.startswith("would go on with features: ")
    assert time.startswith("  time     about 00:00:0")
    assert work == "  work     images: 4, shards: 1"
    other = ("embed", "shards", "--model", "pixels", "--image-size", 2, "-o", "features")
    dprune(*other, "--dry-run").fails(3, "--overwrite")
    first, *_, work = plan(*other, "--overwrite")
    assert first == "would replace features, which was made differently: options image_size: 4, not 2"
    assert work == "  work     images: 12, shards: 3"


def test_the_record_is_added_when_asked_for(place: Path) -> None:
    command = ("score", "random", "scores.npy", "-o", "random.npy")
    short, long = plan(*command), plan(*command, "-v")
    assert long[: len(short)] == short
    record = json.loads("\n".join(long[len(short) :]))
    found = json.loads("\n".join(plan(*command, "--json")))
    assert found["provenance"] == record
    assert {name: found[name] for name in ("output", "would", "work")} == {
        "output": "random.npy",
        "would": "make",
        "work": {"samples": 12},
    }
    assert found["inputs"] == [
        {"name": "SOURCE", "path": "scores.npy", "kind": "an array", "bytes": (place / "scores.npy").stat().st_size}
    ]
    dprune(*command).ok()
    assert json.loads((place / "random.npy").read_bytes().splitlines()[-1]) == record


def test_what_goes_to_stdout_is_said_to(place: Path) -> None:
    assert plan("score", "random", "scores.npy")[0] == "would make what goes to stdout"


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (12_345_678, "12.3 MB"), (999_600, "1 MB"), (2e12, "2 TB")],
)
def test_sizes(count: int, said: str) -> None:
    assert size(int(count)) == said


def test_a_training_that_is_extended_says_from_where(place: Path) -> None:
    latent_store(place / "latents")
    command = ("train-dit", "latents", "--arch", "nano/2", "--batch-size", 4, "--device", "cpu", "-o", "run", "--steps")
    dprune(*command, 2).ok()
    assert plan(*command, 5)[0] == "would go on with run: goes on at step 2"
    assert plan(*command, 2)[0] == "would do nothing: run is up to date"
