"""What every network is to the extraction: a transform for images and a module for batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dprune.embedding.geometry import Geometry
from dprune.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Backbone:
    """A network with its weights and its own preprocessing.

    Attributes:
        transform: brings an RGB image to what the network sees but for scale: [3, h, w] (or [c, h, w]), in 0 to 255.
        mean: subtracted from the channels, after division by 255.
        std: divides the channels then.
        module: maps such a batch [n, c, h, w] to features [n, d], or to features and logits.
        geometry: what the transform does to shapes, None if it does more than resize and crop.
        file: that its weights were read from, None for a network without any.
    """

    transform: Callable[[Image], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    module: nn.Module
    file: Path | None = None
    geometry: Geometry | None = None


def check_patches(module: nn.Module, image_size: int | None, network: str) -> None:
    """Refuse sizes at which a network of patches would silently drop the rim of the image.

    Raises:
        UsageError: the size is no multiple of the patches'.
    """
    patch = getattr(getattr(module, "patch_embed", module), "patch_size", None)
    side = patch[0] if isinstance(patch, tuple) else patch
    if image_size and isinstance(side, int) and image_size % side:
        near = max(side, round(image_size / side) * side)
        raise UsageError(f"--image-size {image_size}: {network} needs a multiple of {side}, such as {near}.")


def close_names(name: str, known: list[str]) -> str:
    """Return the end of a sentence about a name that does not exist."""
    close = get_close_matches(name, known, 3)
    return f"did you mean {' or '.join(close)}?" if close else "see its documentation for the names."
