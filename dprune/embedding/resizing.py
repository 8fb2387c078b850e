"""How Inception's images get their 299 pixels and their scale: three ways, and statistics go with one of them each.

Distances between features of different ways are larger than those between many models: Parmar, Zhang and Zhu,
"On Aliased Resizing and Surprising Subtleties in GAN Evaluation" (arXiv 2104.11222).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SIZE = 299


def clean_resize(image: Image.Image) -> Tensor:
    """Resize as clean-fid does: Pillow's bicubic filter on each channel in float32, clipped, not rounded.

    Returns:
        float32 [3, 299, 299] in 0 to 255, as those below.
    """
    out = np.empty((3, SIZE, SIZE), dtype=np.float32)
    for channel, plane in enumerate(image.split()):
        resized = plane.convert("F").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        np.clip(np.asarray(resized), 0, 255, out=out[channel])
    return torch.from_numpy(out)


def pytorch_resize(image: Image.Image) -> Tensor:
    """Resize as pytorch-fid does: torch's bilinear interpolation, which skips pixels of large images."""
    return functional.interpolate(_pixels(image)[None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0]


def tensorflow_resize(image: Image.Image) -> Tensor:
    """Resize as TensorFlow 1 did inside of the original graph: bilinear, with the pixels' corners for their centres.

    Rows before columns, in the order of its kernel (tensorflow/core/kernels/image/resize_bilinear_op.cc).
    """
    pixels = _pixels(image)
    for axis in (2, 1):
        near, far, share = _between(pixels.shape[axis])
        low, high = pixels.index_select(axis, near), pixels.index_select(axis, far)
        pixels = low + (high - low) * (share if axis == 2 else share[:, None])
    return pixels


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).astype(np.float32))


def _between(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels of an axis that each of the resized axis lies between, and how far behind the first it does."""
    place = torch.arange(SIZE, dtype=torch.float32) * (torch.tensor(size, dtype=torch.float32) / SIZE)
    near = place.long()
    return near, (near + 1).clamp(max=size - 1), place - near


class Resize(NamedTuple):
    """A resize and the scale that goes with it.

    Attributes:
        function: brings an RGB image to float32 [3, 299, 299] in 0 to 255.
        middle: what becomes 0; what is 0 becomes -1.
    """

    function: Callable[[Image.Image], Tensor]
    middle: float


RESIZES = {
    "clean": Resize(clean_resize, 128),
    "pytorch": Resize(pytorch_resize, 127.5),
    "tensorflow": Resize(tensorflow_resize, 128),
}
