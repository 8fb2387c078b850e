"""How well an autoencoder reconstructs images: PSNR, SSIM and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d

from dprune.collectives import all_sum, is_root
from dprune.formats.images import drawn_png
from dprune.formats.publish import publish_bytes
from dprune.models.pixels import psnr, to_pixels
from dprune.models.vae import VAE
from dprune.runtime import ranks
from dprune.sheets.classes import GAP, LEAST_SIDE
from dprune.sheets.sheet import Sheet, SheetCell, SheetRow, sized
from dprune.training.images import TrainingImages, to_unit

MOST_SAMPLES = 1024
BATCH = 32
SHOWN, COLUMNS = 32, 8
WINDOW, DEVIATION = 11, 1.5


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of uint8 images [n, 3, H, W], a mean over places and channels, float32 [n].

    Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), with their
    Gaussian window of 11 pixels, where it fits into the image wholly.
    """
    x, y = a.double(), b.double()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * covariance + c2) / (var_x + var_y + c2)).flatten(1).mean(1).float()


def _blur(x: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    weights = (-0.5 * (offsets / DEVIATION).square()).exp()
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, WINDOW)
    return conv2d(conv2d(x, weights, groups=x.shape[1]), weights.mT, groups=x.shape[1])


class Reconstruction:
    """Reconstruction of a fixed set of images.

    Args:
        images: to choose from, at most 1,024 of them, evenly spread over the ids.
        name: what the log calls them, such as `held_out`.
        distance: perceptual distance that is measured as well, None for none.
    """

    def __init__(self, images: TrainingImages, name: str, distance: nn.Module | None) -> None:
        count = min(MOST_SAMPLES, len(images))
        self._images, self._name, self._distance = images, name, distance
        self._positions = np.linspace(0, len(images) - 1, count).round().astype(np.int64)

    def measure(self, vae: VAE) -> dict[str, float]:
        """Return the means of the measures; the ranks share the work."""
        here = ranks()
        mine = self._positions[here.rank :: here.world] if here.group else self._positions
        total = torch.zeros(3, dtype=torch.float64, device=self._images.device)
        chunks = [mine[begin : begin + BATCH] for begin in range(0, len(mine), BATCH)]
        for (pixels,) in self._images.batches([chunk] for chunk in chunks):
            total += self._sums(vae, pixels)
        means = (all_sum(total) / len(self._positions)).tolist()
        names = ("psnr", "ssim", *(("perceptual",) if self._distance else ()))
        return {f"{self._name}_{name}": mean for name, mean in zip(names, means, strict=False)}

    def _sums(self, vae: VAE, pixels: Tensor) -> Tensor:
        images = to_unit(pixels)
        made = vae.reconstruct(images)
        found = [psnr(to_pixels(made), pixels), ssim(to_pixels(made), pixels)]
        found.append(self._distance(made, images) if self._distance else torch.zeros_like(found[0]))
        return torch.stack([value.sum().double() for value in found])

    def draw(self, vae: VAE, path: Path) -> None:
        """Publish a picture of a few images, each row of them above a row of what became of them."""
        if not is_root():
            return
        every = max(1, len(self._positions) // SHOWN)
        pixels = self._images.load(self._positions[::every][:SHOWN])
        made = to_pixels(vae.reconstruct(to_unit(pixels)))
        halves = zip(pixels.split(COLUMNS), made.split(COLUMNS), strict=True)
        rows = [row for pair in halves for row in map(_row, pair, ("image", "reconstruction"))]
        publish_bytes(path, drawn_png(Sheet(rows, gap=GAP).draw()))


def _row(pixels: Tensor, name: str) -> SheetRow:
    images = [Image.fromarray(one) for one in pixels.permute(0, 2, 3, 1).cpu().numpy()]
    return SheetRow([SheetCell(sized(image, LEAST_SIDE)) for image in images], name)
