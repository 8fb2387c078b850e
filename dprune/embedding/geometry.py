"""A network's preprocessing as numbers: a resize by one of Pillow's filters and a window cut out of the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import PIL
import torch
from torch import Tensor

DOWN_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
"""Whether Pillow may begin with the pass down the columns."""
BITS = 22
"""Behind the point of Pillow's weights for bytes."""


class Window(NamedTuple):
    """Height and width that an image is resized to, and top and left of what is cut out of that, in pixels."""

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True)
class Geometry:
    """How images of any size become images of one.

    Attributes:
        resized: pixels of the shorter side, or height and width.
        cubic: the filter: Pillow's BICUBIC, or else its BILINEAR.
        size: height and width that are cut out of the middle.
    """

    resized: int | tuple[int, int]
    cubic: bool
    size: tuple[int, int]

    def window(self, width: int, height: int) -> Window:
        """Return what torchvision's Resize and CenterCrop make of an image."""
        if isinstance(self.resized, tuple):
            high, wide = self.resized
        elif width <= height:
            high, wide = int(self.resized * height / width), self.resized
        else:
            high, wide = self.resized, int(self.resized * width / height)
        return Window(high, wide, round((high - self.size[0]) / 2), round((wide - self.size[1]) / 2))


def read_geometry(steps: Sequence[Any]) -> Geometry | None:
    """Read what torchvision's transforms do, None where that is more than a resize and a crop.

    Args:
        steps: on images, but for the last, which makes a tensor of bytes.
    """
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    named = [step for step in steps[:-1] if not _makes_rgb(step)]
    if [type(step) for step in named] not in ([Resize, CenterCrop], [Resize]) or named[0].max_size is not None:
        return None
    if named[0].interpolation not in (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR):
        return None
    cubic, resized = named[0].interpolation == InterpolationMode.BICUBIC, named[0].size
    if not isinstance(resized, int):
        resized = tuple(resized) if len(resized) > 1 else resized[0]
    if len(named) == 1:
        # Without a crop, images of other shapes would stay so.
        return Geometry(resized, cubic, resized) if isinstance(resized, tuple) else None
    size = tuple(named[1].size)
    least = (resized, resized) if isinstance(resized, int) else resized
    if least[0] < size[0] or least[1] < size[1]:
        # The crop would add a border.
        return None
    return Geometry(resized, cubic, size)


def _makes_rgb(step: Any) -> bool:
    """Tell whether a step of open_clip or timm only makes an image what it is already."""
    return getattr(step, "__name__", type(step).__name__) in ("_convert_to_rgb", "MaybeConvertMode")


def resize_like_pillow(image: Tensor, window: Window, size: tuple[int, int], cubic: bool) -> Tensor:
    """Resize an image and cut a window out of it, equal to Pillow's to the bit.

    Args:
        image: uint8 [3, h, w] on any device.
        window: what it is resized to, and where the window is.
        size: height and width of the window.
        cubic: the filter.

    Returns:
        uint8 [3, *size].
    """
    down = weights(image.shape[1], window.height, window.top, size[0], cubic, image.device)
    across = weights(image.shape[2], window.width, window.left, size[1], cubic, image.device)
    if down_first(image, window):
        return _bytes(_bytes(down @ image.double()).double() @ across.T)
    return _bytes(down @ _bytes(image.double() @ across.T).double())


def down_first(image: Tensor, window: Window) -> bool:
    """Tell whether Pillow resizes the columns of an image [3, h, w] before its rows, which rounds otherwise."""
    fewer = image.shape[1] - window.height
    return DOWN_FIRST and fewer > 0 and fewer > 2 * (image.shape[2] - window.width)


def weights(size: int, resized: int, first: int, count: int, cubic: bool, device: torch.device) -> Tensor:
    """Return Pillow's weights of the pixels of an axis for some places of the resized axis (libImaging/Resample.c).

    Args:
        size: pixels of the axis.
        resized: of the resized axis.
        first: of the places.
        count: places.
        cubic: the filter.
        device: of the result.

    Returns:
        Whole numbers in float64 [count, size], in which sums of their products with bytes are exact.
    """
    scale = size / resized
    wide = max(scale, 1.0)
    support = (2.0 if cubic else 1.0) * wide
    centre = (torch.arange(first, first + count, device=device, dtype=torch.float64)[:, None] + 0.5) * scale
    pixel = torch.arange(size, device=device, dtype=torch.float64)
    begin, stop = (centre - support + 0.5).trunc(), (centre + support + 0.5).trunc()
    x = ((pixel - centre + 0.5) * (1.0 / wide)).abs()
    found = _cubic(x) if cubic else (1.0 - x).clamp(min=0)
    found = torch.where((pixel >= begin) & (pixel < stop), found, 0.0)
    found = found / found.sum(1, keepdim=True) * (1 << BITS)
    return (found + torch.where(found < 0, -0.5, 0.5)).trunc()


def _cubic(x: Tensor) -> Tensor:
    near, far = (1.5 * x - 2.5) * x * x + 1.0, (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


def _bytes(sums: Tensor) -> Tensor:
    return ((sums + (1 << (BITS - 1))) / (1 << BITS)).floor().clamp(0, 255).to(torch.uint8)
