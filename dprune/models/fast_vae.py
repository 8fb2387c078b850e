"""The autoencoder's layers with few passes over memory: what `models.vae` says, by the kernels of a GPU.

Convolutions and products are the libraries'; everything between two of them is one or two passes over the tensor, in
16 bits where the network is. Padding and upsampling are no passes at all:

- what `Downsample` pads at the right and the bottom, a convolution that pads all sides by two sees at its second row
  and column, so its result without the first is the same;
- an upsampled pixel is seen by taps of a 3x3 kernel that fall on one or two pixels below, so that each of the four
  pixels that become of one has a 2x2 kernel of its own, of sums of taps: 4/9 of the operations.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.kernels.group_norm import INNER, SHUFFLED
from dprune.kernels.residual import Norm, Tallied, join, normalise, normalise_biased, residual, untallied
from dprune.kernels.wide_attention import wide_attention
from dprune.models.vae import Attention, Downsample, ResidualBlock, Upsample

# Channels of images are filled up to so many, for which libraries have fast convolutions.
MULTIPLE_IN, MULTIPLE_OUT = 8, 16


def arithmetic(x: Tensor) -> torch.dtype:
    """Return the dtype that autocast asks convolutions of a tensor to have, without it the tensor's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def run_fused(layers: nn.Sequential, x_BCHW: Tensor) -> Tensor:
    """Run the layers of an encoder or a decoder in the arithmetic of the surroundings; see `run_layers`."""
    return FusedLayers(arithmetic(x_BCHW))(layers, x_BCHW)


def run_fused_discriminator(layers: nn.Sequential, x_BCHW: Tensor) -> Tensor:
    """Run the layers of a discriminator likewise."""
    return FusedDiscriminator(arithmetic(x_BCHW))(layers, x_BCHW)


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
            assert isinstance(first, nn.Conv2d)
            assert isinstance(norm, nn.GroupNorm)
            assert isinstance(last, nn.Conv2d)
            stream = self._begun(first, x_BCHW, _next_norm(middle[0]))
            for layer, after in itertools.pairwise([*middle, norm]):
                stream = self._passed(layer, stream, after)
            h = normalise(stream, _norm(norm), "silu")
            return self._ended(last, h)

    def _begun(self, conv: nn.Conv2d, x_BCHW: Tensor, norm: nn.GroupNorm) -> Tallied:
        x, weight = _widened(x_BCHW.to(self._dtype), conv.weight.to(self._dtype))
        return join(F.conv2d(x, weight, padding=1), _bias(conv), None, norm.num_groups, norm.eps)

    def _passed(self, layer: nn.Module, stream: Tallied, after: nn.Module) -> Tallied:
        if isinstance(layer, ResidualBlock):
            return self._residual(layer, stream)
        if isinstance(layer, Attention):
            return self._attention(layer, stream)
        norm = _next_norm(after)
        if isinstance(layer, Downsample):
            made = F.conv2d(untallied(stream), layer.weight.to(self._dtype), stride=2, padding=2)
            return join(made, _bias(layer), None, norm.num_groups, norm.eps, INNER)
        assert isinstance(layer, Upsample)
        made = F.conv2d(untallied(stream), corner_kernels(layer.weight).to(self._dtype), padding=1)
        return join(made, _bias(layer), None, norm.num_groups, norm.eps, SHUFFLED)

    def _residual(self, block: ResidualBlock, stream: Tallied) -> Tallied:
        bias, shortcut = _bias(block.conv2), None
        if isinstance(block.shortcut, nn.Conv2d):
            bias, shortcut = bias + _bias(block.shortcut), block.shortcut.weight.to(self._dtype)
        return residual(stream, _norm(block.norm1), block.conv1.weight.to(self._dtype), _bias(block.conv1),
                        _norm(block.norm2), block.conv2.weight.to(self._dtype), bias, shortcut)  # fmt: skip

    def _attention(self, block: Attention, stream: Tallied) -> Tallied:
        height = stream.x.shape[2]
        h_BTC = normalise(stream, _norm(block.norm), "none").permute(0, 2, 3, 1).flatten(1, 2)
        qkv, proj = (conv.weight.flatten(1).to(self._dtype) for conv in (block.qkv, block.proj))
        q, k, v = F.linear(h_BTC, qkv, _bias(block.qkv).to(self._dtype)).chunk(3, dim=2)
        made = F.linear(wide_attention(q, k, v), proj).unflatten(1, (height, -1)).permute(0, 3, 1, 2)
        return join(made, _bias(block.proj), stream, block.norm.num_groups, block.norm.eps)

    def _ended(self, conv: nn.Conv2d, h_BCHW: Tensor) -> Tensor:
        missing = -conv.out_channels % MULTIPLE_OUT
        weight = F.pad(conv.weight.to(self._dtype), (0, 0, 0, 0, 0, 0, 0, missing))
        made = F.conv2d(h_BCHW, weight, F.pad(_bias(conv).to(self._dtype), (0, missing)), padding=1)
        return made[:, : conv.out_channels]


class FusedDiscriminator:
    """Runs the layers of a discriminator.

    Args:
        dtype: of the arithmetic, whatever autocast says.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, layers: nn.Sequential, x_BCHW: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to logits [B, 1, h, w] in the dtype of the arithmetic."""
        with torch.autocast(x_BCHW.device.type, enabled=False):
            x, waiting = x_BCHW.to(self._dtype), list(layers)
            while waiting:
                layer, after = waiting.pop(0), waiting[:1]
                if isinstance(layer, nn.LeakyReLU):
                    x = F.leaky_relu(x, layer.negative_slope, inplace=True)
                    continue
                assert isinstance(layer, nn.Conv2d)
                x, weight = _widened(x, layer.weight.to(self._dtype))
                if after and isinstance(after[0], nn.GroupNorm):
                    made = F.conv2d(x, weight, None, layer.stride, layer.padding)
                    x = normalise_biased(made, _bias(layer), _norm(after[0]), "leaky_relu")
                    del waiting[:2]
                else:
                    x = F.conv2d(x, weight, _bias(layer).to(self._dtype), layer.stride, layer.padding)
            return x


def _widened(x_BCHW: Tensor, weight_QPHW: Tensor) -> tuple[Tensor, Tensor]:
    """Give a convolution's input and weight channels of zeros, up to a multiple of `MULTIPLE_IN`."""
    missing = (0, 0, 0, 0, 0, -x_BCHW.shape[1] % MULTIPLE_IN)
    x, weight = (F.pad(tensor, missing) if missing[-1] else tensor for tensor in (x_BCHW, weight_QPHW))
    return x.contiguous(memory_format=torch.channels_last), weight


def _next_norm(layer: nn.Module) -> nn.GroupNorm:
    """Return what normalises the input of a layer, for which its statistics are collected."""
    norm = layer.norm1 if isinstance(layer, ResidualBlock) else layer
    assert isinstance(norm, nn.GroupNorm)
    return norm


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


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
