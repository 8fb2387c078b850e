"""Batched sampling: images are drawn a batch at a time, and become PNGs in shards while the device is at the next."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dprune.errors import InputError
from dprune.formats.images import encode_image
from dprune.formats.provenance import Record, parent
from dprune.formats.shard_journal import Entry, Journal
from dprune.models.baseline_files import load_baseline
from dprune.models.dit_files import LoadedDiT, load_dit
from dprune.models.files import ModelFile
from dprune.models.vae import vae_of
from dprune.models.vae_files import LatentScale, decoded_network
from dprune.precision import float32
from dprune.runtime import Monitor, check_stop, default_workers, explained, take_device
from dprune.sampling.companions import Companion
from dprune.sampling.drawing import Batch, Drawn, ImageSampler, Sampler, Times
from dprune.sampling.one_pass import OnePassSampler
from dprune.sampling.seeds import BALANCED, Classes, key_of
from dprune.sampling.settings import SampleSettings, check_fit


def generate(
    model: ModelFile, vae: ModelFile | None, settings: SampleSettings, begin: Callable[[Record], Journal | None],
    turns: Iterable[Sequence[int]], monitor: Monitor, companions: Sequence[Companion] = (),
) -> dict[str, float]:  # fmt: skip
    """Make shards, one after the other, and return how fast that was.

    Args:
        model: file of the transformer, or of a baseline.
        vae: file of the autoencoder, None for a baseline.
        settings: what is asked of them.
        begin: opens the journal of the folder that the shards go to, None where nothing is left to make; asked for when
            all networks are loaded, with what was found out of the model.
        turns: numbers of those that are missing, some at a time.
        monitor: progress and requests to stop.
        companions: other transformers that take part.
    """
    device, times = take_device(settings.given.device), Times()
    # tf32, which convolutions use unless told otherwise, would keep ten bits of what was asked for as float32.
    with (
        explained(device, f"a --batch-size below {settings.given.batch_size}"),
        float32(tf32=settings.precision != "float32"),
    ):
        sampler = (
            _baseline(model, settings, device) if vae is None else _diffusion(model, vae, settings, device, companions)
        )
        with ThreadPoolExecutor(1) as drawer:
            warmed = drawer.submit(sampler.warm_up)
            # The provenance waits for digests of the files.
            journal = begin(sampler.findings)
            warmed.result()
            if journal is None:
                return times.rates()
            for shards in turns:
                monitor.start("sampling", sum(map(settings.count_in, shards)), "images")
                batches = _batches(sampler, shards)
                with closing(_samples(sampler, batches, drawer, times, monitor)) as samples:
                    for number in shards:
                        journal.write(number, itertools.islice(samples, settings.count_in(number)))
    return times.rates()


def _diffusion(
    model: ModelFile, vae: ModelFile, settings: SampleSettings, device: torch.device, companions: Sequence[Companion]
) -> ImageSampler:
    loaded = _loaded(model, vae, settings.parametrization, device)
    decoded = decoded_network(vae, loaded.model.config.input_size, parent(model.record, "latents"))
    check_fit(settings, model.network or loaded.model.config.as_json(), decoded, model.path)
    others = {one.role: _loaded(one.file, vae, one.parametrization, device) for one in companions}
    for one in companions:
        one.check(others[one.role].network, model, loaded.network)
    return Sampler(loaded, vae_of(vae, device), settings, device, others)


def _loaded(file: ModelFile, vae: ModelFile, parametrization: str, device: torch.device) -> LoadedDiT:
    loaded = load_dit(file.path, device, parametrization)
    return loaded if file.network else loaded.scaled(*LatentScale.of(vae))


def _baseline(model: ModelFile, settings: SampleSettings, device: torch.device) -> ImageSampler:
    return OnePassSampler(load_baseline(model, device), model, settings, device)


def _batches(sampler: ImageSampler, shards: Sequence[int]) -> Iterator[Batch]:
    """Cut shards into batches, which cross the ends of shards where they may."""
    settings = sampler.settings
    seeds, classes = np.empty(0, dtype=np.int64), settings.classes or Classes(BALANCED)
    for number in shards:
        seeds = np.concatenate((seeds, settings.seeds_in(number)))
        ends = not sampler.mixes or number == shards[-1]
        while len(seeds) >= (1 if ends else sampler.size):
            some, seeds = np.split(seeds, [sampler.size])
            yield Batch(some, classes.labels(some, sampler.trained) if sampler.conditional else np.zeros_like(some))


def _samples(
    sampler: ImageSampler, batches: Iterator[Batch], drawer: ThreadPoolExecutor, times: Times, monitor: Monitor
) -> Generator[Entry]:
    """Draw images; those of a batch become files while the device is at the next one.

    What is queued on a GPU is bounded, and whoever queues more waits: the drawer, a thread of its own, so that encoding
    and writing do not. When the monitor asks to stop, all that was drawn is yielded before.
    """

    def encoded(batch: Batch, drawing: Future[Drawn]) -> Iterator[Entry]:
        images, sound = drawing.result().wait(times)
        if not sound:
            raise InputError(
                f"{sampler.file.path}: gives numbers that are not finite in {sampler.settings.precision}: "
                "give --precision fp32, another model, or a lower --cfg."
            )
        begun = time.perf_counter()
        pngs = list(encoders.map(_png, images.numpy()))
        times.decoding += time.perf_counter() - begun
        times.images += len(pngs)
        for seed, label, png in zip(batch.seeds.tolist(), batch.labels.tolist(), pngs, strict=True):
            label_member = [("cls", str(label).encode())] if sampler.conditional else []
            yield key_of(seed), [("png", png), *label_member]
            monitor.advance()

    with ThreadPoolExecutor(default_workers()) as encoders:
        ahead: tuple[Batch, Future[Drawn]] | None = None
        for batch in batches:
            stop = monitor.stop_requested()
            following = None if stop else (batch, drawer.submit(sampler.draw, batch))
            if ahead is not None:
                yield from encoded(*ahead)
            if stop:
                check_stop(monitor)
            ahead = following
        if ahead is not None:
            yield from encoded(*ahead)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    return encode_image(Image.fromarray(pixels), "png")
