"""What a diffusion transformer predicts, by its file and by what is said of it; nothing here imports torch."""

from __future__ import annotations

from dprune.errors import UsageError
from dprune.models.files import ModelFile

VELOCITY, NOISE = "velocity", "noise"


def parametrization_of(file: ModelFile, said: str | None) -> str:
    """Return what a network predicts: velocities, as all that dprune trains do, or noise.

    The shapes of a state dict do not tell: SiT's output is as wide as DiT's, though half of it is dropped.

    Args:
        file: of the network.
        said: what --parametrization says, None for nothing.

    Raises:
        UsageError: neither the file nor the option tells, or they contradict each other.
    """
    if not file.network:
        if said is None:
            raise UsageError(
                f"{file.path}: does not say what it predicts: give --parametrization {VELOCITY}, as SiT does, "
                f"or {NOISE}, as DiT does."
            )
        return said
    known = file.network.get("parametrization", VELOCITY)
    if said not in (None, known):
        raise UsageError(f"--parametrization {said}: {file.path} says that it predicts {known}: leave it out.")
    return str(known)
