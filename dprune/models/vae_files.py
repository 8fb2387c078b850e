"""Files of autoencoders by their headers; nothing here imports torch, so that a wrong file is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dprune.errors import InputError, MismatchError
from dprune.formats.latents import MOST_CODES
from dprune.formats.provenance import Record
from dprune.models.files import ModelFile


@dataclass(frozen=True)
class VAEConfig:
    """What determines an autoencoder's parameters.

    Attributes:
        kind: `vq` or `kl`.
        image_size: side of the images that it was trained on, in pixels.
        width: channels at full resolution, a multiple of 4.
        multipliers: of the width at each resolution; each but the first has half the side of the one before.
        blocks: residual blocks at each resolution.
        latent_channels: channels of a latent.
        codes: in the codebook, 0 for `kl`.
        l2_codes: whether codes have unit length.
    """

    kind: str
    image_size: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    latent_channels: int
    codes: int
    l2_codes: bool

    @property
    def downsample(self) -> int:
        """How many pixels a side of a latent stands for."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def latent_size(self) -> int:
        """Side of an image's latents."""
        return self.image_size // self.downsample

    def as_json(self) -> dict[str, Any]:
        """Return the configuration as the header of a file holds it, where `kind` says that it is an autoencoder."""
        values = {**asdict(self), "latents": self.kind, "multipliers": list(self.multipliers)}
        return {name: value for name, value in values.items() if name != "kind"}

    @classmethod
    def from_json(cls, header: Mapping[str, Any]) -> VAEConfig:
        """Read what `as_json` wrote, among other things; see `DESCRIPTIONS`."""
        values = {field.name: header[field.name] for field in fields(cls) if field.name != "kind"}
        return cls(**{**values, "kind": header["latents"], "multipliers": tuple(values["multipliers"])})


def open_vae(path: str | Path) -> ModelFile:
    """Open an autoencoder's file without loading it.

    Raises:
        InputError: it is no autoencoder of dprune, or has more codes than a store can hold.
    """
    file = ModelFile.open(path)
    if not file.network:
        raise InputError(f"{path}: was not made by dprune: give the model.safetensors of dprune train-vae.")
    file.check_kind("vae", "an autoencoder", "train-vae")
    codes = latent_network(file)["codes"]
    if codes > MOST_CODES:
        raise InputError(f"{path}: has {codes:,} codes, and a store tells {MOST_CODES:,} apart: train one with fewer.")
    return file


def latent_network(file: ModelFile) -> Record:
    """Return what a latent store says of the autoencoder that made it, as `open_vae` opened it; see `Latents`."""
    config = VAEConfig.from_json(file.network)
    sizes = {"size": config.latent_size, "codes": config.codes, "image_size": config.image_size}
    return {"kind": config.kind, "channels": config.latent_channels, **sizes}


def made_by(latents: Record) -> str | None:
    """Return the digest of the autoencoder that made latents, None for a record that does not say."""
    digest = latents.get("parents", {}).get("vae", {}).get("digest")
    return digest if isinstance(digest, str) else None


def check_made(vae: ModelFile, latents: Record, title: str) -> None:
    """Refuse an autoencoder that did not make the latents; those that do not say what made them pass.

    Args:
        vae: the file that was given.
        latents: provenance of the latents.
        title: what messages call the latents.

    Raises:
        MismatchError: the latents were made by another one.
    """
    theirs = made_by(latents)
    if theirs and vae.digest != theirs:
        raise MismatchError(
            f"--vae {vae.path} ({vae.digest[:12]}) is not the autoencoder that made {title} ({theirs[:12]}): "
            "give that one."
        )
