"""Batched sampling: images are drawn a batch at a time, and become PNGs while the device is at the next batch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from dprune.errors import InputError
from dprune.formats.images import encode_image
from dprune.formats.shard_journal import Entry, Journal
from dprune.models.dit_files import load_dit
from dprune.models.vae import load_vae
from dprune.precision import float32
from dprune.runtime import (
    Monitor,
    check_stop,
    default_workers,
    explained,
    single_threads,
    take_device,
)
from dprune.sampling.drawing import PIECE, Batch, Drawn, DrawnOnCpu, DrawnOnGpu, Networks, Times
from dprune.sampling.job import check_fit
from dprune.sampling.seeds import BALANCED, Classes, key_of

if TYPE_CHECKING:
    from dprune.sampling.job import SampleJob


class Generation:
    """The loop over batches.

    Args:
        job: what is asked for.
        device: where to work.
    """

    def __init__(self, job: SampleJob, device: torch.device) -> None:
        loaded = load_dit(job.model.path, device)
        check_fit(job, loaded.model.config.as_json())
        vae = load_vae(job.vae.path, device)[0]
        if device.type == "cuda":
            vae = vae.to(memory_format=torch.channels_last)
        self._job, self._device, self._settings = job, device, job.settings
        self._networks = Networks(loaded, vae, job.settings, compiles=job.compiles)
        self._conditional, self._classes = loaded.conditional, loaded.label_count
        self._size = job.settings.batch_size
        if device.type == "cpu":
            self._size = -(-self._size // PIECE) * PIECE
        self._threads = single_threads()
        self._encoders = ThreadPoolExecutor(default_workers())
        self.times = Times()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)
        self._encoders.shutdown(cancel_futures=True)

    def batches(self, shards: Sequence[int]) -> Iterator[Batch]:
        """Cut shards into batches; none crosses the end of a shard."""
        for number in shards:
            seeds = self._settings.seeds.between(*self._bounds(number))
            labels = np.zeros_like(seeds)
            if self._conditional:
                labels = (self._settings.classes or Classes(BALANCED)).labels(seeds, self._classes)
            for begin in range(0, len(seeds), self._size):
                yield Batch(seeds[begin : begin + self._size], labels[begin : begin + self._size])

    def _bounds(self, number: int) -> tuple[int, int]:
        size = self._settings.shard_size
        return number * size, min((number + 1) * size, len(self._settings.seeds))

    def samples(self, batches: Iterator[Batch], monitor: Monitor) -> Generator[Entry]:
        """Draw images; those of a batch become files while the device is at the next one.

        Raises:
            InputError: the transformer gives numbers that are not finite.
            Interrupted: the monitor asked to stop; all that was drawn was yielded before.
        """
        ahead: tuple[Batch, Drawn] | None = None
        for batch in batches:
            stop = monitor.stop_requested()
            following = None if stop else (batch, self._draw(batch))
            if ahead is not None:
                yield from self._encoded(*ahead, monitor)
            if stop:
                check_stop(monitor)
            ahead = following
        if ahead is not None:
            yield from self._encoded(*ahead, monitor)

    def _draw(self, batch: Batch) -> Drawn:
        if self._device.type == "cpu":
            return DrawnOnCpu(self._networks, batch, self._threads)
        return DrawnOnGpu(self._networks, batch, self._size, self._device)

    def _encoded(self, batch: Batch, drawn: Drawn, monitor: Monitor) -> Iterator[Entry]:
        images, sound = drawn.wait(self.times)
        if not sound:
            raise InputError(
                f"{self._job.model.path}: gives numbers that are not finite in {self._settings.precision}: "
                "give --precision fp32, another model, or less --cfg."
            )
        begun = time.perf_counter()
        pngs = list(self._encoders.map(_png, images.numpy()))
        self.times.decoding += time.perf_counter() - begun
        self.times.images += len(pngs)
        for seed, label, png in zip(batch.seeds.tolist(), batch.labels.tolist(), pngs, strict=True):
            label_member = [("cls", str(label).encode())] if self._conditional else []
            yield key_of(seed), [("png", png), *label_member]
            monitor.advance()

    def write(self, folder: Path, shards: Sequence[int], monitor: Monitor) -> None:
        """Make shards, one after the other."""
        journal = Journal.begin(folder, self._job.record, monitor)
        sizes = [end - begin for begin, end in map(self._bounds, shards)]
        monitor.start("sampling", sum(sizes), "images")
        with closing(self.samples(self.batches(shards), monitor)) as samples:
            for number, size in zip(shards, sizes, strict=True):
                journal.write(number, itertools.islice(samples, size))


def _png(pixels: Any) -> bytes:
    return encode_image(Image.fromarray(pixels), "png")


def generate(job: SampleJob, folder: Path, shards: Sequence[int], monitor: Monitor) -> dict[str, float]:
    """Make shards and return how fast that was.

    Args:
        job: what is asked for.
        folder: where the shards go.
        shards: numbers of those that are missing.
        monitor: progress and requests to stop.

    Raises:
        InputError: a network is not sound, or the folder holds files that dprune did not write.
        MismatchError: the networks do not fit each other.
        UsageError: the device is impossible, or options are not for such networks.
        Interrupted: a signal or a deadline came; finished shards stay.
        DpruneError: out of memory.
    """
    device = take_device(job.device)
    remedy = f"a --batch-size below {job.settings.batch_size}"
    # tf32, which convolutions use unless told otherwise, would keep ten bits of what was asked for as float32.
    with (
        explained(device, remedy),
        float32(tf32=job.settings.precision != "float32"),
        closing(Generation(job, device)) as generation,
    ):
        generation.write(folder, shards, monitor)
        return generation.times.rates()
