"""What a study has so far, as arguments of `dprune report`, and the table of what it should have."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import study
from study import Config, Run


def arguments(config: Config) -> str:
    """All that there is of what the study is to have."""
    return " ".join(_arguments(config, study.runs_of(config)))


def _arguments(config: Config, runs: dict[str, Run]) -> Iterator[str]:
    out = config["out"]
    outcomes = [path for run in runs.values() for path in study.outcome(run, config, out)]
    yield from _there("", dict.fromkeys(outcomes))
    yield from _there("--scores ", (f"{out}/{score}.npy" for score in ("distance", *study.ORDERS, *study.SCORES)))
    yield from _there("--subsets ", (f"{out}/{folder}/keep.npy" for folder in runs))
    first = [folder for folder, run in runs.items() if run.seed == config["seeds"][0]]
    yield from _there("--images ", (f"{out}/{folder}/generated" for folder in first))
    # Those in a folder of their own show what was made where the images are gone, such as grids of an earlier report.
    kept = sorted(map(str, Path(out, "pictures").glob("*.png")))
    pairs = [f"{out}/{folder}/pairs.png" for folder in first[:1]]
    yield from _there("--picture ", (f"{out}/clusters.png", *pairs, *kept))
    if os.path.exists(f"{out}/features.done") and os.path.exists(f"{out}/clusters.safetensors"):
        mapped = (folder for folder in first if runs[folder].name in ("unpruned", "nearest", *TAILED))
        # A map shows generated samples beside the training set, or nothing.
        if generated := list(_there("--generated ", (f"{out}/{folder}/features" for folder in mapped))):
            yield from (f"--train {out}/features --clusters {out}/clusters.safetensors", *generated)
    yield f"--expect {out}/{EXPECTED}"


EXPECTED = "expected.csv"
TAILED = ("tailed-balanced", "tailed-proportional")


def _there(option: str, paths) -> Iterator[str]:
    """Stores and folders count from when they are complete."""
    for path in paths:
        if os.path.exists(path if Path(path).suffix else f"{path}.done"):
            yield f"{option}{path}"


def expect(config: Config) -> None:
    """Write the table of all trainings, so that the page shows what is missing.

    What equal quotas leave is known only when they are drawn, so these lines are not in it.
    """
    with open(f"{config['out']}/{EXPECTED}", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("line", "pruned", "result"))
        for folder, run in study.runs_of(config).items():
            if run.keep != study.SMALLEST and run.line.fold is None:
                rows.writerow((run.name, 1 - Decimal(run.keep), f"{folder}/metrics.json"))


def write_noise_levels(config: Config) -> None:
    """Write the lowest noise level of each sample: 0 near the centres, that of the configuration elsewhere."""
    out = config["out"]
    levels = np.full(len(np.load(f"{out}/distance.npy")), config["sigma_min"]["sigma"], np.float32)
    levels[np.load(f"{out}/near.npy")] = 0
    np.save(f"{out}/sigma-min.npy", levels)
