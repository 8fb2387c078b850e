"""Self-attention on packed queries, keys and values, and its gradient packed the same way.

What a linear layer puts out is read where it stands, [B, T, 3, H, d], and its gradient is written where the layer
wants it, so nothing is copied. The tiles are those of FlashAttention-2 (Dao, 2023), with probabilities computed anew
in the backward pass. A head whose size is no power of two, such as the 72 of DiT-XL, is taken in two products, of 64
and of 16 columns, the last of which are zero: a tile of 128 would waste nearly half of the arithmetic.

Shapes in suffixes: B samples, T tokens, H heads, d size of a head, D = H d.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dprune.kernels.accumulation import TRITON, accumulator

LEAST_TILE = 16
LOG2_E = tl.constexpr(math.log2(math.e))
# The interpreter multiplies the bits of bfloat16 as if they were whole numbers.
WIDENS = tl.constexpr(bool(triton.knobs.runtime.interpret))


class Tiles(NamedTuple):
    """How a kernel is cut: rows of a program's own, rows of a step of its loop, and what the compiler is told."""

    own: int
    step: int
    warps: int
    stages: int


# Never one stage: with that, Triton 3.6 reads beyond the shared memory that it asked for.
FORWARD = Tiles(64, 64, 4, 2)
BACKWARD = Tiles(64, 64, 4, 2)


