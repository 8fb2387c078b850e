"""The nearest of k centroids to each point, in one kernel: argmax over j of x·c_j - |c_j|²/2.

A tile of the product stays in registers until its largest score is found, so that the scores, 5 GB for ImageNet and
1,000 centroids, are never written. The operands are float16, scaled by powers of two: that keeps ten bits behind the
leading one, as tf32 does, rounds where tf32 cuts off, moves half the bytes, and is twice as fast. Sums are float32.

Shapes in suffixes: N points, K centroids, W their dimension, padded to a multiple of `PADDING`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

PADDING = 64
"""Dimensions that a step of the product takes."""
_TOP = 14
"""The largest number of scaled operands is below two to this."""
_ROWS, _COLUMNS, _MOST_STAGES = 128, 256, 4


class Scaled(NamedTuple):
    """Rows in float16.

    Attributes:
        rows: scale times what they stand for, float16 [n, W], zero behind the dimension.
        scale: a power of two, float32 [].
    """

    rows: Tensor
    scale: Tensor


def scaled(values: Tensor, step: int = 1 << 16) -> Scaled:
    """Turn rows, float32 [n, d], into float16 such that none overflows and few underflow; nothing waits for the device.

    Args:
        values: the rows, finite.
        step: rows converted at once.
    """
    n, d = values.shape
    rows = values.new_zeros((n, -(-d // PADDING) * PADDING), dtype=torch.float16)
    # Of float32 numbers the largest lies below two to the 128th, and a scale must be a number too.
    largest = torch.linalg.vector_norm(values if n else values.new_zeros(1), ord=torch.inf)
    exponent = torch.frexp(largest).exponent.clamp(min=-100)
    scale = torch.exp2((_TOP - exponent).float())
    for low in range(0, n, step):
        rows[low : low + step, :d] = values[low : low + step] * scale
    return Scaled(rows, scale)


def nearest_centroid(x: Tensor, centroids: Tensor, offsets: Tensor) -> Tensor:
    """Return the first j of those with the largest x·c_j - offset_j for each row of x, int32 [N].

    Args:
        x: float16 [N, W], contiguous.
        centroids: float16 [K, W], contiguous.
        offsets: float32 [K], finite.
    """
    labels = torch.empty(len(x), dtype=torch.int32, device=x.device)
    if not len(x):
        return labels
    columns = min(_COLUMNS, max(16, triton.next_power_of_2(len(centroids))))
    tiles = (TensorDescriptor.from_tensor(x, [_ROWS, PADDING]),
             TensorDescriptor.from_tensor(centroids, [columns, PADDING]))  # fmt: skip
    _nearest[(triton.cdiv(len(x), _ROWS),)](
        *tiles, offsets, labels, *x.shape, len(centroids), _ROWS, columns, PADDING,
        num_warps=8 if columns == _COLUMNS else 4, num_stages=_stages(x.device, columns),
    )  # fmt: skip
    return labels


def _stages(device: torch.device, columns: int) -> int:
    """Return how many steps of the product are in shared memory at once."""
    if device.type == "cpu":
        return 1
    step_bytes = 2 * PADDING * (_ROWS + columns)
    room = int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]
    return min(_MOST_STAGES, (room - 2048) // step_bytes)


# Compiled once for all numbers of points and centroids.
@triton.jit(do_not_specialize=["n", "k"])
def _nearest(x_NW, c_KW, offsets_K, labels_N, n, width, k,
             ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    first = tl.program_id(0) * ROWS
    best = tl.full([ROWS], float("-inf"), tl.float32)
    label = tl.zeros([ROWS], tl.int32)
    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    steps = tl.cdiv(width, STEP)
    # One loop over the steps of all tiles, so that operands of the next tile are on their way when one ends.
    for turn in range(tl.cdiv(k, COLUMNS) * steps):
        low, step = turn // steps * COLUMNS, turn % steps
        # Beyond the ends descriptors give zeros.
        product = tl.dot(x_NW.load([first, step * STEP]), c_KW.load([low, step * STEP]).T, product)
        if step == steps - 1:
            columns = low + tl.arange(0, COLUMNS)
            offset = tl.load(offsets_K + columns, mask=columns < k, other=float("inf"))
            most, where = tl.max(product - offset[None, :], 1, return_indices=True)
            label = tl.where(most > best, low + where, label)
            best = tl.maximum(most, best)
            product = tl.zeros([ROWS, COLUMNS], tl.float32)
    rows = first + tl.arange(0, ROWS)
    tl.store(labels_N + rows, label, mask=rows < n)
