"""The job of `dprune score moso`; nothing here imports torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.formats.arrays import read_ids
from dprune.formats.beside import Beside
from dprune.formats.latents import open_latents
from dprune.formats.provenance import Record, digest, make_record, record_digest
from dprune.formats.publish import Output
from dprune.runtime import Monitor, ranks
from dprune.scoring.folds import Surrogate, open_surrogates
from dprune.scoring.moso import moso, standardized
from dprune.scoring.outputs import ScoreFile
from dprune.scoring.population import Samples
from dprune.scoring.progress import Progress, progress_folder
from dprune.scoring.settings import Settings, resolve_compile
from dprune.scoring.sharing import SharedScoring
from dprune.training.checkpoints import Checkpoint, Wanted

Floats = npt.NDArray[np.float64]

MEASURES = 3


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
    def gradient(self) -> Path:
        """Where the sum of gradients is kept until the unit is measured."""
        return self.progress.folder / "gradient.safetensors"

    @property
    def whole(self) -> bool:
        """Tell whether it is measured."""
        return all(piece.whole for piece in self.progress.pieces())


@dataclass(frozen=True)
class MosoJob(SharedScoring["list[Floats]"]):
    """MoSo of a latent store by surrogates of its folds, as far as it is this worker's to measure.

    Workers share folds and checkpoints rather than samples: the mean gradient over a fold comes first, and workers
    that each had a part of it would wait for each other.

    Attributes:
        samples: what is scored.
        surrogates: in the order of their folds.
        only: fold that is worked on alone; None for all.
        weights: `ema` or `raw`.
        settings: noise levels, draws, precision.
        form: of the score, see `moso`.
        normalize: `zscore` (within each fold) or `none`.
        device: name of the device.
        batch_size: samples in one pass.
        compiles: whether the network's blocks are compiled.
    """

    samples: Samples
    surrogates: Sequence[Surrogate]
    only: int | None
    weights: str
    settings: Settings
    form: str
    normalize: str
    device: str
    batch_size: int
    compiles: bool
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the scores."""
        chosen = {"form": self.form, "normalize": self.normalize, "weights": self.weights}
        runs = {each.title: each.run.as_parent(each.checkpoints) for each in self.surrogates}
        return make_record(
            "score moso",
            self.settings.options() | chosen | {"checkpoints": len(self.surrogates[0].checkpoints)},
            seed=self.settings.seed,
            fingerprint=self.samples.latents.fingerprint,
            parents=self.samples.parents() | runs,
            tags=self.output.tags,
        )

    def _file(self) -> ScoreFile:
        return ScoreFile(Path(self.output.path), self.record, self.settings, "MoSo")

    @property
    def beside(self) -> list[Beside]:
        """The standard errors."""
        return [*self._file().files][1:]

    def units(self, surrogate: Surrogate) -> list[Unit]:
        """Return the work of a fold, measured or not."""
        return [Unit(surrogate, each, self._progress(surrogate, each)) for each in surrogate.checkpoints]

    def _progress(self, surrogate: Surrogate, checkpoint: Checkpoint) -> Progress:
        # Of nothing but what changes the measures, so that a fold that was filled alone counts when all are there.
        options = self.settings.options() | {"weights": self.weights, "seed": self.settings.seed}
        mark = digest([record_digest(surrogate.run.record), checkpoint.mark, options])
        folder = progress_folder(self.output.path) / f"{surrogate.title.replace(' ', '-')}-step-{checkpoint.step:08d}"
        shape = (len(self.settings.sigmas), self.settings.draws, MEASURES)
        return Progress(folder, len(surrogate.ids), shape, mark)

    def _asked_for(self) -> list[Unit]:
        chosen = [
            each for each in self.surrogates if self.only is None or (each.fold and each.fold.number == self.only)
        ]
        return [unit for each in chosen for unit in self.units(each)]

    def measure(self, monitor: Monitor) -> None:
        """Measure what is missing of this worker's folds and checkpoints."""
        here = ranks()
        missing = [unit for unit in self._asked_for()[here.rank :: here.world] if not unit.whole]
        if missing:
            from dprune.scoring.mean_gradient import measure

            measure(self, missing, monitor)

    def values(self) -> list[Floats] | None:
        """Return single-draw scores [N, S, M] of each fold, means over its checkpoints."""
        if self.only is not None:
            return None
        found = [self._scored(self.units(surrogate)) for surrogate in self.surrogates]
        whole = [singles for singles in found if singles is not None]
        return whole if len(whole) == len(found) else None

    def _scored(self, units: Sequence[Unit]) -> Floats | None:
        total: Floats | None = None
        for unit in units:
            if (measures := unit.progress.values()) is None:
                return None
            singles = moso(measures, self.form)
            total = singles if total is None else total + singles
        assert total is not None
        found: Floats = total / len(units)
        return standardized(found) if self.normalize == "zscore" else found

    def write(self, values: list[Floats]) -> dict[str, Any]:
        """Publish the scores and their standard errors."""
        ids = np.concatenate([surrogate.ids for surrogate in self.surrogates])
        found = self._file().write(np.concatenate(values), ids, len(self.samples.latents))
        return {"MoSo": found} if found else {}

    def summary(self) -> dict[str, Any]:
        """Count what is scored."""
        scored = sum(len(surrogate.ids) for surrogate in self.surrogates)
        found = {"scored": scored, "not_scored": len(self.samples.latents) - scored}
        return found | {"runs": len(self.surrogates), "checkpoints": len(self.surrogates[0].checkpoints)}

    def waits_for(self) -> str:
        """Say what is missing when this worker has measured its share."""
        if self.only is None or not all(unit.whole for unit in self._asked_for()):
            return super().waits_for()
        return f"fold {self.only} is measured, and the command without --only-fold makes the scores of all"


def prepare(
    store: str,
    runs: Sequence[str],
    settings: Settings,
    *,
    form: str = "exact",
    normalize: str = "zscore",
    checkpoints: str = "all",
    only_fold: int | None = None,
    weights: str = "ema",
    subset: str | None = None,
    device: str = "auto",
    batch_size: int,
    compiles: bool | None = None,
    output: Output,
) -> MosoJob:
    """Open what `dprune score moso` was given.

    Raises:
        InputError: a file or folder is missing, damaged or of another kind, or folds are missing.
        MismatchError: runs do not belong together, or not to the store.
        UsageError: an option is not for such runs.
    """
    compiled = resolve_compile(compiles, device)
    wanted = Wanted.parse(checkpoints)
    samples = Samples(open_latents(store), read_ids(subset) if subset else None)
    surrogates = open_surrogates(samples, runs, wanted, only_fold)
    return MosoJob(samples, surrogates, only_fold, weights, settings, form, normalize, device, batch_size,
                   compiled, output)  # fmt: skip
