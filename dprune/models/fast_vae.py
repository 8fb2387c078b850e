"""The autoencoder's layers with few passes over memory: what `models.vae` says, by the kernels of a GPU.

Convolutions and products are the libraries'; everything between two of them is one or two passes over the tensor, in
16 bits where the network is. Padding and upsampling are no passes at all:

- what `Downsample` pads at the right and the bottom, a convolution that pads all sides by two sees at its second row
  and column, so its result without the first is the same;
- an upsampled pixel is seen by taps of a 3x3 kernel that fall on one or two pixels below, so that each of the four
  pixels that become of one has a 2x2 kernel of its own, of sums of taps: 4/9 of the operations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.kernels.group_norm import INNER, SHUFFLED
from dprune.kernels.residual import Norm, Stream, join, leave, normalise, residual
from dprune.models.vae import Attention, Downsample, ResidualBlock, Upsample, group_norm

# Libraries have fast convolutions for multiples of this many channels.
MULTIPLE = 8


class FusedLayers:
    """Runs the layers of an encoder or a decoder.

    Args:
        dtype: of the arithmetic, whatever autocast says: float16, bfloat16 or float32.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, layers: nn.Sequential, x_BCHW: Tensor) -> Tensor:
        """Map [B, p, H, W] to [B, q, h, w] in the dtype of the arithmetic."""
        with torch.autocast(x_BCHW.device.type, enabled=False):
            first, *middle, norm, _, last = layers
            stream = self._begun(first, x_BCHW)
            for layer in middle:
                stream = self._passed(layer, stream)
            h = normalise(stream, _norm(norm), "silu")
            return self._ended(last, h)

    def _begun(self, conv: nn.Conv2d, x_BCHW: Tensor) -> Stream:
        x, weight = x_BCHW.to(self._dtype), conv.weight.to(self._dtype)
        missing = -x.shape[1] % MULTIPLE
        x, weight = F.pad(x, (0, 0, 0, 0, 0, missing)), F.pad(weight, (0, 0, 0, 0, 0, missing))
        made = F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, padding=1)
        return self._joined(made, conv)

    def _joined(self, made: Tensor, conv: nn.Conv2d, layout: int = 0) -> Stream:
        like = group_norm(conv.out_channels)
        assert conv.bias is not None
        return join(made, conv.bias, None, like.num_groups, like.eps, layout)

    def _passed(self, layer: nn.Module, stream: Stream) -> Stream:
        if isinstance(layer, ResidualBlock):
            return self._residual(layer, stream)
        if isinstance(layer, Attention):
            return self._attention(layer, stream)
        if isinstance(layer, Downsample):
            made = F.conv2d(leave(stream), layer.weight.to(self._dtype), stride=2, padding=2)
            return self._joined(made, layer, INNER)
        assert isinstance(layer, Upsample)
        made = F.conv2d(leave(stream), corner_kernels(layer.weight).to(self._dtype), padding=1)
        return self._joined(made, layer, SHUFFLED)

    def _residual(self, block: ResidualBlock, stream: Stream) -> Stream:
        bias, shortcut = block.conv2.bias, None
        assert bias is not None
        assert block.conv1.bias is not None
        if isinstance(block.shortcut, nn.Conv2d):
            bias, shortcut = bias + block.shortcut.bias, block.shortcut.weight.to(self._dtype)
        return residual(stream, _norm(block.norm1), block.conv1.weight.to(self._dtype), block.conv1.bias,
                        _norm(block.norm2), block.conv2.weight.to(self._dtype), bias, shortcut)  # fmt: skip

    def _attention(self, block: Attention, stream: Stream) -> Stream:
        height = stream.x.shape[2]
        h_BTC = normalise(stream, _norm(block.norm), "none").permute(0, 2, 3, 1).flatten(1, 2)
        qkv, proj = (conv.weight.flatten(1).to(self._dtype) for conv in (block.qkv, block.proj))
        assert block.qkv.bias is not None
        assert block.proj.bias is not None
        q, k, v = F.linear(h_BTC, qkv, block.qkv.bias.to(self._dtype))[:, None].chunk(3, dim=3)
        mixed_BTC = F.scaled_dot_product_attention(q, k, v)[:, 0]
        made = F.linear(mixed_BTC, proj).unflatten(1, (height, -1)).permute(0, 3, 1, 2)
        return join(made, block.proj.bias, stream, block.norm.num_groups, block.norm.eps)

    def _ended(self, conv: nn.Conv2d, h_BCHW: Tensor) -> Tensor:
        missing = -conv.out_channels % MULTIPLE
        assert conv.bias is not None
        weight = F.pad(conv.weight.to(self._dtype), (0, 0, 0, 0, 0, 0, 0, missing))
        made = F.conv2d(h_BCHW, weight, F.pad(conv.bias.to(self._dtype), (0, missing)), padding=1)
        return made[:, : conv.out_channels]


def _norm(norm: nn.GroupNorm) -> Norm:
    return Norm(norm.weight, norm.bias, norm.num_groups, norm.eps)


def corner_kernels(weight_QPHW: Tensor) -> Tensor:
    """Return what convolves a tensor as 3x3 kernels convolve it upsampled.

    Args:
        weight_QPHW: [q, p, 3, 3].

    Returns:
        [4q, p, 2, 2], the q kernels of the upper left pixel first, then upper right, lower left, lower right.
    """
    # Which of the two pixels below each of three taps falls on, for the first and the second pixel of two.
    taps = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=weight_QPHW.dtype,
                        device=weight_QPHW.device)  # fmt: skip
    found = torch.einsum("ysh,xtw,qphw->yxqpst", taps, taps, weight_QPHW)
    return found.flatten(0, 2).contiguous(memory_format=torch.channels_last)
