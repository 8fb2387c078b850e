"""The study of examples/study: what Snakemake would run, what it makes of the digits, and how it goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import warm_python

pytestmark = pytest.mark.skipif(not find_spec("snakemake"), reason="pip install 'dprune[study]'")

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "examples" / "study"


def environment(folder: Path, python: str) -> dict[str, str]:
    """The environment of an installed dprune."""
    command = folder / "bin" / "dprune"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{python}" -m dprune "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def command(folder: Path, configuration: str, *args: str, **changed: object) -> list[str]:
    """A command line of Snakemake for a configuration with some keys changed."""
    config = [f"{key}={value}" for key, value in {"out": folder / "out", **changed}.items()]
    snakemake = [sys.executable, "-m", "snakemake", "-d", str(folder), "-s", str(STUDY / "Snakefile")]
    return [*snakemake, "--configfile", str(STUDY / configuration), "--config", *config, "--cores", "2", *args]


def study(folder: Path, configuration: str, *args: str, **changed: object) -> str:
    """What Snakemake says about a study in `folder`, and the plan in front of it."""
    line = command(folder, configuration, *args, **changed)
    done = subprocess.run(line, env=environment(folder, warm_python()), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def jobs(said: str) -> dict[str, int]:
    """How many jobs of each rule a dry run lists."""
    counted = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)\n\n", said, re.MULTILINE | re.DOTALL)
    lines = counted[1].splitlines() if counted else []
    found = {rule: int(count) for rule, count in (line.split() for line in lines)}
    return {rule: count for rule, count in found.items() if rule not in ("all", "total")}


def planned(said: str) -> dict[str, int]:
    """How many jobs of each rule the plan lists."""
    rows = re.findall(r"^(\w+) +([\d,]+) +[\d.,]+ +[\d.,]+ +[\d.,]+$", said, re.MULTILINE)
    return {rule: int(count.replace(",", "")) for rule, count in rows}


PREPARED = {"pack": 1, "unpruned": 1, "encode": 1, "cluster": 1, "distance": 1, "sheet": 1, "train_scoring": 1,
            "grand": 1, "monotonicity": 1, "moso": 1}  # fmt: skip
# By hand, from the lines of each configuration: chance, three distances, four scores from both ends or three, at four
# ratios or three; of the paper's two at .95 and .99, too; models of the tailed set, of halves, and the baselines.
PAPER = 1 + 6 + 6 + 4 + 4 + 1 + 3 * 16
EXPECTED = {
    "cifar10.yaml": (3 + (1 + 3 + 8 + 9) * 3 * 3, 0, 0, 2, {"embed": 2, "held_out": 1, "train_fold": 4}),
    "imagenet.yaml": (PAPER + 3, 2, 10, 2, {"embed": 3, "pack_validation": 1, "train_vae": 1, "train_fold": 12,
                                            "paired": 1, "cluster": 2, "distance": 2, "tailed": 1, "smallest": 1}),
    "celebahq.yaml": (PAPER, 2, 10, 2, {"embed": 3, "pack_validation": 1, "train_vae": 1, "train_fold": 12,
                                        "paired": 1}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("configuration", EXPECTED)
def test_a_dry_run_lists_every_step(configuration: str, tmp_path: Path) -> None:
    subsets, halves, baselines, judges, shared = EXPECTED[configuration]
    said = study(tmp_path, configuration, "-n", "-q", "rules")
    measured = subsets + baselines
    each = {"select": measured, "train_dit": subsets + halves, "train_baseline": baselines, "sample": measured + halves,
            "embed_generated": judges * measured + halves, "eval": judges * measured, "memorization": measured,
            "tidy": measured + halves}  # fmt: skip
    expected = {rule: number for rule, number in (PREPARED | shared | each).items() if number}
    assert jobs(said) == expected
    assert planned(said) == expected
