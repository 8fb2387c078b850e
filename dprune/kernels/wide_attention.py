"""Attention with one wide head, by plain matrix products.

Libraries have no fast kernel for heads of more than 256 channels, and their slow one's backward pass takes ten times
as long as the products do. With few tokens the table of weights is small enough to be written: logits and their
gradients in float32, the weights themselves in the inputs' dtype, as fused kernels multiply with them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["channels"])
def _softmax(logits, weights, tokens, channels, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """Turn a row of products into weights."""
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = columns < tokens
    x = tl.load(logits + row * tokens + columns, mask=inside, other=float("-inf")).to(ACC) / tl.sqrt(channels.to(ACC))
    shares = tl.exp(x - tl.max(x, 0))
    out = shares / tl.sum(shares, 0)
    tl.store(weights + row * tokens + columns, out.to(weights.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["channels"])
def _softmax_gradient(weights, gradient, out, tokens, channels, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """Go back through `_softmax`."""
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = columns < tokens
    w = tl.load(weights + row * tokens + columns, mask=inside, other=0).to(ACC)
    g = tl.load(gradient + row * tokens + columns, mask=inside, other=0).to(ACC)
    dx = w * (g - tl.sum(w * g, 0)) / tl.sqrt(channels.to(ACC))
    tl.store(out + row * tokens + columns, dx.to(out.dtype.element_ty), mask=inside)


def wide_attention(q_BTC: Tensor, k_BTC: Tensor, v_BTC: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(C)) v, [B, T, C] in the inputs' dtype."""
    out: Tensor = _Attention.apply(q_BTC, k_BTC, v_BTC)
    return out


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply with a result of float32, or float64 of float64."""
    if a.is_cuda and a.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(a, b, out_dtype=torch.float32)
    return (a @ b).to(torch.promote_types(a.dtype, torch.float32))


def _by_rows(kernel: Any, q: Tensor, *tables: Tensor) -> Tensor:
    """Run a kernel on each row of tables [B, T, T]; return the table in q's dtype that it makes."""
    out, tokens = torch.empty_like(tables[0], dtype=q.dtype), q.shape[1]
    kernel[(out.shape[0] * tokens,)](*tables, out, tokens, q.shape[2], triton.next_power_of_2(tokens),
                                     tl.float64 if q.dtype == torch.float64 else tl.float32, num_warps=4)  # fmt: skip
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = _by_rows(_softmax, q, _product(q, k.mT))
        ctx.save_for_backward(q, k, v, weights)
        return weights @ v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        q, k, v, weights = ctx.saved_tensors
        (gradient,) = gradients
        logits = _by_rows(_softmax_gradient, q, weights, _product(gradient, v.mT))
        return logits @ k, logits.mT @ q, weights.mT @ gradient
