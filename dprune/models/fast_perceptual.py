"""Convolutions of a perceptual network whose weights stay, each with its rectifier in the library's one kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.models.fast_vae import arithmetic


class ConvReLU(nn.Module):
    """A convolution and the rectifier behind it; only the input gets a gradient.

    Args:
        conv: whose parameters are frozen.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map [B, p, H, W] to [B, q, h, w] in the arithmetic of the surroundings."""
        conv, bias, dtype = self.conv, self.conv.bias, arithmetic(x_BCHW)
        assert bias is not None
        with torch.autocast(x_BCHW.device.type, enabled=False):
            x = x_BCHW.to(dtype).contiguous(memory_format=torch.channels_last)
            weight = conv.weight.to(dtype).contiguous(memory_format=torch.channels_last)
            out: Tensor = _ConvReLU.apply(x, weight, bias.to(dtype), conv.stride, conv.padding)
        return out


class _ConvReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any) -> Tensor:
        if x.is_cuda:
            out: Tensor = torch.ops.aten.cudnn_convolution_relu(x, weight, bias, stride, padding, (1, 1), 1)
        else:
            out = F.relu(F.conv2d(x, weight, bias, stride, padding))
        ctx.save_for_backward(x, weight, out)
        ctx.stride, ctx.padding = stride, padding
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(gradients[0], out, 0)
        dx: Tensor = torch.ops.aten.convolution_backward(
            passed, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
        )[0]
        return dx, None, None, None, None


def fuse_rectifiers(module: nn.Module) -> None:
    """Replace, in every sequence of a frozen network, convolutions that a rectifier follows, and these by nothing."""
    for sequence in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for number in range(len(sequence) - 1):
            conv, after = sequence[number], sequence[number + 1]
            if isinstance(after, nn.ReLU) and isinstance(conv, nn.Conv2d) and _is_plain(conv):
                sequence[number], sequence[number + 1] = ConvReLU(conv), nn.Identity()


def _is_plain(conv: nn.Conv2d) -> bool:
    frozen = conv.bias is not None and not any(p.requires_grad for p in conv.parameters())
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    return frozen and plain and not isinstance(conv.padding, str)
