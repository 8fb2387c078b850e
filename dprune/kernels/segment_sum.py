"""Sums over segments of a list of rows: what torch's `embedding_bag` gives, at the speed at which rows are read.

Shapes in suffixes: N rows, D numbers each, M places in the list, S segments.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 8, 256


def segment_sums(x: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Return the sum of x[order[starts[s] : starts[s + 1]]] for each s, float32 [S, D]; none is zero.

    The sums are the same in every run: a program adds up a segment in its order.

    Args:
        x: rows, float32 [N, D], contiguous.
        order: rows to add up, int64 [M].
        starts: where the segments begin, int64 [S] ascending; the last ends with the list.
    """
    sums = x.new_empty((len(starts), x.shape[1]))
    grid = len(starts), triton.cdiv(x.shape[1], _COLUMNS)
    _segment_sums[grid](x, order, starts, sums, x.shape[1], len(order), len(starts), _ROWS, _COLUMNS, num_warps=8)
    return sums


# Compiled once for all numbers of places and segments.
@triton.jit(do_not_specialize=["places", "segments"])
def _segment_sums(x_ND, order_M, starts_S, sums_SD, width, places, segments,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    segment = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    some = columns < width
    begin = tl.load(starts_S + segment)
    end = tl.load(starts_S + segment + 1, mask=segment + 1 < segments, other=places)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(begin, end, ROWS):
        at = first + tl.arange(0, ROWS)
        rows = tl.load(order_M + at, mask=at < end, other=0)
        inside = (at < end)[:, None] & some[None, :]
        total += tl.load(x_ND + rows[:, None] * width + columns[None, :], mask=inside, other=0.0)
    tl.store(sums_SD + segment.to(tl.int64) * width + columns, tl.sum(total, 0), mask=some)
