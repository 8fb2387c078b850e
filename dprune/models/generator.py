"""The generator of a baseline: noise and a label to an image, in one pass of convolutions.

Residual blocks as in Miyato and Koyama, "cGANs with projection discriminator" (2018), whose normalisation the noise and
the class shift and scale. It is by groups of channels: with batch normalisation, images would depend on who is in their
batch, and so on micro-batches, ranks and the batch size of sampling.

Legend: B images, L numbers of noise, C channels, D numbers of a condition, H and W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.models.baselines import GROUP, SMALLEST, BaselineConfig

LABEL_SIZE = 64
"""Numbers that stand for a class."""
LABEL_DEVIATION = {"vae": 1.0, "gan": 0.1}
"""Of these numbers at first, where those of noise have 1.

Where classes are the larger part, a GAN begins with one image for each and stays there; a VAE is told by its encoder
how images of a class differ, and where classes are the smaller part has its latents say the class as well.
"""


class LabelTable(nn.Module):
    """Vectors of the classes, and one for images without a label.

    Args:
        classes: that there are, 0 for none.
        size: of a vector.
        deviation: of its numbers at first.
    """

    def __init__(self, classes: int, size: int, deviation: float) -> None:
        super().__init__()
        self.size = size if classes else 0
        self.table = nn.Embedding(classes + 1, size) if classes else None
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=deviation)

    def forward(self, labels_B: Tensor) -> Tensor:
        """Return the vectors of labels, -1 for none, [B, size]; of no numbers where no classes are known."""
        if self.table is None:
            return torch.empty(len(labels_B), 0, device=labels_B.device)
        found: Tensor = self.table(numbered(labels_B, self.table.num_embeddings - 1))
        return found


def numbered(labels_B: Tensor, null: int) -> Tensor:
    """Return the rows of labels in a table, of which the last, `null`, stands for none (-1)."""
    return torch.where(labels_B < 0, null, labels_B)


class ConditionedNorm(nn.Module):
    """Normalises groups of channels, then shifts and scales each channel by what a condition says."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.groups = channels // GROUP
        self.affine = nn.Linear(condition, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x_BCHW: Tensor, condition_BD: Tensor) -> Tensor:
        """Return [B, C, H, W]."""
        affine: Tensor = self.affine(condition_BD)
        scale, shift = affine[:, :, None, None].chunk(2, dim=1)
        return F.group_norm(x_BCHW, self.groups) * (1 + scale) + shift


class Doubling(nn.Module):
    """A residual block that doubles the resolution."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionedNorm(inputs, condition), ConditionedNorm(outputs, condition)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x_BCHW: Tensor, condition_BD: Tensor) -> Tensor:
        """Return [B, outputs, 2H, 2W]."""
        inner = F.relu(self.norm1(x_BCHW, condition_BD))
        inner = F.relu(self.norm2(self.conv1(_doubled(inner)), condition_BD))
        # A convolution of single pixels may come before what repeats them, and costs a quarter there.
        return self.conv2(inner) + _doubled(self.skip(x_BCHW))  # type: ignore[no-any-return]


def _doubled(x_BCHW: Tensor) -> Tensor:
    return F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest")


class ImageGenerator(nn.Module):
    """Makes images.

    Args:
        config: of the baseline.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.labels = LabelTable(config.classes, LABEL_SIZE, LABEL_DEVIATION[config.model])
        condition = config.latent_size + self.labels.size
        self.first = nn.Linear(condition, channels[-1] * SMALLEST**2)
        steps = zip(channels[:0:-1], channels[-2::-1], strict=True)
        self.blocks = nn.ModuleList(Doubling(inputs, outputs, condition) for inputs, outputs in steps)
        self.norm = ConditionedNorm(channels[0], condition)
        self.last = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, noise_BL: Tensor, labels_B: Tensor) -> Tensor:
        """Return images, for which -1 is black and 1 white, float32 [B, 3, H, W].

        They may go beyond, as those of Karras et al., "Progressive growing of GANs" (2018): a bound that saturates
        takes the gradients away from a generator whose images are flat, and it stays there.

        Args:
            noise_BL: of a standard normal.
            labels_B: int64, -1 for none; without effect where no classes are known.
        """
        condition = torch.cat((noise_BL, self.labels(labels_B)), dim=1)
        x = self.first(condition).unflatten(1, (-1, SMALLEST, SMALLEST))
        for block in self.blocks:
            x = block(x, condition)
        images: Tensor = self.last(F.relu(self.norm(x, condition)))
        return images.float()
