"""The bits of `noise` in one launch, where tensor operations take 150: Philox 4x32-10 (Salmon et al., SC 2011)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256


@triton.jit(do_not_specialize=["low", "high", "size"])
def _philox(out, ids, draws, low, high, size, count, blocks, PER_ID: tl.constexpr, FRACTIONS: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    """Write four numbers for each place of the flattened table of ids and blocks; every lane has one place."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, block = place // blocks, place % blocks
    inside = place < size
    sample = tl.load(ids + row, mask=inside, other=0)
    draw = tl.load(draws + (row if PER_ID else row * 0), mask=inside, other=0)
    c0, c1 = block.to(tl.uint32), draw.to(tl.uint32)
    c2, c3 = sample.to(tl.uint32), (sample >> 32).to(tl.uint32)
    k0, k1 = low.to(tl.uint32), high.to(tl.uint32)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    numbers = tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), (BLOCK, 4))
    column = block[:, None] * 4 + tl.arange(0, 4)[None, :]
    at = out + row[:, None] * count + column
    mask = inside[:, None] & (column < count)
    if FRACTIONS:
        tl.store(at, (numbers.to(tl.float32) + 0.5) * 2.3283064365386963e-10, mask=mask)
    else:
        tl.store(at, numbers.to(tl.int64), mask=mask)


def philox(key: int, ids: Tensor, draw: int | Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return the numbers of `noise.bits`.

    Args:
        key: of 64 bits.
        ids: int64 [n].
        draw: which draw for these ids, or int64 [n], which one for each of them; below 2**32.
        count: numbers for each id.
        dtype: int64 for the numbers as they are, float32 for (number + 0.5) / 2**32.

    Returns:
        [n, count].
    """
    out = torch.empty((len(ids), count), dtype=dtype, device=ids.device)
    per_id = isinstance(draw, Tensor)
    draws = draw.contiguous() if isinstance(draw, Tensor) else torch.full((1,), draw, device=ids.device)
    blocks = (count + 3) // 4
    size = len(ids) * blocks
    if size:
        key_words = _signed(key), _signed(key >> 32)
        _philox[(triton.cdiv(size, _BLOCK),)](out, ids.contiguous(), draws, *key_words, size, count, blocks, per_id,
                                              dtype == torch.float32, _BLOCK)  # fmt: skip
    return out


def _signed(key: int) -> int:
    """Return the lowest 32 bits as a signed number: of one type whatever they are, or some keys compile anew."""
    return (key & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
