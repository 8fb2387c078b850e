"""Group normalisation with what stands around it in a residual network, on channels-last tensors.

A tensor [B, C, H, W] with channels last is a table of B * H * W pixels by C channels. Its statistics are collected by
whoever writes it: mean and sum of squared deviations of every channel in each run of pixels, which are then combined
by Chan, Golub and LeVeque's formula ("Updating formulae and a pairwise algorithm for computing sample variances",
1979), so that nothing cancels where a mean is far from zero. Normalising then reads and writes the tensor once.

Backward, with y the activation's input, z' = dL/dy and x^ the normalised input, of N elements in a group:
dx = (w z' - mean(w z') - x^ mean(w z' x^)) / std. All sums over pixels, those of dx itself too, follow from the sums
of z' and z' x^ in each channel of each sample, which take one pass; another writes dx. Sums run in two stages in a
fixed order, so that a result does not change from run to run.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dprune.kernels import group_norm_kernels as kernels

# Elements that a program has in registers at once, and that one entry of the partial sums stands for.
TILE, RUN = 2048, 131072
WARPS = 4
# Runs that are combined at once.
RUNS = 32
PLAIN, INNER, SHUFFLED = 0, 1, 2
ACTIVATIONS = {"none": 0, "silu": 1, "leaky_relu": 2}


class GroupStatistics(NamedTuple):
    """What normalisation needs to know of a tensor.

    Attributes:
        channel: mean of each channel of each sample, [B, C], float32 (float64 of float64, as all here).
        mean: of each group, [B, G].
        rstd: one over each group's standard deviation, [B, G].
    """

    channel: Tensor
    mean: Tensor
    rstd: Tensor


class Cut(NamedTuple):
    """How a tensor [B, C, H, W] is cut into programs.

    Attributes:
        samples: B.
        channels: C.
        pixels: H * W.
        block: C, rounded up to a power of two.
        rows: pixels that a program takes at once.
        steps: how often a program that sums takes as many.
        runs: programs that sum, for each sample.
        acc: type of sums for Triton.
        dtype: the same for torch.
    """

    samples: int
    channels: int
    pixels: int
    block: int
    rows: int
    steps: int
    runs: int
    acc: tl.dtype
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> Cut:
        """Cut a tensor."""
        samples, channels, height, width = x.shape
        block = triton.next_power_of_2(channels)
        rows = max(1, TILE // block)
        steps = max(1, min(RUN // TILE, -(-height * width // rows)))
        runs = -(-height * width // (rows * steps))
        double = x.dtype == torch.float64
        return cls(samples, channels, height * width, block, rows, steps, runs,
                   tl.float64 if double else tl.float32, torch.float64 if double else torch.float32)  # fmt: skip

    @property
    def tiles(self) -> tuple[int, int]:
        """The grid of programs that do not sum."""
        return -(-self.pixels // self.rows), self.samples


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _given(bias: Tensor | None, x: Tensor) -> Tensor:
    """Return zeros for no bias, since each kernel that did without would have to be compiled too."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.zeros(x.shape[1], dtype=dtype, device=x.device) if bias is None else bias


def join(source: Tensor, bias: Tensor | None, shortcut: Tensor | None, groups: int, eps: float,
         *, layout: int = PLAIN) -> tuple[Tensor, GroupStatistics]:  # fmt: skip
    """Return source + bias + shortcut and its statistics, in one pass.

    Args:
        source: what a convolution without bias made, channels last: with `PLAIN` [B, C, H, W]; with `INNER`
            [B, C, H + 1, W + 1], whose first row and column are left out; with `SHUFFLED` [B, 4C, H/2 + 1, W/2 + 1],
            whose channels are those of four pixels, see `upsampled` in the network that uses this.
        bias: [C], None for none.
        shortcut: [B, C, H, W], channels last, None for none.
        groups: that divide the channels.
        eps: is added to the variance.
        layout: of the source.

    Returns:
        [B, C, H, W], channels last, in the source's dtype; and its statistics.
    """
    source = _last(source)
    samples, channels, height, width = source.shape
    if layout == INNER:
        height, width = height - 1, width - 1
    elif layout == SHUFFLED:
        channels, height, width = channels // 4, 2 * (height - 1), 2 * (width - 1)
    out = torch.empty((samples, channels, height, width), dtype=source.dtype, device=source.device,
                      memory_format=torch.channels_last)  # fmt: skip
    return out, _collect(source, shortcut, bias, out, groups, eps, layout, writes=True)


def statistics(x: Tensor, bias: Tensor | None, groups: int, eps: float) -> GroupStatistics:
    """Return the statistics of x + bias; x [B, C, H, W] with channels last."""
    return _collect(x, None, bias, x, groups, eps, PLAIN, writes=False)


