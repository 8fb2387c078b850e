"""At which noise, how often and how exactly samples are scored; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dprune.errors import UsageError
from dprune.models.parametrization import VELOCITY, recorded
from dprune.precision import resolved
from dprune.runtime import is_gpu

MOST_SIGMAS = 100
UNIFORM = "uniform"
SHARED, OWN = "shared", "own"
LOSS, SQUARED_NORM, DOT = 0, 1, 2
"""Places of what is measured of a draw, in the last dimension of measures."""


@dataclass(frozen=True)
class ScoreSettings:
    """How samples are scored by networks.

    Attributes:
        sigmas: noise levels, from above 0 (clean) to 1 (noise), in rising order; none where each sample and draw
            gets its own, uniform in (0, 1).
        draws: noises at each of them: 1, or pairs of a noise and its negative.
        seed: of the noises.
        precision: of the network's arithmetic, as records call it.
        weights: `ema` or `raw`, which of a checkpoint's; None for a file that holds one set of weights.
        device: its name.
        batch_size: samples in one pass.
        compiles: whether the network's blocks are compiled.
        parametrization: what the networks predict, see `parametrization_of`.
        noise: whether the noises are `shared` by all samples, or each sample's `own`.
    """

    sigmas: tuple[float, ...]
    draws: int
    seed: int
    precision: str
    weights: str | None = None
    device: str = "cpu"
    batch_size: int = 128
    compiles: bool = False
    parametrization: str = VELOCITY
    noise: str = SHARED

    @property
    def levels(self) -> int:
        """Noise levels whose scores are told apart."""
        return max(1, len(self.sigmas))

    @property
    def pairs(self) -> int:
        """Independent draws at each noise level."""
        return max(1, self.draws // 2)

    def check_mean_gradient(self) -> None:
        """Refuse noise that a mean gradient cannot be of.

        Raises:
            UsageError: there is one, the same for all samples.
        """
        if self.draws == 1 and self.noise == SHARED:
            raise UsageError("--draws 1: one noise that all samples share makes up most of their mean gradient: "
                             "give --draws 2 or more, or --noise own.")  # fmt: skip

    def options(self) -> dict[str, Any]:
        """Return what changes the score, as provenance holds it, the seed aside."""
        weights = {} if self.weights is None else {"weights": self.weights}
        noise = {} if self.noise == SHARED else {"noise": self.noise}
        sigma = list(self.sigmas) or UNIFORM
        found = {"sigma": sigma, "draws": self.draws, "precision": self.precision}
        return found | weights | recorded(self.parametrization) | noise


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of all scores by models, as they are given; the command's help says what they are."""

    subset: str | None = None
    sigma: str = ".06"
    draws: int = 8
    noise: str = SHARED
    weights: str = "ema"
    precision: str = "auto"
    compiles: bool | None = None
    batch_size: int = 128
    seed: int = 0
    device: str = "auto"

    def resolve(self) -> ScoreSettings:
        """Check the options and fill in what was left out.

        Raises:
            UsageError: an option cannot be.
        """
        if self.draws > 1 and self.draws % 2:
            raise UsageError(
                f"--draws {self.draws}: they come in pairs of a noise and its negative: give 1, or an even number."
            )
        sigmas, on_gpu = parse_sigmas(self.sigma), is_gpu(self.device)
        if self.compiles and not on_gpu:
            raise UsageError("--compile: blocks are compiled for a GPU only: leave it out.")
        compiles = on_gpu if self.compiles is None else self.compiles
        return ScoreSettings(sigmas, self.draws, self.seed, resolved(self.precision, self.device), self.weights,
                             self.device, self.batch_size, compiles, noise=self.noise)  # fmt: skip


def parse_sigmas(text: str) -> tuple[float, ...]:
    """Read noise levels such as `.06` or `.06,.29`; none of `uniform`.

    Raises:
        UsageError: they are not numbers above 0 and up to 1, each given once.
    """
    if text == UNIFORM:
        return ()
    try:
        sigmas = tuple(sorted(map(float, text.split(","))))
    except ValueError:
        sigmas = ()
    if not sigmas or not all(0 < sigma <= 1 for sigma in sigmas) or len(set(sigmas)) < len(sigmas):
        raise UsageError(f"--sigma {text}: give noise levels above 0 (clean) and up to 1 (noise), such as .06,.29, "
                         f"or {UNIFORM}.")  # fmt: skip
    if len(sigmas) > MOST_SIGMAS:
        raise UsageError(f"--sigma: {len(sigmas):,} noise levels are given, each of which is a pass: give "
                         f"{MOST_SIGMAS} at most.")  # fmt: skip
    return sigmas
