"""The pass over a latent store: batches to measures, published piece by piece while the device is at the next one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.runtime import Monitor, check_stop
from dprune.scoring.latents import ScoredLatents, Span
from dprune.scoring.progress import Piece, Progress
from dprune.scoring.scorer import Scorer


class Measuring:
    """Fills the progress of one network's scoring.

    Args:
        scorer: the network.
        data: what is scored.
        progress: what is filled.
        batch_size: samples in a pass; every batch is padded to it, or to a piece if that is smaller.
        title: what messages call the network and its precision.
    """

    def __init__(self, scorer: Scorer, data: ScoredLatents, progress: Progress, batch_size: int, title: str) -> None:
        self._scorer, self._data, self._progress = scorer, data, progress
        self._size = min(batch_size, progress.size, len(data))
        self._title = title

    def fill(self, pieces: Sequence[Piece], monitor: Monitor, label: str = "scoring") -> None:
        """Measure what is missing of the pieces and publish each.

        Raises:
            InputError: the network gives numbers that are not finite, or the store is damaged.
            Interrupted: the monitor asked to stop; all that was measured is published.
        """
        missing = [piece for piece in pieces if not piece.whole]
        monitor.start(label, sum(piece.end - piece.begin - piece.done for piece in missing), "samples")
        ahead: _Measured | None = None
        left = bool(missing)
        with closing(self._data.spans(missing)) as spans:
            for piece, span in spans:
                following = self._measured(piece, span, monitor)
                if ahead is not None:
                    self._publish(ahead)
                ahead = following
                left = not following.whole or piece is not missing[-1]
                if monitor.stop_requested():
                    break
        if ahead is not None:
            self._publish(ahead)
        if left:
            check_stop(monitor)

    def _measured(self, piece: Piece, span: Span, monitor: Monitor) -> _Measured:
        """Queue the batches of a span, as many as there is time for."""
        found = []
        for begin in range(0, len(span.labels), self._size):
            labels, rows = (column[begin : begin + self._size] for column in span)
            count = len(labels)
            # The last row again and again, so that every batch has the shape that was compiled.
            places = torch.arange(self._size, device=labels.device).clamp_(max=count - 1)
            latents = self._data.normalised(rows[places])
            values = self._scorer.measure(latents, labels[places], monitor.stop_requested)
            if values is None:
                break
            found.append(values[:count])
            monitor.advance(count)
        return _Measured(piece, found, self._scorer.shape, len(span.labels))

    def _publish(self, measured: _Measured) -> None:
        piece, values = measured.piece, measured.wait()
        if not len(values):
            return
        sound = np.isfinite(values).all(axis=(1, 2, 3))
        if not sound.all():
            sample = self._data.ids[piece.begin + piece.done + int(sound.argmin())]
            raise InputError(f"{self._title} gives sample {sample} a loss that is not finite: "
                             "give --precision fp32, or another model.")  # fmt: skip
        self._progress.write(piece, np.concatenate((self._progress.read(piece), values)))


class _Measured:
    """What was queued of a piece, on its way to the host."""

    def __init__(self, piece: Piece, batches: Sequence[Tensor], shape: tuple[int, ...], wanted: int) -> None:
        self.piece = piece
        found = torch.cat(list(batches)) if batches else torch.empty(0, *shape)
        self.whole = len(found) == wanted
        self._event: torch.cuda.Event | None = None
        if found.is_cuda:
            self._values = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = found

    def wait(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if self._event is not None:
            self._event.synchronize()
        return self._values.numpy()
