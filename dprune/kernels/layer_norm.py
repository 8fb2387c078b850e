"""A gated residual and the modulated norm of its sum in one kernel, as adaLN-Zero has them between its products.

    y = x + gate * (branch + bias)
    h = (y - mean) * rstd * (1 + scale) + shift

Each row of x is a token of D values; gate, shift and scale are one row for all tokens of a sample, and bias, which is
that of the linear layer that made the branch, is one for all. Read and written once, the rows take little longer than
a copy of them would. Sums over tokens (the gradients of those rows) are left as one for each piece of a sample, for
the caller to add: nothing depends on the order of programs.

Shapes in suffixes: B samples, T tokens, D width, P pieces of a sample.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dprune.kernels.accumulation import TRITON, accumulator

PIECE = 32
"""Tokens that a program takes one after the other, whose sums are one row of partial ones."""


class RowLaunch(NamedTuple):
    """Warps that take a row of more than 512 values together, and rows that are in flight."""

    warps: int
    stages: int


FORWARD, BACKWARD = RowLaunch(4, 1), RowLaunch(2, 1)


class TokenMoments(NamedTuple):
    """Of every token, [B, T], in the precision of the sums.

    Attributes:
        mean: of its values.
        rstd: one over their deviation.
    """

    mean: Tensor
    rstd: Tensor


class Sums(NamedTuple):
    """Where partial sums over the tokens of a sample go, [B, P, D] with the same strides.

    Attributes:
        shift: of the gradient of h.
        scale: of that times the normalised values.
        gate: of the gradient of y times what the gate lets through.
        total: of the gradient of y; times the gate and added over samples, it is the gradient of the bias.
    """

    shift: Tensor | None
    scale: Tensor | None
    gate: Tensor | None
    total: Tensor | None


def pieces(tokens: int) -> int:
    """Return how many rows of partial sums the tokens of a sample leave."""
    return -(-tokens // PIECE)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float,
                   dtype: torch.dtype) -> tuple[Tensor, TokenMoments]:  # fmt: skip
    """Return h [B, T, D] in `dtype`, of x [B, T, D] as it is, and the moments.

    Args:
        x: contiguous.
        shift: [B, D], its rows contiguous.
        scale: likewise, with the strides of `shift`.
        eps: added to the variance.
        dtype: of h.
    """
    _, h, moments = _forward(x, None, None, None, shift, scale, eps, dtype)
    assert h is not None
    assert moments is not None
    return h, moments


def gated_norm(x: Tensor, branch: Tensor, bias: Tensor, gate: Tensor, shift: Tensor, scale: Tensor,
               eps: float) -> tuple[Tensor, Tensor, TokenMoments]:  # fmt: skip
    """Return y in the dtype of x, h in that of the branch, and the moments of y.

    Args:
        x: [B, T, D], contiguous.
        branch: likewise.
        bias: [D].
        gate: [B, D], its rows contiguous.
        shift: likewise.
        scale: likewise, with the strides of `shift`.
        eps: added to the variance.
    """
    y, h, moments = _forward(x, branch, bias, gate, shift, scale, eps, branch.dtype)
    assert y is not None
    assert h is not None
    assert moments is not None
    return y, h, moments


def gated(x: Tensor, branch: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    """Return y [B, T, D] in the dtype of x; see `gated_norm`."""
    y, _, _ = _forward(x, branch, bias, gate, None, None, 0.0, branch.dtype)
    assert y is not None
    return y


def _forward(x: Tensor, branch: Tensor | None, bias: Tensor | None, gate: Tensor | None, shift: Tensor | None,
             scale: Tensor | None, eps: float,
             dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, TokenMoments | None]:  # fmt: skip
    samples, tokens, width = x.shape
    sums = accumulator(x.dtype)
    gates, norms = branch is not None, shift is not None
    y = torch.empty_like(x) if gates else None
    h = torch.empty_like(x, dtype=dtype) if norms else None
    mean, rstd = x.new_empty((2, samples, tokens), dtype=sums) if norms else (None, None)
    _norm_forward_kernel[(triton.cdiv(tokens, PIECE), samples)](
        x, branch, bias, gate, shift, scale, y, h, mean, rstd, tokens, _stride(gate), _stride(scale), eps,
        D=width, BLOCK=triton.next_power_of_2(width), ROWS=PIECE, GATES=gates, NORMS=norms, SUM=TRITON[sums],
        STAGES=FORWARD.stages, num_warps=_warps(width, FORWARD),
    )  # fmt: skip
    return y, h, TokenMoments(mean, rstd) if mean is not None and rstd is not None else None


def modulated_norm_backward(dx: Tensor, dh: Tensor, x: Tensor, moments: TokenMoments, scale: Tensor,
                            sums: Sums) -> Tensor:  # fmt: skip
    """Return the gradient of x [B, T, D] in the dtype of `dx`.

    Args:
        dx: gradient of x from what else it goes to, [B, T, D], contiguous.
        dh: gradient of h, likewise.
        x: what was normalised, likewise.
        moments: of x.
        scale: [B, D], its rows contiguous.
        sums: whose `shift` and `scale` are filled.
    """
    found, _ = _backward(dx, sums, dh, x, moments, scale, None, None, None)
    return found


def gated_norm_backward(dy: Tensor, dh: Tensor, y: Tensor, moments: TokenMoments, scale: Tensor, branch: Tensor,
                        bias: Tensor, gate: Tensor, sums: Sums) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of x, in the dtype of `dy`, and of the branch, in its own; both [B, T, D].

    Args:
        dy: gradient of y from what else it goes to, [B, T, D], contiguous.
        dh: gradient of h, likewise.
        y: what was normalised, likewise.
        moments: of y.
        scale: [B, D], its rows contiguous.
        branch: [B, T, D], contiguous.
        bias: [D].
        gate: [B, D], its rows contiguous.
        sums: filled.
    """
    dx, d_branch = _backward(dy, sums, dh, y, moments, scale, branch, bias, gate)
    assert d_branch is not None
    return dx, d_branch


