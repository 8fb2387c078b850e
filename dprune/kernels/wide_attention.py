"""Attention with one wide head, by plain matrix products.

Libraries have no fast kernel for heads of more than 256 channels, and their slow one's backward pass takes ten times
as long as the products do. With few tokens the table of weights is small enough to be written: logits and their
gradients in float32, the weights themselves in the inputs' dtype, as fused kernels multiply with them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def wide_attention(q_BTC: Tensor, k_BTC: Tensor, v_BTC: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(C)) v, [B, T, C] in the inputs' dtype."""
    out: Tensor = _Attention.apply(q_BTC, k_BTC, v_BTC)
    return out


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply with a result of float32, or float64 of float64."""
    if a.is_cuda and a.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(a, b, out_dtype=torch.float32)
    return (a @ b).to(torch.promote_types(a.dtype, torch.float32))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.scale = q.shape[-1] ** -0.5
        weights = _product(q, k.mT).mul_(ctx.scale).softmax(-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, weights)
        return weights @ v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        q, k, v, weights = ctx.saved_tensors
        (gradient,) = gradients
        toward = _product(gradient, v.mT)
        toward.sub_((toward * weights).sum(-1, keepdim=True)).mul_(weights).mul_(ctx.scale)
        logits = toward.to(q.dtype)
        return logits @ k, logits.mT @ q, weights.mT @ gradient
