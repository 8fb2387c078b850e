"""Influence: what training on a sample does for the loss of target samples, to first order; nothing here imports torch.

Pruthi, Liu, Kale and Sundararajan, "Estimating training data influence by tracing gradient descent" (NeurIPS 2020), by
one network. A small step along a sample's negative gradient g lowers the mean loss of the targets by the step's length
times <m, g>, for their mean gradient m. That is taken over all noise levels and draws, as the targets' loss is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.kinds import kind_of
from dprune.formats.latents import KIND, Latents, open_latents
from dprune.formats.named_sources import NamedStore
from dprune.formats.provenance import Record, record_digest, variant, with_findings
from dprune.formats.publish import Output
from dprune.formats.subsets import read_chosen
from dprune.formats.turns import Turns, peeked
from dprune.models.files import ModelFile
from dprune.models.foreign_vaes import weights_in
from dprune.models.parametrization import parametrization_of
from dprune.models.vae_files import made_by
from dprune.runtime import Monitor
from dprune.scoring.outputs import ScoreFile, named_beside
from dprune.scoring.population import Samples, open_samples
from dprune.scoring.progress import Item, Progress, Share, Workload
from dprune.scoring.settings import ScoreOptions
from dprune.scoring.sharing import SharedScoring

MEASURES = 2
"""Of a draw: the loss and, last, the dot with the mean gradient."""


class TargetSamples(Samples):
    """The samples that others are to help: of the scored store, or of another one."""

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Sorted ids, int64 [n], at least one; see `decoded`."""
        if not len(self.decoded):
            raise InputError(f"--target: no sample of {self.latents.store.folder} is left: name at least one whose "
                             "image could be decoded.")  # fmt: skip
        return self.decoded

    def as_parent(self) -> Record:
        """Describe what was given as an input."""
        return self.latents.as_parent() if self.subset is None else self.subset.as_parent()


@dataclass(frozen=True)
class InfluenceJob(SharedScoring["npt.NDArray[np.float32]"]):
    """Influence of a latent store on target samples by one model, as far as it is this worker's to measure.

    Each worker makes the mean gradient for itself, unless another has done so, for which tasks of an array wait.

    Attributes:
        model: file of the network.
        target: samples whose loss is to fall.
        per_sigma: whether the scores at each noise level are written, too.
    """

    model: ModelFile
    target: TargetSamples
    per_sigma: bool

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the scores."""
        inputs = {"model": self.model.as_parent(), "target": self.target.as_parent()}
        return self.record_of("influence", self.settings, inputs)

    @property
    def file(self) -> ScoreFile:
        """See `SharedScoring`."""
        path, record = Path(self.output.path), with_findings(self.record, self.progress().noted())
        levels = []
        for sigma in self.settings.sigmas if self.per_sigma else ():
            # Not what this level would give alone: the mean gradient is of all levels.
            own, place = replace(self.settings, sigmas=(sigma,)), named_beside(path, f"s{sigma:g}")
            levels.append(ScoreFile(place, variant(record, level=sigma), own, f"influence at sigma {sigma:g}"))
        return ScoreFile(path, record, self.settings, "influence", levels=tuple(levels))

    def progress(self) -> Progress:
        """Return what is measured."""
        return self.portions("", len(self.samples.ids), MEASURES, record_digest(self.record))

    def workload(self) -> Workload:
        """See `SharedScoring`."""
        return Workload(self.record, [Item("", self.progress())])

    def measure(self, turns: Turns, monitor: Monitor) -> None:
        """Measure what is missing of this worker's portions."""
        progress = self.progress()
        batches = turns.deal(len(progress), progress.unmeasured, progress.claim)
        shares = peeked(Share(self.model, progress, progress.missing(batch), "scoring") for batch in batches)
        if shares:
            from dprune.scoring.mean_gradient import Target, measure_toward

            target = Target(self.target, first_id(self.target.latents, self.samples.latents))
            turn = turns.first(f"{Path(self.output.path).name}.gradient", monitor)
            measure_toward(self.samples, self.settings, target, shares, self.record, turn, monitor, self.announce)

    def values(self) -> npt.NDArray[np.float32] | None:
        """Return the measures [n, S, M, 2], None while some are missing."""
        return self.progress().values()

    def write(self, values: npt.NDArray[np.float32]) -> None:
        """Publish all files, the output last."""
        self.file.write(values[..., -1], self.samples.ids, len(self.samples.latents))

    def counts(self) -> dict[str, Any]:
        """See `SharedScoring`."""
        return super().counts() | {"targets": len(self.target.ids)}


def first_id(target: Latents, latents: Latents) -> int:
    """Return what the id 0 of a target store is to noises.

    A sample has the same noise as target as where it is scored, so that its influence on itself is the square of its
    gradient's norm; samples of two datasets that have one id do not share what is a sample's own.
    """
    return 0 if target.fingerprint == latents.fingerprint else len(latents)


@dataclass(frozen=True, kw_only=True)
class InfluenceOptions(ScoreOptions):
    """Options of `dprune score influence`."""

    target: str
    parametrization: str | None = None
    per_sigma: bool = False


def open_influence(store: str, model: str, options: InfluenceOptions, output: Output) -> InfluenceJob:
    """Open what `dprune score influence` was given.

    Raises:
        InputError: a file is missing, damaged or of another kind.
        MismatchError: the model or the target is not one for the store.
        UsageError: an option is not for such files.
    """
    settings = options.resolve()
    settings.check_mean_gradient()
    if options.per_sigma and not settings.sigmas:
        raise UsageError("--per-sigma: --sigma uniform has no single levels: leave it out.")
    samples, file = open_samples(store, options.subset), ModelFile.open(weights_in(Path(model), "transformer"))
    target = _open_target(options.target, samples.latents)
    weights = samples.check_model(file, settings.weights)
    target.check_model(file, settings.weights)
    predicts = parametrization_of(file, options.parametrization)
    settings = replace(settings, weights=weights, parametrization=predicts)
    return InfluenceJob(samples, settings, output, file, target, options.per_sigma)


def _open_target(path: str, latents: Latents) -> TargetSamples:
    if kind_of(path) != KIND:
        return TargetSamples(latents, read_chosen(path, NamedStore(latents.store)))
    other = open_latents(path)
    theirs, ours = made_by(other.record), made_by(latents.record)
    unlike = other.network["kind"] != latents.network["kind"] or not _same_codes(other, latents)
    if unlike or (theirs and ours and theirs != ours):
        raise MismatchError(f"--target {path}: was encoded by another autoencoder than {latents.store.folder}: "
                            "encode its images with that one.")  # fmt: skip
    return TargetSamples(other)


def _same_codes(one: Latents, other: Latents) -> bool:
    if one.codebook is None or other.codebook is None:
        return one.codebook is other.codebook
    return np.array_equal(one.codebook, other.codebook)
