"""MoSo: how much the loss over the other samples would move if a sample were left out of training.

Tan et al., "Data pruning via moving-one-sample-out" (NeurIPS 2023). Nothing here imports torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.formats.provenance import Record, digest, record_digest
from dprune.formats.publish import Output
from dprune.formats.turns import Turns, peeked
from dprune.runtime import Monitor
from dprune.scoring.folds import Surrogate, Unit, open_surrogates
from dprune.scoring.outputs import ScoreFile
from dprune.scoring.population import open_samples
from dprune.scoring.progress import Item, Workload, workload_file
from dprune.scoring.reliability import Floats
from dprune.scoring.settings import DOT, SQUARED_NORM, ScoreOptions
from dprune.scoring.sharing import SharedScoring
from dprune.training.checkpoints import Wanted

MEASURES = 3
EQUAL, LR = "equal", "lr"


def moso(measures: npt.NDArray[np.floating], form: str) -> Floats:
    """Return single-draw scores by one checkpoint of a fold's surrogate.

    With N samples, a sample's gradient g and their mean m over samples, noise levels and draws, the exact form is
    (2N-3)/(N-1)^2 |m|^2 - |g|^2/(N-1)^2 + (2N-4)/(N-1)^2 <m - g/N, g>. First order is <m, g>, which the exact form
    comes to for large N, up to a scale and a constant of the fold. High is a sample whose gradient goes along with
    the others'.

    Args:
        measures: of all samples of a fold, [N, S, M, 3], N of 2 and more: losses, squared norms, dots with m.
        form: `exact` or `first-order`.

    Returns:
        float64 [N, S, M].
    """
    norms, dots = (measures[..., place].astype(np.float64) for place in (SQUARED_NORM, DOT))
    if form == "first-order":
        return dots
    count = len(measures)
    # The mean of all dots with the mean gradient is its squared norm.
    whole = (2 * count - 3) * dots.mean() - norms + (2 * count - 4) * (dots - norms / count)
    scores: Floats = whole / (count - 1) ** 2
    return scores


def standardized(singles: Floats) -> Floats:
    """Scale a fold's single-draw scores [N, S, M] so that its scores have mean 0 and deviation 1 at each noise level.

    Gradients of surrogates differ in scale, and so would the scores of folds. Each draw gets the mean 0, as another
    scoring would give it: what a draw does to a whole fold moves no sample among the others.
    """
    deviation = singles.mean(2, keepdims=True).std(0, keepdims=True)
    # A fold whose samples all score alike ranks nothing, and is not divided by zero.
    found: Floats = (singles - singles.mean(0, keepdims=True)) / np.where(deviation > 0, deviation, 1)
    return found


@dataclass(frozen=True)
class MosoJob(SharedScoring["list[Floats]"]):
    """MoSo of a latent store by surrogates of its folds, as far as it is this worker's to measure.

    Workers share folds and checkpoints rather than samples: the mean gradient over a fold comes first, and workers
    that each had a part of it would wait for each other.

    Attributes:
        surrogates: in the order of their folds.
        only: fold that is worked on alone; None for all.
        form: of the score, see `moso`.
        normalize: `zscore` (within each fold) or `none`.
        checkpoint_weights: what checkpoints weigh in the mean over them: `equal`, or their learning rates (`lr`).
    """

    surrogates: Sequence[Surrogate]
    only: int | None
    form: str
    normalize: str
    checkpoint_weights: str = EQUAL

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the scores."""
        runs = {each.title: each.run.as_parent(each.checkpoints) for each in self.surrogates}
        chosen = {"form": self.form, "normalize": self.normalize, "checkpoints": len(self.surrogates[0].checkpoints)}
        if self.checkpoint_weights != EQUAL:
            chosen["checkpoint_weights"] = self.checkpoint_weights
        return self.record_of("moso", self.settings, runs, **chosen)

    @property
    def file(self) -> ScoreFile:
        """See `SharedScoring`."""
        return ScoreFile(Path(self.output.path), self.record, self.settings, "MoSo")

    def units(self, surrogate: Surrogate) -> list[Unit]:
        """Return the work of a fold, measured or not."""
        options, found = self.settings.options() | {"seed": self.settings.seed}, []
        for each in surrogate.checkpoints:
            # Of nothing but what changes the measures, so that a fold that was filled alone counts when all are there.
            mark = digest([record_digest(surrogate.run.record), each.mark, options])
            name = f"{surrogate.title.replace(' ', '-')}-step-{each.step:08d}"
            found.append(Unit(surrogate, each, self.portions(name, len(surrogate.ids), MEASURES, mark)))
        return found

    def _asked_for(self) -> list[Unit]:
        chosen = [
            each for each in self.surrogates if self.only is None or (each.fold and each.fold.number == self.only)
        ]
        return [unit for each in chosen for unit in self.units(each)]

    def workload(self) -> Workload:
        """See `SharedScoring`."""
        items = [Item(unit.title, unit.progress, unit.fold) for unit in self._asked_for()]
        first = self.surrogates[0].fold
        return Workload(self.record, items, first.count if first else 0)

    @property
    def workload_file(self) -> Path:
        """See `SharedScoring`; folds that are measured alone are not the others' to speak of."""
        return workload_file(self.output.path, self.only)

    def measure(self, turns: Turns, monitor: Monitor) -> None:
        """Measure what is missing of this worker's folds and checkpoints."""
        units = self._asked_for()

        def missing(numbers: Iterable[int]) -> list[int]:
            return [number for number in numbers if not units[number].whole]

        # One at a time: each takes a network of its own, and long.
        batches = turns.deal(len(units), missing, lambda number: units[number].claim, most=1)
        if found := peeked(units[number] for batch in batches for number in batch):
            from dprune.scoring.mean_gradient import measure_folds

            measure_folds(self.samples, self.settings, found, self.record, monitor, self.announce)

    def values(self) -> list[Floats] | None:
        """Return single-draw scores [N, S, M] of each fold, weighted means over its checkpoints."""
        if self.only is not None:
            return None
        found = [self._scored(self.units(surrogate)) for surrogate in self.surrogates]
        whole = [singles for singles in found if singles is not None]
        return whole if len(whole) == len(found) else None

    def _scored(self, units: Sequence[Unit]) -> Floats | None:
        total, weights = np.zeros(()), 0.0
        for unit in units:
            if (measures := unit.progress.values()) is None:
                return None
            weight = unit.rate if self.checkpoint_weights == LR else 1.0
            total, weights = total + weight * moso(measures, self.form), weights + weight
        found: Floats = total / weights
        return standardized(found) if self.normalize == "zscore" else found

    def write(self, values: list[Floats]) -> None:
        """Publish the scores and their standard errors."""
        ids = np.concatenate([surrogate.ids for surrogate in self.surrogates])
        self.file.write(np.concatenate(values), ids, len(self.samples.latents))

    def counts(self) -> dict[str, Any]:
        """See `SharedScoring`."""
        found = self.counted(sum(len(surrogate.ids) for surrogate in self.surrogates))
        return found | {"runs": len(self.surrogates), "checkpoints": len(self.surrogates[0].checkpoints)}

    def waits_for(self) -> str:
        """Say what is missing when this worker has measured its share."""
        if self.only is None or not all(unit.whole for unit in self._asked_for()):
            return super().waits_for()
        return f"fold {self.only} is measured, and the command without --only-fold makes the scores of all"


@dataclass(frozen=True, kw_only=True)
class MosoOptions(ScoreOptions):
    """Options of `dprune score moso`."""

    form: str = "exact"
    normalize: str = "zscore"
    only_fold: int | None = None
    checkpoints: str = "all"
    checkpoint_weights: str = EQUAL


def open_moso(store: str, runs: Sequence[str], options: MosoOptions, output: Output) -> MosoJob:
    """Open what `dprune score moso` was given.

    Raises:
        InputError: a file or folder is missing, damaged or of another kind, or folds are missing.
        MismatchError: runs do not belong together, or not to the store.
        UsageError: an option is not for such runs.
    """
    settings, wanted = options.resolve(), Wanted.parse(options.checkpoints)
    settings.check_mean_gradient()
    samples = open_samples(store, options.subset)
    surrogates = open_surrogates(samples, runs, wanted, options.only_fold)
    return MosoJob(samples, settings, output, surrogates, options.only_fold, options.form, options.normalize,
                   options.checkpoint_weights)  # fmt: skip
