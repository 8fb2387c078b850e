"""Images as networks make them, from -1 to 1, and as files hold them."""

from __future__ import annotations

import torch
from torch import Tensor


def centred(pixels: Tensor) -> Tensor:
    """Bring images in [0, 255], of any type, to [-1, 1], float32 of the same shape."""
    return pixels.to(torch.float32).div(127.5).sub_(1)


def to_pixels(images: Tensor) -> Tensor:
    """Bring images in [-1, 1] to uint8 of the same shape; what goes beyond is clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte()
