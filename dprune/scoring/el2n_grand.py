"""EL2N and GraNd: the loss of a sample, and the norm of its gradient; nothing here imports torch.

Paul, Ganguli and Dziugaite, "Deep learning on a data diet" (NeurIPS 2021), with the loss of flow matching.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dprune.errors import UsageError
from dprune.formats.beside import Beside
from dprune.formats.provenance import Record, record_digest, with_findings
from dprune.formats.publish import STDOUT, Output
from dprune.formats.turns import Turns, peeked
from dprune.models.files import ModelFile
from dprune.models.foreign_vaes import weights_in
from dprune.models.parametrization import parametrization_of
from dprune.runtime import Monitor
from dprune.scoring.outputs import ScoreFile, named_beside
from dprune.scoring.population import open_samples
from dprune.scoring.progress import Item, Progress, Share, Workload
from dprune.scoring.settings import LOSS, SQUARED_NORM, ScoreOptions, ScoreSettings
from dprune.scoring.sharing import SharedScoring

METHODS = {"el2n": "EL2N", "grand": "GraNd"}


def singles(measures: npt.NDArray[np.float32], method: str) -> npt.NDArray[np.float32]:
    """Return single-draw scores [n, S, M] of measures [n, S, M, K]: losses, or norms of gradients."""
    return measures[..., LOSS] if method == "el2n" else np.sqrt(measures[..., SQUARED_NORM])


@dataclass(frozen=True)
class El2nGrandJob(SharedScoring["npt.NDArray[np.float32]"]):
    """EL2N or GraNd of a latent store by one model, as far as it is this worker's to measure.

    Attributes:
        method: `el2n` or `grand`.
        model: file of the network.
        el2n: where EL2N goes, too; None for nowhere.
        per_sigma: whether the scores at each noise level are written, too.
    """

    method: str
    model: ModelFile
    el2n: str | None
    per_sigma: bool

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the scores."""
        return self._record(self.method, self.settings)

    def _record(self, method: str, settings: ScoreSettings) -> Record:
        return self.record_of(method, settings, {"model": self.model.as_parent()})

    @property
    def file(self) -> ScoreFile:
        """See `SharedScoring`."""
        return self._file(self.method, Path(self.output.path), "-o")

    def outputs(self) -> dict[str, ScoreFile]:
        """Return the files of each method that is asked for."""
        return {self.method: self.file} | ({"el2n": self._file("el2n", Path(self.el2n), "--el2n")} if self.el2n else {})

    def _file(self, method: str, path: Path, option: str) -> ScoreFile:
        title, levels, noted = METHODS[method], list[ScoreFile](), self.progress().noted()
        for sigma in self.settings.sigmas if self.per_sigma else ():
            own, place = replace(self.settings, sigmas=(sigma,)), named_beside(path, f"s{sigma:g}")
            record = with_findings(self._record(method, own), noted)
            levels.append(ScoreFile(place, record, own, f"{title} at sigma {sigma:g}", option))
        record = with_findings(self._record(method, self.settings), noted)
        return ScoreFile(path, record, self.settings, title, option, tuple(levels))

    @property
    def beside(self) -> Sequence[Beside]:
        """Every file of every method but the scores themselves."""
        return [file for score in self.outputs().values() for file in score.files][1:]

    def progress(self) -> Progress:
        """Return what is measured."""
        measures = 2 if self.method == "grand" else 1
        return self.portions("", len(self.samples.ids), measures, record_digest(self.record))

    def workload(self) -> Workload:
        """See `SharedScoring`."""
        return Workload(self.record, [Item("", self.progress())])

    def measure(self, turns: Turns, monitor: Monitor) -> None:
        """Measure what is missing of this worker's portions."""
        progress = self.progress()
        batches = turns.deal(len(progress), progress.unmeasured, progress.claim)
        shares = peeked(Share(self.model, progress, progress.missing(batch), "scoring") for batch in batches)
        if shares:
            from dprune.scoring.device import measure_shares

            measure_shares(
                self.samples, self.settings, shares, monitor, self.announce, gradients=self.method == "grand"
            )

    def values(self) -> npt.NDArray[np.float32] | None:
        """Return the measures [n, S, M, K], None while some are missing."""
        return self.progress().values()

    @property
    def scores(self) -> Sequence[ScoreFile]:
        """See `SharedScoring`."""
        return tuple(reversed(self.outputs().values()))

    def write(self, values: npt.NDArray[np.float32]) -> None:
        """Publish all files, the output last, so that a rerun makes what a kill kept from being written."""
        ids, count, files = self.samples.ids, len(self.samples.latents), self.outputs()
        for method in reversed(files):
            files[method].write(singles(values, method), ids, count)


@dataclass(frozen=True, kw_only=True)
class El2nOptions(ScoreOptions):
    """Options of `dprune score el2n`."""

    parametrization: str | None = None
    per_sigma: bool = False


@dataclass(frozen=True, kw_only=True)
class GrandOptions(El2nOptions):
    """Options of `dprune score grand`."""

    el2n: str | None = None


def open_el2n(store: str, model: str, options: El2nOptions, output: Output) -> El2nGrandJob:
    """Open what `dprune score el2n` was given.

    Raises:
        InputError: a file is missing, damaged or of another kind.
        MismatchError: the model is not one for the store.
        UsageError: an option is not for such files.
    """
    return _opened("el2n", store, model, options, None, output)


def open_grand(store: str, model: str, options: GrandOptions, output: Output) -> El2nGrandJob:
    """Open what `dprune score grand` was given; see `open_el2n`."""
    if options.el2n == STDOUT:
        raise UsageError("--el2n -: its standard errors are written beside it: give a file.")
    return _opened("grand", store, model, options, options.el2n, output)


def _opened(
    method: str, store: str, model: str, options: El2nOptions, el2n: str | None, output: Output
) -> El2nGrandJob:
    settings = options.resolve()
    if options.per_sigma and not settings.sigmas:
        raise UsageError("--per-sigma: --sigma uniform has no single levels: leave it out.")
    samples, file = open_samples(store, options.subset), ModelFile.open(weights_in(Path(model), "transformer"))
    weights = samples.check_model(file, settings.weights)
    predicts = parametrization_of(file, options.parametrization)
    settings = replace(settings, weights=weights, parametrization=predicts)
    return El2nGrandJob(samples, settings, output, method, file, el2n, options.per_sigma)
