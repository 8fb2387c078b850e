"""The nearest of a table of codes, without a table of distances."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# A code's elements are taken one by one from registers.
MOST_CHANNELS = 32
TOKENS, CODES = 32, 128


@triton.jit(do_not_specialize=["tokens", "codes"])
def _nearest(z, table, squares, out, tokens, codes, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    own = tl.arange(0, BLOCK_K)
    least = tl.full([BLOCK_N, BLOCK_K], float("inf"), tl.float32)
    found = tl.zeros([BLOCK_N, BLOCK_K], tl.int32)
    for begin in range(0, codes, BLOCK_K):
        columns = begin + own
        product = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for channel in tl.static_range(C):
            a = tl.load(z + rows * C + channel, mask=rows < tokens, other=0)
            b = tl.load(table + columns * C + channel, mask=columns < codes, other=0)
            product += a[:, None] * b[None, :]
        square = tl.load(squares + columns, mask=columns < codes, other=float("inf"))
        distance = square[None, :] - 2 * product
        nearer = distance < least
        least = tl.where(nearer, distance, least)
        found = tl.where(nearer, columns[None, :], found)
    best = tl.min(least, 1)
    first = tl.min(tl.where(least == best[:, None], found, codes), 1)
    tl.store(out + rows, first.to(tl.int64), mask=rows < tokens)


def nearest_rows(z_NC: Tensor, table_KC: Tensor) -> Tensor:
    """Find the nearest row of a table for each vector, in float32.

    Args:
        z_NC: float32 [N, c], finite; c at most `MOST_CHANNELS`.
        table_KC: float32 [K, c].

    Returns:
        int64 [N]; the first of several that are equally near.
    """
    z, table = z_NC.contiguous(), table_KC.contiguous()
    out = torch.empty(len(z), dtype=torch.int64, device=z.device)
    _nearest[(triton.cdiv(len(z), TOKENS),)](
        z, table, table.square().sum(1), out, len(z), len(table), z.shape[1], TOKENS, CODES, num_warps=8
    )
    return out
