"""What the device does for MoSo: of each fold and checkpoint first the mean gradient, then norms and dots with it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.formats.provenance import Record
from dprune.models.files import ModelFile, publish_model
from dprune.runtime import Monitor, check_stop
from dprune.scoring.device import on_device
from dprune.scoring.folds import Unit
from dprune.scoring.passes import Announce, Measuring, Span
from dprune.scoring.population import Samples
from dprune.scoring.progress import Portion
from dprune.scoring.settings import ScoreSettings


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
            gradients.aim(_Summing(measuring, gradients.zeros(), unit, record).mean(monitor))
            measuring.fill(unit.progress.missing(), monitor, unit.title)
            unit.gradient.unlink(missing_ok=True)


class _Summing:
    """Adds up the gradients of a fold, from where an interrupted worker left them.

    Args:
        measuring: the network and the fold.
        sums: zeros, see `SampleGradients`.
        unit: whose gradients they are.
        record: provenance of what they are for.
    """

    def __init__(self, measuring: Measuring, sums: dict[str, Tensor], unit: Unit, record: Record) -> None:
        self._announce = measuring.announce
        self._scorer, self._data, self._size = measuring.scorer, measuring.data, measuring.size
        self._title, self._sums, self._unit, self._record = measuring.title, sums, unit, record
        self._done = self._resumed()

    def _resumed(self) -> int:
        """Copy what was kept, and return of how many samples it is the sum."""
        path = self._unit.gradient
        try:
            file = ModelFile.open(path) if path.is_file() else None
            if file is None or file.network.get("mark") != self._unit.progress.mark:
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
        monitor.start(f"{self._unit.title}: mean gradient", len(self._data) - begun, "samples")
        with closing(self._data.spans(self._missing())) as spans:
            for _, span in spans:
                self._add(span, monitor)
        if self._done > begun:
            self._keep()
        levels, draws, _ = self._scorer.shape
        mean = {name: value.div_(self._done * levels * draws) for name, value in self._sums.items()}
        if not torch.stack([value.isfinite().all() for value in mean.values()]).all():
            self._unit.gradient.unlink(missing_ok=True)
            raise InputError(
                f"{self._title}: gives gradients that are not finite: give --precision fp32, or other runs."
            )
        return mean

    def _missing(self) -> list[Portion]:
        portions = [replace(portion, done=min(max(self._done - portion.begin, 0), portion.end - portion.begin))
                  for portion in self._unit.progress.portions()]  # fmt: skip
        return [portion for portion in portions if not portion.whole]

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
        header = {"kind": "gradient", "mark": self._unit.progress.mark, "done": self._done}
        publish_model(self._unit.gradient, self._sums, header, self._record)
