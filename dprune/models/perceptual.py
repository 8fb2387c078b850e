"""How different two images look to a network that was trained for something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dprune.errors import InputError
from dprune.models.files import fits
from dprune.models.imports import without_compiler
from dprune.models.weights import read_state

# Layers of torchvision's VGG16 after which LPIPS looks: the last activation before each of its poolings.
VGG_STAGES = (range(4), range(4, 9), range(9, 16), range(16, 23), range(23, 30))
VGG_CHANNELS = (64, 128, 256, 512, 512)
# ImageNet's mean and deviation for images in [-1, 1], rounded as in the authors' code.
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
MOST_DEPTHS = 5


def _unit(features_BCHW: Tensor) -> Tensor:
    """Give the feature vector of every place unit length."""
    features = features_BCHW.float()
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def features_apart(a_BCHW: Tensor, b_BCHW: Tensor, weight_C: Tensor | None) -> Tensor:
    """Return the squared distance of features of unit length, a mean over places, float32 [B].

    Args:
        a_BCHW: maps of features.
        b_BCHW: others.
        weight_C: of the channels, all 1 if None.
    """
    squares = torch.sub(_unit(a_BCHW), _unit(b_BCHW)).square()
    if weight_C is not None:
        squares = squares * weight_C[:, None, None]
    return squares.sum(1).flatten(1).mean(1)


class PerceptualDistance(nn.Module):
    """What the distances share: the normalisation of images, how features are compared, and no training.

    Attributes:
        apart: `features_apart`, or what `quicken_losses` puts in its place.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__()
        self.apart: Callable[[Tensor, Tensor, Tensor | None], Tensor] = features_apart
        self.register_buffer("shift", torch.tensor(shift)[:, None, None])
        self.register_buffer("scale", torch.tensor(scale)[:, None, None])

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in evaluation mode, whatever the rest of the training does."""
        return super().train(False)

    def _normalised(self, images_BCHW: Tensor) -> Tensor:
        return (images_BCHW - self.shift) / self.scale


class LPIPS(PerceptualDistance):
    """Learned perceptual distance (Zhang et al., "The unreasonable effectiveness of deep features", 2018), VGG16.

    Args:
        weights: a file of `lpips.LPIPS(net="vgg").state_dict()`, with the features and the five linear heads.

    Raises:
        InputError: the file is missing, damaged or holds something else.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__(LPIPS_SHIFT, LPIPS_SCALE)
        with without_compiler():
            from torchvision.models import vgg16

        with torch.device("meta"):
            layers = vgg16(weights=None).features
            self.stages = nn.ModuleList(layers[stage.start : stage.stop] for stage in VGG_STAGES)
            self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in VGG_CHANNELS)
        self._load(weights)
        self.requires_grad_(False).eval()

    def _load(self, path: Path) -> None:
        own = {_published(name): name for name, _ in self.named_parameters()}
        expected = {name: self.get_parameter(own[name]) for name in sorted(own)}
        # The package's state dict names its heads twice and holds constants.
        more = ("lins.", "scaling_layer.")
        state = {name: value for name, value in read_state(path).items() if not name.startswith(more)}
        if problem := fits(expected, state):
            raise InputError(
                f"--lpips-weights {path}: {problem}: give the state dict of lpips.LPIPS(net='vgg'), saved to a file."
            )
        found = {own[name]: value for name, value in state.items()}
        self.load_state_dict({"shift": self.shift, "scale": self.scale, **found}, assign=True)

    def forward(self, a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
        """Return the distances between images [B, 3, H, W] in [-1, 1], float32 [B]."""
        # Apart, so that nothing is kept of images without gradient.
        a, b = self._normalised(a_BCHW), self._normalised(b_BCHW)
        total = torch.zeros((), device=a_BCHW.device)
        for stage, head in zip(self.stages, self.heads, strict=True):
            a, b = stage(a), stage(b)
            assert isinstance(head, nn.Conv2d)
            total = total + self.apart(a, b, head.weight.flatten())
        return total


def _published(name: str) -> str:
    """Return what the package calls a parameter."""
    part, number, rest = name.split(".", 2)
    return f"net.slice{int(number) + 1}.{rest}" if part == "stages" else f"lin{number}.model.1.{rest}"


class FeatureDistance(PerceptualDistance):
    """Distance between the features of any network of timm at several depths, all of one weight.

    It is LPIPS without learned heads.

    Args:
        module: the network, whose `forward_intermediates` gives maps of features.
        mean: what the network subtracts from images in [0, 1].
        std: what it divides them by then.
    """

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__([2 * value - 1 for value in mean], [2 * value for value in std])
        self.module: Any = module
        self.requires_grad_(False).eval()

    def forward(self, a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
        """Return the distances between images [B, 3, H, W] in [-1, 1], float32 [B]."""
        # Apart, so that nothing is kept of images without gradient.
        pairs = zip(self._maps(a_BCHW), self._maps(b_BCHW), strict=True)
        return torch.stack([self.apart(a, b, None) for a, b in pairs]).mean(0)

    def _maps(self, images_BCHW: Tensor) -> list[Tensor]:
        images = self._normalised(images_BCHW)
        maps: list[Tensor] = self.module.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
        every = max(1, round(len(maps) / MOST_DEPTHS))
        # From the end, so that the deepest is among them.
        return maps[::-every][:MOST_DEPTHS]