def gated_backward(dy: Tensor, branch: Tensor, bias: Tensor, gate: Tensor, sums: Sums) -> Tensor:
    """Return the gradient of the branch [B, T, D], in its dtype; that of x is `dy`.

    Args:
        dy: gradient of y, [B, T, D], contiguous.
        branch: likewise.
        bias: [D].
        gate: [B, D], its rows contiguous.
        sums: whose `gate` and `total` are filled.
    """
    _, d_branch = _backward(dy, sums, None, None, None, None, branch, bias, gate)
    assert d_branch is not None
    return d_branch


def _backward(dy: Tensor, sums: Sums, dh: Tensor | None, y: Tensor | None, moments: TokenMoments | None,
              scale: Tensor | None, branch: Tensor | None, bias: Tensor | None,
              gate: Tensor | None) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    samples, tokens, width = dy.shape
    norms, gates = dh is not None, branch is not None
    dx = torch.empty_like(dy) if norms else dy
    d_branch = torch.empty_like(branch) if branch is not None else None
    partial = sums.gate if gates else sums.shift
    assert partial is not None
    mean, rstd = moments or (None, None)
    _norm_backward_kernel[(partial.shape[1], samples)](
        dy, dh, y, mean, rstd, scale, branch, bias, gate, dx, d_branch, *sums, tokens, _stride(gate), _stride(scale),
        partial.stride(0), partial.stride(1), D=width, BLOCK=triton.next_power_of_2(width), ROWS=PIECE,
        GATES=gates, NORMS=norms, SUM=TRITON[partial.dtype], STAGES=BACKWARD.stages,
        num_warps=_warps(width, BACKWARD),
    )  # fmt: skip
    return dx, d_branch


def _stride(rows: Tensor | None) -> int:
    return 0 if rows is None else rows.stride(0)