def _collect(source: Tensor, shortcut: Tensor | None, bias: Tensor | None, out: Tensor, groups: int, eps: float,
             layout: int, *, writes: bool) -> GroupStatistics:  # fmt: skip
    shape, width = Cut.of(out), out.shape[3]
    partial = torch.empty((shape.samples, shape.runs, 2, shape.channels), dtype=shape.dtype, device=out.device)
    kernels.join[shape.runs, shape.samples](
        source, source if shortcut is None else _last(shortcut), _given(bias, out), out, partial,
        shape.pixels, width, shape.channels, shape.block, shape.rows, shape.steps, layout, shortcut is not None,
        writes, shape.acc, num_warps=WARPS,
    )  # fmt: skip
    channel = torch.empty((shape.samples, shape.channels), dtype=shape.dtype, device=out.device)
    mean, rstd = torch.empty((2, shape.samples, groups), dtype=shape.dtype, device=out.device)
    size = shape.channels // groups
    kernels.combine[groups, shape.samples](
        partial, channel, mean, rstd, shape.pixels, shape.runs, eps, shape.channels, size,
        triton.next_power_of_2(size), RUNS, shape.rows * shape.steps, shape.acc,
        num_warps=1,
    )  # fmt: skip
    return GroupStatistics(channel, mean, rstd)


def activate(x: Tensor, bias: Tensor | None, known: GroupStatistics, weight: Tensor, shift: Tensor, activation: str
             ) -> Tensor:  # fmt: skip
    """Return activation(weight * normalised(x + bias) + shift) in x's dtype; x [B, C, H, W] with channels last."""
    shape, out = Cut.of(x), torch.empty_like(x)
    kernels.activate[shape.tiles](
        x, _given(bias, x), known.mean, known.rstd, weight, shift, out, shape.pixels, shape.channels,
        shape.block, shape.channels // known.mean.shape[1], shape.rows, ACTIVATIONS[activation],
        shape.acc, num_warps=WARPS,
    )  # fmt: skip
    return out


class Gradients(NamedTuple):
    """What goes back through `activate`.

    Attributes:
        sums: over the pixels of each sample and channel, [B, 3, C]: gradient of the weight, that of the shift, and
            the sum of the gradient of x, which is that of the bias.
        means: of each group, as the pass that writes the gradient needs them, [B, G, 2].
        activated: what `activate` had returned, if it was asked for again.
    """

    sums: Tensor
    means: Tensor
    activated: Tensor | None


def gradient_sums(x: Tensor, bias: Tensor | None, known: GroupStatistics, weight: Tensor, shift: Tensor,
                  activation: str, gradient: Tensor, *, again: bool) -> Gradients:  # fmt: skip
    """Return all sums of the backward pass of `activate`, given the gradient at its output.

    Args:
        again: whether to make the output once more, which costs no read of its own here.
    """
    shape, groups = Cut.of(x), known.mean.shape[1]
    gradient, size = _last(gradient), shape.channels // groups
    out = torch.empty_like(x) if again else x
    partial = torch.empty((shape.samples, shape.runs, 2, shape.channels), dtype=shape.dtype, device=x.device)
    kernels.sum_gradients[shape.runs, shape.samples](
        x, _given(bias, x), known.mean, known.rstd, weight, shift, gradient, out, partial, shape.pixels,
        shape.channels, shape.block, size, shape.rows, shape.steps, ACTIVATIONS[activation], again,
        shape.acc, num_warps=WARPS,
    )  # fmt: skip
    sums = torch.empty((shape.samples, 3, shape.channels), dtype=shape.dtype, device=x.device)
    means = torch.empty((shape.samples, groups, 2), dtype=shape.dtype, device=x.device)
    kernels.combine_gradients[groups, shape.samples](
        partial, weight, known.channel, known.mean, known.rstd, sums, means, shape.pixels, shape.runs, shape.channels,
        size, triton.next_power_of_2(size), RUNS, shape.acc, num_warps=1,
    )  # fmt: skip
    return Gradients(sums, means, out if again else None)


def input_gradient(x: Tensor, bias: Tensor | None, known: GroupStatistics, weight: Tensor, shift: Tensor,
                   activation: str, gradient: Tensor, means: Tensor, beside: Tensor | None, *,
                   reuse: bool = False) -> Tensor:  # fmt: skip
    """Return the gradient of x, given `means` of `gradient_sums`, plus `beside`, which is shaped like x, if any.

    Args:
        reuse: whether the memory of `gradient` may take the result.
    """
    shape, gradient = Cut.of(x), _last(gradient)
    out = gradient if reuse else torch.empty_like(x)
    kernels.input_gradient[shape.tiles](
        x, _given(bias, x), known.mean, known.rstd, weight, shift, gradient, means,
        x if beside is None else _last(beside), out, shape.pixels, shape.channels, shape.block,
        shape.channels // known.mean.shape[1], shape.rows, ACTIVATIONS[activation],
        beside is not None, shape.acc, num_warps=WARPS,
    )  # fmt: skip
    return out


def channel_sums(x: Tensor) -> Tensor:
    """Return the sum over samples and pixels of each channel of x [B, C, H, W], [C]."""
    return statistics(_last(x), None, math.gcd(x.shape[1], 32), 0.0).channel.sum(0) * (x.shape[2] * x.shape[3])


def unshuffled(gradient: Tensor) -> Tensor:
    """Return the gradient of a source with layout `SHUFFLED`, given that of what `join` returned, [B, C, H, W]."""
    shape, (samples, channels, height, width) = Cut.of(gradient), gradient.shape
    out = torch.empty((samples, 4 * channels, height // 2 + 1, width // 2 + 1), dtype=gradient.dtype,
                      device=gradient.device, memory_format=torch.channels_last)  # fmt: skip
    tiles = -(-out.shape[2] * out.shape[3] // shape.rows)
    kernels.unshuffle[tiles, samples, 4](
        _last(gradient), out, shape.pixels, width, channels, shape.block, shape.rows, num_warps=WARPS
    )
    return out
