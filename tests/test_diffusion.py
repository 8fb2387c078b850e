"""Noise prediction as a velocity, against Gaussian data whose best predictions are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dprune.flow import solve
from dprune.models.diffusion import log_ratios, velocity

CPU = torch.device("cpu")
MEAN, DEVIATION = torch.tensor([0.7, -1.2, 0.0]).double(), torch.tensor([0.5, 1.0, 1.6]).double()


def kept() -> np.ndarray:
    """The products that DDPM calls alpha bar, of DiT's linear betas."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def best_noise(x: Tensor, timestep: Tensor) -> Tensor:
    """What a perfect DiT would predict of data N(MEAN, DEVIATION^2): E[noise | x], given nothing but the timestep."""
    assert timestep.dtype == torch.float64
    assert ((timestep >= 0) & (timestep <= 999)).all()
    between = np.interp(timestep.numpy(), np.arange(1000), 0.5 * np.log((1 - kept()) / kept()))
    ratio = torch.from_numpy(np.exp(between))[:, None]
    alpha = (1 + ratio.square()).rsqrt()
    sigma = ratio * alpha
    return sigma * (x - alpha * MEAN) / (alpha.square() * DEVIATION.square() + sigma.square())


def best_velocity(x: Tensor, s: float) -> Tensor:
    """E[data - noise | x] on the straight path at noise level s."""
    spread = (1 - s) ** 2 * DEVIATION.square() + s**2
    away = (x - (1 - s) * MEAN) / spread
    return MEAN + ((1 - s) * DEVIATION.square() - s) * away


def test_the_table_is_that_of_dit() -> None:
    np.testing.assert_allclose(log_ratios(CPU).exp().square(), (1 - kept()) / kept(), rtol=1e-9)
    # Nichol and Dhariwal (2021): what is left of the data at the last timestep is 4e-5.
    assert kept()[-1] == pytest.approx(4.04e-5, rel=1e-2)


def test_timesteps_are_those_of_their_noise() -> None:
    seen: list[Tensor] = []

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        seen.append(timestep)
        return x

    steps = torch.tensor([0, 1, 17, 500, 998, 999])
    ratio = log_ratios(CPU)[steps].exp()
    velocity(predict, torch.zeros(6, 1, dtype=torch.float64), 1 / (1 + ratio))
    torch.testing.assert_close(seen[0], steps.double(), rtol=0, atol=1e-6)
    velocity(predict, torch.zeros(4, 1, dtype=torch.float64), torch.tensor([-1e-9, 0.0, 1.0, 1 + 1e-9]))
    assert seen[1].tolist() == [999, 999, 0, 0]


@pytest.mark.parametrize("s", [0.011, 0.06, 0.29, 0.5, 0.9, 0.99])
def test_the_best_noise_gives_the_best_velocity(s: float) -> None:
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = velocity(best_noise, x, torch.full((50,), 1 - s, dtype=torch.float64))
    torch.testing.assert_close(found, best_velocity(x, s), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("s", "error"), [(0.0, 1e-3), (1e-4, 1e-3), (0.005, 1e-3), (0.995, 0.05), (1.0, 0.05)])
def test_beyond_the_ends_of_the_diffusion_velocities_stay_near_the_best(s: float, error: float) -> None:
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = velocity(best_noise, x, torch.full((50,), 1 - s, dtype=torch.float64))
    assert (found - best_velocity(x, s)).abs().max() < error


@pytest.mark.parametrize(
    ("solver", "steps", "error"), [("euler", 250, 0.02), ("heun", 50, 0.005), ("dopri5", 0, 0.005)]
)
def test_sampling_recovers_mean_and_deviation(solver: str, steps: int, error: float) -> None:
    """Where every velocity is the best, the noise z ends at MEAN + DEVIATION z."""
    z = torch.randn(4000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = (z - z.mean(0)) / z.std(0)

    def at(x: Tensor, t: float) -> Tensor:
        return velocity(best_noise, x, torch.full((len(x),), t, dtype=torch.float64))

    found = solve(at, z, solver, steps)
    torch.testing.assert_close(found.mean(0), MEAN, rtol=0, atol=error)
    torch.testing.assert_close(found.std(0), DEVIATION, rtol=0, atol=error)
    assert (found - (MEAN + DEVIATION * z)).abs().max() < 5 * error
