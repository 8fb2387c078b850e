"""Images as networks make them, from -1 to 1, and as files hold them."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST_ERROR = 1e-10


def centred(pixels: Tensor) -> Tensor:
    """Bring images in [0, 255], of any type, to [-1, 1], float32 of the same shape."""
    return pixels.to(torch.float32).div(127.5).sub_(1)


def to_pixels(images: Tensor) -> Tensor:
    """Bring images in [-1, 1] to uint8 of the same shape; what goes beyond is clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of uint8 images [n, 3, H, W] in dB, float32 [n]; 100 where they agree."""
    error = (a.float() - b.float()).square().flatten(1).mean(1) / 255**2
    return -10 * error.clamp(min=_LEAST_ERROR).log10()


def centred_psnr(made: Tensor, images: Tensor) -> Tensor:
    """Return that of images in [-1, 1], not rounded; where what was made goes beyond, it is clamped."""
    error = (made.float().clamp(-1, 1) - images).square().flatten(1).mean(1)
    # The peak, from -1 to 1, is 2.
    return 10 * (4 / error.clamp(min=_LEAST_ERROR)).log10()
