"""What is trained when a diffusion transformer is, and on which samples; nothing here imports torch."""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, UsageError
from dprune.formats.arrays import Array
from dprune.formats.latents import Latents
from dprune.formats.subsets import narrowed
from dprune.models.architectures import ARCHITECTURES, HEADS, parse_architecture
from dprune.models.classes import TrainedClasses
from dprune.models.files import ModelFile
from dprune.models.parametrization import INFERRED, PREDICTIONS, VELOCITY, parametrization_of
from dprune.models.vae_files import check_made, open_vae
from dprune.models.weights import check_file
from dprune.runtime import is_gpu
from dprune.seeds import hash_ids
from dprune.training.dit.per_sample import UNTOLD, PerSample
from dprune.training.labels import check_labels, trained_classes

DEFAULTS = {"steps": 120_000, "batch_size": 256, "lr": 1e-4}
"""Of the paper's trainings, which are of XL."""
ARCH = "XL/2"
LABEL_DROPOUT = 0.1

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class DiTSettings:
    """What makes the model and its loss.

    Attributes:
        arch: size and patch such as `XL/2`.
        unconditional: whether labels are left out.
        label_dropout: share of the labels that are left out, so that guidance has something to compare with.
        time: how times are drawn, `uniform` or `logit-normal`.
        init: file of weights to begin with, None to draw them.
        vae: the autoencoder that decodes pictures, None for no pictures.
        compile: whether blocks are compiled.
        place: where latents are held; see `TrainingLatents`.
        predicts: what the weights of `init` do, `VELOCITY` or `INFERRED`.
    """

    arch: str
    unconditional: bool
    label_dropout: float
    time: str
    init: Path | None
    vae: ModelFile | None
    compile: bool
    place: str
    predicts: str = VELOCITY

    def options(self) -> dict[str, Any]:
        """Return what changes the weights, as provenance holds it."""
        labels = {"unconditional": True} if self.unconditional else {"label_dropout": self.label_dropout}
        # Runs of before every visit had its own are other runs: copies in a batch shared their noise.
        return {"arch": self.arch, "time": self.time, "noise": "visit", **labels}

    def defaults(self) -> dict[str, Any]:
        """What a training is where nothing was said of it: the paper's, at a rate that goes by the width.

        A matrix gets inputs in proportion to its width, so that a narrower model wants a larger rate for a change as
        large (Yang et al., "Tensor programs V", 2022). One that begins with weights is to keep what is in them.
        """
        width, widest = (parse_architecture(arch)[0] for arch in (self.arch, ARCH))
        return DEFAULTS | {"lr": DEFAULTS["lr"] if self.init else round(DEFAULTS["lr"] * widest / width, 7)}

    def check(self, latents: Latents) -> None:
        """Hold the settings and the autoencoder to the latents.

        Raises:
            UsageError: the latents have no patches of the size that is asked for.
            InputError: the latents have no labels.
            MismatchError: another autoencoder made the latents.
        """
        width, *_, patch = parse_architecture(self.arch)
        if (side := latents.network["size"]) % patch:
            raise UsageError(f"--arch {self.arch}: latents of {side} x {side} cannot be cut into patches of {patch}.")
        if (numbers := latents.network["channels"] * patch**2) >= width:
            # Velocities hold noise, and noise of n dimensions does not go through fewer (Li and He, "Back to basics:
            # let denoising generative models denoise", 2025).
            _log.warning(
                "--arch %s: a patch has %d numbers, and the model is %d wide: its images keep noise. "
                "Give a smaller patch or a wider model.", self.arch, numbers, width,
            )  # fmt: skip
        if not self.unconditional and not latents.classes:
            raise InputError(f"{latents.store.folder}: its samples have no labels: give --unconditional.")
        if self.vae is not None:
            check_made(self.vae, latents.record, str(latents.store.folder))


@dataclass(frozen=True)
class DiTOptions:
    """The options of `dprune train-dit`, which says what each means, without those of the loop."""

    subset: str | None = None
    fold: str | None = None
    weights: str | None = None
    sigma_min: str | None = None
    curriculum: str | None = None
    arch: str | None = None
    unconditional: bool = False
    label_dropout: float | None = None
    time: str = "uniform"
    init: str | None = None
    parametrization: str | None = None
    vae: str | None = None
    place: str = "auto"
    compiles: bool | None = None
    optimizer: str = "adamw"

    def resolve(self, device: str) -> DiTSettings:
        """Fill in what was not said.

        Args:
            device: that the training runs on, as an option names it.

        Raises:
            UsageError: options contradict each other.
            InputError: a file of weights does not exist or is damaged.
        """
        if self.unconditional and self.label_dropout is not None:
            raise UsageError("--label-dropout does nothing with --unconditional: leave it out.")
        if self.parametrization is not None and self.init is None:
            raise UsageError("--parametrization says what the weights of --init predict: give --init too.")
        init = check_file(self.init, "--init") if self.init else None
        predicts = VELOCITY if init is None else _predicts(ModelFile.open(init), self.parametrization)
        return DiTSettings(
            arch=self.arch or (_architecture_of(init) if init else ARCH),
            unconditional=self.unconditional,
            label_dropout=LABEL_DROPOUT if self.label_dropout is None else self.label_dropout,
            time=self.time,
            init=init,
            vae=open_vae(self.vae) if self.vae else None,
            compile=is_gpu(device) if self.compiles is None else self.compiles,
            place=self.place,
            predicts=predicts,
        )


