"""The discriminator of the GAN among the baselines: tells images from generated ones, given their class.

Miyato and Koyama, "cGANs with projection discriminator" (2018), with spectral normalisation (Miyato et al., 2018): each
weight is divided by its largest singular value, which one power iteration a step follows. Here that is done between the
steps and not in every pass, so that it does not depend on how many passes, micro-batches or ranks a step has.

Legend: B images, C channels, D numbers that an image comes to, H and W pixels.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.models.baselines import BaselineConfig
from dprune.models.generator import numbered

FIRST_ITERATIONS = 15
"""Of power iteration, before the first step."""


class Spectral(nn.Module):
    """Divides a weight by its largest singular value.

    Args:
        layer: whose `weight` it is, a row an output.

    Attributes:
        left: singular vector of the outputs.
        right: of the inputs.
    """

    left: Tensor
    right: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        matrix = _matrix(layer)
        self.register_buffer("left", F.normalize(torch.randn(len(matrix)), dim=0))
        self.register_buffer("right", torch.empty(matrix.shape[1]))
        self.follow(layer, FIRST_ITERATIONS)

    def follow(self, layer: nn.Module, iterations: int = 1) -> None:
        """Bring the vectors closer to those of the layer's weight, by power iteration."""
        with torch.no_grad():
            matrix = _matrix(layer)
            for _ in range(iterations):
                self.right.copy_(F.normalize(matrix.T @ self.left, dim=0))
                self.left.copy_(F.normalize(matrix @ self.right, dim=0))

    def forward(self, layer: nn.Module) -> Tensor:
        """Return the weight that the layer is to use; the vectors are constants of its gradient."""
        # No matrix product, which autocast would round.
        norm = (_matrix(layer) * torch.outer(self.left, self.right)).sum()
        return _weight(layer) / norm


def _weight(layer: nn.Module) -> Tensor:
    found: Tensor = layer.weight  # type: ignore[assignment]
    return found


def _matrix(layer: nn.Module) -> Tensor:
    return _weight(layer).flatten(1)


class SpectralConv(nn.Conv2d):
    """A convolution that keeps the size of its input and makes no difference larger."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        nn.init.xavier_uniform_(self.weight, gain=math.sqrt(2) if kernel > 1 else 1.0)
        self.spectral = Spectral(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return [B, outputs, H, W]."""
        return F.conv2d(x_BCHW, self.spectral(self), self.bias, padding=self.padding)


class SpectralLinear(nn.Linear):
    """A linear layer that makes no difference larger."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        nn.init.xavier_uniform_(self.weight)
        self.spectral = Spectral(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs]."""
        return F.linear(x, self.spectral(self), self.bias)


class SpectralTable(nn.Embedding):
    """Vectors of classes."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__(count, size)
        nn.init.xavier_uniform_(self.weight)
        self.spectral = Spectral(self)

    def forward(self, rows_B: Tensor) -> Tensor:
        """Return [B, size]."""
        return F.embedding(rows_B, self.spectral(self))


class JudgingBlock(nn.Module):
    """A residual block that may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, *, halves: bool, first: bool = False) -> None:
        super().__init__()
        self.halves, self.first = halves, first
        self.conv1, self.conv2 = SpectralConv(inputs, outputs), SpectralConv(outputs, outputs)
        self.skip = SpectralConv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return [B, outputs, H, W], or half of the height and width."""
        # Of an image itself nothing is cut off.
        inner = self.conv2(F.relu(self.conv1(x_BCHW if self.first else F.relu(x_BCHW))))
        beside = x_BCHW
        if self.halves:
            inner, beside = F.avg_pool2d(inner, 2), F.avg_pool2d(beside, 2)
        return inner + self.skip(beside)  # type: ignore[no-any-return]


class ProjectionDiscriminator(nn.Module):
    """Judges images of a class.

    Args:
        config: of the baseline.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        channels = config.channels
        first = JudgingBlock(3, channels[0], halves=False, first=True)
        blocks = (JudgingBlock(*sizes, halves=True) for sizes in itertools.pairwise(channels))
        self.blocks = nn.Sequential(first, *blocks)
        self.last = SpectralLinear(channels[-1], 1)
        self.table = SpectralTable(config.classes + 1, channels[-1]) if config.classes else None
        self._spectral = [layer for layer in self.modules() if isinstance(getattr(layer, "spectral", None), Spectral)]

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Return how real images in [-1, 1] look, given their labels (-1 for none), float32 [B, 1]."""
        found = F.relu(self.blocks(images_BCHW)).sum((2, 3))
        judged: Tensor = self.last(found)
        if self.table is not None:
            vectors = self.table(numbered(labels_B, self.table.num_embeddings - 1))
            judged = judged + (vectors * found).sum(1, keepdim=True)
        return judged.float()

    def follow_weights(self) -> None:
        """Bring all singular vectors closer to the weights, once a step."""
        for layer in self._spectral:
            layer.spectral.follow(layer)  # type: ignore[operator, union-attr]
