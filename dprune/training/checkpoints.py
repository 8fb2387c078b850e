"""Checkpoints of runs: which there are, which are wanted, and whether some are missing; nothing here imports torch."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from dprune.errors import InputError, UsageError, unreadable
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import Record, difference, digest, parent_record, record_digest
from dprune.models.files import ModelFile
from dprune.training.plan import Plan
from dprune.training.run import CHECKPOINTS, KIND, Run, extends

_BLOCKS, _BLOCK = 16, 4096


@dataclass(frozen=True)
class Wanted:
    """Which checkpoints of a run are read: all, the last few, or those of some epochs.

    Attributes:
        last: how many of the last, None for any number.
        first_epoch: the fewest whole epochs that were trained for.
        last_epoch: the most.
    """

    last: int | None = None
    first_epoch: int = 0
    last_epoch: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Wanted:
        """Read `all`, `5` (the last five) or `10:40` (epochs 10 to 40, either left out).

        Raises:
            UsageError: it is none of these.
        """
        if text == "all":
            return cls()
        if re.fullmatch(r"0*[1-9][0-9]{0,17}", text):
            return cls(last=int(text))
        match = re.fullmatch(r"([0-9]{0,18}):([0-9]{0,18})", text)
        if not match or not any(match.groups()) or (all(match.groups()) and int(match[1]) > int(match[2])):
            raise UsageError(f"--checkpoints {text}: give all, a number (the last N), or epochs A:B such as 10:40.")
        return cls(None, int(match[1] or 0), int(match[2]) if match[2] else math.inf)

    def of_epoch(self, epoch: float) -> bool:
        """Tell whether checkpoints of this epoch are among those that it may be."""
        return self.first_epoch <= math.floor(epoch) <= self.last_epoch


@dataclass(frozen=True)
class Checkpoint:
    """Weights that a run kept.

    Attributes:
        file: of raw and averaged weights.
        step: after which they were kept.
    """

    file: ModelFile
    step: int

    @functools.cached_property
    def mark(self) -> list[object]:
        """Tell it from checkpoints of any other training.

        It reads blocks that are spread over the file: all of it would be terabytes for the folds of a large model.
        """
        sha, path = hashlib.sha256(), self.file.path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                for number in range(_BLOCKS):
                    file.seek(size * number // _BLOCKS)
                    sha.update(file.read(_BLOCK))
        except OSError as error:
            raise unreadable(path, error) from error
        return [self.step, size, sha.hexdigest()]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run of `dprune train-dit` and all checkpoints that it kept, in the order of their steps."""

    folder: Path
    record: Record
    checkpoints: tuple[Checkpoint, ...]

    def epoch(self, step: int) -> float:
        """How often each sample of the training set was taken in so many steps."""
        options = self.record["options"]
        return float(step * options["batch_size"] / options["samples"])

    def rate(self, step: int) -> float:
        """Learning rate of the last of so many steps."""
        options = self.record["options"]
        told = {name: options[name] for name in ("steps", "batch_size", "lr", "warmup", "schedule")}
        return Plan(**told).rate(step - 1)

    def chosen(self, wanted: Wanted) -> tuple[Checkpoint, ...]:
        """Return the checkpoints that are wanted, in the order of their steps.

        Raises:
            InputError: there are none, too few, or some between them are missing.
        """
        found = [checkpoint for checkpoint in self.checkpoints if wanted.of_epoch(self.epoch(checkpoint.step))]
        if wanted.last is not None and wanted.last > len(found):
            raise InputError(f"{self.folder}: has {len(found)} checkpoints, and the last {wanted.last} are asked for: "
                             "give fewer --checkpoints, or train with a smaller --save-every.")  # fmt: skip
        found = found[-wanted.last :] if wanted.last is not None else found
        if not found:
            raise InputError(f"{self.folder}: has no checkpoint of these epochs: it has those of "
                             f"{self._named(self.checkpoints)}.")  # fmt: skip
        self._check_whole(wanted, found[0].step if wanted.last is not None else 0)
        return tuple(found)

    def _named(self, checkpoints: Sequence[Checkpoint]) -> str:
        first, last = (self.epoch(checkpoints[place].step) for place in (0, -1))
        return f"epochs {first:.3g} to {last:.3g}" if len(checkpoints) > 1 else f"epoch {first:.3g}"

    def _check_whole(self, wanted: Wanted, first: int) -> None:
        missing = [step for step in self._missing() if step >= first and wanted.of_epoch(self.epoch(step))]
        if missing:
            steps = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            epochs = ", ".join(f"{self.epoch(step):.3g}" for step in missing[:5])
            raise InputError(
                f"{self.folder / CHECKPOINTS}: lacks the checkpoints of steps {steps} (epochs {epochs}): copy them "
                "again, or leave them out with --checkpoints A:B."
            )

    def _missing(self) -> list[int]:
        """Return the steps that a sequence lacks which is regular otherwise.

        What the run was told is not in its provenance: checkpoints change nothing of the weights. They were kept
        once an epoch or at multiples of a number of steps, whichever lacks fewer.
        """
        steps = {checkpoint.step for checkpoint in self.checkpoints}
        options = self.record["options"]
        every = Fraction(options["samples"], options["batch_size"]), Fraction(math.gcd(*steps))
        lacks = [_expected(interval, options["steps"]) - steps for interval in every
                 if steps <= _expected(interval, options["steps"])]  # fmt: skip
        missing = min(lacks, key=len, default=set())
        return sorted(missing) if len(missing) < len(steps) else []

    def as_parent(self, checkpoints: Sequence[Checkpoint]) -> Record:
        """Describe the run and some of its checkpoints as the input of another file."""
        marks = [checkpoint.mark for checkpoint in checkpoints]
        return parent_record(self.record, digest([record_digest(self.record), marks]))


def _expected(every: Fraction, last: int) -> set[int]:
    """Return the steps up to `last` that are the first to reach a multiple of `every`."""
    return {math.ceil(every * number) for number in range(1, math.floor(last / every) + 1)}


def open_run(path: str | Path) -> TrainedRun:
    """Open a run's folder and the headers of its checkpoints.

    Raises:
        InputError: it is none of `dprune train-dit`, not finished, or has no checkpoints or another run's.
    """
    run = Run(Path(path))
    if not run.folder.is_dir():
        problem = "is a file" if run.folder.exists() else "no such folder"
        raise InputError(f"{path}: {problem}: name the folder of a run of dprune train-dit.")
    manifest = read_manifest(run.folder)
    record = manifest.get("provenance", {})
    if manifest.get("kind") != KIND or record.get("command") != "train-dit":
        raise InputError(f"{path}: is not a run of dprune train-dit: name the folder that it made.")
    if not run.complete(record):
        raise InputError(f"{path}: its training is not finished: run the same dprune train-dit again.")
    found = sorted(_checkpoints(run, record), key=lambda checkpoint: checkpoint.step)
    if not found:
        raise InputError(f"{path}: has no checkpoints: train it again with --save-every epoch --overwrite.")
    return TrainedRun(run.folder, record, tuple(found))


def _checkpoints(run: Run, record: Record) -> Iterator[Checkpoint]:
    for path in (run.folder / CHECKPOINTS).glob("step-*.safetensors"):
        file = ModelFile.open(path)
        file.check_kind("dit", "a DiT", "train-dit")
        step = file.network.get("step")
        mine = file.record is not None and (not difference(file.record, record) or extends(file.record, record))
        if not mine or type(step) is not int or path != run.checkpoint(step):
            raise InputError(f"{path}: is not a checkpoint of this run: move it away, or copy the run again.")
        yield Checkpoint(file, step)
