"""At which noise, how often and how exactly samples are scored; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dprune.errors import UsageError
from dprune.precision import resolved
from dprune.runtime import is_gpu

SIGMA = ".06"
DRAWS = 8
BATCH_SIZE = 128
LOSS, SQUARED_NORM, DOT = 0, 1, 2
"""Places of what is measured of a draw, in the last dimension of measures."""


@dataclass(frozen=True)
class Settings:
    """Everything that changes a score, the network and the latents aside.

    Attributes:
        sigmas: noise levels, from above 0 (clean) to 1 (noise), in rising order.
        draws: noises at each of them: 1, or pairs of a noise and its negative.
        seed: of the noises.
        precision: of the network's arithmetic, as records call it.
    """

    sigmas: tuple[float, ...]
    draws: int
    seed: int
    precision: str

    @property
    def pairs(self) -> int:
        """Independent draws at each noise level."""
        return max(1, self.draws // 2)

    def options(self) -> dict[str, Any]:
        """Return what changes the score, as provenance holds it, the seed aside."""
        return {"sigma": list(self.sigmas), "draws": self.draws, "precision": self.precision}

    def at(self, sigma: float) -> Settings:
        """Return the settings of one noise level alone, whose draws are the same."""
        return replace(self, sigmas=(sigma,))


def parse_sigmas(text: str) -> tuple[float, ...]:
    """Read noise levels such as `.06` or `.06,.29`.

    Raises:
        UsageError: they are not numbers above 0 and up to 1, each given once.
    """
    try:
        sigmas = tuple(sorted(map(float, text.split(","))))
    except ValueError:
        sigmas = ()
    if not sigmas or not all(0 < sigma <= 1 for sigma in sigmas) or len(set(sigmas)) < len(sigmas):
        raise UsageError(f"--sigma {text}: give noise levels above 0 (clean) and up to 1 (noise), such as .06,.29.")
    return sigmas


def resolve_compile(compiles: bool | None, device: str) -> bool:
    """Tell whether blocks are compiled: on a GPU, unless told otherwise.

    Raises:
        UsageError: they are to be, elsewhere.
    """
    on_gpu = is_gpu(device)
    if compiles and not on_gpu:
        raise UsageError("--compile: blocks are compiled for a GPU only: leave it out.")
    return on_gpu if compiles is None else compiles


def resolve(
    sigma: str = SIGMA, draws: int = DRAWS, seed: int = 0, precision: str = "auto", device: str = "auto"
) -> Settings:
    """Check the options and fill in what was left out.

    Raises:
        UsageError: an option cannot be read.
    """
    if draws > 1 and draws % 2:
        raise UsageError(f"--draws {draws}: they come in pairs of a noise and its negative: give 1, or an even number.")
    return Settings(parse_sigmas(sigma), draws, seed, resolved(precision, device))