def _predicts(file: ModelFile, said: str | None) -> str:
    file.check_kind("dit", "a DiT", "train-dit")
    found = parametrization_of(file, said)
    if found != INFERRED:
        check_predicts_velocity(file.path, found)
    return found


def check_predicts_velocity(path: Path, predicts: str) -> None:
    """Refuse weights to begin with that predict something else than what is trained.

    Args:
        path: of their file.
        predicts: one of `PREDICTIONS`.

    Raises:
        UsageError: they do.
    """
    if predicts != VELOCITY:
        raise UsageError(
            f"--init {path}: predicts {PREDICTIONS[predicts]}, and train-dit trains velocities, as SiT does: "
            "give a SiT or "
            f"a model of dprune, or --parametrization {VELOCITY} to begin with these weights as they are."
        )


def _architecture_of(path: Path) -> str:
    """Tell the --arch of the weights that a training begins with.

    Raises:
        InputError: the file holds no DiT, or one that has no name here.
    """
    file = ModelFile.open(path)
    if file.network:
        width, depth, heads, patch = (file.network.get(key) for key in ("width", "depth", "heads", "patch"))
    else:
        from dprune.models.foreign_dits import architecture_of

        width, depth, patch = architecture_of(path)
        heads = HEADS.get(width)
    name = next((name for name, known in ARCHITECTURES.items() if known == (width, depth, heads)), None)
    if name is None:
        raise InputError(
            f"--init {path}: its width of {width} and depth of {depth} do not tell its architecture, such as "
            "S/2: give it with --arch."
        )
    return f"{name}/{patch}"


@dataclass(frozen=True)
class Fold:
    """One of `count` disjoint parts of a dataset."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Fold:
        """Read a fold such as 0/12.

        Raises:
            UsageError: it is none.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not match or int(match[2]) < 2 or int(match[1]) >= int(match[2]):
            raise UsageError(f"--fold {text}: give I/N with I from 0 to N-1, such as 0/12.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        """Write it as it is given."""
        return f"{self.number}/{self.count}"

    def holds(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Tell which ids are in the fold; that does not depend on the seed of the run, so folds never overlap."""
        inside: npt.NDArray[np.bool_] = hash_ids(0, "fold", ids) % np.uint64(self.count) == np.uint64(self.number)
        return inside


@dataclass(frozen=True)
class LatentSubset:
    """Samples of a latent store.

    Attributes:
        latents: the store.
        subset: ids to keep, None for all.
    """

    latents: Latents
    subset: Array | None = None

    @functools.cached_property
    def decoded(self) -> npt.NDArray[np.int64]:
        """Sorted ids, int64 [n]; samples whose image could not be decoded are left out.

        Raises:
            MismatchError: the subset speaks of another dataset.
            InputError: it names samples that are not there.
        """
        latents = self.latents
        ids = narrowed(self.subset, str(latents.store.folder), latents.fingerprint, len(latents))
        return ids[latents.valid()[ids]]

    def parents(self) -> dict[str, Any]:
        """Describe the store and the subset as inputs."""
        given = {} if self.subset is None else {"subset": self.subset.as_parent()}
        return {"latents": self.latents.as_parent(), **given}


@dataclass(frozen=True)
class TrainingSet(LatentSubset):
    """The samples that are trained on.

    Attributes:
        fold: part of the subset that is trained on, None for all.
        told: how often its samples are drawn, and when; those of no weight are not trained on.
    """

    fold: Fold | None = None
    told: PerSample = UNTOLD

    def parents(self) -> dict[str, Any]:
        """Describe all that was given as inputs."""
        return super().parents() | {role: array.as_parent() for role, array in self.told.given.items()}

    @functools.cached_property
    def classes(self) -> TrainedClasses:
        """The classes of the store, and how many samples of each are trained on."""
        return trained_classes(self.latents.labels()[self.ids], self.latents.classes)

    def check_labels(self) -> None:
        """See `training.labels.check_labels`."""
        latents = self.latents
        check_labels(str(latents.store.folder), self.classes, len(self.ids), latents.class_names)

    @functools.cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """Sorted ids, int64 [n], at least one; see `decoded`."""
        ids, asked_for = self.decoded, len(self.latents) if self.subset is None else len(self.subset.values)
        if len(ids) < asked_for:
            _log.warning("%d of the samples could not be decoded and are not trained on.", asked_for - len(ids))
        if self.fold is not None:
            ids = ids[self.fold.holds(ids)]
        if not len(ids):
            remedy = "fewer folds" if self.fold is not None else "a larger subset"
            raise InputError(f"{self.latents.store.folder}: no sample is left to train on: give {remedy}.")
        return self.told.drawn(ids)
