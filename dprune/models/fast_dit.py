"""The block of a diffusion transformer as one autograd function, its kernels Triton's and its products cuBLAS's.

What it computes is `dit.Block`, which is what to read first. Both directions are written out here, so that everything
between two products is one kernel, sums over tokens (gradients of biases and modulations) cost no pass of their own,
weights are cast once, and gradients of weights leave their product in float32. Nothing is compiled but the kernels.

Shapes in suffixes: see `dit`; N is B T.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dprune.kernels.attention import attention, attention_backward
from dprune.kernels.gelu import gelu, gelu_backward
from dprune.kernels.layer_norm import (
    Sums,
    TokenMoments,
    gated,
    gated_backward,
    gated_norm,
    gated_norm_backward,
    modulated_norm,
    modulated_norm_backward,
    pieces,
)
from dprune.models.dit import Block


class Weights(NamedTuple):
    """Parameters of a block, in this order."""

    modulation: Tensor
    modulation_bias: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    proj: Tensor
    proj_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor


class Modulation(NamedTuple):
    """Rows for each sample, [B, D], in the order in which the block's linear layer gives them."""

    shift1: Tensor
    scale1: Tensor
    gate1: Tensor
    shift2: Tensor
    scale2: Tensor
    gate2: Tensor


def quicken(block: Block) -> None:
    """Have a block run by the kernels, in place; its parameters stay as they are."""
    block.forward = partial(_run, block)  # type: ignore[method-assign]


def _run(block: Block, x_BTD: Tensor, c_BD: Tensor) -> Tensor:
    """Map tokens [B, T, D], given the condition [B, D], to [B, T, D] in their own dtype.

    Products are in the dtype of autocast, or in that of the weights where it is off.
    """
    linear = block.adaLN_modulation[1], block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2
    weights = [layer.get_parameter(name) for layer in linear for name in ("weight", "bias")]
    heads, eps, device = block.attn.heads, block.norm1.eps, x_BTD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights[0].dtype
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled():
            out: Tensor = _Block.apply(x_BTD, c_BD, heads, eps, dtype, *weights)
            return out
        return _inferred(x_BTD, c_BD, heads, eps, Weights(*_lowered(weights, dtype)))


