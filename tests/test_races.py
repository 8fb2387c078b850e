"""Two identical commands at once on one output, killed and not: the same bytes as one, or the sentence of a claim."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import dprune, sample, warm_python, write_tar

from dprune.formats.claims import claim_in, claimed
from dprune.runtime import Ranks, Silent

ROUNDS = int(os.environ.get("DPRUNE_TEST_ROUNDS", "1"))
"""Of each command, with kills and without; what the table was tried with is 12."""
VAE = ("--preset", "tiny", "--image-size", 16, "--width", 8, "--codes", 16, "--workers", 0)
SMALL = ("--batch-size", 4, "--device", "cpu", "--log-every", 1, "--steps", 2)

COMMANDS = {
    "pack": ("pack", "{in}/shards", "--shard-size", 3, "--workers", 0, "-o", "{out}/p"),
    "embed": ("embed", "{in}/shards", "--model", "pixels", "--image-size", 4, "--workers", 0, "-o", "{out}/f"),
    "encode": ("encode", "{in}/shards", "--vae", "{in}/vae/model.safetensors", "--workers", 0, "-o", "{out}/l"),
    "cluster": ("cluster", "{in}/f", "-k", 3, "-o", "{out}/c.safetensors"),
    "sweep": ("cluster", "{in}/f", "--sweep", "2:3:1", "-o", "{out}/sweep"),
    "distance": ("score", "cluster-distance", "{in}/c.safetensors", "-o", "{out}/d.npy"),
    "el2n": ("score", "el2n", "{in}/l", "--model", "{in}/dit/model.safetensors", "--draws", 4, "-o", "{out}/e.npy"),
    "select": ("select", "{in}/d.npy", "--keep", 5, "-o", "{out}/k.npy"),
    "train-vae": ("train-vae", "{in}/shards", *VAE, *SMALL, "-o", "{out}/vae"),
    "train-dit": ("train-dit", "{in}/l", "--arch", "nano/2", *SMALL, "-o", "{out}/dit"),
    "sample": (
        "sample", "{in}/dit/model.safetensors", "--vae", "{in}/vae/model.safetensors", "--seeds", "0-8",
        "--steps", 2, "--shard-size", 3, "--device", "cpu", "-o", "{out}/s",
    ),
    "eval": ("eval", "{in}/shards", "{in}/shards", "--model", "pixels", "--metrics", "fid", "-o", "{out}/m.json"),
    "memorization": ("memorization", "{in}/f", "{in}/f", "--pairs", "{out}/pairs.png", "-o", "{out}/mem.json"),
    "report": ("report", "{in}/m.json", "-o", "{out}/report"),
}  # fmt: skip
SHORT = ("pack", "embed", "sample", "eval", "select", "el2n")


def command(name: str, inputs: Path, output: Path) -> list[str]:
    return [str(part).replace("{in}", str(inputs)).replace("{out}", str(output)) for part in COMMANDS[name]]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too; logs tell the time that steps took."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "log.jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each command reads, made by the others."""
    folder = tmp_path_factory.mktemp("inputs")
    for number in range(3):
        members = [part for row in range(4) for part in sample(f"{number}{row}", 4 * number + row, row % 2)]
        write_tar(folder / "shards" / f"{number:06d}.tar", members)
    for name in ("embed", "cluster", "distance", "train-vae", "encode", "train-dit", "eval"):
        dprune(*command(name, folder, folder)).ok()
    return folder


def raced(words: list[str], rng: random.Random, tasks: Sequence[dict[str, str]], *, kill: bool) -> None:
    """Run a command twice at once, in two environments; with `kill`, either may die at any moment."""
    both = []
    for task in tasks:
        begin = [warm_python(), "-m", "dprune", *words]
        both.append(subprocess.Popen(begin, stderr=subprocess.PIPE, text=True, env={**os.environ, **task}))
        time.sleep(rng.choice((0, 0, rng.random() * 0.1)))
    victims = [process for process in both if kill and rng.random() < 0.7]
    if victims:
        time.sleep(rng.random() * rng.choice((0.1, 0.5, 1.5)))
    for process in victims:
        process.kill()
    for process in both:
        _, err = process.communicate(timeout=60)
        if process not in victims:
            said = process.returncode == 1 and "another process is making it" in err
            assert process.returncode == 0 or (said and tasks[0] == tasks[1]), err


