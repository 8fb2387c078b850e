"""Noise that belongs to (seed, purpose, sample, draw): batched, counter-based, the same on a CPU and on a GPU.

Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in integer tensor operations:
the key comes from seed and purpose, the counter from the sample's id, the draw and the position inside the sample. So
a sample's numbers depend neither on the batch that it is in nor on how many processes there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dprune.kernels.available import triton_works
from dprune.seeds import purpose_key

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def bits(seed: int, purpose: str, ids: Tensor, draw: int | Tensor, count: int) -> Tensor:
    """Return uniform 32-bit integers.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for; each purpose is independent of every other.
        ids: int64 [n], of samples or images, from 0.
        draw: which draw for these ids, or int64 [n], which one for each of them; below 2**32.
        count: numbers for each id.

    Returns:
        int64 [n, count] in [0, 2**32), on the device of `ids`.
    """
    key = purpose_key(seed, purpose)
    if triton_works(ids.device):
        from dprune.kernels.philox import philox

        return philox(key, ids, draw, count, torch.int64)
    return plain_bits(key, ids, draw, count)


def plain_bits(key: int, ids: Tensor, draw: int | Tensor, count: int) -> Tensor:
    """Return what `bits` does, by tensor operations that every device has, given the key."""
    blocks = torch.arange((count + 3) // 4, device=ids.device)
    draws = draw if isinstance(draw, Tensor) else torch.full((1,), draw, device=ids.device)
    counter = blocks, draws[:, None], (ids & _LOW)[:, None], (ids >> 32)[:, None]
    return torch.stack(_philox(counter, key & _LOW, key >> 32), dim=-1).flatten(1)[:, :count]


def _philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], low: int, high: int) -> tuple[Tensor, ...]:
    c0, c1, c2, c3 = counter
    for round_ in range(_ROUNDS):
        # An int64 product wraps, and the wrapped bits are those of the 64-bit unsigned product.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        k0, k1 = (low + round_ * _WEYL[0]) & _LOW, (high + round_ * _WEYL[1]) & _LOW
        c0, c1, c2, c3 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, p1 & _LOW, ((p0 >> 32) & _LOW) ^ c3 ^ k1, p0 & _LOW
    return c0, c1, c2, c3


def uniform(seed: int, purpose: str, ids: Tensor, draw: int | Tensor = 0) -> Tensor:
    """Return one number in (0, 1) for each id, float32 [n]: the top 23 bits, so that none rounds to 1."""
    return ((bits(seed, purpose, ids, draw, 1)[:, 0] >> 9).float() + 0.5) * 2.0**-23


def normal(seed: int, purpose: str, ids: Tensor, draw: int | Tensor, shape: Sequence[int]) -> Tensor:
    """Return standard normal numbers by Box and Muller's transform.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for.
        ids: int64 [n].
        draw: which draw for these ids, or int64 [n], which one for each of them.
        shape: of one sample's numbers.

    Returns:
        float32 [n, *shape]; a CPU and a GPU agree up to the rounding of logarithm, sine and cosine.
    """
    count = math.prod(shape)
    pairs = _fractions(purpose_key(seed, purpose), ids, draw, count + count % 2).view(len(ids), -1, 2)
    radius, angle = (-2 * pairs[..., 0].log()).sqrt(), pairs[..., 1] * (2 * math.pi)
    both = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)
    return both[:, :count].reshape(len(ids), *shape)


def _fractions(key: int, ids: Tensor, draw: int | Tensor, count: int) -> Tensor:
    """Return uniform numbers in (0, 1], float32 [n, count]."""
    if triton_works(ids.device):
        from dprune.kernels.philox import philox

        return philox(key, ids, draw, count, torch.float32)
    return plain_bits(key, ids, draw, count).float().add_(0.5).mul_(2.0**-32)
