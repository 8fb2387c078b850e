"""Surrogates of MoSo: runs on disjoint folds, told by their provenance; nothing here imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.claims import claim_of
from dprune.formats.provenance import difference
from dprune.scoring.population import Samples
from dprune.scoring.progress import Progress
from dprune.training.checkpoints import Checkpoint, TrainedRun, Wanted, open_run
from dprune.training.dit.settings import Fold

# What follows from the fold, or from its size.
_OF_A_FOLD = {"fold", "samples", "steps"}


@dataclass(frozen=True)
class Surrogate:
    """A run that scores the samples it was trained on.

    Attributes:
        run: its folder.
        fold: that it was trained on, None for the whole training set.
        checkpoints: that are read, in the order of their steps.
        ids: sorted ids of its samples, int64 [N].
    """

    run: TrainedRun
    fold: Fold | None
    checkpoints: tuple[Checkpoint, ...]
    ids: npt.NDArray[np.int64]

    @property
    def title(self) -> str:
        """What messages and parents call it."""
        return "run" if self.fold is None else f"fold {self.fold.number}"


@dataclass(frozen=True)
class Unit:
    """A fold's samples by one checkpoint of its surrogate: what one worker measures.

    Attributes:
        surrogate: of the fold.
        checkpoint: of it.
        progress: what is measured of the samples.
    """

    surrogate: Surrogate
    checkpoint: Checkpoint
    progress: Progress

    @property
    def title(self) -> str:
        """What progress calls it."""
        return f"{self.surrogate.title}, step {self.checkpoint.step}"

    @property
    def fold(self) -> int | None:
        """Number of the fold, None for a run on all samples."""
        return None if self.surrogate.fold is None else self.surrogate.fold.number

    @property
    def rate(self) -> float:
        """Learning rate of the step after which the checkpoint was kept."""
        return self.surrogate.run.rate(self.checkpoint.step)

    @property
    def gradient(self) -> Path:
        """Where the sum of gradients is kept until the unit is measured."""
        return gradient_file(self.progress)

    @property
    def claim(self) -> Path:
        """The file that stands for it while a task of an array measures it."""
        return claim_of(self.progress.folder, 0, 1)

    @property
    def whole(self) -> bool:
        """Tell whether it is measured."""
        return not self.progress.missing()


def gradient_file(progress: Progress) -> Path:
    """Return where the sum of gradients is kept until what it is for is measured."""
    return progress.folder / "gradient.safetensors"


def open_surrogates(samples: Samples, paths: Sequence[str], wanted: Wanted, only: int | None) -> list[Surrogate]:
    """Open the runs that score a latent store, in the order of their folds.

    Args:
        samples: the store, and the subset that the runs were trained on.
        paths: of their folders.
        wanted: which checkpoints are read.
        only: fold that is worked on alone, so that others may be missing; None for all.

    Raises:
        InputError: a folder is no such run, or folds are missing.
        MismatchError: folds overlap, or the runs were trained otherwise or on something else.
        UsageError: `only` is no fold of them.
    """
    runs = [open_run(path) for path in paths]
    _check_alike(runs)
    folds = _folds(runs, only)
    for run in runs:
        _check_trained_on(run, samples)
    ids = samples.ids
    found = [Surrogate(run, fold, run.chosen(wanted), ids if fold is None else ids[fold.holds(ids)])
             for run, fold in zip(runs, folds, strict=True)]  # fmt: skip
    _check_sizes(found)
    return sorted(found, key=lambda surrogate: surrogate.fold.number if surrogate.fold else 0)


def _folds(runs: Sequence[TrainedRun], only: int | None) -> list[Fold | None]:
    texts = [run.record["options"].get("fold") for run in runs]
    if texts == [None]:
        if only is not None:
            raise UsageError(f"--only-fold {only}: {runs[0].folder} was not trained on a fold: leave it out.")
        return [None]
    folds = [_fold(run, text) for run, text in zip(runs, texts, strict=True)]
    _check_disjoint(runs, folds)
    numbers, count = {fold.number for fold in folds}, folds[0].count
    if only is not None and only >= count:
        raise UsageError(f"--only-fold {only}: there are folds 0 to {count - 1}.")
    if only is not None and only not in numbers:
        raise InputError(
            f"--only-fold {only}: none of the runs was trained on it: give the run of --fold {only}/{count}."
        )
    if only is None and len(numbers) < count:
        missing = [number for number in range(count) if number not in numbers]
        named, are = ", ".join(map(str, missing)), "is" if len(missing) == 1 else "are"
        raise InputError(f"{'fold' if are == 'is' else 'folds'} {named} of {count} {are} missing: "
                         "give the runs of train-dit --fold for them, too.")  # fmt: skip
    return list(folds)


def _fold(run: TrainedRun, text: Any) -> Fold:
    if text is None:
        raise InputError(f"{run.folder}: was trained on all samples, and several runs must be of one fold each: "
                         "give it alone, or train with --fold I/N.")  # fmt: skip
    return Fold.parse(text)


def _check_disjoint(runs: Sequence[TrainedRun], folds: Sequence[Fold]) -> None:
    other = next((place for place, fold in enumerate(folds) if fold.count != folds[0].count), None)
    if other is not None:
        raise MismatchError(f"{runs[0].folder} (fold {folds[0]}) and {runs[other].folder} (fold {folds[other]}) "
                            "overlap: give the folds of one N.")  # fmt: skip
    most, times = Counter(folds).most_common(1)[0]
    if times > 1:
        first, second = [run.folder for run, fold in zip(runs, folds, strict=True) if fold == most][:2]
        raise MismatchError(f"{first} and {second} overlap: both are fold {most}: give one of them.")


def _check_alike(runs: Sequence[TrainedRun]) -> None:
    """Refuse surrogates that were not trained in the same way: their scores could not be compared."""
    first = runs[0]
    for run in runs[1:]:
        if unlike := difference(_training(run), _training(first)):
            raise MismatchError(f"{run.folder} was trained differently from {first.folder} ({unlike}): "
                                "train all folds with the same options on the same latents.")  # fmt: skip


def _training(run: TrainedRun) -> dict[str, Any]:
    options = {name: value for name, value in run.record["options"].items() if name not in _OF_A_FOLD}
    parents = {role: parent.get("digest") for role, parent in run.record.get("parents", {}).items()}
    return {"command": run.record["command"], "options": options, "inputs": parents}


def _check_trained_on(run: TrainedRun, samples: Samples) -> None:
    samples.check_autoencoder(run.checkpoints[0].file)
    samples.check_network(str(run.folder), run.checkpoints[0].file.network)
    given, trained = samples.parents(), run.record.get("parents", {})
    if trained.get("latents", {}).get("digest") != given["latents"]["digest"]:
        raise MismatchError(f"{run.folder} was trained on other latents than {samples.latents.store.folder}: "
                            "give those that it was trained on.")  # fmt: skip
    theirs, ours = (parents.get("subset", {}).get("digest") for parents in (trained, given))
    # Those that weights left are a subset that the run does not name; their number is held to it below.
    if theirs != ours and not (ours and "weights" in trained):
        was = "another subset than that of --subset" if theirs and ours else "a subset" if theirs else "all samples"
        remedy = "leave --subset out" if not theirs else "give the one that it was trained on with --subset"
        raise MismatchError(f"{run.folder} was trained on {was}: {remedy}.")


def _check_sizes(surrogates: Sequence[Surrogate]) -> None:
    first = surrogates[0]
    for surrogate in surrogates:
        run, count = surrogate.run, len(surrogate.ids)
        if count != (trained := run.record["options"]["samples"]):
            weighs = "weights" in run.record.get("parents", {})
            what, remedy = (
                ("those of a weight above 0, of", "give the ids of all that have one with --subset")
                if weighs else ("and now there are", "train it again")
            )  # fmt: skip
            raise MismatchError(f"{run.folder} was trained on {trained:,} samples, {what} {count:,}: {remedy}.")
        if count < 2:
            raise InputError(f"{run.folder}: was trained on one sample, and a comparison needs two: train fewer "
                             "folds.")  # fmt: skip
        if len(surrogate.checkpoints) != len(first.checkpoints):
            raise MismatchError(
                f"{run.folder} has {len(surrogate.checkpoints)} checkpoints of those asked for, and {first.run.folder} "
                f"{len(first.checkpoints)}: give --checkpoints that all have, or train with the same --save-every."
            )
