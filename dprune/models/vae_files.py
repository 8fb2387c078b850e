"""Files of autoencoders by their headers; nothing here imports torch, so that a wrong file is refused at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.latents import MOST_CODES, PIXELS
from dprune.formats.provenance import Record
from dprune.models.files import ModelFile
from dprune.models.foreign_vaes import GROUPS, ForeignVAE, open_foreign_vae, weights_in
from dprune.models.identity import IMAGE_SIZE, Identity
from dprune.models.vae_config import LATENT_SCALE, VAEConfig


def open_vae(path: str | Path, image_size: int | None = None) -> ModelFile:
    """Open an autoencoder's file without loading it.

    Args:
        path: a `model.safetensors` of `train-vae`; or a file, or a folder of diffusers, of an autoencoder made
            elsewhere, see `foreign_vaes`; or `pixels` for images that are their own latents.
        image_size: side of the images that it is used for, in pixels; None for those that it was trained on.

    Raises:
        InputError: it is no autoencoder that dprune knows, or has more codes than a store can hold.
        UsageError: no latents stand for images of this size.
    """
    if path == PIXELS:
        return Identity.of(image_size or IMAGE_SIZE)
    file = ModelFile.open(weights_in(Path(path)))
    if not file.network:
        file = open_foreign_vae(file.path)
    file.check_kind("vae", "an autoencoder", "train-vae")
    config = VAEConfig.from_json(file.network)
    if config.codes > MOST_CODES:
        raise InputError(
            f"{path}: has {config.codes:,} codes, and a store holds at most {MOST_CODES:,}: train one with fewer."
        )
    if image_size is None:
        return file
    if image_size % config.downsample:
        raise UsageError(
            f"--image-size {image_size}: give a multiple of {config.downsample}, the pixels on a side of which "
            f"{path} makes one latent."
        )
    return replace(file, network={**file.network, "image_size": image_size})


def takes_any_size(file: ModelFile) -> bool:
    """Tell whether an autoencoder is for images of no size in particular, as those made elsewhere are."""
    return isinstance(file, ForeignVAE | Identity)


def beside_digest(file: ModelFile) -> Record:
    """Return what decides an autoencoder's results and its digest does not hold, but a configuration beside it."""
    groups = file.network.get("groups", GROUPS) if takes_any_size(file) else GROUPS
    return {} if groups == GROUPS else {"vae_groups": groups}


class LatentScale(NamedTuple):
    """What transformers made elsewhere see of latents z: (z - shift) * factor."""

    factor: float = LATENT_SCALE
    shift: float = 0.0

    @classmethod
    def of(cls, file: ModelFile) -> LatentScale:
        """Return what the configuration of an autoencoder says, Stable Diffusion's where none does."""
        said = (file.network.get("scaling_factor", LATENT_SCALE), file.network.get("shift_factor", 0.0))
        return cls(*map(float, said))

    @classmethod
    def recorded(cls, record: Record) -> LatentScale:
        """Return what the provenance of a latent store says of its autoencoder, see `options`."""
        match record.get("options", {}).get("latent_scale"):
            case [float(factor), float(shift)] if factor > 0:
                return cls(factor, shift)
        return cls()

    def options(self) -> Record:
        """Return what provenance records: nothing of what is usual."""
        return {} if self == LatentScale() else {"latent_scale": list(self)}


def latent_network(file: ModelFile) -> Record:
    """Return what a latent store says of the autoencoder that made it, as `open_vae` opened it; see `Latents`."""
    config = VAEConfig.from_json(file.network)
    sizes = {"size": config.latent_size, "codes": config.codes, "image_size": config.image_size}
    return {"kind": config.kind, "channels": config.latent_channels, **sizes}


def decoded_network(file: ModelFile, size: int, latents: Record) -> Record:
    """Return the same of an autoencoder that is to decode generated latents.

    Args:
        file: of the autoencoder.
        size: side of the latents. One for images of any size decodes them, and so does one that made such latents.
        latents: provenance of those that the transformer was trained on, see `check_made`.
    """
    found, made = latent_network(file), latents.get("options", {}).get("network", {}).get("size")
    if takes_any_size(file) or made == size:
        found |= {"size": size, "image_size": size * VAEConfig.from_json(file.network).downsample}
    return found


def vae_parents(file: ModelFile) -> dict[str, Record]:
    """Describe an autoencoder as the input of another file; pixels come from none."""
    return {} if isinstance(file, Identity) else {"vae": file.as_parent()}


def made_by(latents: Record) -> str | None:
    """Return the digest of the autoencoder that made latents, `pixels` for none, None for a record without it."""
    if latents.get("options", {}).get("network", {}).get("kind") == PIXELS:
        return PIXELS
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
            f"give {'--vae pixels' if theirs == PIXELS else 'that one'}."
        )
