"""Drawing a batch of images: noise to latents to pixels, queued on a GPU or in pieces by the threads of a CPU."""

from __future__ import annotations

import functools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dprune.flow import Guidance
from dprune.formats.provenance import Record
from dprune.models.classes import IntArray, TrainedClasses
from dprune.models.dit_files import LoadedDiT
from dprune.models.files import ModelFile
from dprune.models.paths import quicken_vae
from dprune.models.pixels import to_pixels
from dprune.models.vae import VAE
from dprune.runtime import single_threads
from dprune.sampling.companions import COARSE, GUIDE
from dprune.sampling.latents import Companions, ready, sample_latents
from dprune.sampling.settings import RATES, SampleSettings

# Images that one thread of a CPU takes through the networks together.
PIECE = 16
# The decoder's activations at full resolution take far more memory than the transformer's.
DECODED_PIXELS = 32 * 256**2
# A noise level such as 0.7 is 1 - 0.7 as a time, which rounding may put on the wrong side of a step.
TIME_ROUNDING = 1e-9

_log = logging.getLogger("dprune")


class Batch(NamedTuple):
    """Seeds and labels of images that are drawn together, int64 [n] each."""

    seeds: IntArray
    labels: IntArray


class Times:
    """Seconds that each kind of work took."""

    def __init__(self) -> None:
        self.images = 0
        self.sampling = self.decoding = 0.0

    def rates(self) -> dict[str, float]:
        """Return images a second of each."""
        spent = zip(RATES, (self.sampling, self.decoding), strict=True)
        return {name: self.images / seconds for name, seconds in spent if seconds}


