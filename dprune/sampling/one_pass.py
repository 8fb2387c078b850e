"""Drawing from a model that makes images in one pass: noise to pixels, without an autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor

from dprune.flow import start
from dprune.models.baseline_files import LoadedBaseline
from dprune.models.files import ModelFile
from dprune.models.pixels import to_pixels
from dprune.sampling.drawing import ImageSampler
from dprune.sampling.settings import SampleSettings


class OnePassSampler(ImageSampler):
    """The generator of a baseline on a device, as the settings use it.

    Args:
        loaded: the generator.
        file: that it is from.
        settings: what is asked of it.
        device: where it is.
    """

    def __init__(self, loaded: LoadedBaseline, file: ModelFile, settings: SampleSettings, device: torch.device) -> None:
        super().__init__(settings, device, file, loaded.trained)
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self._generator = loaded.generator.to(memory_format=layout)

    def latents(self, seeds: Tensor, labels: Tensor) -> Tensor:
        """Make images, -1 black and 1 white, float32 [n, 3, h, w], of the noise of seeds."""
        with torch.no_grad(), torch.autocast(seeds.device.type, self._precision, enabled=self._casts):
            made: Tensor = self._generator(start(seeds, (self._generator.config.latent_size,)), labels)
        return made

    @property
    def _casts(self) -> bool:
        return self._precision != torch.float32

    def images(self, latents: Tensor, *, again: bool = False) -> tuple[Tensor, Tensor]:
        """Round what was made to pixels; see `ImageSampler`."""
        return to_pixels(latents).permute(0, 2, 3, 1), latents.isfinite().flatten(1).all(1)
