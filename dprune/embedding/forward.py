"""A backbone at work: loaded, on its device, and tried out."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from dprune.embedding.backbones import Backbone
from dprune.embedding.settings import EmbedSettings
from dprune.errors import UsageError
from dprune.parts import BatchNetwork


def load_backbone(settings: EmbedSettings) -> Backbone:
    """Build the network and load its weights, which are never random.

    Raises:
        InputError: the network does not exist, its weights are missing, damaged or another network's.
        UsageError: it cannot take the image size.
    """
    network = settings.network
    if network.library == "timm":
        from dprune.embedding.timm_backbone import load_timm

        return load_timm(network.name, settings.weights, settings.image_size, settings.given.crop_pct)
    if network.library == "open_clip":
        from dprune.embedding.clip_backbone import load_clip

        return load_clip(network.name, settings.weights, settings.image_size)
    if network.library == "inception":
        from dprune.embedding.inception import load_inception

        assert settings.resize is not None
        return load_inception(settings.weights, settings.resize)
    from dprune.embedding.pixels import load_pixels

    assert settings.image_size is not None
    return load_pixels(settings.image_size, settings.color == "grey")


class Forward(BatchNetwork):
    """Maps images [n, c, h, w] in 0 to 255, uint8 or float32, to features [n, d] and, if the network has them, logits.

    Both are float32 on the device.

    Args:
        backbone: the network.
        device: where to run it.
        precision: dtype of weights and activations.
        normalize: whether to give features unit length.
    """

    def __init__(self, backbone: Backbone, device: torch.device, precision: torch.dtype, normalize: bool) -> None:
        super().__init__(device)
        self._precision = precision
        self._normalize = normalize
        self._mean = torch.tensor(backbone.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(backbone.std, device=device).view(1, -1, 1, 1)
        self._layout = torch.channels_last if len(backbone.mean) == 3 else torch.contiguous_format
        module = backbone.module.eval().requires_grad_(False)
        self._module = module.to(device, precision).to(memory_format=self._layout)

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `BatchNetwork`."""
        # Division, subtraction and division in this order are what ToTensor and Normalize do.
        images = images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        with torch.inference_mode():
            found = self._module(images.to(self._precision, memory_format=self._layout))
        features, *logits = found if isinstance(found, tuple) else (found,)
        features = features.float()
        if self._normalize:
            features = torch.nn.functional.normalize(features, dim=1)
        return features, *(more.float() for more in logits)


def wake(device: torch.device, precision: torch.dtype) -> None:
    """Have a GPU load the libraries of every network, which takes half a second and no Python."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        images = torch.ones(1, 8, 8, 8, device=device, dtype=precision)
        torch.nn.functional.conv2d(images, images)
        torch.mm(images.view(8, 64), images.view(64, 8))


def try_out(backbone: Backbone, forward: Forward, settings: EmbedSettings) -> tuple[int, ...]:
    """Send one black image through the network and return the width of each of its outputs.

    Raises:
        UsageError: the network does not take images of this size, or gives no pooled features.
    """
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
