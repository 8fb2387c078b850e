"""What is trained when a diffusion transformer is, and on which samples; nothing here imports torch."""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, UsageError
from dprune.formats.arrays import Array
from dprune.formats.latents import Latents
from dprune.formats.provenance import check_same_dataset
from dprune.seeds import hash_ids

DEFAULTS = {"steps": 120_000, "batch_size": 256, "lr": 1e-4}
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
        compile: whether blocks are compiled.
        place: where latents are held; see `TrainingLatents`.
    """

    arch: str
    unconditional: bool
    label_dropout: float
    time: str
    compile: bool
    place: str

    def options(self) -> dict[str, Any]:
        """Return what changes the weights, as provenance holds it."""
        labels = {"unconditional": True} if self.unconditional else {"label_dropout": self.label_dropout}
        return {"arch": self.arch, "time": self.time, **labels}


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
        match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
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
class TrainingSet:
    """The samples that are trained on.

    Attributes:
        latents: the store.
        subset: ids to keep, None for all.
        fold: part of them that is trained on, None for all.
    """

    latents: Latents
    subset: Array | None = None
    fold: Fold | None = None

    @functools.cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """Sorted ids, int64 [n]; samples whose image could not be decoded are left out.

        Raises:
            MismatchError: the subset speaks of another dataset.
            InputError: it names samples that are not there, or nothing is left.
        """
        ids: npt.NDArray[np.int64] = np.arange(len(self.latents), dtype=np.int64)
        if self.subset is not None:
            self._check(self.subset)
            ids = self.subset.values
        valid = self.latents.valid()[ids]
        if not valid.all():
            _log.warning("%d of the samples could not be decoded and are not trained on.", (~valid).sum())
        ids = ids[valid]
        if self.fold is not None:
            ids = ids[self.fold.holds(ids)]
        if not len(ids):
            remedy = "fewer folds" if self.fold is not None else "a larger subset"
            raise InputError(f"{self.latents.store.folder}: no sample is left to train on: give {remedy}.")
        return ids

    def _check(self, subset: Array) -> None:
        folder = str(self.latents.store.folder)
        check_same_dataset({folder: self.latents.fingerprint, subset.name: subset.fingerprint})
        if len(subset.values) and subset.values[-1] >= len(self.latents):
            raise InputError(
                f"{subset.name}: holds the id {subset.values[-1]}, and {folder} has {len(self.latents):,} samples."
            )

    def parents(self) -> dict[str, Any]:
        """Describe the store and the subset as inputs."""
        given = {} if self.subset is None else {"subset": self.subset.as_parent()}
        return {"latents": self.latents.as_parent(), **given}