def _warps(width: int, rows: RowLaunch) -> int:
    return rows.warps if width > 512 else max(1, rows.warps // 2)


@triton.jit
def _norm_forward_kernel(x, branch, bias, gate, shift, scale, y, h, mean, rstd, tokens, gate_row, row, eps,
                         D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, GATES: tl.constexpr,
                         NORMS: tl.constexpr, SUM: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    piece, sample = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    at = sample * row + columns
    if GATES:
        gates = tl.load(gate + sample * gate_row + columns, inside, 0.0).to(SUM)
        biases = gates * tl.load(bias + columns, inside, 0.0).to(SUM)
    if NORMS:
        factors = 1 + tl.load(scale + at, inside, 0.0).to(SUM)
        shifts = tl.load(shift + at, inside, 0.0).to(SUM)
    first = piece * ROWS
    for token in tl.range(first, min(first + ROWS, tokens), num_stages=STAGES):
        place = (sample * tokens + token).to(tl.int64)
        values = tl.load(x + place * D + columns, inside, 0.0).to(SUM)
        if GATES:
            values += biases + gates * tl.load(branch + place * D + columns, inside, 0.0).to(SUM)
            tl.store(y + place * D + columns, values.to(y.dtype.element_ty), inside)
            # The norm is that of what is passed on, rounding included.
            values = values.to(y.dtype.element_ty).to(SUM)
        if NORMS:
            middle = tl.sum(values, 0) / D
            centred = tl.where(inside, values - middle, 0.0)
            scaled = 1 / tl.sqrt(tl.sum(centred * centred, 0) / D + eps)
            tl.store(mean + place, middle)
            tl.store(rstd + place, scaled)
            out = centred * scaled * factors + shifts
            tl.store(h + place * D + columns, out.to(h.dtype.element_ty), inside)


@triton.jit
def _norm_backward_kernel(dy, dh, y, mean, rstd, scale, branch, bias, gate, dx, d_branch, d_shift, d_scale, d_gate,
                          d_total, tokens, gate_row, row, per_sample, per_piece, D: tl.constexpr, BLOCK: tl.constexpr,
                          ROWS: tl.constexpr, GATES: tl.constexpr, NORMS: tl.constexpr, SUM: tl.constexpr,
                          STAGES: tl.constexpr):  # fmt: skip
    piece, sample = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    at = sample * row + columns
    if GATES:
        gates = tl.load(gate + sample * gate_row + columns, inside, 0.0).to(SUM)
        sum_gate = tl.zeros([BLOCK], SUM)
        sum_total = tl.zeros([BLOCK], SUM)
    if NORMS:
        factors = 1 + tl.load(scale + at, inside, 0.0).to(SUM)
        sum_shift = tl.zeros([BLOCK], SUM)
        sum_scale = tl.zeros([BLOCK], SUM)
    first = piece * ROWS
    for token in tl.range(first, min(first + ROWS, tokens), num_stages=STAGES):
        place = (sample * tokens + token).to(tl.int64)
        total = tl.load(dy + place * D + columns, inside, 0.0).to(SUM)
        if NORMS:
            slope = tl.load(dh + place * D + columns, inside, 0.0).to(SUM)
            scaled = tl.load(rstd + place)
            normal = tl.load(y + place * D + columns, inside, 0.0).to(SUM)
            normal = tl.where(inside, (normal - tl.load(mean + place)) * scaled, 0.0)
            sum_shift += slope
            sum_scale += slope * normal
            slope *= factors
            total += scaled * (slope - tl.sum(slope, 0) / D - normal * (tl.sum(slope * normal, 0) / D))
            tl.store(dx + place * D + columns, total.to(dx.dtype.element_ty), inside)
        if GATES:
            sum_gate += total * tl.load(branch + place * D + columns, inside, 0.0).to(SUM)
            sum_total += total
            tl.store(d_branch + place * D + columns, (gates * total).to(d_branch.dtype.element_ty), inside)
    if GATES:
        sum_gate += sum_total * tl.load(bias + columns, inside, 0.0).to(SUM)
    at = sample * per_sample + piece * per_piece + columns
    if NORMS:
        tl.store(d_shift + at, sum_shift, inside)
        tl.store(d_scale + at, sum_scale, inside)
    if GATES:
        tl.store(d_gate + at, sum_gate, inside)
        tl.store(d_total + at, sum_total, inside)
