"""Predicted noise as a velocity: the diffusion that DiT was trained on, along the straight path of flow matching.

DiT takes alpha data + sigma noise with alpha^2 + sigma^2 = 1, at 1,000 timesteps (Ho et al., 2020; the betas are those
of facebookresearch/DiT). On the straight path x = (1 - s) data + s noise; where s / (1 - s) is sigma / alpha the two
are the same but for a factor. Real timesteps lie between the 1,000, linearly in the logarithm of that ratio.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

TIMESTEPS, FIRST_BETA, LAST_BETA = 1000, 1e-4, 0.02


@functools.cache
def log_ratios(device: torch.device) -> Tensor:
    """Return log(sigma / alpha) of every timestep, rising, float64 [1000]."""
    kept = (1 - torch.linspace(FIRST_BETA, LAST_BETA, TIMESTEPS, dtype=torch.float64)).cumprod(0)
    return (-0.5 * torch.logit(kept)).to(device)


def velocity(predict: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
    """Return the velocity data - noise of the straight path by a network that predicts noise.

    Args:
        predict: maps latents of variance 1 and timesteps [B], from 0 to 999, to their noise.
        x: noisy latents [B, ...].
        t: times [B], 0 noise and 1 data.

    Returns:
        Of the shape and dtype of `x`. With less noise than the first timestep has, predicted noise shrinks with the
        level, which is right where the score hardly changes; with more than the last has, data is what it predicts
        there, so that the velocity stays finite where all is noise.
    """
    # Solvers that choose their steps may look a little beyond the ends.
    table, sigma = log_ratios(x.device), (1 - t.double()).clamp(0, 1)
    ratio = torch.logit(sigma)
    scale = (sigma.square() + (1 - sigma).square()).rsqrt()
    noise = predict(_by_sample(scale, x) * x, _timestep(table, ratio).to(x.dtype)).to(x.dtype)
    # What x and the predicted noise weigh in data - noise, where data is (x - s noise) / (1 - s).
    own, its = 1 / (1 - sigma), (ratio - table[0]).clamp(max=0).exp() / (1 - sigma)
    # Beyond the last timestep, in (data - x) / s.
    beyond, last = ratio > table[-1], table[-1].exp()
    own = torch.where(beyond, ((1 + last.square()).sqrt() * scale - 1) / sigma, own)
    its = torch.where(beyond, last / sigma, its)
    return _by_sample(own, x) * x - _by_sample(its, x) * noise


def _timestep(table: Tensor, ratio: Tensor) -> Tensor:
    """Return where the logarithms of ratios [B] lie in the table, from 0 to its last place, float64 [B]."""
    held = ratio.clamp(table[0], table[-1])
    above = torch.searchsorted(table, held).clamp(1, len(table) - 1)
    low = table[above - 1]
    return above - 1 + (held - low) / (table[above] - low)


def _by_sample(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
