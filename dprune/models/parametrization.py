"""What a diffusion transformer predicts, by its file and by what is said of it; nothing here imports torch.

A network that was made elsewhere is asked itself where nothing is said: see `models.probe`.
"""

from __future__ import annotations

from pathlib import Path

from dprune.errors import UsageError
from dprune.models.files import ModelFile

VELOCITY, REVERSED, NOISE = "velocity", "reversed", "noise"
PREDICTIONS = {VELOCITY: "velocities", REVERSED: "velocities of reversed time", NOISE: "noise"}
"""What a network may predict, with what messages call it.

Velocities are data - noise at times from 0 (noise) to 1 (data), as SiT's; those of reversed time are noise - data at
times from 0 (data) to 1 (noise), as REPA's; noise is that of DiT's 1,000 timesteps.
"""
INFERRED = "inferred"
"""That nothing was said of a network made elsewhere, which is then asked."""


def parametrization_of(file: ModelFile, said: str | None) -> str:
    """Return what a network predicts, one of `PREDICTIONS`, or that it is to be inferred.

    The shapes of a state dict do not tell: SiT's output is as wide as DiT's, though half of it is dropped.

    Args:
        file: of the network.
        said: what --parametrization says, None for nothing.

    Raises:
        UsageError: file and option contradict each other.
    """
    if not file.network:
        return said or INFERRED
    known = file.network.get("parametrization", VELOCITY)
    if said not in (None, known):
        raise UsageError(f"--parametrization {said}: {file.path} says that it predicts {known}: leave it out.")
    return str(known)


def recorded(parametrization: str) -> dict[str, str]:
    """Return the option as provenance holds it: velocities, which nearly all predict, are not named."""
    return {} if parametrization == VELOCITY else {"parametrization": parametrization}


def unsaid(path: Path, answers: str) -> UsageError:
    """Describe a network that neither says nor shows what it predicts."""
    return UsageError(
        f"{path}: does not say what it predicts, nor do its outputs on noise ({answers}): give --parametrization "
        f"{VELOCITY}, as SiT does, {REVERSED}, as REPA does, or {NOISE}, as DiT does."
    )
