"""The pass over a latent store: batches to measures, published portion by portion while the device is at the next one.

Latents are scored as they are stored, neither flipped nor drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.formats.latents import NAMES, Latents
from dprune.formats.shards import split_ids
from dprune.models.latents import as_held, pinned
from dprune.runtime import Monitor, check_stop
from dprune.scoring.progress import Portion, Progress
from dprune.scoring.scorer import Scorer

Announce = Callable[[], None]


class Span(NamedTuple):
    """Samples on the device.

    Attributes:
        ids: int64 [n], by which noises are drawn.
        labels: int64 [n], -1 for none.
        rows: as the store holds them: codes int16 [n, h * w], or means float16 [n, c, h, w].
    """

    ids: Tensor
    labels: Tensor
    rows: Tensor


class ScoredLatents:
    """The latents of the samples that are scored, normalised as the network was trained on them.

    Of a KL store they are the means of the posteriors, so that a score depends on nothing but its noises.

    Args:
        latents: the store.
        ids: sorted ids of what is scored, int64 [n].
        normalised: makes rows of the store latents, see `Normalisation`.
        device: where they go.
        first: what the id 0 of the store is to noises, so that no sample of another store shares its own.
    """

    def __init__(
        self,
        latents: Latents,
        ids: npt.NDArray[np.int64],
        normalised: Callable[[Tensor], Tensor],
        device: torch.device,
        first: int = 0,
    ) -> None:
        self.ids, self._latents, self._normalised, self._device = ids, latents, normalised, device
        self._first = first
        self._tensor = NAMES[latents.network["kind"]][0]
        self._labels = latents.labels()[ids]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.ids)

    def spans(self, portions: Iterable[Portion]) -> Generator[tuple[Portion, Span]]:
        """Yield what is not yet measured of each portion; the next one is read meanwhile.

        Raises:
            InputError: codes are beyond the codebook.
        """
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            # None lets the last one out.
            for portion in itertools.chain(portions, [None]):
                following = (portion, reader.submit(self._read, portion)) if portion else None
                if ahead is not None:
                    yield ahead[0], self._sent(ahead[1].result())
                ahead = following

    def _read(self, portion: Portion) -> Span:
        wanted = slice(portion.begin + portion.done, portion.end)
        store = self._latents.store
        shares = enumerate(split_ids(self.ids[wanted], store.counts))
        parts = {number: self._latents.part(number, self._tensor)[some] for number, some in shares if len(some)}
        rows = np.concatenate([as_held(self._latents, store.shards[number], part) for number, part in parts.items()])
        columns = map(torch.from_numpy, (self.ids[wanted] + self._first, self._labels[wanted], rows))
        return Span(*(pinned(column, self._device) for column in columns))

    def _sent(self, span: Span) -> Span:
        return Span(*(column.to(self._device, non_blocking=True) for column in span))

    def batches(self, span: Span, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """Yield latents float32 [size, c, h, w], labels and ids [size] of a span, and how many of them count.

        The last row fills a batch up, again and again, so that every batch has the shape that was compiled.
        """
        for begin in range(0, len(span.labels), size):
            ids, labels, rows = (column[begin : begin + size] for column in span)
            count = len(labels)
            places = torch.arange(size, device=labels.device).clamp_(max=count - 1)
            yield self._normalised(rows[places]), labels[places], ids[places], count


class Measuring:
    """Fills the progress of one network's scoring.

    Attributes:
        size: samples in a pass.
        announce: see below.

    Args:
        scorer: the network.
        data: what is scored.
        progress: what is filled.
        batch_size: samples in a pass; every batch is padded to it, or to a portion if that is smaller.
        title: what messages call the network and its precision.
        announce: notes what is to be measured in all; called before anything that was measured is kept.
    """

    def __init__(
        self, scorer: Scorer, data: ScoredLatents, progress: Progress, batch_size: int, title: str, announce: Announce
    ) -> None:
        self.scorer, self.data, self.title, self.announce, self._progress = scorer, data, title, announce, progress
        self.size = min(batch_size, progress.size, len(data))

    def fill(self, portions: Sequence[Portion], monitor: Monitor, label: str) -> None:
        """Measure portions, none of them whole, and publish each.

        Raises:
            InputError: the network gives numbers that are not finite, or the store is damaged.
            Interrupted: the monitor asked to stop; all that was measured is published.
        """
        monitor.start(label, sum(portion.end - portion.begin - portion.done for portion in portions), "samples")
        ahead: _Measured | None = None
        left = bool(portions)
        with closing(self.data.spans(portions)) as spans:
            for portion, span in spans:
                following = self._measured(portion, span, monitor)
                if ahead is not None:
                    self._publish(ahead)
                ahead = following
                left = not following.whole or portion is not portions[-1]
                if monitor.stop_requested():
                    break
        if ahead is not None:
            self._publish(ahead)
        if left:
            check_stop(monitor)

    def _measured(self, portion: Portion, span: Span, monitor: Monitor) -> _Measured:
        """Queue the batches of a span, as many as there is time for."""
        found = []
        for latents, labels, ids, count in self.data.batches(span, self.size):
            values = self.scorer.measure(latents, labels, ids, monitor.stop_requested)
            if values is None:
                break
            found.append(values[:count])
            monitor.advance(count)
        return _Measured(portion, found, self.scorer.shape, len(span.labels))

    def _publish(self, measured: _Measured) -> None:
        portion, values = measured.portion, measured.wait()
        if not len(values):
            return
        sound = np.isfinite(values).all(axis=(1, 2, 3))
        if not sound.all():
            sample = self.data.ids[portion.begin + portion.done + int(sound.argmin())]
            raise InputError(f"{self.title} gives sample {sample} a loss that is not finite: "
                             "give --precision fp32, or another model.")  # fmt: skip
        self.announce()
        self._progress.write(portion, np.concatenate((self._progress.read(portion), values)))


class _Measured:
    """What was queued of a portion, on its way to the host."""

    def __init__(self, portion: Portion, batches: Sequence[Tensor], shape: tuple[int, ...], wanted: int) -> None:
        self.portion = portion
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
        """Return the values, once the device has them all."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.numpy()
