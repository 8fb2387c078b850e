"""Differentiable parts of a convolutional residual network, on channels-last tensors, with few passes over memory.

What flows is `Tallied`. Its `tally` is a zero for each channel, a bias that adds nothing, by convention with a gradient
of its own: the sum of the stream's gradient over samples and pixels. So whoever wrote the stream knows the gradient of
the bias that it added, and nobody reads a tensor again to sum it up: see `kernels.group_norm` for where the sums come
from. Everything that takes a stream takes the tally along.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dprune.kernels import group_norm
from dprune.kernels.group_norm import INNER, PLAIN, SHUFFLED, GroupStatistics

Grads = tuple[Tensor | None, ...]


class Tallied(NamedTuple):
    """A tensor on its way through a network.

    Attributes:
        x: [B, C, H, W], channels last.
        tally: zeros [C], see above; float32 (float64 of float64).
        known: statistics of x, without gradient.
    """

    x: Tensor
    tally: Tensor
    known: GroupStatistics


class Norm(NamedTuple):
    """Parameters of a group normalisation.

    Attributes:
        weight: [C].
        bias: [C].
        groups: that divide the channels.
        eps: is added to the variance.
    """

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float


def join(source: Tensor, bias: Tensor, beside: Tallied | None, groups: int, eps: float, layout: int = PLAIN) -> Tallied:
    """Return source + bias + beside as a stream; see `group_norm.join`."""
    x, tally = (None, None) if beside is None else (beside.x, beside.tally)
    return _stream(*_Join.apply(source, bias, x, tally, groups, eps, layout))


def untallied(stream: Tallied) -> Tensor:
    """Return the stream's tensor for operations that keep no tally."""
    out: Tensor = _Untallied.apply(stream.x, stream.tally)
    return out


def normalise(stream: Tallied, norm: Norm, activation: str) -> Tensor:
    """Return activation(norm(x)), [B, C, H, W] with channels last."""
    out: Tensor = _Normalise.apply(stream.x, stream.tally, *stream.known, norm.weight, norm.bias, activation)
    return out


def normalise_biased(x: Tensor, bias: Tensor, norm: Norm, activation: str) -> Tensor:
    """Return activation(norm(x + bias)) for the output of a convolution without bias, [B, C, H, W]."""
    x = x.contiguous(memory_format=torch.channels_last)
    out: Tensor = _NormaliseBiased.apply(x, bias, norm.weight, norm.bias, norm.groups, norm.eps, activation)
    return out


def residual(stream: Tallied, norm1: Norm, weight1: Tensor, bias1: Tensor, norm2: Norm, weight2: Tensor, bias2: Tensor,
             shortcut: Tensor | None) -> Tallied:  # fmt: skip
    """Return x + conv2(silu(norm2(conv1(silu(norm1(x)))))).

    What comes between the two convolutions is kept for the backward pass, and their inputs are made anew there.

    Args:
        stream: [B, p, H, W].
        norm1: of p channels.
        weight1: of 3x3, [q, p, 3, 3], in the stream's dtype, as all weights.
        bias1: [q].
        norm2: of q channels, which the stream that is returned will be divided by as well.
        weight2: [q, q, 3, 3].
        bias2: [q], that of the shortcut included.
        shortcut: 1x1 convolution of x, [q, p, 1, 1]; None for x itself.
    """
    found = _Residual.apply(stream.x, stream.tally, *stream.known, norm1.weight, norm1.bias, weight1, bias1,
                            norm2.weight, norm2.bias, weight2, bias2, shortcut, norm2.groups, norm2.eps)  # fmt: skip
    return _stream(*found)


def _stream(x: Tensor, tally: Tensor, *known: Tensor) -> Tallied:
    return Tallied(x, tally, GroupStatistics(*known))


def _started(ctx: Any, x: Tensor, known: GroupStatistics) -> tuple[Tensor, ...]:
    ctx.mark_non_differentiable(*known)
    return x, known.channel.new_zeros(x.shape[1]), *known


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, bias: Tensor, beside: Tensor | None, tally: Tensor | None, groups: int,
                eps: float, layout: int) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.layout, ctx.beside = layout, beside is not None
        return _started(ctx, *group_norm.join(source, bias, beside, groups, eps, layout=layout))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Grads:
        gradient, total = gradients[:2]
        source = _laid_out(gradient, ctx.layout) if ctx.needs_input_grad[0] else None
        beside = (gradient, total) if ctx.beside else (None, None)
        return source, total, *beside, None, None, None


def _laid_out(gradient: Tensor, layout: int) -> Tensor:
    """Bring the gradient of what `join` returned to the layout of its source."""
    if layout == INNER:
        return F.pad(gradient, (1, 0, 1, 0))
    return group_norm.unshuffled(gradient) if layout == SHUFFLED else gradient


