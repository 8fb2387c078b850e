"""Flow matching: the interpolant, its loss, guidance and the solvers that turn noise into data.

Time follows SiT (Ma et al., 2024): x_t = t x + (1 - t) noise, so t = 1 is data and the velocity is x - noise. The
noise level that files and options speak of is sigma = 1 - t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dprune.noise import normal

# Maps latents [B, ...] at one time (a float) to their velocity.
Velocity = Callable[[Tensor, float], Tensor]


class Network(Protocol):
    """Predicts the velocity from latents [B, ...], times [B] and labels [B]."""

    def __call__(self, x: Tensor, t: Tensor, y: Tensor, /) -> Tensor:
        """Return a tensor of the shape of `x`."""


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return t data + (1 - t) noise for times [B]."""
    t = t.view(-1, *[1] * (data.ndim - 1))
    return t * data + (1 - t) * noise


def flow_loss(network: Network, data: Tensor, noise: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Return each sample's squared error of the velocity, averaged over its elements.

    Args:
        network: the model.
        data: latents [B, C, H, W], normalised.
        noise: of the shape of `data`.
        t: times [B] in [0, 1].
        y: labels, int64 [B].

    Returns:
        [B], in float32 or in the precision of `data` if that is higher.
    """
    velocity = network(interpolate(data, noise, t), t, y)
    error = velocity.to(data.dtype) - (data - noise)
    return error.square().flatten(1).mean(1)


@dataclass(frozen=True)
class Guidance:
    """How far to go beyond a velocity v, away from worse ones: v + (scale - 1)(v - v_0) + (weaker_scale - 1)(v - v_w).

    v_0 is what the network gives without a label (classifier-free guidance, Ho and Salimans, 2022), and v_w what a
    weaker network gives with the same label (autoguidance, Karras et al., 2024).

    Attributes:
        scale: of the first, 1 for none.
        interval: times between which both act; outside them the velocity is taken as it is (Kynkäänniemi et al., 2024).
        channels: how many of the first channels are guided, None for all; 3 is what DiT's and SiT's code do.
        weaker_scale: of the second, 1 for none.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    channels: int | None = None
    weaker_scale: float = 1.0

    def acts(self, t: float) -> bool:
        """Tell whether anything is to be guided at a time."""
        return (self.scale, self.weaker_scale) != (1.0, 1.0) and self.interval[0] <= t <= self.interval[1]


def guided(network: Network, y: Tensor, null: int, guidance: Guidance, weaker: Velocity | None = None) -> Velocity:
    """Return the velocity for labels under guidance.

    Args:
        network: the model.
        y: labels, int64 [B].
        null: the label that stands for none.
        guidance: how strongly labels act, and the weaker network.
        weaker: velocity by that network, which is asked only where it acts.
    """
    both = torch.cat((y, torch.full_like(y, null)))

    def velocity(x: Tensor, t: float) -> Tensor:
        times = torch.full((len(x),), t, device=x.device, dtype=x.dtype)
        if not guidance.acts(t):
            return network(x, times, y).to(x.dtype)
        if guidance.scale == 1.0:
            own = result = network(x, times, y).to(x.dtype)
        else:
            own, unconditional = network(x.repeat(2, 1, 1, 1), times.repeat(2), both).to(x.dtype).chunk(2)
            result = unconditional + guidance.scale * (own - unconditional)
        if weaker is not None and guidance.weaker_scale != 1.0:
            result = result + (guidance.weaker_scale - 1) * (own - weaker(x, t))
        if guidance.channels is not None:
            result[:, guidance.channels :] = own[:, guidance.channels :]
        return result

    return velocity


def start(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the noise that images are made of, the same for every model, so that models can be compared.

    Args:
        seeds: of the images, int64 [B].
        shape: of one image's latents.

    Returns:
        float32 [B, *shape].
    """
    return normal(0, "sample", seeds, 0, shape)


def solve(
    velocity: Velocity, noise: Tensor, solver: str, steps: int, tolerance: float = 1e-5,
    span: tuple[float, float] = (0.0, 1.0),
) -> Tensor:  # fmt: skip
    """Integrate from noise at t = 0 to data at t = 1, or a part of that way.

    Args:
        velocity: of the flow.
        noise: [B, ...]; its dtype is that of the state.
        solver: `euler` (one evaluation a step), `heun` (two) or `dopri5` (adaptive, by torchdiffeq; its step sizes
            depend on all images of the batch).
        steps: of equal size on the whole way; dopri5 does not use them.
        tolerance: absolute and relative, of dopri5.
        span: times from which and to which to go. Those of the steps are taken that begin in it, its end excluded, so
            that spans which follow on each other are together the whole; dopri5 integrates from one to the other.
    """
    if solver == "dopri5":
        return _dopri5(velocity, noise, tolerance, span)
    x, size = noise, 1 / steps
    # The quotient, unlike the product with the size, is the nearest number to a decimal such as .7.
    for step in (number for number in range(steps) if span[0] <= number / steps < span[1]):
        slope = velocity(x, step * size)
        ahead = x + size * slope
        x = ahead if solver == "euler" else x + size / 2 * (slope + velocity(ahead, (step + 1) * size))
    return x


def _dopri5(velocity: Velocity, noise: Tensor, tolerance: float, span: tuple[float, float]) -> Tensor:
    if span[0] == span[1]:
        return noise
    from torchdiffeq import odeint

    # The solver chooses its steps by the error that it sees, so it waits for the device at each of them anyway.
    times = torch.tensor(span, device=noise.device, dtype=noise.dtype)
    options = {"method": "dopri5", "atol": tolerance, "rtol": tolerance}
    path: Tensor = odeint(lambda t, x: velocity(x, float(t)), noise, times, **options)
    return path[-1]
