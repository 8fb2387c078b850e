"""Loss monotonicity: in what share of a training's steps from checkpoint to checkpoint a sample's loss rose.

Nothing here imports torch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, UsageError
from dprune.formats.arrays import write_array
from dprune.formats.beside import Beside
from dprune.formats.provenance import Record, digest, record_digest, variant
from dprune.formats.publish import STDOUT, Output
from dprune.formats.turns import Turns, peeked
from dprune.runtime import Monitor
from dprune.scoring.outputs import ScoreFile, of_all
from dprune.scoring.population import open_samples
from dprune.scoring.progress import Item, Progress, Share, Workload
from dprune.scoring.reliability import Floats, half_sample_errors
from dprune.scoring.settings import LOSS, ScoreOptions
from dprune.scoring.sharing import SharedScoring
from dprune.training.checkpoints import Checkpoint, TrainedRun, Wanted, open_run


def rises(losses: npt.NDArray[np.floating]) -> Floats:
    """Return the share of consecutive checkpoints in which the loss rose.

    Args:
        losses: [..., K] by K checkpoints in their order, K of 2 and more.

    Returns:
        float64 [...] in [0, 1]; ties are many, and are left to the selection.
    """
    found: Floats = (np.diff(losses, axis=-1) > 0).mean(-1)
    return found


def rises_of_mean(pairs: npt.NDArray[np.floating]) -> Floats:
    """Return `rises` of the mean over pairs of draws, float64 [n], for losses [n, P, K]."""
    return rises(pairs.mean(1))


@dataclass(frozen=True)
class MonotonicityJob(SharedScoring["npt.NDArray[np.float32]"]):
    """Loss monotonicity of a latent store by the checkpoints of a run, as far as it is this worker's to measure.

    Attributes:
        trained: the run.
        checkpoints: that are read, in the order of their steps.
        losses: where the losses go, too; None for nowhere.
    """

    trained: TrainedRun
    checkpoints: Sequence[Checkpoint]
    losses: str | None

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the scores."""
        run, steps = self.trained.as_parent(self.checkpoints), [checkpoint.step for checkpoint in self.checkpoints]
        return self.record_of("monotonicity", self.settings, {"run": run}, steps=steps)

    @property
    def _losses_record(self) -> Record:
        return variant(self.record, values="loss")

    @property
    def file(self) -> ScoreFile:
        """See `SharedScoring`."""
        return ScoreFile(Path(self.output.path), self.record, self.settings, "loss monotonicity")

    @property
    def beside(self) -> Sequence[Beside]:
        """The standard errors and the losses."""
        losses = [] if self.losses is None else [Beside("--losses", Path(self.losses), self._losses_record)]
        return [*super().beside, *losses]

    def progress(self) -> list[tuple[Checkpoint, Progress]]:
        """Return what is measured by each checkpoint."""
        # Not of the other checkpoints, so that a range that grows goes on.
        options = self.settings.options() | {"seed": self.settings.seed}
        samples = {role: parent["digest"] for role, parent in self.samples.parents().items()}
        inputs, count = [record_digest(self.trained.record), samples, options], len(self.samples.ids)
        return [(each, self.portions(f"step-{each.step:08d}", count, 1, digest([*inputs, each.mark])))
                for each in self.checkpoints]  # fmt: skip

    def workload(self) -> Workload:
        """See `SharedScoring`."""
        return Workload(self.record, [Item(f"step {each.step}", progress) for each, progress in self.progress()])

    def measure(self, turns: Turns, monitor: Monitor) -> None:
        """Measure what is missing of this worker's share of the samples by each checkpoint."""
        all_progress = self.progress()
        # One numbering for the portions of all checkpoints, so that few portions go round, too.
        portions = len(all_progress[0][1])

        def missing(numbers: Iterable[int]) -> list[int]:
            return [number for number in numbers if progress_of(number).unmeasured([number % portions])]

        def progress_of(number: int) -> Progress:
            return all_progress[number // portions][1]

        def shares(batch: Sequence[int]) -> Iterator[Share]:
            for place, numbers in itertools.groupby(batch, lambda number: number // portions):
                checkpoint, progress = all_progress[place]
                some = progress.missing(number % portions for number in numbers)
                yield Share(checkpoint.file, progress, some, f"step {checkpoint.step}")

        batches = turns.deal(
            portions * len(all_progress), missing, lambda number: progress_of(number).claim(number % portions)
        )
        if found := peeked(share for batch in batches for share in shares(batch)):
            from dprune.scoring.device import measure_shares

            measure_shares(self.samples, self.settings, found, monitor, self.announce, gradients=False)

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

    def write(self, values: npt.NDArray[np.float32]) -> None:
        """Publish the losses, the standard errors and the scores."""
        ids, count, pairs = self.samples.ids, len(self.samples.latents), values.astype(np.float64)
        if self.losses is not None:
            write_array(self.losses, of_all(pairs.mean(1), ids, count), self._losses_record)
        self.file.publish(pairs, rises_of_mean, self._errors, ids, count)

    def _errors(self, pairs: Floats) -> Floats:
        return half_sample_errors(pairs, self.settings.seed, rises_of_mean)

    def counts(self) -> dict[str, Any]:
        """See `SharedScoring`."""
        return super().counts() | {"checkpoints": len(self.checkpoints)}


@dataclass(frozen=True, kw_only=True)
class MonotonicityOptions(ScoreOptions):
    """Options of `dprune score monotonicity`."""

    losses: str | None = None
    checkpoints: str = "all"
    weights: str = "raw"


def open_monotonicity(store: str, run: str, options: MonotonicityOptions, output: Output) -> MonotonicityJob:
    """Open what `dprune score monotonicity` was given.

    Raises:
        InputError: a file or folder is missing, damaged or of another kind, or checkpoints are missing.
        MismatchError: the run is not one for the store.
        UsageError: an option cannot be.
    """
    settings = options.resolve()
    if len(settings.sigmas) > 1:
        raise UsageError("--sigma: loss monotonicity takes one noise level: give one, or uniform.")
    if options.losses == STDOUT:
        raise UsageError("--losses -: losses go to a file: name one.")
    wanted = Wanted.parse(options.checkpoints)
    samples, trained = open_samples(store, options.subset), open_run(run)
    samples.check_autoencoder(trained.checkpoints[0].file)
    samples.check_network(run, trained.checkpoints[0].file.network)
    chosen = trained.chosen(wanted)
    if len(chosen) < 2:
        raise InputError(f"{run}: there is one checkpoint to use, and a rise needs two: "
                         "give more --checkpoints, or train for two epochs with --save-every epoch.")  # fmt: skip
    return MonotonicityJob(samples, settings, output, trained, chosen, options.losses)
