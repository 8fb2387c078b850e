"""Differentiable augmentation: what a discriminator sees is changed at random, images and generated ones alike.

Zhao et al., "Differentiable augmentation for data-efficient GAN training" (2020), with the sizes of their code. It
keeps a discriminator from learning a small training set by heart, and does not show in what is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dprune import noise

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 1.0
"""Widths of the ranges that changes of colour are drawn from."""
SHIFTED, CUT = 1 / 8, 1 / 2
"""Share of a side by which images are moved at most, and that of the square that is cut out."""

Draw = Callable[[str], Tensor]
"""Returns a number in (0, 1) for each image, given what it is for."""


class Augmentation:
    """Changes images at random.

    Args:
        names: which kinds of changes are made, in this order: `colour`, `translation`, `cutout`.
        seed: of the run.
    """

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self._changes, self._seed = [_CHANGES[name] for name in names], seed

    def __call__(self, images: Tensor, role: str, ids: Tensor, visits: Tensor) -> Tensor:
        """Change images in [-1, 1], float32 [n, 3, H, W].

        Args:
            images: of visits of samples.
            role: what they are; other roles have other changes.
            ids: of the samples, int64 [n].
            visits: how often each was visited before, int64 [n].
        """

        def draw(purpose: str) -> Tensor:
            """A number in (0, 1) for each image, float32 [n]."""
            return noise.uniform(self._seed, f"{purpose} of what is judged: {role}", ids, visits)

        for change in self._changes:
            images = change(images, draw)
        return images


def coloured(images: Tensor, draw: Draw) -> Tensor:
    """Change brightness, saturation and contrast."""
    images = images + BRIGHTNESS * (_of_images(draw("brightness")) - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + SATURATION * _of_images(draw("saturation")) * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (1 + CONTRAST * (_of_images(draw("contrast")) - 0.5)) * (images - mean)


def translated(images: Tensor, draw: Draw) -> Tensor:
    """Move images by whole pixels; what comes in from beyond the borders is grey."""
    for dim, purpose in ((2, "vertical translation"), (3, "horizontal translation")):
        side = images.shape[dim]
        most = round(side * SHIFTED)
        moved = (draw(purpose) * (2 * most + 1)).long() - most
        shape = [-1, 1, side, 1] if dim == 2 else [-1, 1, 1, side]
        places = (torch.arange(side, device=images.device) - moved[:, None]).view(shape)
        inside = (places >= 0) & (places < side)
        images = images.gather(dim, places.clamp(0, side - 1).expand_as(images)) * inside
    return images


def cut_out(images: Tensor, draw: Draw) -> Tensor:
    """Make a square grey, of which a part may lie beyond the borders."""
    side = images.shape[2]
    half = side * CUT / 2
    places = torch.arange(side, device=images.device)
    rows, columns = (
        ((places + 0.5 - draw(purpose)[:, None] * side).abs() < half) for purpose in ("row of a cut", "column of a cut")
    )
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _of_images(values: Tensor) -> Tensor:
    return values[:, None, None, None]


_CHANGES: dict[str, Callable[[Tensor, Draw], Tensor]] = {
    "colour": coloured,
    "translation": translated,
    "cutout": cut_out,
}
