"""How far scores by networks are, told by what is measured of each portion of the samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dprune.errors import InputError
from dprune.formats.beside import progress_folder
from dprune.models.files import ModelFile
from dprune.scoring.folds import gradient_file
from dprune.scoring.progress import Item, Workload, workload_file
from dprune.watching.folders import look_at, makers_in, makers_of, names_in, pieces_held, time_of
from dprune.watching.pace import pace_since
from dprune.watching.standing import FOLDS, UNFINISHED, Missing, Standing, Tally


class _Portion(NamedTuple):
    """A portion of an item: samples `begin` to `end`, of which `done` are measured, when that was noted."""

    item: Item
    number: int
    begin: int
    end: int
    done: int
    time: float

    @property
    def whole(self) -> bool:
        """Whether all of it is measured."""
        return self.begin + self.done >= self.end

    @property
    def name(self) -> str:
        """What is said of it where it is missing."""
        samples = f"samples {self.begin:,} to {self.end:,}"
        return f"{self.item.title}, {samples}" if self.item.title else samples


def score_standing(output: str) -> Standing | None:
    """Look at the progress of scores; return None where nothing is measured for this output, or it is there already.

    Raises:
        InputError: what is to be measured cannot be read.
    """
    files = _workload_files(Path(output))
    loads = [load for file in files if (load := _read(file)) is not None]
    noted = max(map(time_of, files), default=0.0)
    if not loads or time_of(Path(output)) > noted:
        return None
    items = list({item.progress.folder: item for load in loads for item in load.items}.values())
    portions, folds = _portions(items), max(load.folds for load in loads)
    makers = {item.progress.folder: makers_in(item.progress.folder) for item in items}
    found = Standing(output, "scores", UNFINISHED, loads[-1].record, shared=True)
    found.at_work = [*makers_of(Path(output)), *(holder for held in makers.values() for holder in held)]
    found.facts = _facts(items, portions, folds)
    if folds:
        _tell_folds(found, portions, folds, alone=not workload_file(output).exists())
    else:
        _tell_portions(found, portions, {folder: pieces_held(held) for folder, held in makers.items()})
    _tell_pace(found, portions, noted)
    return found


def _workload_files(output: Path) -> list[Path]:
    """Return what notes the work: that of folds which are measured alone, and behind them that of the whole."""
    folder = progress_folder(output)
    names = [name for name in names_in(folder) if re.fullmatch(r"workload(-fold-\d+)?\.json", name)]
    return [folder / name for name in sorted(names)]


def _facts(items: Sequence[Item], portions: Sequence[_Portion], folds: int) -> dict[str, Any]:
    # Folds that are measured alone say nothing of the size of others.
    known = not folds or {item.fold for item in items} >= set(range(folds))
    return {
        "samples": sum(portion.done for portion in portions),
        "of_samples": sum(item.progress.count for item in items) if known else None,
        "mean_gradients": _gradients(items),
    }


def _tell_pace(found: Standing, portions: Sequence[_Portion], noted: float) -> None:
    done = [(portion.time, portion.done) for portion in portions if portion.done]
    of = found.facts["of_samples"]
    # A worker notes what is to be measured when it has measured its first portion.
    pace = pace_since(noted, done, "samples", skip=1)
    found.expect(pace, None if of is None else of - found.facts["samples"])


def _read(path: Path) -> Workload | None:
    try:
        return Workload.read(path)
    except FileNotFoundError:
        # Whoever wrote the scores has just removed it.
        return None


def _portions(items: Sequence[Item]) -> list[_Portion]:
    """Look at the portions of all items; of those that have no file nothing is measured."""
    names = look_at((item.progress.folder for item in items), names_in)
    there = [
        (item.progress, number)
        for item in items
        for number in range(len(item.progress))
        if item.progress.path(number).name in names[item.progress.folder]
    ]
    looks = look_at(there, lambda place: (place[0].stated(place[1]), time_of(place[0].path(place[1]))))
    found = []
    for item in items:
        for number in range(len(item.progress)):
            begin, end = item.progress.span(number)
            done, made = looks.get((item.progress, number), (0, 0.0))
            found.append(_Portion(item, number, begin, end, min(done, end - begin), made))
    return found


def _gradients(items: Sequence[Item]) -> dict[str, int]:
    """Return over how many samples the mean gradients of items are summed up that are not measured yet."""
    found = {}
    for item in items:
        path = gradient_file(item.progress)
        try:
            network = ModelFile.open(path).network if path.is_file() else {}
        except InputError:
            continue
        if network.get("mark") == item.progress.mark and isinstance(network.get("done"), int):
            found[item.title] = network["done"]
    return found


def _tell_portions(found: Standing, portions: Sequence[_Portion], in_hand: Mapping[Path, set[int]]) -> None:
    # One numbering for those by all networks, as for the tasks of an array.
    missing = {place: portion for place, portion in enumerate(portions) if not portion.whole}
    found.tally = Tally("portions", len(portions) - len(missing), len(portions))
    found.missing = [
        Missing(place, portion.name, _how_far(portion), portion.number in in_hand[portion.item.progress.folder])
        for place, portion in missing.items()
    ]
    rerun = f"measures {len(missing):,} of {len(portions):,} portions and " if missing else ""
    found.rerun = f"{rerun}writes the scores"


def _how_far(portion: _Portion) -> str:
    return f"{portion.done:,} of {portion.end - portion.begin:,} are measured" if portion.done else ""


def _tell_folds(found: Standing, portions: Sequence[_Portion], folds: int, *, alone: bool) -> None:
    whole, reasons = set[int](), {}
    for fold in range(folds):
        mine = [portion for portion in portions if portion.item.fold == fold]
        left = [portion for portion in mine if not portion.whole]
        if mine and not left:
            whole.add(fold)
        elif mine:
            reasons[fold] = f"{len(mine) - len(left):,} of {len(mine):,} portions are measured"
    found.tally = Tally(FOLDS, len(whole), folds)
    found.missing = [Missing(fold, f"fold {fold}", reasons.get(fold, "")) for fold in range(folds) if fold not in whole]
    if alone and found.missing:
        found.rerun = f"measures the fold that --only-fold names, of {len(found.missing):,} that are not measured yet"
    elif alone:
        found.shared, found.rerun = False, "nothing: without --only-fold it makes the scores of all folds"
    else:
        rerun = f"measures {len(found.missing):,} of {folds:,} folds and " if found.missing else ""
        found.rerun = f"{rerun}writes the scores"
