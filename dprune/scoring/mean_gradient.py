"""What the device does for scores by dots with a mean gradient: first that gradient is summed up, then samples pass."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.formats.provenance import Record
from dprune.models.files import ModelFile, publish_model
from dprune.runtime import Monitor, check_stop
from dprune.scoring.device import on_device
from dprune.scoring.folds import Unit, gradient_file
from dprune.scoring.passes import Announce, Measuring, Span
from dprune.scoring.population import Samples
from dprune.scoring.progress import Portion, Progress, Share
from dprune.scoring.settings import ScoreSettings


class KeptSum(NamedTuple):
    """A sum of gradients as it is kept on disk.

    Attributes:
        path: of its file.
        progress: of the samples that it is of, whose mark it carries; nothing of it is filled.
        title: what the terminal calls it.
        record: provenance of what it is for.
    """

    path: Path
    progress: Progress
    title: str
    record: Record


class Target(NamedTuple):
    """What gradients are to go along with.

    Attributes:
        samples: whose mean gradient it is.
        first: see `ScoredLatents`.
    """

    samples: Samples
    first: int


def measure_toward(
    samples: Samples, settings: ScoreSettings, target: Target, shares: Iterable[Share], record: Record,
    turn: AbstractContextManager[None], monitor: Monitor, announce: Announce,
) -> None:  # fmt: skip
    """Measure dots with the mean gradient of a target by one network; it raises what `measure_shares` raises.

    Args:
        samples: what is scored.
        settings: noise levels, draws, precision, device.
        target: the samples that the mean gradient is of.
        shares: what is measured, one by one, all by one network.
        record: provenance of the scores, which the kept sum of gradients carries.
        turn: held while the mean gradient is made, so that others find it made.
        monitor: asked to stop.
        announce: see `Measuring`.
    """
    with on_device(samples, settings, announce, gradients=True) as networks:
        measuring: Measuring | None = None
        for share in shares:
            check_stop(monitor)
            if measuring is None:
                measuring = networks.measuring(share.file, samples.ids, share.progress)
                gradients = measuring.scorer.gradients
                assert gradients is not None
                progress = replace(share.progress, count=len(target.samples.ids))
                theirs = networks.beside(share.file, *target, progress)
                kept = KeptSum(gradient_file(progress), progress, "mean gradient of the target", record)
                with turn:
                    mean = _Summing(theirs, gradients.zeros(), kept).mean(monitor)
                gradients.aim(mean, norms=False)
                del mean
            measuring.fill(share.portions, monitor, share.label)


def measure_folds(
    samples: Samples, settings: ScoreSettings, units: Iterable[Unit], record: Record, monitor: Monitor,
    announce: Announce,
) -> None:  # fmt: skip
    """Measure folds by checkpoints; it raises what `measure_shares` raises.

    Args:
        samples: of which the folds are.
        settings: noise levels, draws, precision, device.
        units: what is measured, one by one.
        record: provenance of the scores, which kept sums of gradients carry.
        monitor: asked to stop.
        announce: see `Measuring`.
    """
    with on_device(samples, settings, announce, gradients=True) as networks:
        for unit in units:
            check_stop(monitor)
            measuring = networks.measuring(unit.checkpoint.file, unit.surrogate.ids, unit.progress)
            gradients = measuring.scorer.gradients
            assert gradients is not None
            # Those of the unit before are as large as the network.
            gradients.aim(None)
            kept = KeptSum(unit.gradient, unit.progress, f"{unit.title}: mean gradient", record)
            gradients.aim(_Summing(measuring, gradients.zeros(), kept).mean(monitor))
            measuring.fill(unit.progress.missing(), monitor, unit.title)
            unit.gradient.unlink(missing_ok=True)


class _Summing:
    """Adds up the gradients of samples, from where an interrupted worker left them.

    Args:
        measuring: the network and the samples.
        sums: zeros, see `SampleGradients`.
        kept: where they are kept.
    """

    def __init__(self, measuring: Measuring, sums: dict[str, Tensor], kept: KeptSum) -> None:
        self._announce = measuring.announce
        self._scorer, self._data, self._size = measuring.scorer, measuring.data, measuring.size
        self._title, self._sums, self._kept = measuring.title, sums, kept
        self._done = self._resumed()

    def _resumed(self) -> int:
        """Copy what was kept, and return of how many samples it is the sum."""
        path = self._kept.path
        try:
            file = ModelFile.open(path) if path.is_file() else None
            if file is None or file.network.get("mark") != self._kept.progress.mark:
                return 0
            state, done = file.state(), file.network.get("done")
        except InputError:
            # A damaged file is made again.
            return 0
        if state.keys() != self._sums.keys() or type(done) is not int or not 0 < done <= len(self._data):
            return 0
        for name, value in state.items():
            self._sums[name].copy_(value)
        return done

    def mean(self, monitor: Monitor) -> dict[str, Tensor]:
        """Return the mean gradient over samples, noise levels and draws.

        Raises:
            InputError: it is not finite.
            Interrupted: the monitor asked to stop; what was added up is kept.
        """
        begun = self._done
        monitor.start(self._kept.title, len(self._data) - begun, "samples")
        with closing(self._data.spans(self._missing())) as spans:
            for _, span in spans:
                self._add(span, monitor)
        if self._done > begun:
            self._keep()
        levels, draws, _ = self._scorer.shape
        mean = {name: value.div_(self._done * levels * draws) for name, value in self._sums.items()}
        if not torch.stack([value.isfinite().all() for value in mean.values()]).all():
            self._kept.path.unlink(missing_ok=True)
            raise InputError(
                f"{self._title}: gives gradients that are not finite: give --precision fp32, or other weights."
            )
        return mean

    def _missing(self) -> list[Portion]:
        spans = enumerate(map(self._kept.progress.span, range(len(self._kept.progress))))
        return [Portion(number, begin, end, max(self._done - begin, 0)) for number, (begin, end) in spans
                if self._done < end]  # fmt: skip

    def _add(self, span: Span, monitor: Monitor) -> None:
        for latents, labels, ids, count in self._data.batches(span, self._size):
            if monitor.stop_requested():
                self._keep()
                check_stop(monitor)
            self._scorer.add_gradients(latents, labels, self._sums, count, ids)
            self._done += count
            monitor.advance(count)

    def _keep(self) -> None:
        self._announce()
        header = {"kind": "gradient", "mark": self._kept.progress.mark, "done": self._done}
        publish_model(self._kept.path, self._sums, header, self._kept.record)
