"""The distance of two maps of features whose vectors are brought to unit length, in one pass over both.

With a^ = a / (|a| + eps), a place's distance is sum(w (a^ - b^)^2), as in LPIPS (Zhang et al., 2018); that of two maps
is its mean over the places. Backward, with d = 2 w (a^ - b^): da = (d - a (d . a) / (|a| (|a| + eps))) / (|a| + eps).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dprune.kernels.group_norm import Cut


@triton.jit
def _units(a, b, rows, sample, pixels, C: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    """Return vectors of the first map, their lengths and those with what keeps from dividing by 0, and differences."""
    channels = tl.arange(0, BLOCK_C)
    inside = (rows < pixels)[:, None] & (channels < C)[None, :]
    place = sample.to(tl.int64) * pixels * C + rows[:, None] * C + channels[None, :]
    x = tl.load(a + place, mask=inside, other=0).to(ACC)
    y = tl.load(b + place, mask=inside, other=0).to(ACC)
    length = tl.sqrt(tl.sum(x * x, 1))
    divisor = length + 1e-10
    return x, length, divisor, x / divisor[:, None] - y / (tl.sqrt(tl.sum(y * y, 1)) + 1e-10)[:, None], place, inside


@triton.jit(do_not_specialize=["pixels"])
def _distance(a, b, weight, partial, pixels, C: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
              WEIGHTED: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    tile, sample = tl.program_id(0), tl.program_id(1)
    rows = tile * ROWS + tl.arange(0, ROWS)
    _, _, _, unlike, _, _ = _units(a, b, rows, sample, pixels, C, BLOCK_C, ACC)
    squares = unlike * unlike
    if WEIGHTED:
        channels = tl.arange(0, BLOCK_C)
        squares *= tl.load(weight + channels, mask=channels < C, other=0).to(ACC)[None, :]
    tl.store(partial + sample * tl.num_programs(0) + tile, tl.sum(tl.sum(squares, 1), 0))


@triton.jit(do_not_specialize=["pixels"])
def _distance_gradient(a, b, weight, gradient, out, pixels, C: tl.constexpr, BLOCK_C: tl.constexpr,
                       ROWS: tl.constexpr, WEIGHTED: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    sample = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x, length, divisor, unlike, place, inside = _units(a, b, rows, sample, pixels, C, BLOCK_C, ACC)
    d = unlike * (2 * tl.load(gradient + sample).to(ACC) / pixels.to(ACC))
    if WEIGHTED:
        channels = tl.arange(0, BLOCK_C)
        d *= tl.load(weight + channels, mask=channels < C, other=0).to(ACC)[None, :]
    along = tl.sum(d * x, 1) / tl.where(length > 0, length * divisor, 1)
    # A vector of length zero has no direction to turn to.
    dx = tl.where((length > 0)[:, None], (d - x * along[:, None]) / divisor[:, None], 0)
    tl.store(out + place, dx.to(out.dtype.element_ty), mask=inside)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor | None) -> Tensor:
        shape = Cut.of(a)
        partial = torch.empty(shape.samples, shape.tiles[0], dtype=shape.dtype, device=a.device)
        _distance[shape.tiles](a, b, a if weight is None else weight, partial, shape.pixels, shape.channels,
                               shape.block, shape.rows, weight is not None, shape.acc, num_warps=8)  # fmt: skip
        ctx.save_for_backward(a, b, weight)
        return partial.sum(1) / shape.pixels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, weight = ctx.saved_tensors
        shape, out = Cut.of(a), torch.empty_like(a)
        _distance_gradient[shape.tiles](
            a, b, a if weight is None else weight, gradients[0].contiguous(), out, shape.pixels, shape.channels,
            shape.block, shape.rows, weight is not None, shape.acc, num_warps=8,
        )  # fmt: skip
        return out, None, None


def unit_distance(a_BCHW: Tensor, b_BCHW: Tensor, weight_C: Tensor | None) -> Tensor:
    """Return how far maps of features are apart, as above, float32 [B] (float64 of float64).

    Args:
        a_BCHW: maps, the only ones that get a gradient.
        b_BCHW: others of the same shape and dtype.
        weight_C: of the channels, all 1 if None.
    """
    a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a_BCHW, b_BCHW.detach()))
    found: Tensor = _Distance.apply(a, b, weight_C)
    return found
