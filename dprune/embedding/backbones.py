"""What every network offers to the extraction: a transform for images and a module for batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dprune.embedding.settings import Settings
from dprune.errors import UsageError
from dprune.precision import float32
from dprune.runtime import single_threads

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
        file: that its weights were read from, None for a network without any.
    """

    transform: Callable[[Image], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    module: nn.Module
    file: Path | None = None


def load_backbone(settings: Settings) -> Backbone:
    """Build the network and load its weights, which are never random.

    Raises:
        InputError: the network does not exist, its weights are missing, damaged or another network's.
        UsageError: it cannot take the image size.
    """
    network = settings.network
    if network.library == "timm":
        from dprune.embedding.timm_backbone import load_timm

        return load_timm(network.name, settings.weights, settings.image_size, settings.crop_pct)
    if network.library == "open_clip":
        from dprune.embedding.clip_backbone import load_clip

        return load_clip(network.name, settings.weights, settings.image_size)
    if network.library == "inception":
        from dprune.embedding.inception import load_inception

        return load_inception(settings.weights)
    from dprune.embedding.pixels import load_pixels

    assert settings.image_size is not None
    return load_pixels(settings.image_size, settings.color == "grey")


class Forward:
    """The part of the work that the device does.

    Args:
        backbone: the network.
        device: where to run it.
        precision: dtype of weights and activations.
        normalize: whether to give features unit length.
    """

    def __init__(self, backbone: Backbone, device: torch.device, precision: torch.dtype, normalize: bool) -> None:
        self.device = device
        self._precision = precision
        self._normalize = normalize
        self._mean = torch.tensor(backbone.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(backbone.std, device=device).view(1, -1, 1, 1)
        self._layout = torch.channels_last if len(backbone.mean) == 3 else torch.contiguous_format
        module = backbone.module.eval().requires_grad_(False)
        self._module = module.to(device, precision).to(memory_format=self._layout)
        self._pool = single_threads() if device.type == "cpu" else None

    def __call__(self, pieces: list[Tensor]) -> tuple[Tensor, ...]:
        """Embed one batch, given in pieces.

        Args:
            pieces: images [n_i, c, h, w] in 0 to 255, uint8 or float32.

        Returns:
            Features [n, d] and, if the network has them, logits, as float32 on the device.
        """
        if self._pool is not None:
            return tuple(torch.cat(outputs) for outputs in zip(*self._pool.map(self._embed, pieces), strict=True))
        # tf32 would keep ten bits of what was asked for as float32. The flag is the whole process's: threads that
        # set it and set it back would get into each other's way.
        with float32(tf32=False):
            return self._embed(torch.cat([piece.to(self.device, non_blocking=True) for piece in pieces]))

    def _embed(self, images: Tensor) -> tuple[Tensor, ...]:
        # Division, subtraction and division in this order are what ToTensor and Normalize do.
        images = images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        with torch.inference_mode():
            found = self._module(images.to(self._precision, memory_format=self._layout))
        features, *logits = found if isinstance(found, tuple) else (found,)
        features = features.float()
        if self._normalize:
            features = torch.nn.functional.normalize(features, dim=1)
        return features, *(more.float() for more in logits)


def try_out(backbone: Backbone, forward: Forward, settings: Settings) -> tuple[int, ...]:
    """Send one black image through the network and return the width of each of its outputs.

    Raises:
        UsageError: the network does not take images of this size, or gives no pooled features.
    """
    from PIL import Image

    image = backbone.transform(Image.new("RGB", (32, 32)))
    size = f"--image-size {settings.image_size}" if settings.image_size else f"--model {settings.network}"
    try:
        found = forward([image[None]])
    except (AssertionError, RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UsageError(f"{size}: {settings.network} cannot take images of this size ({reason}).") from error
    if any(output.ndim != 2 for output in found):
        raise UsageError(f"--model {settings.network}: gives no pooled features: choose another network.")
    return tuple(output.shape[1] for output in found)


def check_patches(module: nn.Module, image_size: int | None, network: str) -> None:
    """Refuse sizes at which a network of patches would silently drop the rim of the image.

    Raises:
        UsageError: the size is no multiple of the patches'.
    """
    patch = getattr(getattr(module, "patch_embed", module), "patch_size", None)
    side = patch[0] if isinstance(patch, tuple) else patch
    if image_size and isinstance(side, int) and image_size % side:
        near = max(side, round(image_size / side) * side)
        raise UsageError(f"--image-size {image_size}: {network} takes multiples of {side}, such as {near}.")


def close_names(name: str, known: list[str]) -> str:
    """Return the end of a sentence about a name that does not exist."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, 3)
    return f"did you mean {' or '.join(close)}?" if close else "see its documentation for the names."
