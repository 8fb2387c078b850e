"""What the device does for MoSo: of each fold and checkpoint first the mean gradient, then norms and dots with it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.formats.provenance import Record
from dprune.models.files import ModelFile, publish_model
from dprune.runtime import Monitor, check_stop
from dprune.scoring.device import computing
from dprune.scoring.latents import ScoredLatents
from dprune.scoring.networks import Networks
from dprune.scoring.passes import Measuring
from dprune.scoring.progress import Piece
from dprune.scoring.scorer import Scorer

if TYPE_CHECKING:
    from dprune.scoring.moso_job import MosoJob, Unit


def measure(job: MosoJob, units: Sequence[Unit], monitor: Monitor) -> None:
    """Measure folds by checkpoints.

    Raises:
        InputError: a checkpoint or the store is not sound, or they give numbers that are not finite.
        MismatchError: a network is not one for the store.
        UsageError: the device is impossible.
        Interrupted: a signal or a deadline came; what was measured stays.
        DpruneError: out of memory.
    """
    with computing(job.device, job.settings, job.batch_size) as device:
        networks = Networks(job.samples, job.weights, job.settings, device, gradients=True, compiles=job.compiles)
        for unit in units:
            check_stop(monitor)
            scorer = networks.at(unit.checkpoint)
            data = networks.latents(unit.surrogate.ids)
            title = f"{unit.checkpoint.file.path} in {job.settings.precision}"
            # Those of the unit before are as large as the network.
            scorer.aim(None)
            summing = _Summing(scorer, data, unit, job.batch_size, job.record)
            scorer.aim(summing.mean(monitor, title))
            Measuring(scorer, data, unit.progress, job.batch_size, title).fill(
                unit.progress.pieces(), monitor, unit.title
            )
            unit.gradient.unlink(missing_ok=True)


class _Summing:
    """Adds up the gradients of a fold, from where an interrupted worker left them.

    Args:
        scorer: the network.
        data: the fold.
        unit: whose gradients they are.
        batch_size: samples in a pass.
        record: provenance of what they are for.
    """

    def __init__(self, scorer: Scorer, data: ScoredLatents, unit: Unit, batch_size: int, record: Record) -> None:
        assert scorer.gradients is not None
        self._scorer, self._data, self._unit, self._record = scorer, data, unit, record
        self._size = min(batch_size, unit.progress.size, len(data))
        self._sums = scorer.gradients.zeros()
        self._done = self._resumed()

    def _resumed(self) -> int:
        """Copy what was kept, and return of how many samples it is the sum."""
        path = self._unit.gradient
        try:
            file = ModelFile.open(path) if path.is_file() else None
            if file is None or file.network.get("mark") != self._unit.progress.mark:
                return 0
            for name, value in file.state().items():
                self._sums[name].copy_(value)
            return int(file.network["done"])
        except InputError:
            # A damaged file is made again; nothing of it was copied.
            return 0

    def mean(self, monitor: Monitor, title: str) -> dict[str, Tensor]:
        """Return the mean gradient over samples, noise levels and draws.

        Args:
            monitor: asked to stop; what was added up is kept.
            title: what messages call the network.

        Raises:
            InputError: it is not finite.
            Interrupted: the monitor asked to stop.
        """
        begun = self._done
        monitor.start(f"{self._unit.title}: mean gradient", len(self._data) - begun, "samples")
        with closing(self._data.spans(self._missing())) as spans:
            for _, (labels, rows) in spans:
                self._add(labels, rows, monitor)
        if self._done > begun:
            self._keep()
        levels, draws, _ = self._scorer.shape
        mean = {name: value.div_(self._done * levels * draws) for name, value in self._sums.items()}
        if not torch.stack([value.isfinite().all() for value in mean.values()]).all():
            self._unit.gradient.unlink(missing_ok=True)
            raise InputError(f"{title}: gives gradients that are not finite: give --precision fp32, or other runs.")
        return mean

    def _missing(self) -> list[Piece]:
        pieces = [replace(piece, done=min(max(self._done - piece.begin, 0), piece.end - piece.begin))
                  for piece in self._unit.progress.pieces()]  # fmt: skip
        return [piece for piece in pieces if not piece.whole]

    def _add(self, labels: Tensor, rows: Tensor, monitor: Monitor) -> None:
        for begin in range(0, len(labels), self._size):
            if monitor.stop_requested():
                self._keep()
                check_stop(monitor)
            some, which = rows[begin : begin + self._size], labels[begin : begin + self._size]
            # The last row again and again, so that every batch has the shape that was compiled.
            places = torch.arange(self._size, device=labels.device).clamp_(max=len(which) - 1)
            self._scorer.add_gradients(self._data.normalised(some[places]), which[places], self._sums, len(which))
            self._done += len(which)
            monitor.advance(len(which))

    def _keep(self) -> None:
        header = {"kind": "gradient", "mark": self._unit.progress.mark, "done": self._done}
        publish_model(self._unit.gradient, self._sums, header, self._record)
