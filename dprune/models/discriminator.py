"""The discriminator of the autoencoder: tells patches of photographs from patches of reconstructions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.models.vae import run_layers

WIDTH = 64
MOST_HALVINGS = 3
# Esser et al. allow 10,000; by then the discriminator has stopped to say anything, and its gradient is rounding.
LARGEST_SCALE = 100.0


class PatchGAN(nn.Module):
    """Judges overlapping patches of an image (Isola et al., "Image-to-image translation", 2017).

    Group normalisation stands where the paper has batch normalisation: samples must not depend on who is in their
    batch, or the result would change with micro-batches and ranks.

    Args:
        image_size: side of the images in pixels; small ones are halved less often.

    Attributes:
        run: runs the layers: `run_layers`, or what `quicken_losses` puts in its place.
    """

    scale: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.run: Callable[[nn.Sequential, Tensor], Tensor] = run_layers
        halvings = max(1, min(MOST_HALVINGS, int(math.log2(image_size)) - 3))
        channels = WIDTH
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for number in range(1, halvings + 1):
            outputs, stride = WIDTH * min(2**number, 8), 2 if number < halvings else 1
            layers += [nn.Conv2d(channels, outputs, 4, stride, padding=1), nn.GroupNorm(32, outputs), nn.LeakyReLU(0.2)]
            channels = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, padding=1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)
        # What the generator's adversarial loss is multiplied with; see `adaptive_scale`.
        self.register_buffer("scale", torch.zeros(()))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return how real the patches of images [B, 3, H, W] look, [B, 1, h, w]."""
        return self.run(self.layers, images_BCHW)


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of the discriminator (Lim and Ye, "Geometric GAN", 2017), given logits [B, 1, h, w]; [B]."""
    return 0.5 * (F.relu(1 - real) + F.relu(1 + made)).flatten(1).mean(1)


def generator_loss(made: Tensor) -> Tensor:
    """Adversarial loss of the autoencoder, given the discriminator's logits [B, 1, h, w]; [B]."""
    return -made.flatten(1).mean(1)


def adaptive_scale(reconstruction: Tensor, adversarial: Tensor) -> Tensor:
    """Return what makes the two losses pull equally at the decoder's last layer (Esser et al., 2021), with a cap.

    Args:
        reconstruction: gradient of the reconstruction's loss there.
        adversarial: gradient of the adversarial loss there.
    """
    ratio: Tensor = torch.linalg.vector_norm(reconstruction) / torch.linalg.vector_norm(adversarial).clamp(min=1e-12)
    return ratio.clamp(max=LARGEST_SCALE)
