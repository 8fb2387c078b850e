"""Each block of a diffusion transformer as one autograd function, its kernels Triton's and its products cuBLAS's.

What it computes is `dit.Block`, which is what to read first. Both directions are written out here, so that everything
between two products is one kernel, sums over tokens (gradients of biases and modulations) cost no pass of their own,
weights are cast once, and gradients of weights leave their product in float32. Nothing is compiled but the kernels.

Shapes in suffixes: see `dit`; N is B T.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Parameters of a block, in this order; the bias of fc2 is left to the residual that follows."""

    modulation: Tensor
    modulation_bias: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    proj: Tensor
    proj_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor


class Modulation(NamedTuple):
    """Rows for each sample, [B, D], in the order in which the block's linear layer gives them."""

    shift1: Tensor
    scale1: Tensor
    gate1: Tensor
    shift2: Tensor
    scale2: Tensor
    gate2: Tensor


class Pending(NamedTuple):
    """What a block has yet to add to its tokens: gate * (branch + bias).

    The next block begins with that sum and its norm, which is one kernel.

    Attributes:
        branch: [B, T, D].
        bias: [D].
        gate: [B, D].
    """

    branch: Tensor
    bias: Tensor
    gate: Tensor


def through(blocks: Sequence[Block], x_BTD: Tensor, c_BD: Tensor) -> Tensor:
    """Map tokens [B, T, D], given the condition [B, D], to [B, T, D] in their own dtype by one block after the other.

    Products are in the dtype of autocast, or in that of the weights where it is off.
    """
    device = x_BTD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    with torch.autocast(device, enabled=False):
        x, pending = x_BTD.contiguous(), None
        for block in blocks:
            x, pending = _run(block, x, pending, c_BD, dtype)
        if pending is None:
            return x
        if torch.is_grad_enabled():
            out: Tensor = _Gate.apply(x, *pending)
            return out
        return gated(x, *pending)


def _run(block: Block, x_BTD: Tensor, pending: Pending | None, c_BD: Tensor,
         dtype: torch.dtype | None) -> tuple[Tensor, Pending]:  # fmt: skip
    fc2 = block.mlp.fc2
    linear = block.adaLN_modulation[1], block.attn.qkv, block.attn.proj, block.mlp.fc1
    weights = *(layer.get_parameter(name) for layer in linear for name in ("weight", "bias")), fc2.weight
    heads, eps, dtype = block.attn.heads, block.norm1.eps, dtype or fc2.weight.dtype
    if torch.is_grad_enabled():
        y, branch, gate = _Block.apply(x_BTD, *(pending or (None, None, None)), c_BD, heads, eps, dtype, *weights)
    else:
        y, branch, gate = _inferred(x_BTD, pending, c_BD, heads, eps, Weights(*_lowered(weights, dtype)))
    return y, Pending(branch, fc2.bias, gate)


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


def _begun(x_BTD: Tensor, pending: Pending | None, m: Modulation, eps: float,
           dtype: torch.dtype) -> tuple[Tensor, Tensor, TokenMoments]:  # fmt: skip
    """Return the tokens that a block begins with, their modulated norm in a dtype, and their moments."""
    if pending is None:
        return x_BTD, *modulated_norm(x_BTD, m.shift1, m.scale1, eps, dtype)
    return gated_norm(x_BTD, *pending, m.shift1, m.scale1, eps)


def _inferred(x_BTD: Tensor, pending: Pending | None, c_BD: Tensor, heads: int, eps: float,
              w: Weights) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    _, modulation = _modulation(c_BD, w)
    m = Modulation(*modulation.chunk(6, 1))
    x, h, _ = _begun(x_BTD, pending, m, eps, w.qkv.dtype)
    mixed, _ = attention(F.linear(h, w.qkv, w.qkv_bias), heads)
    x, h, _ = gated_norm(x, F.linear(mixed, w.proj), w.proj_bias, m.gate1, m.shift2, m.scale2, eps)
    return x, F.linear(_hidden(h.flatten(0, 1), w), w.fc2).view_as(x), m.gate2


