"""GELU with its tanh approximation (Hendrycks and Gimpel, 2016), and the column sums of its gradient.

Between two linear layers that column sum is the gradient of the first layer's bias, and costs no pass of its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dprune.kernels.accumulation import TRITON, accumulator

ROWS, COLUMNS, STRIP = 16, 128, 128


def gelu(x: Tensor) -> Tensor:
    """Return the GELU of contiguous x, of any shape."""
    out = torch.empty_like(x)
    size = x.numel()
    _gelu_forward_kernel[(triton.cdiv(size, 4096),)](
        x, out, size, BLOCK=4096, SUM=TRITON[accumulator(x.dtype)], num_warps=8
    )
    return out


def gelu_backward(x: Tensor, d_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of x [N, D], and its sums over strips of rows, [S, D], for the caller to add.

    Args:
        x: what gelu was taken of, contiguous.
        d_out: gradient of gelu(x), contiguous.
    """
    rows, width = x.shape
    dx = torch.empty_like(x)
    strips = triton.cdiv(rows, STRIP)
    sums = x.new_empty((strips, width), dtype=accumulator(x.dtype))
    _gelu_backward_kernel[(triton.cdiv(width, COLUMNS), strips)](
        x, d_out, dx, sums, rows, width, ROWS=ROWS, COLUMNS=COLUMNS, STRIP=STRIP, SUM=TRITON[sums.dtype], num_warps=4
    )
    return dx, sums


@triton.jit
def _sigmoid_of(x):
    # gelu(x) = x * (1 + tanh(u)) / 2 = x * sigmoid(2 u), u = sqrt(2 / pi) * (x + 0.044715 x^3).
    return 1 / (1 + tl.exp(-1.5957691216057308 * x * (1 + 0.044715 * x * x)))


@triton.jit
def _gelu_forward_kernel(x, out, size, BLOCK: tl.constexpr, SUM: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + at, at < size, 0.0).to(SUM)
    tl.store(out + at, (values * _sigmoid_of(values)).to(out.dtype.element_ty), at < size)


@triton.jit
def _gelu_backward_kernel(x, d_out, dx, sums, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                          STRIP: tl.constexpr, SUM: tl.constexpr):  # fmt: skip
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    strip = tl.program_id(1)
    total = tl.zeros([ROWS, COLUMNS], SUM)
    for step in range(STRIP // ROWS):
        row = strip * STRIP + step * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (columns < width)[None, :]
        at = row.to(tl.int64)[:, None] * width + columns[None, :]
        values = tl.load(x + at, inside, 0.0).to(SUM)
        slope = tl.load(d_out + at, inside, 0.0).to(SUM)
        share = _sigmoid_of(values)
        inner = 1.5957691216057308 * values * (1 + 3 * 0.044715 * values * values)
        slope *= share * (1 + inner * (1 - share))
        tl.store(dx + at, slope.to(dx.dtype.element_ty), inside)
        total += slope
    tl.store(sums + strip * width + columns, tl.sum(total, 0), columns < width)
