"""Distances by kernels, over all pairs: KID and CMMD.

Both are maximum mean discrepancies (Gretton et al., 2012), mean k(x, x') + mean k(y, y') - 2 mean k(x, y). Since all
pairs are taken there is no sampling noise, unlike with the usual random subsets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dprune.metrics.jackknife import Blocks, Estimate
from dprune.metrics.rows import check_pair, spans, unit_rows
from dprune.namespace import beside

# Turns inner products [n, m] of rows [n, d] and columns [m, d] into values of the kernel; may overwrite them.
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
# Makes rows of any float type the float64 rows that the kernel is defined on.
Prepare = Callable[[Tensor], Tensor]

CPU_TILE = 1024
GPU_TILE = 8192
SIGMA = 10.0
SCALE = 1000.0


def kid(generated: Tensor, reference: Tensor, blocks: Blocks | None = None) -> Estimate:
    """Compute the kernel Inception distance over all pairs (Binkowski et al., 2018), in float64.

    The unbiased estimate, in which no sample meets itself, with the kernel (x·y / d + 1)³.

    Args:
        generated: features [n, d] of any float type.
        reference: features [m, d] on the same device.
        blocks: of the generated samples, for the standard error.

    Raises:
        InputError: a side has fewer than two samples or is not finite.
        MismatchError: the dimensions differ.
    """
    return _discrepancy(generated, reference, blocks, _cubic, Tensor.double, unbiased=True)


def cmmd(generated: Tensor, reference: Tensor, blocks: Blocks | None = None) -> Estimate:
    """Compute the CLIP maximum mean discrepancy (Jayasumana et al., 2024), in float64.

    As its authors define it: features of unit length, which this function sees to, the kernel
    exp(-|x - y|² / (2 · 10²)), the estimate in which samples meet themselves too, and times 1000. Takes and raises
    what `kid` does.
    """
    return _discrepancy(generated, reference, blocks, _gaussian, unit_rows, unbiased=False, scale=SCALE)


def _cubic(products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    shifted = products.div_(rows.shape[1]).add_(1)
    return torch.mul(shifted, shifted).mul_(shifted)


def _gaussian(products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    squares = products.mul_(-2).add_(rows.square().sum(1, keepdim=True)).add_(columns.square().sum(1))
    # As the values are all near 1, their distance from 1 keeps more digits; the constant cancels between the means.
    return squares.clamp_(min=0).mul_(-0.5 / SIGMA**2).expm1_()


@dataclass(frozen=True)
class _Sums:
    """Sums of a kernel over pairs, those of generated samples apart by block, float64.

    Attributes:
        xx: over pairs of generated samples [blocks, blocks].
        xy: over pairs of a generated and a reference sample [blocks].
        yy: over pairs of reference samples [].
        x_own: over generated samples with themselves [blocks].
        y_own: over reference samples with themselves [].
        x_count: generated samples [blocks].
        y_count: reference samples.
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor
    x_own: Tensor
    y_own: Tensor
    x_count: Tensor
    y_count: int

    def total(self) -> _Sums:
        """Put all blocks together."""
        return _Sums(self.xx.sum(), self.xy.sum(), self.yy, self.x_own.sum(), self.y_own, self.x_count.sum(),
                     self.y_count)  # fmt: skip

    def without_each(self) -> _Sums:
        """Leave out each block in turn."""
        left = self.xx.sum() - self.xx.sum(0) - self.xx.sum(1) + self.xx.diagonal()
        xy, own, count = (sums.sum() - sums for sums in (self.xy, self.x_own, self.x_count))
        return _Sums(left, xy, self.yy, own, self.y_own, count, self.y_count)

    def discrepancy(self, unbiased: bool) -> Tensor:
        """Return the squared maximum mean discrepancy, of the shape of `x_count`."""
        n, m = self.x_count, self.y_count
        cross = self.xy / (n * m)
        if unbiased:
            within_x = (self.xx - self.x_own) / (n * (n - 1))
            return within_x + (self.yy - self.y_own) / (m * (m - 1)) - 2 * cross
        return self.xx / n**2 + self.yy / m**2 - 2 * cross


def _discrepancy(
    generated: Tensor, reference: Tensor, blocks: Blocks | None, kernel: Kernel, prepare: Prepare, *,
    unbiased: bool, scale: float = 1.0,
) -> Estimate:  # fmt: skip
    check_pair(generated, reference, 2)
    blocks = blocks or Blocks.whole(generated)
    sums = _sums(generated, reference, kernel, prepare, blocks)
    value = scale * float(sums.total().discrepancy(unbiased))
    return blocks.estimate(value, scale * sums.without_each().discrepancy(unbiased))


def _sums(generated: Tensor, reference: Tensor, kernel: Kernel, prepare: Prepare, blocks: Blocks) -> _Sums:
    x_member, y_member = (beside(generated, own.one_hot()) for own in (blocks, Blocks.whole(reference)))
    sides = [(generated, x_member), (reference, y_member)]
    xx, yy = (_pair_sums(x, x, own, own, kernel, prepare) for x, own in sides)
    xy = _pair_sums(generated, reference, x_member, y_member, kernel, prepare)
    x_own, y_own = (_own_sums(x, own, kernel, prepare) for x, own in sides)
    return _Sums(xx, xy[:, 0], yy[0, 0], x_own, y_own[0], x_member.sum(0), len(reference))


def _pair_sums(x: Tensor, y: Tensor, x_member: Tensor, y_member: Tensor, kernel: Kernel, prepare: Prepare) -> Tensor:
    """Add the kernel up over all pairs, by the blocks of both, float64 [blocks of x, blocks of y].

    Of a set with itself only tiles on and above the diagonal are computed.
    """
    sums = x_member.new_zeros((x_member.shape[1], y_member.shape[1]))
    step = CPU_TILE if x.device.type == "cpu" else GPU_TILE
    for i, low in enumerate(range(0, len(x), step)):
        rows, row_member = prepare(x[low : low + step]), x_member[low : low + step]
        for j, left in enumerate(range(0, len(y), step)):
            if x is y and j < i:
                continue
            columns = rows if x is y and i == j else prepare(y[left : left + step])
            tile = kernel(rows @ columns.T, rows, columns)
            part = row_member.T @ (tile @ y_member[left : left + step])
            sums += part + part.T if x is y and i != j else part
    return sums


def _own_sums(x: Tensor, member: Tensor, kernel: Kernel, prepare: Prepare) -> Tensor:
    """Add up the kernel of each sample with itself, by block, float64 [blocks]."""
    sums = member.new_zeros(member.shape[1])
    for low, high in spans(len(x), x.shape[1]):
        rows = prepare(x[low:high])
        sums += kernel(rows.square().sum(1, keepdim=True), rows, rows[:1]).squeeze(1) @ member[low:high]
    return sums