def attention(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return the attention's output [B, T, D], and the logarithms to base 2 of its denominators [B, H, T].

    Args:
        qkv: [B, T, 3 D], contiguous.
        heads: H.
    """
    samples, tokens, width = qkv.shape
    size = width // 3 // heads
    out = qkv.new_empty(samples, tokens, width // 3)
    logsum = qkv.new_empty((samples, heads, tokens), dtype=accumulator(qkv.dtype))
    tiles = _fitted(FORWARD, tokens)
    _attention_forward_kernel[(triton.cdiv(tokens, tiles.own), samples * heads)](
        qkv, out, logsum, tokens, **_shape(size, heads, tiles, tokens),
        SUM=TRITON[logsum.dtype], num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out, logsum


def attention_backward(qkv: Tensor, out: Tensor, logsum: Tensor, d_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of qkv [B, T, 3 D], and its sums over pieces of the tokens, [P, 3 D], for the caller to add.

    Args:
        qkv: see `attention`.
        out: as `attention` returned it.
        logsum: likewise.
        d_out: gradient of `out`, contiguous.
    """
    samples, tokens, width = qkv.shape
    heads = logsum.shape[1]
    size = width // 3 // heads
    tiles = _fitted(BACKWARD, tokens)
    blocks = triton.cdiv(tokens, tiles.own)
    d_qkv = torch.empty_like(qkv)
    sums = qkv.new_empty((samples * blocks, width), dtype=logsum.dtype)
    _attention_backward_kernel[(blocks, samples * heads)](
        qkv, out, logsum, d_out, d_qkv, sums, tokens, **_shape(size, heads, tiles, tokens),
        SUM=TRITON[logsum.dtype], num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return d_qkv, sums


def _fitted(tiles: Tiles, tokens: int) -> Tiles:
    """Return tiles that are not longer than the tokens are many."""
    most = max(LEAST_TILE, triton.next_power_of_2(tokens))
    warps = tiles.warps if most >= tiles.own else max(1, tiles.warps * most // tiles.own)
    return Tiles(min(tiles.own, most), min(tiles.step, most), warps, tiles.stages)


def _shape(size: int, heads: int, tiles: Tiles, tokens: int) -> dict[str, Any]:
    main = 1 << (size.bit_length() - 1)
    tail = max(LEAST_TILE, triton.next_power_of_2(size - main)) if size > main else 0
    even = tokens % tiles.own == 0 and tokens % tiles.step == 0
    return {"H": heads, "SIZE": size, "MAIN": main, "TAIL": tail, "OWN": tiles.own, "STEP": tiles.step, "EVEN": even,
            "FACTOR": 1 / math.sqrt(size)}  # fmt: skip


@triton.jit
def _load(base, rows, tokens, stride, columns, SIZE: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr):
    """Load rows of a head: zero beyond its last row and its last column."""
    at = base + rows[:, None] * stride + columns[None, :]
    if EVEN and WHOLE:
        values = tl.load(at)
    elif EVEN:
        values = tl.load(at, (columns < SIZE)[None, :], 0.0)
    elif WHOLE:
        values = tl.load(at, (rows < tokens)[:, None], 0.0)
    else:
        values = tl.load(at, (rows < tokens)[:, None] & (columns < SIZE)[None, :], 0.0)
    return values


@triton.jit
def _store(base, rows, tokens, stride, columns, values, SIZE: tl.constexpr):
    inside = (rows < tokens)[:, None] & (columns < SIZE)[None, :]
    tl.store(base + rows[:, None] * stride + columns[None, :], values.to(base.dtype.element_ty), inside)


@triton.jit
def _dot(a, b, total):
    if WIDENS:
        a, b = a.to(total.dtype), b.to(total.dtype)
    return tl.dot(a, b, total, input_precision="ieee", out_dtype=total.dtype)


@triton.jit
def _attention_forward_kernel(qkv, out, logsum, tokens, H: tl.constexpr, SIZE: tl.constexpr, MAIN: tl.constexpr,
                              TAIL: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
                              FACTOR: tl.constexpr, SUM: tl.constexpr):  # fmt: skip
    sample, head = tl.program_id(1) // H, tl.program_id(1) % H
    stride: tl.constexpr = 3 * H * SIZE
    queries = qkv + sample.to(tl.int64) * tokens * stride + head * SIZE
    keys, values = queries + H * SIZE, queries + 2 * H * SIZE
    rows = tl.program_id(0) * OWN + tl.arange(0, OWN)
    main = tl.arange(0, MAIN)
    q = _load(queries, rows, tokens, stride, main, SIZE, True, EVEN)
    mixed = tl.zeros([OWN, MAIN], SUM)
    if TAIL:
        tail = MAIN + tl.arange(0, TAIL)
        q_tail = _load(queries, rows, tokens, stride, tail, SIZE, False, EVEN)
        mixed_tail = tl.zeros([OWN, TAIL], SUM)
    most = tl.full([OWN], float("-inf"), SUM)
    total = tl.zeros([OWN], SUM)
    for start in range(0, tokens, STEP):
        others = start + tl.arange(0, STEP)
        k = _load(keys, others, tokens, stride, main, SIZE, True, EVEN)
        logits = _dot(q, tl.trans(k), tl.zeros([OWN, STEP], SUM))
        if TAIL:
            k_tail = _load(keys, others, tokens, stride, tail, SIZE, False, EVEN)
            logits = _dot(q_tail, tl.trans(k_tail), logits)
        logits *= FACTOR * LOG2_E
        if not EVEN:
            logits = tl.where((others < tokens)[None, :], logits, float("-inf"))
        higher = tl.maximum(most, tl.max(logits, 1))
        shares = tl.exp2(logits - higher[:, None])
        fade = tl.exp2(most - higher)
        total = total * fade + tl.sum(shares, 1)
        shares = shares.to(q.dtype)
        v = _load(values, others, tokens, stride, main, SIZE, True, EVEN)
        mixed = _dot(shares, v, mixed * fade[:, None])
        if TAIL:
            v_tail = _load(values, others, tokens, stride, tail, SIZE, False, EVEN)
            mixed_tail = _dot(shares, v_tail, mixed_tail * fade[:, None])
        most = higher
    to = out + sample.to(tl.int64) * tokens * H * SIZE + head * SIZE
    _store(to, rows, tokens, H * SIZE, main, mixed / total[:, None], SIZE)
    if TAIL:
        _store(to, rows, tokens, H * SIZE, tail, mixed_tail / total[:, None], SIZE)
    tl.store(logsum + tl.program_id(1) * tokens + rows, most + tl.log2(total), rows < tokens)


@triton.jit
def _attention_backward_kernel(qkv, out, logsum, d_out, d_qkv, sums, tokens, H: tl.constexpr, SIZE: tl.constexpr,
                               MAIN: tl.constexpr, TAIL: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
                               EVEN: tl.constexpr, FACTOR: tl.constexpr, SUM: tl.constexpr):  # fmt: skip
    sample, head = tl.program_id(1) // H, tl.program_id(1) % H
    width: tl.constexpr = H * SIZE
    begin = sample.to(tl.int64) * tokens * width
    queries = qkv + 3 * begin + head * SIZE
    slopes, found = d_out + begin + head * SIZE, out + begin + head * SIZE
    logs = logsum + tl.program_id(1) * tokens
    rows = tl.program_id(0) * OWN + tl.arange(0, OWN)
    to = d_qkv + 3 * begin + head * SIZE
    sum_to = sums + (sample * tl.num_programs(0) + tl.program_id(0)) * 3 * width + head * SIZE
    _backward_keys(queries, found, logs, slopes, to, sum_to, rows, tokens, width, SIZE, MAIN, TAIL, OWN, STEP, EVEN,
                   FACTOR, SUM)  # fmt: skip
    _backward_queries(queries, found, logs, slopes, to, sum_to, rows, tokens, width, SIZE, MAIN, TAIL, OWN, STEP,
                      EVEN, FACTOR, SUM)  # fmt: skip


@triton.jit
def _backward_keys(queries, found, logs, slopes, to, sum_to, rows, tokens, width: tl.constexpr, SIZE: tl.constexpr,
                   MAIN: tl.constexpr, TAIL: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
                   FACTOR: tl.constexpr, SUM: tl.constexpr):  # fmt: skip
    """Gradients of a block of keys and values, by a loop over all queries."""
    keys, values = queries + width, queries + 2 * width
    main, tail = tl.arange(0, MAIN), MAIN + tl.arange(0, TAIL if TAIL else 1)
    k = _load(keys, rows, tokens, 3 * width, main, SIZE, True, EVEN)
    v = _load(values, rows, tokens, 3 * width, main, SIZE, True, EVEN)
    dk, dv = tl.zeros([OWN, MAIN], SUM), tl.zeros([OWN, MAIN], SUM)
    if TAIL:
        k_tail = _load(keys, rows, tokens, 3 * width, tail, SIZE, False, EVEN)
        v_tail = _load(values, rows, tokens, 3 * width, tail, SIZE, False, EVEN)
        dk_tail, dv_tail = tl.zeros([OWN, TAIL], SUM), tl.zeros([OWN, TAIL], SUM)
    for start in range(0, tokens, STEP):
        others = start + tl.arange(0, STEP)
        q = _load(queries, others, tokens, 3 * width, main, SIZE, True, EVEN)
        do = _load(slopes, others, tokens, width, main, SIZE, True, EVEN)
        o = _load(found, others, tokens, width, main, SIZE, True, EVEN)
        delta = tl.sum(o.to(SUM) * do.to(SUM), 1)
        logits = _dot(k, tl.trans(q), tl.zeros([OWN, STEP], SUM))
        d_shares = _dot(v, tl.trans(do), tl.zeros([OWN, STEP], SUM))
        if TAIL:
            q_tail = _load(queries, others, tokens, 3 * width, tail, SIZE, False, EVEN)
            do_tail = _load(slopes, others, tokens, width, tail, SIZE, False, EVEN)
            o_tail = _load(found, others, tokens, width, tail, SIZE, False, EVEN)
            delta += tl.sum(o_tail.to(SUM) * do_tail.to(SUM), 1)
            logits = _dot(k_tail, tl.trans(q_tail), logits)
            d_shares = _dot(v_tail, tl.trans(do_tail), d_shares)
        log = tl.load(logs + others, others < tokens, 0.0)
        shares = tl.exp2(logits * (FACTOR * LOG2_E) - log[None, :])
        if not EVEN:
            shares = tl.where((rows < tokens)[:, None] & (others < tokens)[None, :], shares, 0.0)
        d_logits = (shares * (d_shares - delta[None, :])).to(q.dtype)
        shares = shares.to(q.dtype)
        dv = _dot(shares, do, dv)
        dk = _dot(d_logits, q, dk)
        if TAIL:
            dv_tail = _dot(shares, do_tail, dv_tail)
            dk_tail = _dot(d_logits, q_tail, dk_tail)
    _store_and_add(to + width, sum_to + width, rows, tokens, 3 * width, main, dk * FACTOR, SIZE)
    _store_and_add(to + 2 * width, sum_to + 2 * width, rows, tokens, 3 * width, main, dv, SIZE)
    if TAIL:
        _store_and_add(to + width, sum_to + width, rows, tokens, 3 * width, tail, dk_tail * FACTOR, SIZE)
        _store_and_add(to + 2 * width, sum_to + 2 * width, rows, tokens, 3 * width, tail, dv_tail, SIZE)


@triton.jit
def _backward_queries(queries, found, logs, slopes, to, sum_to, rows, tokens, width: tl.constexpr, SIZE: tl.constexpr,
                      MAIN: tl.constexpr, TAIL: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
                      EVEN: tl.constexpr, FACTOR: tl.constexpr, SUM: tl.constexpr):  # fmt: skip
    """The gradient of a block of queries, by a loop over all keys."""
    keys, values = queries + width, queries + 2 * width
    main, tail = tl.arange(0, MAIN), MAIN + tl.arange(0, TAIL if TAIL else 1)
    q = _load(queries, rows, tokens, 3 * width, main, SIZE, True, EVEN)
    do = _load(slopes, rows, tokens, width, main, SIZE, True, EVEN)
    o = _load(found, rows, tokens, width, main, SIZE, True, EVEN)
    delta = tl.sum(o.to(SUM) * do.to(SUM), 1)
    dq = tl.zeros([OWN, MAIN], SUM)
    if TAIL:
        q_tail = _load(queries, rows, tokens, 3 * width, tail, SIZE, False, EVEN)
        do_tail = _load(slopes, rows, tokens, width, tail, SIZE, False, EVEN)
        o_tail = _load(found, rows, tokens, width, tail, SIZE, False, EVEN)
        delta += tl.sum(o_tail.to(SUM) * do_tail.to(SUM), 1)
        dq_tail = tl.zeros([OWN, TAIL], SUM)
    log = tl.load(logs + rows, rows < tokens, 0.0)
    for start in range(0, tokens, STEP):
        others = start + tl.arange(0, STEP)
        k = _load(keys, others, tokens, 3 * width, main, SIZE, True, EVEN)
        v = _load(values, others, tokens, 3 * width, main, SIZE, True, EVEN)
        logits = _dot(q, tl.trans(k), tl.zeros([OWN, STEP], SUM))
        d_shares = _dot(do, tl.trans(v), tl.zeros([OWN, STEP], SUM))
        if TAIL:
            k_tail = _load(keys, others, tokens, 3 * width, tail, SIZE, False, EVEN)
            v_tail = _load(values, others, tokens, 3 * width, tail, SIZE, False, EVEN)
            logits = _dot(q_tail, tl.trans(k_tail), logits)
            d_shares = _dot(do_tail, tl.trans(v_tail), d_shares)
        shares = tl.exp2(logits * (FACTOR * LOG2_E) - log[:, None])
        if not EVEN:
            shares = tl.where((rows < tokens)[:, None] & (others < tokens)[None, :], shares, 0.0)
        d_logits = (shares * (d_shares - delta[:, None])).to(q.dtype)
        dq = _dot(d_logits, k, dq)
        if TAIL:
            dq_tail = _dot(d_logits, k_tail, dq_tail)
    _store_and_add(to, sum_to, rows, tokens, 3 * width, main, dq * FACTOR, SIZE)
    if TAIL:
        _store_and_add(to, sum_to, rows, tokens, 3 * width, tail, dq_tail * FACTOR, SIZE)


@triton.jit
def _store_and_add(to, sum_to, rows, tokens, stride, columns, values, SIZE: tl.constexpr):
    """Store rows, and their sum; rows beyond the last are zero."""
    _store(to, rows, tokens, stride, columns, values, SIZE)
    tl.store(sum_to + columns, tl.sum(values, 0), columns < SIZE)
