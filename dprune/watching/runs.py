"""How far trainings are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.checked_json import Object, Whole, shaped
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import Record, difference
from dprune.models.files import ModelFile
from dprune.training.run import CHECKPOINTS, Run, extends
from dprune.watching.folders import makers_in, names_in, time_of
from dprune.watching.pace import Pace
from dprune.watching.standing import DAMAGED, UNFINISHED, UP_TO_DATE, Standing, Tally


def run_standing(folder: str) -> Standing:
    """Look at the folder of a training: its model, the state that it would go on from, and its log.

    Raises:
        InputError: the manifest is damaged.
    """
    run, record = Run(Path(folder)), read_manifest(folder)["provenance"]
    names, options, lines = names_in(run.folder), record.get("options", {}), run.log_lines()
    steps, batch = (_whole(options.get(name)) for name in ("steps", "batch_size"))
    found = Standing(folder, "run", record=record, at_work=makers_in(run.folder, names))
    found.facts = {
        "checkpoints": _steps(names_in(run.folder / CHECKPOINTS), r"step-(\d{8})\.safetensors"),
        "extends": _steps(names, r"model-step-(\d{8})\.safetensors"),
        "last_line": lines[-1] if lines else None,
    }
    reached = int(lines[-1]["step"]) if lines else 0
    if run.complete(record):
        found.tally = Tally("steps", steps or reached, steps)
        if steps and options.get("schedule") == "constant":
            found.rerun = f"{UP_TO_DATE}; with a larger --steps it goes on from step {steps:,}"
        return found
    found.state = UNFINISHED
    _tell_rerun(found, run, steps)
    # Between two lines of the log a state may have been saved.
    reached = max(reached, (found.facts.get("saved") or {"step": 0})["step"])
    found.tally = Tally("steps", reached, steps)
    found.expect(_pace(lines), (steps - reached) * batch if steps and batch else None)
    return found


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _steps(names: set[str], pattern: str) -> list[int]:
    return sorted(int(match[1]) for match in (re.fullmatch(pattern, name) for name in names) if match)


def _tell_rerun(found: Standing, run: Run, steps: int | None) -> None:
    """Say from where a rerun goes on, as `SavedState.load` does or refuses."""
    of = f" of {steps:,}" if steps else ""
    if not run.state.is_file():
        found.facts["saved"] = None
        found.rerun = f"begins again at step 0{of}, as no state is saved yet"
        return
    try:
        file = ModelFile.open(run.state)
        step = shaped(str(run.state), file.network, Object({"step": Whole()}))["step"]
        problem = "" if _is_of(file.record, found.record or {}) else f"{run.state}: is not the state of this run"
    except InputError as error:
        problem = str(error).rpartition(": ")[0]
    if problem:
        found.state, found.rerun = DAMAGED, "ends at once, as its state cannot be gone on from"
        found.problems.append(f"{problem}: remove it to train from the beginning.")
        return
    found.facts["saved"] = {"step": step, "time": time_of(run.state)}
    end = " and publishes the model" if steps and step >= steps else ""
    found.rerun = f"goes on at step {step:,}{of}{end}"


def _is_of(record: Record | None, wanted: Record) -> bool:
    return record is not None and (not difference(record, wanted) or extends(record, wanted))


def _pace(lines: list[dict[str, Any]]) -> Pace | None:
    line = next((line for line in reversed(lines) if line.get("img_per_s")), None)
    return None if line is None else Pace(line["img_per_s"], "images", 1)