def _hidden(h_ND: Tensor, w: Weights) -> Tensor:
    if h_ND.is_cuda:
        # cuBLAS's GELU is the tanh approximation, and after the product costs half of what a pass of its own would.
        return torch._addmm_activation(w.fc1_bias, h_ND, w.fc1.t(), use_gelu=True)
    return gelu(torch.addmm(w.fc1_bias, h_ND, w.fc1.t()))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, branch_BTD: Any, bias_D: Any, gate_BD: Any, c_BD: Tensor, heads: int,
                eps: float, dtype: torch.dtype,
                *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        w = Weights(*_lowered(parameters, dtype))
        pending = None if branch_BTD is None else Pending(branch_BTD, bias_D, gate_BD)
        condition, modulation = _modulation(c_BD, w)
        m = Modulation(*modulation.chunk(6, 1))
        x, h1, moments1 = _begun(x_BTD, pending, m, eps, dtype)
        qkv = F.linear(h1, w.qkv, w.qkv_bias)
        mixed, logsum = attention(qkv, heads)
        branch1 = F.linear(mixed, w.proj)
        y, h2, moments2 = gated_norm(x, branch1, w.proj_bias, m.gate1, m.shift2, m.scale2, eps)
        before = F.linear(h2, w.fc1, w.fc1_bias)
        hidden = gelu(before)
        branch2 = F.linear(hidden, w.fc2)
        ctx.save_for_backward(branch_BTD, bias_D, gate_BD, c_BD, condition, modulation, x, *moments1, h1, qkv, mixed,
                              logsum, branch1, y, *moments2, h2, before, hidden, *w)  # fmt: skip
        ctx.dtype = parameters[0].dtype
        # As it is, for its gradient would be rounded to its dtype.
        return y, branch2, m.gate2.to(moments1.mean.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (branch, bias, gate, c, condition, modulation, x, mean1, rstd1, h1, qkv, mixed, logsum, branch1, y, mean2,
         rstd2, h2, before, hidden, *lowered) = ctx.saved_tensors  # fmt: skip
        w, m, dtype = Weights(*lowered), Modulation(*modulation.chunk(6, 1)), ctx.dtype
        samples, tokens, width = x.shape
        # Sums over tokens: of the two norms and the gate between them, then of the gate that the block began with.
        rows = 6 if branch is None else 8
        parts = x.new_empty((samples, pieces(tokens), rows, width), dtype=mean1.dtype)
        shift1, scale1, gate1, shift2, scale2, total1, *begun = parts.unbind(2)

        dy, d_branch2, d_gate2 = (gradient.contiguous() for gradient in gradients)
        d_hidden, d_fc2 = _linear_backward(d_branch2, hidden, w.fc2, dtype)
        d_before, fc1_sums = gelu_backward(before.flatten(0, 1), d_hidden)
        d_h2, d_fc1 = _linear_backward(d_before, h2, w.fc1, dtype)
        dx, d_branch1 = gated_norm_backward(dy, d_h2, y, TokenMoments(mean2, rstd2), m.scale2, branch1, w.proj_bias,
                                            m.gate1, Sums(shift2, scale2, gate1, total1))  # fmt: skip
        d_mixed, d_proj = _linear_backward(d_branch1, mixed, w.proj, dtype)
        d_qkv, qkv_sums = attention_backward(qkv, mixed, logsum, d_mixed)
        d_h1, d_qkv_weight = _linear_backward(d_qkv, h1, w.qkv, dtype)
        moments, d_branch = TokenMoments(mean1, rstd1), None
        if branch is None:
            dx = modulated_norm_backward(dx, d_h1, x, moments, m.scale1, Sums(shift1, scale1, None, None))
        else:
            dx, d_branch = gated_norm_backward(dx, d_h1, x, moments, m.scale1, branch, bias, gate,
                                               Sums(shift1, scale1, *begun))  # fmt: skip

        sums = parts.sum(1)
        d_modulation = torch.cat((sums[:, :5].flatten(1), d_gate2), 1)
        d_condition, d_weight = _linear_backward(d_modulation.to(condition.dtype), condition, w.modulation, dtype)
        dc = torch.ops.aten.silu_backward(d_condition.to(c.dtype), c)
        found = Weights(d_weight, d_modulation.sum(0), d_qkv_weight, qkv_sums.sum(0), d_proj,
                        (sums[:, 5] * m.gate1).sum(0), d_fc1, fc1_sums.sum(0), d_fc2)  # fmt: skip
        d_bias, d_gate = (None, None) if branch is None else ((sums[:, 7] * gate).sum(0), sums[:, 6])
        return dx, d_branch, d_bias, d_gate, dc, None, None, None, *(gradient.to(dtype) for gradient in found)


class _Gate(torch.autograd.Function):
    """What the last block leaves to be done."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, branch_BTD: Tensor, bias_D: Tensor, gate_BD: Tensor) -> Tensor:
        ctx.save_for_backward(branch_BTD, bias_D, gate_BD)
        return gated(x_BTD, branch_BTD, bias_D, gate_BD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        branch, bias, gate = ctx.saved_tensors
        dx = gradients[0].contiguous()
        samples, tokens, width = dx.shape
        parts = dx.new_empty((samples, pieces(tokens), 2, width), dtype=gate.dtype)
        d_branch = gated_backward(dx, branch, bias, gate, Sums(None, None, *parts.unbind(2)))
        d_gate, total = parts.sum(1).unbind(1)
        return dx, d_branch, (total * gate).sum(0).to(bias.dtype), d_gate


def _linear_backward(d_out: Tensor, x: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the gradients of a linear layer's input, of its shape, and of its weight, in a dtype."""
    d_out = d_out.reshape(-1, weight.shape[0])
    dx = (d_out @ weight).view_as(x)
    flat = x.reshape(-1, weight.shape[1])
    if x.is_cuda and x.dtype != dtype:
        return dx, torch.mm(d_out.t(), flat, out_dtype=dtype)
    return dx, (d_out.t() @ flat).to(dtype)
