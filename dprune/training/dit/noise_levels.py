"""Times for samples that are trained on from a noise level of their own on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.training.order import Weights


class NoiseLevels:
    """Which samples are drawn at which noise level, where each has one below which it is not.

    The distribution of the noise levels of all visits stays what it is without: at each level the visits go to those
    samples alone that are trained on there, in proportion to their weights. That is what Ambient Diffusion Omni does
    (Daras et al., 2025), which draws a level and then passes over samples until one may have it. Drawn the other way
    round, a level for each sample among its own, most visits would go to high noise, and few to details.

    So a sample is drawn the more often the more levels it may have and the fewer samples share them, and its time t
    has a density of 1 / W(t) over those up to 1 - sigma, W being the weights of all samples that may have that time.
    Both follow from H(q), the integral of 1 / W from 0 to the quantile q of the time.

    Attributes:
        weights: how often each sample is to be drawn, float64 [n], of the sum of the given ones.

    Args:
        least: the lowest noise level of each sample, [n] in [0, 1).
        ids: of the samples, int64 [n].
        weights: how often each would be drawn otherwise, float64 [n], None for all alike.
        time: as `DiTSettings` has it.
        device: where times are wanted.
    """

    def __init__(
        self, least: npt.NDArray[np.floating], ids: npt.NDArray[np.int64], weights: Weights | None, time: str,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._normal = time == "logit-normal"
        latest = 1 - torch.from_numpy(least.astype(np.float64))
        quantiles = torch.special.ndtr(latest.logit()) if self._normal else latest
        # Rounded, so that what machines differ by in the last bit makes no other order.
        limits = quantiles.float().double().numpy()
        weights = np.ones(len(ids)) if weights is None else weights
        knots, place = np.unique(limits, return_inverse=True)
        above = np.cumsum(np.bincount(place, weights)[::-1])[::-1]
        reached = np.cumsum(np.diff(knots, prepend=0) / above)
        shares = weights * reached[place]
        self.weights: Weights = shares * (weights.sum() / shares.sum())
        self._quantiles, self._reached = (
            torch.from_numpy(np.concatenate(([0.0], values))).to(device) for values in (knots, reached)
        )
        self._limit = _by_id(ids, reached[place], device)

    def times(self, uniform: Tensor, ids: Tensor) -> Tensor:
        """Return the times of visits.

        Args:
            uniform: numbers in (0, 1), float32 [b].
            ids: of the samples, int64 [b].

        Returns:
            float32 [b]; the noise level 1 - t is at least that of the sample, up to rounding.
        """
        reached = uniform.double() * self._limit[ids]
        above = torch.searchsorted(self._reached, reached).clamp(1, len(self._reached) - 1)
        left, right = self._reached[above - 1], self._reached[above]
        quantiles = torch.lerp(self._quantiles[above - 1], self._quantiles[above], (reached - left) / (right - left))
        return ((math.sqrt(2) * torch.erfinv(2 * quantiles - 1)).sigmoid() if self._normal else quantiles).float()


def _by_id(ids: npt.NDArray[np.int64], values: npt.NDArray[np.float64], device: torch.device) -> Tensor:
    found = np.zeros(int(ids[-1]) + 1)
    found[ids] = values
    return torch.from_numpy(found).to(device)