def _lowered(weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return weights in a dtype, cast by one launch."""
    if all(weight.dtype == dtype for weight in weights):
        return [weight.detach() for weight in weights]
    room = torch.empty(sum(weight.numel() for weight in weights), dtype=dtype, device=weights[0].device)
    lowered = [part.view_as(weight) for part, weight in
               zip(room.split([weight.numel() for weight in weights]), weights, strict=True)]  # fmt: skip
    torch._foreach_copy_(lowered, [weight.detach() for weight in weights])
    return lowered


def _modulation(c_BD: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return the condition as the linear layer sees it, and what that gives, [B, 6 D]."""
    condition = F.silu(c_BD).to(weights.modulation.dtype)
    return condition, torch.addmm(weights.modulation_bias, condition, weights.modulation.t())


def _inferred(x_BTD: Tensor, c_BD: Tensor, heads: int, eps: float, weights: Weights) -> Tensor:
    tokens = x_BTD.contiguous()
    _, modulation = _modulation(c_BD, weights)
    m = Modulation(*modulation.chunk(6, 1))
    h, _ = modulated_norm(tokens, m.shift1, m.scale1, eps, weights.qkv.dtype)
    mixed, _ = attention(F.linear(h, weights.qkv, weights.qkv_bias), heads)
    branch = F.linear(mixed, weights.proj, weights.proj_bias)
    tokens, h, _ = gated_norm(tokens, branch, m.gate1, m.shift2, m.scale2, eps)
    hidden = _hidden(h.flatten(0, 1), weights)
    return gated(tokens, F.linear(hidden, weights.fc2, weights.fc2_bias).view_as(tokens), m.gate2)


def _hidden(h_ND: Tensor, weights: Weights) -> Tensor:
    if h_ND.is_cuda:
        # cuBLAS's GELU is the tanh approximation, and costs nothing after the product.
        return torch._addmm_activation(weights.fc1_bias, h_ND, weights.fc1.t(), use_gelu=True)
    return gelu(torch.addmm(weights.fc1_bias, h_ND, weights.fc1.t()))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, c_BD: Tensor, heads: int, eps: float, dtype: torch.dtype,
                *parameters: Tensor) -> Tensor:  # fmt: skip
        weights = Weights(*_lowered(parameters, dtype))
        x = x_BTD.contiguous()
        condition, modulation = _modulation(c_BD, weights)
        m = Modulation(*modulation.chunk(6, 1))
        h1, moments1 = modulated_norm(x, m.shift1, m.scale1, eps, dtype)
        qkv = F.linear(h1, weights.qkv, weights.qkv_bias)
        mixed, logsum = attention(qkv, heads)
        branch1 = F.linear(mixed, weights.proj, weights.proj_bias)
        y, h2, moments2 = gated_norm(x, branch1, m.gate1, m.shift2, m.scale2, eps)
        before = F.linear(h2, weights.fc1, weights.fc1_bias)
        hidden = gelu(before)
        branch2 = F.linear(hidden, weights.fc2, weights.fc2_bias)
        ctx.save_for_backward(c_BD, condition, modulation, x, *moments1, h1, qkv, mixed, logsum, branch1, y,
                              *moments2, h2, before, hidden, branch2, *weights)  # fmt: skip
        ctx.dtype = parameters[0].dtype
        return gated(y, branch2, m.gate2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (c, condition, modulation, x, mean1, rstd1, h1, qkv, mixed, logsum, branch1, y, mean2, rstd2, h2, before,
         hidden, branch2, *lowered) = ctx.saved_tensors  # fmt: skip
        w, m, dtype = Weights(*lowered), Modulation(*modulation.chunk(6, 1)), ctx.dtype
        samples, tokens, width = x.shape
        # Sums over tokens: gradients of the six rows of the modulation, then of what the two gates let through.
        parts = x.new_empty((samples, pieces(tokens), 8, width), dtype=mean1.dtype)
        part = parts.unbind(2)

        dx = gradients[0].contiguous()
        d_branch2 = gated_backward(dx, branch2, m.gate2, Sums(None, None, part[5], part[7]))
        d_hidden, d_fc2 = _linear_backward(d_branch2, hidden, w.fc2, dtype)
        d_before, fc1_sums = gelu_backward(before.flatten(0, 1), d_hidden)
        d_h2, d_fc1 = _linear_backward(d_before, h2, w.fc1, dtype)
        dx, d_branch1 = gated_norm_backward(dx, d_h2, y, TokenMoments(mean2, rstd2), m.scale2, branch1, m.gate1,
                                            Sums(part[3], part[4], part[2], part[6]))  # fmt: skip
        d_mixed, d_proj = _linear_backward(d_branch1, mixed, w.proj, dtype)
        d_qkv, qkv_sums = attention_backward(qkv, mixed, logsum, d_mixed)
        d_h1, d_qkv_weight = _linear_backward(d_qkv, h1, w.qkv, dtype)
        dx = modulated_norm_backward(dx, d_h1, x, TokenMoments(mean1, rstd1), m.scale1,
                                     Sums(part[0], part[1], None, None))  # fmt: skip

        sums = parts.sum(1)
        d_modulation = sums[:, :6].flatten(1)
        d_biases = (sums[:, 6:] * modulation.view(samples, 6, width)[:, 2::3]).sum(0)
        d_condition, d_modulation_weight = _linear_backward(d_modulation.to(condition.dtype), condition, w.modulation,
                                                            dtype)  # fmt: skip
        dc = torch.ops.aten.silu_backward(d_condition.to(c.dtype), c)
        found = Weights(d_modulation_weight, d_modulation.sum(0), d_qkv_weight, qkv_sums.sum(0), d_proj, d_biases[0],
                        d_fc1, fc1_sums.sum(0), d_fc2, d_biases[1])  # fmt: skip
        return dx, dc, None, None, None, *(gradient.to(dtype) for gradient in found)


def _linear_backward(d_out: Tensor, x: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the gradients of a linear layer's input, of its shape, and of its weight, in a dtype."""
    d_out = d_out.reshape(-1, weight.shape[0])
    dx = (d_out @ weight).view_as(x)
    flat = x.reshape(-1, weight.shape[1])
    if x.is_cuda and x.dtype != dtype:
        return dx, torch.mm(d_out.t(), flat, out_dtype=dtype)
    return dx, (d_out.t() @ flat).to(dtype)
