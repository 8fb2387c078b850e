"""Losses of samples by noise level, as `score el2n --per-sigma` writes them, or anyone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import Array, digest_array, read_scores
from dprune.formats.provenance import Record, digest, parent_record, parents_of
from dprune.formats.publish import STDOUT
from dprune.scoring.outputs import named_beside

COMMAND = "score el2n"
FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Losses:
    """Losses of the samples of one store.

    Attributes:
        name: what messages call them.
        levels: losses [N] by noise level, which rise; NaN where a sample was not scored.
        record: their provenance, None for losses made elsewhere.
    """

    name: str
    levels: dict[float, FloatArray]
    record: Record | None

    def __len__(self) -> int:
        return len(next(iter(self.levels.values())))

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset that they are of."""
        return self.record.get("fingerprint") if self.record else None

    def as_parent(self) -> Record:
        """Describe them as the input of another file."""
        return parent_record(self.record, digest([[sigma, digest_array(v)] for sigma, v in self.levels.items()]))

    def usable(self) -> npt.NDArray[np.bool_]:
        """Tell which samples have a loss at every level, bool [N]."""
        found: npt.NDArray[np.bool_] = np.all([np.isfinite(values) for values in self.levels.values()], axis=0)
        return found

    def how(self) -> dict[str, Any] | None:
        """Return the model and the options that they were made with, None where nothing tells."""
        if self.record is None:
            return None
        model = parents_of(self.record).get("model", {}).get("digest")
        return {"model": model, **self.record["options"], "seed": self.record.get("seed")}


def read_losses(path: str) -> Losses:
    """Read losses at each noise level: X.s0.06.npy and so on beside X.npy, or X.npy alone where it is of one level.

    Raises:
        InputError: there are none, they are no losses, or nothing tells their noise levels.
        MismatchError: those beside it are of another scoring.
    """
    if path == STDOUT:
        raise InputError("--losses -: those of each noise level are files beside it: name a file.")
    whole = read_scores(path)
    command = whole.record["command"] if whole.record else COMMAND
    if command != COMMAND:
        raise InputError(f"{path}: was made by dprune {command}: give the losses of dprune {COMMAND} --per-sigma.")
    if whole.record is None:
        return _made_elsewhere(path)
    sigmas = whole.record["options"].get("sigma")
    if not isinstance(sigmas, list) or not sigmas:
        raise InputError(f"{path}: was scored at --sigma {sigmas}: give losses at single noise levels.")
    if len(sigmas) == 1:
        return Losses(path, {float(sigmas[0]): whole.values}, whole.record)
    levels = {float(sigma): _level(path, whole, float(sigma)) for sigma in sigmas}
    return Losses(path, levels, whole.record)


def _level(path: str, whole: Array, sigma: float) -> FloatArray:
    place = named_beside(Path(path), f"s{sigma:g}")
    if not place.exists():
        raise InputError(f"{path}: has no {place.name} beside it: score with --per-sigma.")
    level = read_scores(place)
    assert whole.record is not None
    said = [_said(record, [sigma]) for record in (level.record, whole.record)]
    if said[0] != said[1] or len(level.values) != len(whole.values):
        raise MismatchError(f"{place} and {path} are of different scorings: score again with --per-sigma.")
    return level.values


def _said(record: Record | None, sigma: list[float]) -> list[Any]:
    """Return what sets one scoring apart from others, at whatever levels it is."""
    found = record or {}
    inputs = {role: entry.get("digest") for role, entry in parents_of(found).items()}
    options: dict[str, Any] = {**found.get("options", {}), "sigma": sigma}
    return [found.get("command"), options, found.get("seed"), inputs]


def _made_elsewhere(path: str) -> Losses:
    """Read files that say their noise levels in their names alone."""
    stem = re.escape(Path(path).name.removesuffix(".npy"))
    found = {}
    for place in Path(path).parent.iterdir():
        if match := re.fullmatch(rf"{stem}\.s([0-9.e+-]+)\.npy", place.name):
            found[_number(match[1])] = read_scores(place).values
    levels = {sigma: found[sigma] for sigma in sorted(found) if 0 < sigma <= 1}
    if not levels:
        beside = named_beside(Path(path), "s0.5").name
        raise InputError(f"{path}: does not say at which noise levels it is: put files such as {beside} beside it.")
    if len({len(values) for values in levels.values()}) > 1:
        raise MismatchError(f"{path}: the files of its noise levels are of different numbers of samples.")
    return Losses(path, levels, None)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
