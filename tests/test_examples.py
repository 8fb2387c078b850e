"""The scripts under examples/: each command line that they run is one of the real command line, and a study goes on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import click
import pytest

from dprune.cli import cli

EXAMPLES = Path(__file__).parents[1] / "examples"
STUDY = EXAMPLES / "study" / "digits.sh"

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
