"""The job of `dprune score monotonicity`; nothing here imports torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, UsageError
from dprune.formats.arrays import read_ids, write_array
from dprune.formats.beside import Beside
from dprune.formats.latents import open_latents
from dprune.formats.provenance import Record, digest, make_record, record_digest, variant
from dprune.formats.publish import STDOUT, Output
from dprune.runtime import Monitor, ranks
from dprune.scoring.monotonicity import rises, rises_of_mean
from dprune.scoring.outputs import ScoreFile, spread
from dprune.scoring.population import Samples
from dprune.scoring.progress import Piece, Progress, progress_folder
from dprune.scoring.reliability import reliability, standard_errors
from dprune.scoring.settings import LOSS, Settings, resolve_compile
from dprune.scoring.sharing import SharedScoring
from dprune.training.checkpoints import Checkpoint, TrainedRun, Wanted, open_run


@dataclass(frozen=True)
class MonotonicityJob(SharedScoring["npt.NDArray[np.float32]"]):
    """Loss monotonicity of a latent store by the checkpoints of a run, as far as it is this worker's to measure.

    Attributes:
        samples: what is scored.
        trained: the run.
        checkpoints: that are read, in the order of their steps.
        weights: `ema` or `raw`.
        settings: noise level, draws, precision.
        losses: where the losses go, too; None for nowhere.
        device: name of the device.
        batch_size: samples in one pass.
        compiles: whether the network's blocks are compiled.
    """

    samples: Samples
    trained: TrainedRun
    checkpoints: Sequence[Checkpoint]
    weights: str
    settings: Settings
    losses: str | None
    device: str
    batch_size: int
    compiles: bool
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the scores."""
        chosen = {"weights": self.weights, "steps": [checkpoint.step for checkpoint in self.checkpoints]}
        return make_record(
            "score monotonicity",
            self.settings.options() | chosen,
            seed=self.settings.seed,
            fingerprint=self.samples.latents.fingerprint,
            parents=self.samples.parents() | {"run": self.trained.as_parent(self.checkpoints)},
            tags=self.output.tags,
        )

    @property
    def _losses_record(self) -> Record:
        return variant(self.record, values="loss")

    def _file(self) -> ScoreFile:
        return ScoreFile(Path(self.output.path), self.record, self.settings, "loss monotonicity")

    @property
    def beside(self) -> list[Beside]:
        """The standard errors and the losses."""
        losses = [] if self.losses is None else [Beside("--losses", Path(self.losses), self._losses_record)]
        return [*self._file().files][1:] + losses

    def progress(self) -> list[tuple[Checkpoint, Progress]]:
        """Return what is measured by each checkpoint."""
        # Not of the other checkpoints, so that a range that grows goes on.
        options = self.settings.options() | {"weights": self.weights, "seed": self.settings.seed}
        inputs = [
            record_digest(self.trained.record),
            {r: p["digest"] for r, p in self.samples.parents().items()},
            options,
        ]
        shape = (len(self.settings.sigmas), self.settings.draws, 1)
        return [
            (each, Progress(progress_folder(self.output.path) / f"step-{each.step:08d}", len(self.samples.ids), shape,
                            digest([*inputs, each.mark])))
            for each in self.checkpoints
        ]  # fmt: skip

    def measure(self, monitor: Monitor) -> None:
        """Measure what is missing of this worker's share of the samples by each checkpoint."""
        here, work = ranks(), list[tuple["Checkpoint", Progress, list["Piece"]]]()
        for place, (checkpoint, progress) in enumerate(self.progress()):
            # Beginning at another piece each time, so that few pieces go round, too.
            pieces = progress.pieces((here.rank + place) % here.world, here.world)
            work.append((checkpoint, progress, [piece for piece in pieces if not piece.whole]))
        missing = [unit for unit in work if unit[2]]
        if missing:
            from dprune.scoring.monotonicity_work import measure

            measure(self, missing, monitor)

    def values(self) -> npt.NDArray[np.float32] | None:
        """Return the losses by pairs of draws (or one draw), float32 [n, P, K]."""
        found: npt.NDArray[np.float32] | None = None
        for place, (_, progress) in enumerate(self.progress()):
            if (measures := progress.values()) is None:
                return None
            losses = measures[:, 0, :, LOSS].astype(np.float64)
            pairs = losses.reshape(len(losses), self.settings.pairs, -1).mean(2)
            if found is None:
                found = np.empty((*pairs.shape, len(self.checkpoints)), np.float32)
            found[..., place] = pairs
        return found

    def write(self, values: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Publish the losses, the standard errors and the scores."""
        ids, count, pairs = self.samples.ids, len(self.samples.latents), values.astype(np.float64)
        if self.losses is not None:
            write_array(self.losses, spread(pairs.mean(1), ids, count), self._losses_record)
        found = reliability(pairs, self.settings.seed, rises_of_mean)
        errors = spread(standard_errors(rises(pairs)), ids, count) if self.settings.pairs > 1 else None
        self._file().publish(spread(rises_of_mean(pairs), ids, count), errors, found)
        return {"loss monotonicity": found} if found else {}

    def summary(self) -> dict[str, Any]:
        """Count what is scored."""
        scored = len(self.samples.ids)
        return {"scored": scored, "not_scored": len(self.samples.latents) - scored,
                "checkpoints": len(self.checkpoints)}  # fmt: skip


def prepare(
    store: str,
    run: str,
    settings: Settings,
    *,
    checkpoints: str = "all",
    losses: str | None = None,
    weights: str = "raw",
    subset: str | None = None,
    device: str = "auto",
    batch_size: int,
    compiles: bool | None = None,
    output: Output,
) -> MonotonicityJob:
    """Open what `dprune score monotonicity` was given.

    Raises:
        InputError: a file or folder is missing, damaged or of another kind, or checkpoints are missing.
        MismatchError: the run is not one for the store.
        UsageError: an option cannot be.
    """
    compiled = resolve_compile(compiles, device)
    if len(settings.sigmas) > 1:
        raise UsageError("--sigma: loss monotonicity is of one noise level: give one.")
    if losses == STDOUT:
        raise UsageError("--losses -: losses go to a file: name one.")
    wanted = Wanted.parse(checkpoints)
    samples = Samples(open_latents(store), read_ids(subset) if subset else None)
    trained = open_run(run)
    samples.check_autoencoder(trained.checkpoints[0].file)
    samples.check_network(run, trained.checkpoints[0].file.network)
    chosen = trained.chosen(wanted)
    if len(chosen) < 2:
        raise InputError(f"{run}: one checkpoint is there or asked for, and a rise takes two: "
                         "give more --checkpoints, or train for two epochs with --save-every epoch.")  # fmt: skip
    return MonotonicityJob(samples, trained, chosen, weights, settings, losses, device, batch_size,
                           compiled, output)  # fmt: skip
