"""Plain pixels as features, with principal components if asked: no weights, no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from dprune.embedding.backbones import Backbone
from dprune.errors import InputError
from dprune.formats.tensors import read_metadata, read_tensors, write_tensors

PCA_SAMPLES = 4096


class Squash:
    """Brings an image to a square by one antialiased resize, nothing cropped."""

    def __init__(self, size: int, grey: bool) -> None:
        self._size = size
        self._mode = "L" if grey else "RGB"

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 [c, size, size]."""
        if image.size != (self._size, self._size):
            image = image.resize((self._size, self._size), Image.Resampling.BICUBIC)
        pixels = np.asarray(image.convert(self._mode))
        return torch.from_numpy(pixels.reshape(self._size, self._size, -1).transpose(2, 0, 1).copy())


class Projection(nn.Module):
    """Maps images [n, c, h, w] to their coordinates [n, k] along principal components."""

    def __init__(self, mean: npt.NDArray[np.float32], components: npt.NDArray[np.float32]) -> None:
        super().__init__()
        self.mean: Tensor
        self.components: Tensor
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("components", torch.from_numpy(components))

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 [n, k]."""
        return (x.flatten(1) - self.mean) @ self.components.T


def load_pixels(size: int, grey: bool) -> Backbone:
    """Make the backbone whose features are the pixels in 0 to 1, channel by channel.

    Args:
        size: side in pixels.
        grey: whether to drop the colours.
    """
    channels = 1 if grey else 3
    return Backbone(Squash(size, grey), (0.0,) * channels, (1.0,) * channels, nn.Flatten())


def fit_pca(pixels: npt.NDArray[np.float32], count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Find the directions of largest variance.

    Args:
        pixels: [m, d].
        count: directions.

    Returns:
        Mean [d] and orthonormal components [count, d], each with its largest entry positive.

    Raises:
        InputError: the images vary in fewer directions.
    """
    centred = pixels.astype(np.float64)
    mean = centred.mean(0) if len(centred) else np.zeros(pixels.shape[1])
    centred -= mean
    # The smaller of the two products has the same non-zero eigenvalues.
    by_values = centred.shape[1] <= len(centred)
    values, vectors = np.linalg.eigh(centred.T @ centred if by_values else centred @ centred.T)
    rank = int((values > 1e-10 * max(float(values[-1]), 1e-300)).sum()) if len(values) else 0
    if rank < count:
        raise InputError(f"--pca {count}: {len(pixels):,} images were drawn to fit it and vary in {rank} directions: "
                         "ask for fewer components or give more images.")  # fmt: skip
    top = vectors[:, ::-1][:, :count].T
    components = top if by_values else top @ centred / np.sqrt(values[::-1][:count, None])
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1)
    return mean.astype(np.float32), (components * np.sign(largest)).astype(np.float32)


def read_pca(path: Path, options: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Return the mean and components in a store, None if there are none or they were made with other options."""
    try:
        metadata = read_metadata(path)
    except InputError:
        return None
    if not metadata or metadata.get("options") != options:
        return None
    _, tensors, _ = read_tensors(path)
    mean, components = tensors.get("mean"), tensors.get("components")
    if mean is None or components is None or components.shape[1:] != mean.shape:
        raise InputError(f"{path}: holds no mean [d] and components [k, d]: remove it and make it again.")
    return mean, components


def publish_pca(path: Path, options: str, pca: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]) -> None:
    """Publish mean and components unless another worker was faster: all workers must project alike."""
    replace = path.exists() and read_pca(path, options) is None
    write_tensors(path, {"mean": pca[0], "components": pca[1]}, {"options": options}, replace=replace)