def check(
    name: str, inputs: Path, tmp_path: Path, tasks: Sequence[dict[str, str]], again: Sequence[dict[str, str]] = ()
) -> None:
    """Race a command, run it once more as each of the tasks or of `again`, and hold what it leaves to one alone."""
    rng = random.Random(f"races {name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPRUNE_CACHE", str(tmp_path / "whole.cache"))
        dprune(*command(name, inputs, tmp_path / "whole")).ok()
        patch.setenv("DPRUNE_CACHE", str(tmp_path / "raced.cache"))
        words = command(name, inputs, tmp_path / "raced")
        for kill in (False, True) * ROUNDS:
            raced(words, rng, tasks, kill=kill)
            for task in again or tasks:
                for variable, value in task.items():
                    patch.setenv(variable, value)
                dprune(*words).ok()
            for what in ("", ".cache/features"):
                assert tree(tmp_path / f"raced{what}") == tree(tmp_path / f"whole{what}")
            left = [path.name for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".progress"))]
            # That of an index waits for the next process that indexes anything.
            assert [name for name in left if ".index." not in name] == []
            for place in ("raced", "raced.cache"):
                shutil.rmtree(tmp_path / place, ignore_errors=True)
            for variable in tasks[0]:
                patch.delenv(variable)


def test_the_second_waits_for_the_first_and_finds_its_work(shards: Path, tmp_path: Path) -> None:
    pixels = ("embed", shards, "--model", "pixels", "--image-size", 4, "--workers", 0, "-o")
    dprune(*pixels, tmp_path / "first").ok()
    words = [warm_python(), "-m", "dprune", *map(str, pixels), str(tmp_path / "out")]
    with claimed(claim_in(tmp_path / "out", Ranks()), "out", Silent()):
        second = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert second.stderr is not None
        assert "another process is making" in second.stderr.readline()
        shutil.copytree(tmp_path / "first", tmp_path / "out", dirs_exist_ok=True)
    assert "up to date" in second.communicate(timeout=60)[1]
    assert second.returncode == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "first")


def test_the_second_says_that_the_first_is_at_work(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dprune.formats.claims.PATIENCE_S", 0.1)
    words = ("pack", shards, "--workers", 0, "-o", tmp_path / "out")
    with claimed(claim_in(tmp_path / "out", Ranks()), "out", Silent()):
        dprune(*words).fails(1, f"{tmp_path / 'out'}: another process is making it: wait for it to end")
        with monkeypatch.context() as patch:
            patch.setattr("dprune.console.TerminalMonitor.stop_requested", lambda self: True)
            dprune(*words).fails(75)
    dprune(*words).ok()
    assert sorted(tree(tmp_path / "out")) == ["000000.tar", "manifest.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS if ROUNDS > 1 else SHORT)
def test_two_identical_commands_at_once(name: str, inputs: Path, tmp_path: Path) -> None:
    check(name, inputs, tmp_path, [{}, {}])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embed", "encode", "sample", "el2n"] if ROUNDS > 1 else ["sample", "el2n"])
def test_two_tasks_of_one_command_at_once(name: str, inputs: Path, tmp_path: Path) -> None:
    check(name, inputs, tmp_path, [{"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embed", "encode", "sample", "el2n"])
def test_two_tasks_of_an_array_at_once(name: str, inputs: Path, tmp_path: Path) -> None:
    """Killed or not, they leave what a third completes by itself, whatever its number."""
    tasks = [{"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "2"} for number in ("3", "4")]
    check(name, inputs, tmp_path, tasks, again=[{"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1"}])
