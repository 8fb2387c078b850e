"""The VAE among the baselines: Gaussian latents of a whole image, which it is sampled from by drawing their prior.

Kingma and Welling, "Auto-encoding variational Bayes" (2014); with classes, encoder and generator both know them (Sohn
et al., "Learning structured output representation", 2015). The deviation of the pixels from what is generated is
learnt, so that no weight balances the two terms of the bound (Rybkin et al., "Simple and effective VAE training with
calibrated decoders", 2021).

Legend: B images, L latents, C channels, H and W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.models.baselines import GROUP, SMALLEST, BaselineConfig
from dprune.models.generator import LABEL_DEVIATION, LABEL_SIZE, ImageGenerator, LabelTable

FIRST_DEVIATION = 0.4
"""Of pixels in [-1, 1]: about what images of their mean colour are off by."""


class Halving(nn.Module):
    """A residual block that halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(inputs // GROUP, inputs), nn.GroupNorm(outputs // GROUP, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return [B, outputs, H / 2, W / 2]."""
        inner = self.conv1(F.relu(self.norm1(x_BCHW)))
        inner = self.conv2(F.avg_pool2d(F.relu(self.norm2(inner)), 2))
        return inner + self.skip(F.avg_pool2d(x_BCHW, 2))  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """Tells the latents that images may have been made of."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        channels = config.channels
        self.first = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.Sequential(*map(Halving, channels[:-1], channels[1:]))
        self.norm = nn.GroupNorm(channels[-1] // GROUP, channels[-1])
        self.labels = LabelTable(config.classes, LABEL_SIZE, LABEL_DEVIATION[config.model])
        self.last = nn.Linear(channels[-1] * SMALLEST**2 + self.labels.size, 2 * config.latent_size)

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latents of images in [-1, 1], float32 [B, L] each."""
        found = F.relu(self.norm(self.blocks(self.first(images_BCHW)))).flatten(1)
        mean, logvar = self.last(torch.cat((found, self.labels(labels_B)), dim=1)).float().chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)


class PriorVAE(nn.Module):
    """Encoder, generator and the deviation of pixels.

    Args:
        config: of the baseline.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.encoder, self.generator = ImageEncoder(config), ImageGenerator(config)
        self.log_deviation = nn.Parameter(torch.tensor(math.log(FIRST_DEVIATION)))
