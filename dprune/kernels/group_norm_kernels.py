"""The passes of `kernels.group_norm`, in Triton: which pixels a program has, and what it does with them.

A program takes ROWS pixels of one sample with all their channels, BLOCK_C being C rounded up to a power of two, and
those that sum take RUNS times as many, one after the other. SIZE channels make a group; sums are of type ACC.
"""

from __future__ import annotations

import triton
import triton.language as tl

SLOPE = tl.constexpr(0.2)
# Tiles that are in flight at once where a program takes several.
STAGES = tl.constexpr(1)
# A size of 1 would become a constant, and each divisor of 16 a kernel of its own.
NUMBERS = ["pixels", "runs", "width"]


@triton.jit
def _rows_of(tensor, rows, sample, pixels, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return pointers to pixels of a sample, and where there is nothing."""
    channels = tl.arange(0, BLOCK_C)
    inside = (rows < pixels)[:, None] & (channels < C)[None, :]
    return tensor + sample.to(tl.int64) * pixels * C + rows[:, None] * C + channels[None, :], inside


@triton.jit
def _source(source, rows, sample, width, pixels, C: tl.constexpr, BLOCK_C: tl.constexpr, LAYOUT: tl.constexpr):
    """Return pointers to where the pixels of the result come from, see `join`."""
    channels = tl.arange(0, BLOCK_C)
    y, x, height = rows // width, rows % width, pixels // width
    if LAYOUT == 0:
        place, size = rows * C, pixels * C
    elif LAYOUT == 1:
        place, size = ((y + 1) * (width + 1) + x + 1) * C, (height + 1) * (width + 1) * C
    else:
        side = width // 2 + 1
        place = (((y + 1) // 2 * side + (x + 1) // 2) * 4 + y % 2 * 2 + x % 2) * C
        size = (height // 2 + 1) * side * 4 * C
    return source + sample.to(tl.int64) * size + place[:, None] + channels[None, :]


@triton.jit(do_not_specialize=NUMBERS)
def join(source, shortcut, bias, out, partial, pixels, width, C: tl.constexpr, BLOCK_C: tl.constexpr,
         ROWS: tl.constexpr, RUNS: tl.constexpr, LAYOUT: tl.constexpr, SHORTCUT: tl.constexpr,
         WRITES: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Add up source, bias and shortcut; write that, and mean and squared deviations of each channel of a run."""
    run, sample = tl.program_id(0), tl.program_id(1)
    channels = tl.arange(0, BLOCK_C)
    some = channels < C
    b = tl.load(bias + channels, mask=some, other=0).to(ACC)
    # Welford's running mean at each place of the tile; the places are combined once, at the end.
    mean, squares = tl.zeros([ROWS, BLOCK_C], ACC), tl.zeros([ROWS, BLOCK_C], ACC)
    one = tl.full((), 1, ACC)
    for step in tl.range(0, RUNS, num_stages=STAGES):
        first = (run * RUNS + step) * ROWS
        rows = first + tl.arange(0, ROWS)
        to, inside = _rows_of(out, rows, sample, pixels, C, BLOCK_C)
        at = _source(source, rows, sample, width, pixels, C, BLOCK_C, LAYOUT)
        value = tl.load(at, mask=inside, other=0).to(ACC)
        value += b[None, :]
        if SHORTCUT:
            beside, _ = _rows_of(shortcut, rows, sample, pixels, C, BLOCK_C)
            value += tl.load(beside, mask=inside, other=0).to(ACC)
        if WRITES:
            # The statistics are those of what is written.
            rounded = value.to(out.dtype.element_ty)
            tl.store(to, rounded, mask=inside)
            value = rounded.to(ACC)
        away = value - mean
        moved = mean + away * (one / (step + 1))
        squares = tl.where(inside, squares + away * (value - moved), squares)
        mean = tl.where(inside, moved, mean)
    left = pixels - run * RUNS * ROWS
    counts = tl.minimum((left - tl.arange(0, ROWS) + ROWS - 1) // ROWS, RUNS)
    counts = tl.maximum(counts, 0).to(ACC)[:, None]
    centre = tl.sum(mean * counts, 0) / tl.minimum(left, RUNS * ROWS).to(ACC)
    away = mean - centre[None, :]
    spread = tl.sum(squares + away * away * counts, 0)
    place = partial + (sample * tl.num_programs(0) + run) * 2 * C + channels
    tl.store(place, centre, mask=some)
    tl.store(place + C, spread, mask=some)


@triton.jit(do_not_specialize=NUMBERS)
def combine(partial, channel, mean, rstd, pixels, runs, eps, C: tl.constexpr, SIZE: tl.constexpr,
            BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, RUN_ROWS: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Combine the runs' statistics to those of a sample's channels, and these to those of a group."""
    group, sample = tl.program_id(0), tl.program_id(1)
    own = tl.arange(0, BLOCK_S)
    some = own < SIZE
    channels = group * SIZE + own
    total = tl.zeros([BLOCK_R, BLOCK_S], ACC)
    for begin in range(0, runs, BLOCK_R):
        run = begin + tl.arange(0, BLOCK_R)
        count = tl.minimum(pixels - run * RUN_ROWS, RUN_ROWS).to(ACC)[:, None]
        inside = (run < runs)[:, None] & some[None, :]
        at = partial + (sample * runs + run)[:, None] * 2 * C + channels[None, :]
        total += tl.where(inside, tl.load(at, mask=inside, other=0) * count, 0)
    of_channel = tl.sum(total, 0) / pixels.to(ACC)
    spread = tl.zeros([BLOCK_R, BLOCK_S], ACC)
    for begin in range(0, runs, BLOCK_R):
        run = begin + tl.arange(0, BLOCK_R)
        count = tl.minimum(pixels - run * RUN_ROWS, RUN_ROWS).to(ACC)[:, None]
        inside = (run < runs)[:, None] & some[None, :]
        at = partial + (sample * runs + run)[:, None] * 2 * C + channels[None, :]
        away = tl.load(at, mask=inside, other=0) - of_channel[None, :]
        spread += tl.where(inside, tl.load(at + C, mask=inside, other=0) + count * away * away, 0)
    of_group = tl.sum(tl.where(some, of_channel, 0), 0) / SIZE
    away_of = tl.where(some, of_channel - of_group, 0)
    squares = tl.sum(tl.sum(spread, 0), 0) + tl.sum(away_of * away_of, 0) * pixels.to(ACC)
    tl.store(channel + sample * C + channels, of_channel, mask=some)
    place = sample * tl.num_programs(0) + group
    tl.store(mean + place, of_group)
    tl.store(rstd + place, 1 / tl.sqrt(squares / (pixels.to(ACC) * SIZE) + eps))


@triton.jit
def _normalised(x, bias, mean, rstd, rows, sample, pixels, C: tl.constexpr, BLOCK_C: tl.constexpr, SIZE: tl.constexpr,
                ACC: tl.constexpr):  # fmt: skip
    """Return normalised pixels, one over the deviation of each channel, and where there is something."""
    channels = tl.arange(0, BLOCK_C)
    some = channels < C
    group = sample * (C // SIZE) + channels // SIZE
    m = tl.load(mean + group, mask=some, other=0) - tl.load(bias + channels, mask=some, other=0).to(ACC)
    r = tl.load(rstd + group, mask=some, other=0)
    at, inside = _rows_of(x, rows, sample, pixels, C, BLOCK_C)
    value = tl.load(at, mask=inside, other=0).to(ACC)
    return (value - m[None, :]) * r[None, :], r, inside


@triton.jit
def _affine(weight, shift, C: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    channels = tl.arange(0, BLOCK_C)
    w = tl.load(weight + channels, mask=channels < C, other=0).to(ACC)
    return w, tl.load(shift + channels, mask=channels < C, other=0).to(ACC)


@triton.jit
def _sigmoid(y):
    # Beyond 80 nothing changes any more, and float32 would overflow soon.
    return 1 / (1 + tl.exp(tl.minimum(-y, 80)))


@triton.jit
def _activated(y, ACTIVATION: tl.constexpr):
    if ACTIVATION == 1:
        return y * _sigmoid(y)
    if ACTIVATION == 2:
        return tl.where(y > 0, y, y * SLOPE)
    return y


@triton.jit
def _through(y, gradient, ACTIVATION: tl.constexpr):
    """Return the gradient at an activation's input."""
    if ACTIVATION == 1:
        sigmoid = _sigmoid(y)
        return gradient * sigmoid * (1 + y * (1 - sigmoid))
    if ACTIVATION == 2:
        return tl.where(y > 0, gradient, gradient * SLOPE)
    return gradient


@triton.jit(do_not_specialize=NUMBERS)
def activate(x, bias, mean, rstd, weight, shift, out, pixels, C: tl.constexpr, BLOCK_C: tl.constexpr,
             SIZE: tl.constexpr, ROWS: tl.constexpr, ACTIVATION: tl.constexpr,
             ACC: tl.constexpr):  # fmt: skip
    """Normalise, scale, shift and activate."""
    sample = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    unit, _, inside = _normalised(x, bias, mean, rstd, rows, sample, pixels, C, BLOCK_C, SIZE, ACC)
    w, b = _affine(weight, shift, C, BLOCK_C, ACC)
    to, _ = _rows_of(out, rows, sample, pixels, C, BLOCK_C)
    y = unit * w[None, :] + b[None, :]
    tl.store(to, _activated(y, ACTIVATION).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=NUMBERS)
def sum_gradients(x, bias, mean, rstd, weight, shift, gradient, out, partial, pixels, C: tl.constexpr,
                  BLOCK_C: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr,
                  ACTIVATION: tl.constexpr, WRITES: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Sum the gradients of shift and weight over a run, and make the activation again where it is wanted."""
    run, sample = tl.program_id(0), tl.program_id(1)
    channels = tl.arange(0, BLOCK_C)
    w, b = _affine(weight, shift, C, BLOCK_C, ACC)
    first, second = tl.zeros([ROWS, BLOCK_C], ACC), tl.zeros([ROWS, BLOCK_C], ACC)
    for step in tl.range(0, RUNS, num_stages=STAGES):
        rows = (run * RUNS + step) * ROWS + tl.arange(0, ROWS)
        unit, _, inside = _normalised(x, bias, mean, rstd, rows, sample, pixels, C, BLOCK_C, SIZE, ACC)
        at, _ = _rows_of(gradient, rows, sample, pixels, C, BLOCK_C)
        y = unit * w[None, :] + b[None, :]
        # Where there is nothing the gradient is zero, and so are its products.
        dy = _through(y, tl.load(at, mask=inside, other=0).to(ACC), ACTIVATION)
        first += dy
        second += dy * unit
        if WRITES:
            to, _ = _rows_of(out, rows, sample, pixels, C, BLOCK_C)
            tl.store(to, _activated(y, ACTIVATION).to(out.dtype.element_ty), mask=inside)
    place = partial + (sample * tl.num_programs(0) + run) * 2 * C + channels
    tl.store(place, tl.sum(first, 0), mask=channels < C)
    tl.store(place + C, tl.sum(second, 0), mask=channels < C)


@triton.jit(do_not_specialize=NUMBERS)
def combine_gradients(partial, weight, channel, mean, rstd, sums, means, pixels, runs, C: tl.constexpr,
                      SIZE: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
                      ACC: tl.constexpr):  # fmt: skip
    """Add up the runs' sums, and find the means that `input_gradient` needs and its own sums."""
    group, sample = tl.program_id(0), tl.program_id(1)
    own = tl.arange(0, BLOCK_S)
    some = own < SIZE
    channels = group * SIZE + own
    first, second = tl.zeros([BLOCK_R, BLOCK_S], ACC), tl.zeros([BLOCK_R, BLOCK_S], ACC)
    for begin in range(0, runs, BLOCK_R):
        run = begin + tl.arange(0, BLOCK_R)
        inside = (run < runs)[:, None] & some[None, :]
        at = partial + (sample * runs + run)[:, None] * 2 * C + channels[None, :]
        first += tl.load(at, mask=inside, other=0)
        second += tl.load(at + C, mask=inside, other=0)
    total, product = tl.sum(first, 0), tl.sum(second, 0)
    w = tl.load(weight + channels, mask=some, other=0).to(ACC)
    count = pixels.to(ACC)
    mean_1 = tl.sum(w * total, 0) / (count * SIZE)
    mean_2 = tl.sum(w * product, 0) / (count * SIZE)
    place = sample * tl.num_programs(0) + group
    m, r = tl.load(mean + place), tl.load(rstd + place)
    units = count * (tl.load(channel + sample * C + channels, mask=some, other=0) - m) * r
    to = sums + sample * 3 * C + channels
    tl.store(to, product, mask=some)
    tl.store(to + C, total, mask=some)
    tl.store(to + 2 * C, r * (w * total - count * mean_1 - units * mean_2), mask=some)
    tl.store(means + 2 * place, mean_1)
    tl.store(means + 2 * place + 1, mean_2)


@triton.jit(do_not_specialize=NUMBERS)
def input_gradient(x, bias, mean, rstd, weight, shift, gradient, means, beside, out, pixels, C: tl.constexpr,
                   BLOCK_C: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr,
                   ACTIVATION: tl.constexpr, BESIDE: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Go back through `activate`, and add the gradient that came beside it."""
    sample = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    unit, r, inside = _normalised(x, bias, mean, rstd, rows, sample, pixels, C, BLOCK_C, SIZE, ACC)
    w, b = _affine(weight, shift, C, BLOCK_C, ACC)
    at, _ = _rows_of(gradient, rows, sample, pixels, C, BLOCK_C)
    channels = tl.arange(0, BLOCK_C)
    group = sample * (C // SIZE) + channels // SIZE
    mean_1 = tl.load(means + 2 * group, mask=channels < C, other=0)
    mean_2 = tl.load(means + 2 * group + 1, mask=channels < C, other=0)
    y = unit * w[None, :] + b[None, :]
    dy = _through(y, tl.load(at, mask=inside, other=0).to(ACC), ACTIVATION)
    dx = (dy * w[None, :] - mean_1[None, :] - unit * mean_2[None, :]) * r[None, :]
    if BESIDE:
        more, _ = _rows_of(beside, rows, sample, pixels, C, BLOCK_C)
        dx += tl.load(more, mask=inside, other=0).to(ACC)
    to, _ = _rows_of(out, rows, sample, pixels, C, BLOCK_C)
    tl.store(to, dx.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=NUMBERS)
def unshuffle(gradient, out, pixels, width, C: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr):
    """Bring a gradient from pixels to the corners that they were made from; zero where there is no pixel."""
    sample, corner = tl.program_id(1), tl.program_id(2)
    channels = tl.arange(0, BLOCK_C)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    side, height = width // 2 + 1, pixels // width
    y, x = rows // side * 2 - corner // 2, rows % side * 2 - corner % 2
    some = (rows < (height // 2 + 1) * side)[:, None] & (channels < C)[None, :]
    inside = ((y >= 0) & (x >= 0) & (y < height) & (x < width))[:, None] & some
    at = gradient + sample.to(tl.int64) * pixels * C + (y * width + x)[:, None] * C + channels[None, :]
    to = out + (sample.to(tl.int64) * (height // 2 + 1) * side + rows[:, None]) * 4 * C + corner * C + channels[None, :]
    tl.store(to, tl.load(at, mask=inside, other=0), mask=some)
