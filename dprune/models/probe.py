"""What a diffusion transformer predicts, by what it answers to noise.

State dicts of DiT, SiT and REPA have the same names and shapes, but their networks do different things with noise e:

- SiT's velocity is data - noise. At t = 0, where all is noise, e says nothing of the data, and the answer is about -e.
- REPA's is noise - data, and all is noise at t = 1, where the answer is about e. At the other end, where all is data,
  either may give what the other gives there, since e minus nothing is e. Half way, where both take e / 2 for an even
  mix, SiT's answer lies against e and REPA's along it: e has most of its power at high frequencies, where latents have
  little, so that more of it is taken for noise than for data.
- DiT's is the noise itself: e at the last of 1,000 timesteps, where next to nothing else is left. Its answers at
  timesteps 0 and 1 are nearly the same, which those of networks whose time goes from 0 to 1 are not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dprune.models.diffusion import TIMESTEPS
from dprune.models.dit import DiT
from dprune.models.parametrization import NOISE, REVERSED, VELOCITY
from dprune.noise import normal

CLEAR, CLEAREST, LEANING = 0.7, 0.9, 0.1
"""Correlations beyond which an answer tells: where all is noise to a velocity, and to DiT, and half way."""
APART = 0.3
"""How far apart correlations at both ends of time are, at least, where it goes from 0 to 1."""
NUMBERS = 4096
"""That a correlation is taken over at least: chance moves it by .016."""


class Answers(NamedTuple):
    """Correlations of a network's output with the noise that it was given.

    Attributes:
        begin: at t = 0.
        middle: at t = 0.5, given half of the noise.
        end: at t = 1.
        last: at timestep 999.
    """

    begin: float
    middle: float
    end: float
    last: float

    @property
    def prediction(self) -> str | None:
        """What the network predicts, one of `PREDICTIONS`, None where that is not clear."""
        if abs(self.end - self.begin) < APART:
            return NOISE if self.last > CLEAREST and self.begin > 0 else None
        if self.begin < -CLEAR and self.middle < -LEANING:
            return VELOCITY
        return REVERSED if self.end > CLEAR and self.middle > LEANING else None

    def __str__(self) -> str:
        """Return the correlations as messages show them."""
        # Plus zero: a zero has no sign.
        begin, middle, end, last = (f"{round(value, 2) + 0:.2f}" for value in self)
        return f"correlations {begin}, {middle} and {end} at t=0, 0.5 and 1, {last} at timestep 999"


def answers_of(network: DiT) -> Answers:
    """Ask a network, whatever its parametrization is said to be, in one pass, with no label.

    Args:
        network: in eval mode, on its device, in float32.
    """
    config, device = network.config, network.pos_embed.device
    shape = (config.channels, config.input_size, config.input_size)
    count = math.ceil(NUMBERS / math.prod(shape))
    noise = normal(0, "parametrization", torch.arange(count, device=device), 0, shape)
    times = torch.tensor([0.0, 0.5, 1.0, TIMESTEPS - 1.0], device=device).repeat_interleave(count)
    labels = torch.full((len(times),), config.classes, device=device)
    with torch.no_grad():
        found = network.predicted(torch.cat((noise, noise / 2, noise, noise)), times, labels)
    return Answers(*(_correlation(answer, noise) for answer in found.chunk(4)))


def _correlation(answer: Tensor, noise: Tensor) -> float:
    """Return the correlation of all numbers, 0 for an answer that is always the same or not finite."""
    found = torch.corrcoef(torch.stack((answer.double().flatten(), noise.double().flatten())))[0, 1]
    return float(found.nan_to_num())
