"""Drawing a batch of images: noise to latents to pixels, queued on a GPU or in pieces by the threads of a CPU."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dprune.flow import Guidance, guided, solve, start
from dprune.models.classes import IntArray
from dprune.models.dit import DiT
from dprune.models.dit_files import LoadedDiT
from dprune.models.paths import quicken_dit
from dprune.models.pixels import to_pixels
from dprune.models.vae import VAE
from dprune.runtime import single_threads
from dprune.sampling.settings import SampleSettings

# Images that one thread of a CPU takes through the networks together.
PIECE = 16
# The decoder's activations at full resolution take far more memory than the transformer's.
DECODED_PIXELS = 32 * 256**2
# A noise level such as 0.7 is 1 - 0.7 as a time, which rounding may put on the wrong side of a step.
TIME_ROUNDING = 1e-9

_log = logging.getLogger("dprune")


def ready(model: DiT, precision: torch.dtype, *, compiles: bool) -> DiT:
    """Prepare a transformer for sampling, in place.

    Args:
        model: on its device.
        precision: of its arithmetic; weights of layers are held in it, so that nothing is cast at each call.
        compiles: whether to compile the blocks.
    """
    if precision != torch.float32:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(precision)
        # What passes between the blocks takes the wider type of tokens and positions, and is most of what they move.
        model.pos_embed.data = model.pos_embed.data.to(precision)
    path = quicken_dit(model, precision, compiles=compiles)
    _log.debug("the transformer's blocks run by the path: %s.", path)
    return model


def sample_latents(
    model: DiT,
    labels: Tensor,
    seeds: Tensor,
    guidance: Guidance,
    solver: str = "euler",
    steps: int = 60,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Turn the noise of seeds into latents, without waiting for the device.

    Args:
        model: as `ready` returns it.
        labels: int64 [B], on the device of the model; the null label for an unconditional model.
        seeds: int64 [B], on the same device.
        guidance: towards the labels.
        solver: see `solve`.
        steps: of the solver; dopri5 does not use them.
        precision: of the model's arithmetic; the state is float32 whatever it is.

    Returns:
        Normalised latents, float32 [B, C, H, W].
    """
    config = model.config

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, precision, enabled=precision != torch.float32):
            out: Tensor = model(x, t, y)
        return out

    with torch.no_grad():
        noise = start(seeds, (config.channels, config.input_size, config.input_size))
        return solve(guided(network, labels, config.classes, guidance), noise, solver, steps)


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
        names = {"sampling_img_per_s": self.sampling, "decoding_and_png_img_per_s": self.decoding}
        return {name: self.images / seconds for name, seconds in names.items() if seconds}


class Sampler:
    """The transformer and the autoencoder on a device, as the settings use them.

    Args:
        loaded: the transformer.
        vae: the autoencoder.
        settings: what is asked of them.
        device: where both are.
    """

    def __init__(self, loaded: LoadedDiT, vae: VAE, settings: SampleSettings, device: torch.device) -> None:
        self.settings = settings
        self._loaded, self._device = loaded, device
        self._precision: torch.dtype = getattr(torch, settings.precision)
        ready(loaded.model, self._precision, compiles=settings.compiles)
        on_gpu = device.type == "cuda"
        self._vae = vae.to(memory_format=torch.channels_last) if on_gpu else vae
        low, high = settings.interval or (0.0, 1.0)
        interval = (1 - high - TIME_ROUNDING, 1 - low + TIME_ROUNDING)
        self._guidance = Guidance(settings.given.cfg, interval, settings.given.cfg_channels)
        self._threads = None if on_gpu else single_threads()
        # Images in a batch; on a CPU whole pieces.
        size = settings.given.batch_size
        self.size = size if on_gpu else -(-size // PIECE) * PIECE

    def draw(self, batch: Batch) -> Drawn:
        """Begin to draw a batch of at most `size` images."""
        if self._threads is not None:
            return DrawnOnCpu(self, batch, self._threads)
        return DrawnOnGpu(self, batch, self.size, self._device)

    def latents(self, seeds: Tensor, labels: Tensor) -> Tensor:
        """Draw latents float32 [n, C, H, W] as the autoencoder decodes them."""
        found = sample_latents(self._loaded.model, labels, seeds, self._guidance, self.settings.given.solver,
                               self.settings.steps or 0, self._precision)  # fmt: skip
        return self._loaded.denormalised(found)

    def images(self, latents: Tensor) -> Tensor:
        """Decode latents to uint8 [n, h, w, 3]."""
        rows = max(1, DECODED_PIXELS // self._vae.config.image_size**2)
        with torch.no_grad():
            return torch.cat([self._decoded(some) for some in latents.split(rows)])

    def _decoded(self, latents: Tensor) -> Tensor:
        images = self._vae.decode(self._vae.snap(latents) if self.settings.given.quantize else latents)
        return to_pixels(images).permute(0, 2, 3, 1)


class DrawnOnGpu:
    """A batch that was queued on a GPU.

    Args:
        sampler: what draws it.
        batch: padded with its last image to `size`, so that every batch has the shape that was compiled.
        size: images in a pass.
        device: the GPU.
    """

    def __init__(self, sampler: Sampler, batch: Batch, size: int, device: torch.device) -> None:
        columns = np.pad(np.stack(batch), ((0, 0), (0, size - len(batch.seeds))), "edge")
        seeds, labels = torch.from_numpy(columns).pin_memory().to(device, non_blocking=True)
        self._events = [self._event()]
        latents = sampler.latents(seeds, labels)[: len(batch.seeds)]
        self._events.append(self._event())
        self._images = self._copied(sampler.images(latents))
        self._sound = self._copied(latents.isfinite().all())
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
        """Return images uint8 [n, h, w, 3] on the CPU and whether their latents are finite; add the seconds."""
        begun, sampled, decoded = self._events
        decoded.synchronize()
        times.sampling += begun.elapsed_time(sampled) / 1000
        times.decoding += sampled.elapsed_time(decoded) / 1000
        return self._images, bool(self._sound)


class DrawnOnCpu:
    """A batch that was drawn on the CPU, in pieces by threads that each run torch alone.

    Pieces begin at multiples of their size in a shard whatever the size of a batch, so that an image's bytes depend
    neither on it nor on how many threads there are.

    Args:
        sampler: what draws it.
        batch: what to draw.
        pool: the threads.
    """

    def __init__(self, sampler: Sampler, batch: Batch, pool: ThreadPoolExecutor) -> None:
        def draw(begin: int) -> tuple[Tensor, bool, float, float]:
            seeds, labels = (torch.from_numpy(column[begin : begin + PIECE]) for column in batch)
            begun = time.perf_counter()
            latents = sampler.latents(seeds, labels)
            sampled = time.perf_counter()
            images = sampler.images(latents)
            return images, bool(latents.isfinite().all()), sampled - begun, time.perf_counter() - sampled

        self._pieces = list(pool.map(draw, range(0, len(batch.seeds), PIECE)))
        self._threads = min(len(self._pieces), torch.get_num_threads())

    def wait(self, times: Times) -> tuple[Tensor, bool]:
        """See `DrawnOnGpu.wait`."""
        images, sound, sampling, decoding = zip(*self._pieces, strict=True)
        times.sampling += sum(sampling) / self._threads
        times.decoding += sum(decoding) / self._threads
        return torch.cat(images), all(sound)


Drawn = DrawnOnGpu | DrawnOnCpu
"""Images that the device may still be at work on."""
