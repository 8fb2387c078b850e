"""The scripts under examples/: each command line that they run is one of the real command line, and a study goes on."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_pipeline import shell

from dprune.cli import cli

EXAMPLES = Path(__file__).parents[1] / "examples"
STUDY, PAPER = EXAMPLES / "study" / "digits.sh", EXAMPLES / "like-the-paper.sh"
EMOJI, CHOOSING = EXAMPLES / "emoji.sh", EXAMPLES / "choosing.sh"

# Notes its arguments, and fails where they hold what is in FAIL.
STAND_IN = r"""#!/bin/sh
printf '%s\037' "$@" "
" >> "$COMMANDS"
case "$*" in *"${FAIL:-no such}"*) exit 1 ;; esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What a script needs to run a stand-in for dprune."""
    command = tmp_path / "bin" / "dprune"
    command.parent.mkdir()
    command.write_text(STAND_IN)
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "COMMANDS": str(tmp_path / "commands")}


def runs(script: Path, environment: dict[str, str], *args: object, code: int = 0) -> list[list[str]]:
    """Run a script and return the arguments of each command that it ran."""
    noted = Path(environment["COMMANDS"])
    noted.unlink(missing_ok=True)
    done = subprocess.run(["sh", script, *map(str, args)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    lines = noted.read_text().split("\037\n\037")[:-1] if noted.exists() else []
    return [line.split("\037") for line in lines]


def parse(arguments: list[str]) -> click.Context:
    """Take a command line as the real command would; one that it would refuse raises."""
    context, command = click.Context(cli, info_name="dprune"), cli
    while isinstance(command, click.Group):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        context, command = found.make_context(name, list(arguments), parent=context), found
    return context


def of(commands: list[list[str]], name: str) -> list[list[str]]:
    return [command for command in commands if command[0] == name]


def after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


@pytest.mark.parametrize("script", [EXAMPLES / "quickstart.sh", STUDY], ids=["quickstart", "study"])
def test_the_real_command_takes_every_line(script: Path, environment: dict[str, str], tmp_path: Path) -> None:
    commands = runs(script, {**environment, "KEEPS": "0.1", "SEEDS": "0"}, tmp_path / "out")
    assert len(commands) > 20
    for command in commands:
        parse(command)


def test_the_real_command_takes_every_line_of_the_emoji(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "labels.csv").touch()
    commands = runs(EMOJI, environment, tmp_path)
    (report,) = [parse(command).params for command in of(commands, "report")]
    assert (len(report["results"]), len(report["images"])) == (8, 4)
    for command in commands:
        parse(command)


def test_the_real_command_takes_every_line_of_choosing(environment: dict[str, str], tmp_path: Path) -> None:
    commands = runs(CHOOSING, environment, "features", "clusters.safetensors", tmp_path, "shards")
    # Five ways to choose that need a distance or chance, and three orders, of all and inside clusters.
    assert len(of(commands, "select")) == 3 * (5 + 3 * 2)
    for command in commands:
        parse(command)


def test_what_subsets_keep_is_measured_by_the_book(tmp_path: Path) -> None:
    """Shares, covering radius, discrepancy and copies, one pair at a time in float64."""
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(40, 5)), np.arange(40, dtype=np.int64) % 4
    rows[7] = rows[3]
    rows = rows.astype(np.float16)
    (tmp_path / "features").mkdir()
    save_file({"features": rows, "label": labels}, tmp_path / "features" / "000000.safetensors")
    kept = np.array([3, 4, 7, 8, 12, 13, 16])
    np.save(tmp_path / "mine-0.5.npy", kept)
    line = [sys.executable, EXAMPLES / "choosing.py", tmp_path / "features", tmp_path / "mine-0.5.npy", "--json",
            tmp_path / "found.json"]  # fmt: skip
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    found = json.loads((tmp_path / "found.json").read_text())["mine-0.5"]

    unit = [row / np.linalg.norm(row) for row in rows.astype(np.float64)]
    distance = np.array([[np.linalg.norm(a - b) for b in unit] for a in unit])
    kernel = np.exp(-(distance**2) / (2 * np.median([distance[i, j] ** 2 for i in range(40) for j in range(i)])))
    weights = np.full(40, -1 / 40)
    weights[kept] += 1 / 7
    nearest = [min(distance[i, j] for j in kept) for i in range(40)]
    assert found["radius"] == pytest.approx(max(nearest), rel=1e-3)
    assert found["discrepancy"] == pytest.approx(1000 * np.sqrt(weights @ kernel @ weights), rel=1e-3)
    # No label 2 among the kept, one 1, two 3 and four 0; of the kept, 3 and 7 are copies of each other.
    assert (found["smallest_class"], found["halved_class"]) == (0, 1)
    assert found["copies_0.99"] == pytest.approx(2 / 7)
    assert said.count("| mine |") == 1


def test_a_wrong_line_is_seen() -> None:
    with pytest.raises(click.UsageError):
        parse(["train-dit", "latents", "--stpes", "3", "-o", "run"])


def test_a_study_chooses_as_the_paper_does(environment: dict[str, str], tmp_path: Path) -> None:
    """Scores and chance among all, distances inside each cluster, and inside each cluster as a second line."""
    commands = runs(STUDY, {**environment, "KEEPS": "0.1", "SEEDS": "0"}, tmp_path / "out")
    chosen = {Path(after(c, "-o")).parts[-3]: c for c in of(commands, "select") if c[-1].endswith("/0/keep.npy")}
    grouped = {name.removesuffix("-0.1") for name, command in chosen.items() if "--clusters" in command}
    scores = {f"{score}{end}" for score in ("el2n", "grand", "monotonicity", "moso") for end in ("", "-inverse")}
    assert grouped == {"nearest", "furthest"} | {f"{name}-by-cluster" for name in scores | {"random"}}
    assert {name.removesuffix("-0.1") for name in chosen} - grouped == scores | {"random", "unpruned-1.0"}
    for name, command in chosen.items():
        # The candidates are the same, and of one score the end alone differs.
        assert after(command, "--within").endswith("/unpruned.npy")
        end = "lowest" if "inverse" in name or name == "nearest-0.1" else "highest"
        assert after(command, "--order") == ("random" if name.startswith(("random", "unpruned")) else end)


def test_a_study_trains_each_point_three_times(environment: dict[str, str], tmp_path: Path) -> None:
    commands = runs(STUDY, {**environment, "METHODS": "random nearest"}, tmp_path / "out")
    trained = [c for c in of(commands, "train-dit") if "--save-every" not in c]
    assert {(*Path(after(c, "-o")).parts[-3:-1], after(c, "--seed")) for c in trained} == {
        (point, seed, seed)
        for point in ("unpruned-1.0", "random-0.5", "random-0.1", "nearest-0.5", "nearest-0.1")
        for seed in ("0", "1", "2")
    }
    # Differences between models are paired only where the images have the same seeds.
    assert {after(command, "--seeds") for command in of(commands, "sample")} == {"0-299"}
    (report,) = of(commands, "report")
    assert len([word for word in report if word.endswith(".json")]) == 2 * len(trained)
    # None of these methods needs a model to score by.
    assert len(trained) == len(of(commands, "train-dit"))


def test_a_failed_point_fails_the_study_when_the_others_are_done(environment: dict[str, str], tmp_path: Path) -> None:
    narrow = {**environment, "METHODS": "random nearest", "KEEPS": "0.1", "SEEDS": "0", "JOBS": "1"}
    commands = runs(STUDY, {**narrow, "FAIL": "sample " + str(tmp_path / "out/random-0.1")}, tmp_path / "out", code=123)
    assert len(of(commands, "memorization")) == 2
    assert not of(commands, "report")


def test_a_study_knows_its_methods(environment: dict[str, str], tmp_path: Path) -> None:
    assert runs(STUDY, {**environment, "METHODS": "nearest el2m"}, tmp_path / "out", code=2) == []


@pytest.mark.parametrize("dataset", ["celeba-hq", "imagenet"])
def test_the_real_command_takes_every_line_of_the_paper(
    dataset: str, environment: dict[str, str], tmp_path: Path
) -> None:
    commands = runs(PAPER, {**environment, "LAUNCH": "dprune", "LPIPS": "lpips.pt"}, dataset, "a", "b", tmp_path / "o")
    settings = [parse(command).params for command in commands]
    # Twelve methods at four ratios, the balanced at its own, and the unpruned.
    assert len(of(commands, "sample")) == 12 * 4 + 2
    noises = {(params["noise"], params["draws"]) for params in settings if "noise" in params}
    # Of monotonicity the paper says no more than the level.
    assert noises == {("own", 1), ("shared", 8)}


def test_the_paper_is_read_from_the_options(environment: dict[str, str], tmp_path: Path) -> None:
    """What the table in the head of the recipe says, in the words of the commands that it runs."""
    found = {}
    for dataset in ("celeba-hq", "imagenet"):
        narrow = {**environment, "LAUNCH": "dprune", "METHODS": "grand", "RATIOS": "0.5"}
        commands = runs(PAPER, narrow, dataset, "a", "b", tmp_path / dataset)
        found[dataset] = {command[0]: " ".join(command) + " " for command in commands}
    faces, photos = found["celeba-hq"], found["imagenet"]
    for said, words in (
        (faces["cluster"], "-k 24 "), (photos["cluster"], "-k 1000 "),
        (faces["score"], "--sigma .29 "), (photos["score"], "--sigma .06 "),
        (faces["train-dit"], "--steps 220000 "), (photos["train-dit"], "--steps 120000 "),
        (faces["train-dit"], "--unconditional "), (photos["sample"], "--cfg 4 --cfg-channels 3 "),
        (photos["sample"], "--steps 59 "), (photos["sample"], "--no-quantize "),
        (photos["eval"], f"{tmp_path / 'imagenet'}/validation --model inception "), (photos["memorization"], "--full "),
    ):  # fmt: skip
        assert words in said, said
    assert "--clusters" not in photos["select"]
    # Gaussian latents have no codes, and without classes there is nothing to guide by.
    assert not {"--no-quantize", "--cfg", "--classes"} & set(faces["sample"].split())


@pytest.mark.slow
def test_the_recipe_of_the_paper_runs(shards: Path, tmp_path: Path) -> None:
    """From images to a report, again without doing anything twice."""
    pixels = "--model pixels --image-size 8"
    small = {"LAUNCH": "dprune", "ARCH": "nano/4", "BATCH": "4", "STEPS": "2", "SURROGATE_STEPS": "6", "SAVING": "2",
             "FOLDS": "2", "FOLD_EPOCHS": "2", "SAMPLES": "6", "SIZE": "16", "K": "2", "RATIOS": "0.5",
             "AUTOENCODER": "--preset tiny --image-size 16 --steps 4", "FEATURES": pixels, "JUDGE": pixels,
             "METHODS": "balanced moso-inverse"}  # fmt: skip
    words = [*(f"{name}={value}" for name, value in small.items()), "sh", PAPER, "imagenet", shards, shards, "out"]
    line = shlex.join(["env", *map(str, words)])
    made = shell(line, tmp_path)
    assert made.returncode == 0, made.stderr
    assert len((tmp_path / "out" / "report" / "quality.csv").read_text().splitlines()) == 4
    again = shell(line, tmp_path)
    assert again.returncode == 0, again.stderr
    assert [line for line in again.stderr.splitlines() if "dprune: wrote" in line and "out/report" not in line] == []