class _Untallied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tally: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Grads:
        (gradient,) = gradients
        return gradient, group_norm.channel_sums(gradient)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tally: Tensor, channel: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor,
                shift: Tensor, activation: str) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, tally, channel, mean, rstd, weight, shift)
        ctx.activation = activation
        return group_norm.activate(x, tally, GroupStatistics(channel, mean, rstd), weight, shift, activation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Grads:
        dx, dweight, dshift, total = _back_through_norm(ctx, gradients[0])
        return dx, total, None, None, None, dweight, dshift, None


class _NormaliseBiased(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, weight: Tensor, shift: Tensor, groups: int, eps: float,
                activation: str) -> Tensor:  # fmt: skip
        known = group_norm.statistics(x, bias, groups, eps)
        ctx.save_for_backward(x, bias, *known, weight, shift)
        ctx.activation = activation
        return group_norm.activate(x, bias, known, weight, shift, activation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Grads:
        dx, dweight, dshift, dbias = _back_through_norm(ctx, gradients[0])
        return dx, dbias, dweight, dshift, None, None, None


def _back_through_norm(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of x and, each [C], of the norm's weight and bias and of the bias that is added to x."""
    x, bias, *known, weight, shift = ctx.saved_tensors
    given = x, bias, GroupStatistics(*known), weight, shift, ctx.activation, gradient
    found = group_norm.gradient_sums(*given, again=False)
    return group_norm.input_gradient(*given, found.means, None), *found.sums.sum(0)


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tally: Tensor, channel: Tensor, mean: Tensor, rstd: Tensor, scale1: Tensor,
                shift1: Tensor, weight1: Tensor, bias1: Tensor, scale2: Tensor, shift2: Tensor, weight2: Tensor,
                bias2: Tensor, shortcut: Tensor | None, groups: int, eps: float) -> tuple[Tensor, ...]:  # fmt: skip
        known = GroupStatistics(channel, mean, rstd)
        # Some convolutions of float64 give another layout.
        h = F.conv2d(group_norm.activate(x, tally, known, scale1, shift1, "silu"), weight1, padding=1)
        h = h.contiguous(memory_format=torch.channels_last)
        between = group_norm.statistics(h, bias1, groups, eps)
        c = F.conv2d(group_norm.activate(h, bias1, between, scale2, shift2, "silu"), weight2, padding=1)
        beside = x if shortcut is None else F.conv2d(x, shortcut)
        ctx.save_for_backward(x, tally, *known, scale1, shift1, weight1, h, bias1, *between, scale2, shift2, weight2,
                              shortcut)  # fmt: skip
        return _started(ctx, *group_norm.join(c, bias2, beside, groups, eps))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Grads:
        gradient, total = gradients[:2]
        x, tally, channel, mean, rstd, scale1, shift1, weight1, h, bias1, *between = ctx.saved_tensors[:13]
        scale2, shift2, weight2, shortcut = ctx.saved_tensors[13:]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        dh, dweight2, sums2 = _back(h, bias1, GroupStatistics(*between), scale2, shift2, weight2, gradient, None)
        beside, dshortcut, dtally = gradient, None, total
        if shortcut is not None:
            beside, dshortcut = _convolution_gradient(gradient, x, shortcut, 0, (True, True))
            dtally = total @ shortcut.flatten(1).to(total.dtype)
        dx, dweight1, sums1 = _back(x, tally, GroupStatistics(channel, mean, rstd), scale1, shift1, weight1, dh, beside)
        return (dx, dtally + sums1[2], None, None, None, sums1[0], sums1[1], dweight1, sums2[2], sums2[0], sums2[1],
                dweight2, total, dshortcut, None, None)  # fmt: skip


def _back(x: Tensor, bias: Tensor, known: GroupStatistics, scale: Tensor, shift: Tensor, weight: Tensor,
          gradient: Tensor, beside: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Go back through conv(silu(norm(x + bias))).

    Returns:
        The gradient of x, plus `beside`; that of the convolution's weight; and [3, C], those of scale, shift and bias.
    """
    # The weight's gradient waits for the activation, which the pass that sums makes on its way.
    back, _ = _convolution_gradient(gradient, x, weight, 1, (True, False))
    given = x, bias, known, scale, shift, "silu", back
    sums, means, activated = group_norm.gradient_sums(*given, again=True)
    assert activated is not None
    _, dweight = _convolution_gradient(gradient, activated, weight, 1, (False, True))
    return group_norm.input_gradient(*given, means, beside, reuse=True), dweight, sums.sum(0)


def _convolution_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: int, wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Return the gradients of a convolution's input and weight, where wanted."""
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (1, 1), (padding, padding), (1, 1), False, (0, 0), 1, (*wanted, False)
    )
    return found[0], found[1]
