"""The jobs of `dprune score el2n` and `dprune score grand`.

Nothing here imports torch, so that scores that are up to date are recognised at once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import UsageError
from dprune.formats.arrays import read_ids
from dprune.formats.beside import Beside
from dprune.formats.latents import open_latents
from dprune.formats.provenance import Record, make_record, record_digest
from dprune.formats.publish import STDOUT, Output
from dprune.models.files import ModelFile
from dprune.runtime import Monitor, ranks
from dprune.scoring.outputs import ScoreFile, ScoreFiles, beside
from dprune.scoring.population import Samples
from dprune.scoring.progress import Progress, progress_folder
from dprune.scoring.settings import LOSS, SQUARED_NORM, Settings, resolve_compile
from dprune.scoring.sharing import SharedScoring

METHODS = {"el2n": "EL2N", "grand": "GraNd"}


@dataclass(frozen=True)
class ScoreJob(SharedScoring["npt.NDArray[np.float32]"]):
    """EL2N or GraNd of a latent store by one model, as far as it is this worker's to measure.

    Attributes:
        method: `el2n` or `grand`.
        samples: what is scored.
        model: file of the network.
        weights: `ema` or `raw`, which of a checkpoint's; None for a file that holds one set of weights.
        settings: noise levels, draws, precision.
        el2n: where EL2N goes, too; None for nowhere.
        per_sigma: whether the scores at each noise level are written, too.
        device: name of the device.
        batch_size: samples in one pass.
        compiles: whether the network's blocks are compiled.
    """

    method: str
    samples: Samples
    model: ModelFile
    weights: str | None
    settings: Settings
    el2n: str | None
    per_sigma: bool
    device: str
    batch_size: int
    compiles: bool
    output: Output

    @property
    def gradients(self) -> bool:
        """Whether gradients are measured."""
        return self.method == "grand"

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the scores."""
        return self._record(self.method, self.settings)

    def _record(self, method: str, settings: Settings) -> Record:
        weights = {} if self.weights is None else {"weights": self.weights}
        return make_record(
            f"score {method}",
            settings.options() | weights,
            seed=settings.seed,
            fingerprint=self.samples.latents.fingerprint,
            parents=self._parents,
            tags=self.output.tags,
        )

    @functools.cached_property
    def _parents(self) -> dict[str, Record]:
        return self.samples.parents() | {"model": self.model.as_parent()}

    def outputs(self) -> dict[str, ScoreFiles]:
        """Return the files of each method that is asked for."""
        found = {self.method: self._files(self.method, Path(self.output.path), "-o")}
        return found | ({"el2n": self._files("el2n", Path(self.el2n), "--el2n")} if self.el2n else {})

    def _files(self, method: str, path: Path, option: str) -> ScoreFiles:
        whole = ScoreFile(path, self._record(method, self.settings), self.settings, METHODS[method], option)
        alone = [self.settings.at(sigma) for sigma in self.settings.sigmas] if self.per_sigma else []
        levels = [
            ScoreFile(beside(path, f"s{level.sigmas[0]:g}"), self._record(method, level), level,
                      f"{METHODS[method]} at sigma {level.sigmas[0]:g}", option)
            for level in alone
        ]  # fmt: skip
        return ScoreFiles(whole, tuple(levels))

    @property
    def beside(self) -> list[Beside]:
        """Every file of every method but the scores themselves."""
        return [file for files in self.outputs().values() for file in files.files][1:]

    def progress(self) -> Progress:
        """Return the progress of scores that go to `output`."""
        shape = (len(self.settings.sigmas), self.settings.draws, 2 if self.gradients else 1)
        mark = record_digest(self.record)
        return Progress(progress_folder(self.output.path), len(self.samples.ids), shape, mark)

    def measure(self, monitor: Monitor) -> None:
        """Measure what is missing of this worker's pieces."""
        progress, here = self.progress(), ranks()
        missing = [piece for piece in progress.pieces(here.rank, here.world) if not piece.whole]
        if missing:
            from dprune.scoring.device import measure

            measure(self, progress, missing, monitor)

    def values(self) -> npt.NDArray[np.float32] | None:
        """Return the measures [n, S, M, K], None while some are missing."""
        return self.progress().values()

    def write(self, values: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Publish all files, the output last, so that a rerun makes what a kill kept from being written."""
        ids, count, files = self.samples.ids, len(self.samples.latents), self.outputs()
        found = {
            METHODS[method]: files[method].write(singles(values, method), ids, count) for method in reversed(files)
        }
        return {name: table for name, table in found.items() if table}

    def summary(self) -> dict[str, Any]:
        """Count what is scored."""
        scored = len(self.samples.ids)
        return {"scored": scored, "not_scored": len(self.samples.latents) - scored}


def singles(values: npt.NDArray[np.float32], method: str) -> npt.NDArray[np.float32]:
    """Return single-draw scores [n, S, M] of measures [n, S, M, K]: losses, or norms of gradients."""
    return values[..., LOSS] if method == "el2n" else np.sqrt(values[..., SQUARED_NORM])


def prepare(
    method: str,
    store: str,
    model: str,
    settings: Settings,
    *,
    el2n: str | None = None,
    per_sigma: bool = False,
    weights: str = "ema",
    subset: str | None = None,
    device: str = "auto",
    batch_size: int,
    compiles: bool | None = None,
    output: Output,
) -> ScoreJob:
    """Open what `dprune score el2n` or `grand` was given.

    Raises:
        InputError: a file is missing, damaged or of another kind.
        MismatchError: the model is not one for the store.
        UsageError: an option is not for such files.
    """
    if el2n == STDOUT:
        raise UsageError("--el2n -: its errors go beside it: give a file.")
    compiled = resolve_compile(compiles, device)
    samples = Samples(open_latents(store), read_ids(subset) if subset else None)
    file = ModelFile.open(model)
    chosen = check_model(file, samples, weights)
    return ScoreJob(method, samples, file, chosen, settings, el2n, per_sigma, device, batch_size,
                    compiled, output)  # fmt: skip


def check_model(file: ModelFile, samples: Samples, weights: str) -> str | None:
    """Hold a file to the samples, as far as its header tells.

    Args:
        file: of the network.
        samples: what is to be scored.
        weights: which of a checkpoint's are asked for.

    Returns:
        Those weights, None for a file that holds one set.

    Raises:
        InputError: it holds no DiT.
        MismatchError: it is not one for the samples.
        UsageError: raw weights are asked for and are not there.
    """
    file.check_kind("dit", "a DiT", "train-dit")
    kept = "step" in file.network
    if weights == "raw" and not kept:
        raise UsageError(f"--weights raw: {file.path} is no checkpoint, and holds one set of weights: leave it out.")
    samples.check_autoencoder(file)
    if file.network:
        samples.check_network(str(file.path), file.network)
    return weights if kept else None