class ImageSampler(ABC):
    """Networks on a device, as the settings use them.

    Attributes:
        settings: what is asked of them.
        file: of the model.
        trained: the classes that it was trained on.
        conditional: whether it knows classes.
        findings: what was inferred of it, for the provenance of the images.
        size: images in a batch; on a CPU whole pieces.
        mixes: whether a batch may hold images of two shards: on a GPU one that is not full takes as long as one that
            is.

    Args:
        settings: see above.
        device: where the networks are.
        file: see above.
        trained: see above.
    """

    findings: Record = {}

    def __init__(
        self, settings: SampleSettings, device: torch.device, file: ModelFile, trained: TrainedClasses
    ) -> None:
        self.settings, self.file, self.trained = settings, file, trained
        self.conditional = trained.count > 0
        self._device = device
        self._precision: torch.dtype = getattr(torch, settings.precision)
        self._on_gpu = device.type == "cuda"
        self._threads = None if self._on_gpu else single_threads()
        self._cores = torch.get_num_threads()
        size = settings.given.batch_size
        self.size = size if self._on_gpu else -(-size // PIECE) * PIECE
        self.mixes = self._on_gpu

    def warm_up(self) -> None:
        """Have a GPU's kernels compiled and loaded, so that no batch is timed with that."""
        if self._on_gpu:
            with torch.cuda.device(self._device):
                self._try(torch.zeros(self.size, dtype=torch.int64, device=self._device))
                torch.cuda.synchronize()

    def _try(self, zeros: Tensor) -> None:
        """Launch all that a batch does, at least once, given seeds and labels."""
        self.images(self.latents(zeros, zeros))

    def draw(self, batch: Batch) -> Drawn:
        """Begin to draw a batch of at most `size` images, in any thread."""
        if self._threads is not None:
            return DrawnOnCpu(self, batch, self._threads, self._cores)
        with torch.cuda.device(self._device):
            return DrawnOnGpu(self, batch, self.size, self._device)

    @abstractmethod
    def latents(self, seeds: Tensor, labels: Tensor) -> Tensor:
        """Draw what `images` takes, float32 [n, ...], given seeds and labels, int64 [n] each."""

    @abstractmethod
    def images(self, latents: Tensor, *, again: bool = False) -> tuple[Tensor, Tensor]:
        """Make images of what was drawn.

        Args:
            latents: float32 [n, ...].
            again: whether float16, where that is what is decoded in, had not range enough.

        Returns:
            Images uint8 [n, h, w, 3], and of which all was finite before, bool [n].
        """


class Sampler(ImageSampler):
    """The transformer and the autoencoder on a device, as the settings use them.

    Args:
        loaded: the transformer.
        vae: the autoencoder.
        settings: what is asked of them.
        device: where both are.
        companions: other transformers there by their roles, see `sampling.companions`.
    """

    def __init__(
        self, loaded: LoadedDiT, vae: VAE, settings: SampleSettings, device: torch.device,
        companions: Mapping[str, LoadedDiT] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        super().__init__(settings, device, loaded.file, loaded.trained)
        self._loaded = loaded
        self.findings = loaded.findings | {
            f"{role}_{name}": value for role, one in companions.items() for name, value in one.findings.items()
        }
        for one in (loaded, *companions.values()):
            ready(one.model, self._precision, compiles=settings.compiles)
        networks = {role: one.model for role, one in companions.items()}
        self._companions = Companions(networks.get(COARSE), settings.until, networks.get(GUIDE))
        self._vae = vae.to(memory_format=torch.channels_last) if self._on_gpu else vae
        path = quicken_vae(self._vae)
        _log.debug("the autoencoder's layers run by the path: %s.", path)
        low, high = settings.interval or (0.0, 1.0)
        interval = (1 - high - TIME_ROUNDING, 1 - low + TIME_ROUNDING)
        self._guidance = Guidance(settings.cfg, interval, settings.given.cfg_channels, settings.guide_scale)
        # Of the decoder. With ten bits as tf32 has, and twice as fast.
        self._half = self._on_gpu and self._precision != torch.float32
        # dopri5 couples the images of a batch.
        self.mixes = self._on_gpu and settings.steps is not None

    def _try(self, zeros: Tensor) -> None:
        # Of two steps the first is the coarse model's.
        companions = self._companions._replace(until=0.5)
        steps = 1 if companions.coarse is None else 2
        everywhere = replace(self._guidance, interval=(0.0, 1.0))
        for guidance in (everywhere,) if self.settings.interval is None else (Guidance(), everywhere):
            found = self._latents(zeros, zeros, "euler", steps, guidance, companions)
        self.images(found)

    def latents(self, seeds: Tensor, labels: Tensor) -> Tensor:
        """Draw latents float32 [n, C, H, W] as the autoencoder decodes them."""
        solver, steps = self.settings.solver, self.settings.steps or 0
        return self._latents(seeds, labels, solver, steps, self._guidance, self._companions)

    def _latents(
        self, seeds: Tensor, labels: Tensor, solver: str, steps: int, guidance: Guidance, companions: Companions
    ) -> Tensor:
        model, precision = self._loaded.model, self._precision
        found = sample_latents(model, labels, seeds, guidance, solver, steps, precision, companions)
        return self._loaded.denormalised(found)

    def images(self, latents: Tensor, *, again: bool = False) -> tuple[Tensor, Tensor]:
        """Decode latents, float32 [n, c, h, w]; see `ImageSampler`."""
        side = latents.shape[2] * self._vae.config.downsample
        rows = max(1, DECODED_PIXELS // side**2)
        half = self._half and not again
        with torch.no_grad(), torch.autocast(latents.device.type, torch.float16, enabled=half):
            decoded = [self._decoded(some) for some in latents.split(rows)]
        images, sound = (torch.cat(parts) for parts in zip(*decoded, strict=True))
        return images, sound

    def _decoded(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        images = self._vae.decode(self._vae.snap(latents) if self.settings.quantize else latents)
        # The nearest code of what is no number is a code all the same.
        sound = latents.isfinite().flatten(1).all(1) & images.isfinite().flatten(1).all(1)
        return to_pixels(images).permute(0, 2, 3, 1), sound


class DrawnOnGpu:
    """A batch that was queued on a GPU.

    Args:
        sampler: what draws it.
        batch: padded with its last image to `size`, so that every batch has the shape that was compiled.
        size: images in a pass.
        device: the GPU.
    """

    def __init__(self, sampler: ImageSampler, batch: Batch, size: int, device: torch.device) -> None:
        columns = np.pad(np.stack(batch), ((0, 0), (0, size - len(batch.seeds))), "edge")
        seeds, labels = torch.from_numpy(columns).pin_memory().to(device, non_blocking=True)
        self._events = [self._event()]
        self._latents = sampler.latents(seeds, labels)[: len(batch.seeds)]
        self._events.append(self._event())
        self._images, self._sound = map(self._copied, sampler.images(self._latents))
        self._again = functools.partial(sampler.images, again=True)
        self._events.append(self._event())

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def _copied(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    def wait(self, times: Times) -> tuple[Tensor, bool]:
        """Return images uint8 [n, h, w, 3] on the CPU and whether all were finite numbers; add the seconds."""
        begun, sampled, decoded = self._events
        decoded.synchronize()
        times.sampling += begun.elapsed_time(sampled) / 1000
        times.decoding += sampled.elapsed_time(decoded) / 1000
        if not self._sound.all():
            # Chosen by the image alone, so that it does not depend on the others of its batch.
            lost = (~self._sound).nonzero()[:, 0]
            images, sound = self._again(self._latents[lost.to(self._latents.device)])
            self._images[lost], self._sound[lost] = images.cpu(), sound.cpu()
        return self._images, bool(self._sound.all())


class DrawnOnCpu:
    """A batch that was drawn on the CPU, in pieces by threads that each run torch alone.

    Pieces begin at multiples of their size in a shard whatever the size of a batch, so that an image's bytes depend
    neither on it nor on how many threads there are.

    Args:
        sampler: what draws it.
        batch: what to draw.
        pool: the threads.
        cores: how many there are at most.
    """

    def __init__(self, sampler: ImageSampler, batch: Batch, pool: ThreadPoolExecutor, cores: int) -> None:
        def draw(begin: int) -> tuple[Tensor, bool, float, float]:
            seeds, labels = (torch.from_numpy(column[begin : begin + PIECE]) for column in batch)
            begun = time.perf_counter()
            latents = sampler.latents(seeds, labels)
            sampled = time.perf_counter()
            images, sound = sampler.images(latents)
            return images, bool(sound.all()), sampled - begun, time.perf_counter() - sampled

        self._pieces = list(pool.map(draw, range(0, len(batch.seeds), PIECE)))
        self._threads = min(len(self._pieces), cores)

    def wait(self, times: Times) -> tuple[Tensor, bool]:
        """See `DrawnOnGpu.wait`."""
        images, sound, sampling, decoding = zip(*self._pieces, strict=True)
        times.sampling += sum(sampling) / self._threads
        times.decoding += sum(decoding) / self._threads
        return torch.cat(images), all(sound)


Drawn = DrawnOnGpu | DrawnOnCpu
"""Images that the device may still be at work on."""
