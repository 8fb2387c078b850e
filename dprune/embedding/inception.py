"""The Inception network of the Fréchet inception distance.

It is TensorFlow's network of 2015-12-05, whose pooling differs from torchvision's: averages leave the padding out,
and the last block takes the maximum (a slip of the original that every published FID contains). Parameters are named
as in https://github.com/mseitzer/pytorch-fid, so that its file loads. What it is given, see `resizing`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dprune.embedding.backbones import Backbone
from dprune.embedding.resizing import RESIZES
from dprune.embedding.settings import INCEPTION_FILE, INCEPTION_SHA256, INCEPTION_SIZE
from dprune.embedding.weights import hushed
from dprune.errors import InputError
from dprune.models.imports import without_compiler
from dprune.models.weights import file_digest, misfit, read_state

with hushed(), without_compiler():
    from torchvision.models.inception import BasicConv2d, InceptionA, InceptionB, InceptionC, InceptionD, InceptionE


TORCHSCRIPT_FILE = "inception-2015-12-05.pt"
SOURCE = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"


def _chain(x: Tensor, *layers: nn.Module) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _average(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(InceptionA):  # type: ignore[misc]
    """Blocks 5b to 5d, averaging without the padding."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            _chain(x, self.branch5x5_1, self.branch5x5_2),
            _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
            self.branch_pool(_average(x)),
        ]


class BlockC(InceptionC):  # type: ignore[misc]
    """Blocks 6b to 6e, averaging without the padding."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        double = (getattr(self, f"branch7x7dbl_{step}") for step in range(1, 6))
        return [
            self.branch1x1(x),
            _chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3),
            _chain(x, *double),
            self.branch_pool(_average(x)),
        ]


class BlockE(InceptionE):  # type: ignore[misc]
    """Blocks 7b and 7c; only 7b averages."""

    def __init__(self, in_channels: int, take_maximum: bool) -> None:
        super().__init__(in_channels)
        self._take_maximum = take_maximum

    def _forward(self, x: Tensor) -> list[Tensor]:
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1) if self._take_maximum else _average(x)
        once = self.branch3x3_1(x)
        twice = _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        return [
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(pooled),
        ]


class FidInception(nn.Module):
    """Maps images [n, 3, 299, 299] in [-1, 1] to features [n, 2048] and logits [n, 1008].

    The logits leave the bias out, as the Inception score's own code and torch-fidelity (`logits_unbiased`) do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, kernel_size=3)
        self.Mixed_5b = BlockA(192, pool_features=32)
        self.Mixed_5c = BlockA(256, pool_features=64)
        self.Mixed_5d = BlockA(288, pool_features=64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = BlockC(768, channels_7x7=128)
        self.Mixed_6c = BlockC(768, channels_7x7=160)
        self.Mixed_6d = BlockC(768, channels_7x7=160)
        self.Mixed_6e = BlockC(768, channels_7x7=192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = BlockE(1280, take_maximum=False)
        self.Mixed_7c = BlockE(2048, take_maximum=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits; the network does no resizing."""
        x = _chain(x, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3)
        x = functional.max_pool2d(x, 3, stride=2)
        x = _chain(x, self.Conv2d_3b_1x1, self.Conv2d_4a_3x3)
        x = functional.max_pool2d(x, 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        features = x.mean(dim=(2, 3))
        return features, functional.linear(features, self.fc.weight)


def load_inception(weights: Path | None, resize: str) -> Backbone:
    """Load the network from pytorch-fid's file, or from a safetensors made of it.

    Args:
        weights: file, None to look for the published one and check its hash.
        resize: name among `RESIZES`.

    Raises:
        InputError: the file is missing, damaged or not the published one.
    """
    path = weights or _find()
    module = FidInception()
    try:
        module.load_state_dict(read_state(path))
    except RuntimeError as error:
        raise misfit(path, "inception", error) from error
    function, middle = RESIZES[resize]
    # Of the graph x - 128 over 128, of pytorch-fid 2x - 1, in the form that every backbone's scaling has.
    return Backbone(function, (middle / 255,) * 3, (middle / 255,) * 3, module, path)


def _find() -> Path:
    own = os.environ.get("DPRUNE_WEIGHTS_DIR")
    folders = [*([Path(own)] if own else []), Path(torch.hub.get_dir()) / "checkpoints"]
    for path in (folder / INCEPTION_FILE for folder in folders):
        if path.is_file():
            if file_digest(path) != INCEPTION_SHA256:
                raise InputError(
                    f"{path}: is not the published file (its sha256 should be {INCEPTION_SHA256}): download it again "
                    f"from {SOURCE}, or name a file of your own with --weights."
                )
            return path
    other = next((folder for folder in folders if (folder / TORCHSCRIPT_FILE).is_file()), None)
    # The TorchScript file has no documented way to its logits, and it is a program rather than weights.
    note = f" ({other / TORCHSCRIPT_FILE} is clean-fid's TorchScript, whose logits are not reliable)" if other else ""
    raise InputError(
        f"inception: the weights {INCEPTION_FILE} ({INCEPTION_SIZE:,} bytes, sha256 {INCEPTION_SHA256}) are not in "
        f"{' or '.join(map(str, folders))}{note}: download them from {SOURCE} into one of these or "
        "$DPRUNE_WEIGHTS_DIR, or give --weights FILE."
    )
