"""What `embed` is asked for: the network and its options, resolved without importing any network library."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dprune.embedding.digests import HUB, INCEPTION_SHA256
from dprune.errors import UsageError
from dprune.formats.provenance import Record
from dprune.models.weights import check_file, file_digest
from dprune.precision import resolved

# OpenAI's CLIP was trained with the QuickGELU activation, which in open_clip is part of the architecture's name.
SHORT_NAMES = {
    "dinov2-s": "timm:vit_small_patch14_dinov2.lvd142m",
    "dinov2-b": "timm:vit_base_patch14_dinov2.lvd142m",
    "dinov2-l": "timm:vit_large_patch14_dinov2.lvd142m",
    "dinov3-s": "timm:vit_small_patch16_dinov3.lvd1689m",
    "dinov3-b": "timm:vit_base_patch16_dinov3.lvd1689m",
    "dinov3-l": "timm:vit_large_patch16_dinov3.lvd1689m",
    "clip-b32": "open_clip:ViT-B-32-quickgelu/openai",
    "clip-l14": "open_clip:ViT-L-14-quickgelu/openai",
}
TAKES = {
    "timm": {"weights", "image-size", "crop-pct", "precision"},
    "open_clip": {"weights", "image-size", "precision"},
    "inception": {"weights"},
    "pixels": {"image-size", "color", "pca"},
}
DINOV2_SIZE = 224
PIXELS_SIZE = 32
PIXELS_LIMIT = 16_384
PCA_FILE = "pca.safetensors"


@dataclass(frozen=True)
class Network:
    """A network by its library (`timm`, `open_clip`, `inception` or `pixels`) and its name there."""

    library: str
    name: str = ""

    def __str__(self) -> str:
        """Return what --model takes."""
        return f"{self.library}:{self.name}" if self.name else self.library


def parse_model(text: str) -> Network:
    """Read a --model.

    Raises:
        UsageError: it is no short name and no `timm:NAME` or `open_clip:ARCH/TAG`.
    """
    library, colon, name = SHORT_NAMES.get(text, text).partition(":")
    if library in ("inception", "pixels") and not colon:
        return Network(library)
    if library in ("timm", "open_clip") and name:
        return Network(library, name)
    known = [*SHORT_NAMES, "inception", "pixels"]
    close = get_close_matches(text, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"use {', '.join(known)}, timm:NAME or open_clip:ARCH/TAG."
    raise UsageError(f"--model {text}: no such network: {hint}")


@dataclass(frozen=True)
class Settings:
    """Everything that changes the features of an image.

    Attributes:
        network: which network.
        weights: its file, None to take it from the hub.
        digest: SHA-256 of the weights, `hub`, or None for pixels.
        image_size: side in pixels of what the network sees, None for the library's own.
        crop_pct: share of the resized image that the centre crop keeps, None for the library's own.
        color: `rgb` or `grey`, for pixels.
        pca: components kept of pixels, None for all pixels.
        normalize: whether features get unit length.
        dtype: of the features in the store.
        precision: of the network's arithmetic.
    """

    network: Network
    weights: Path | None
    digest: str | None
    image_size: int | None
    crop_pct: float | None
    color: str | None
    pca: int | None
    normalize: bool
    dtype: str
    precision: str

    def options(self) -> Record:
        """Return the settings as provenance holds them."""
        every = {
            "model": str(self.network),
            "weights": self.digest,
            "image_size": self.image_size,
            "crop_pct": self.crop_pct,
            "color": self.color,
            "pca": self.pca,
            "normalize": self.normalize,
            "dtype": self.dtype,
            "precision": self.precision,
        }
        return {name: value for name, value in every.items() if value is not None}


def resolve(
    model: str,
    *,
    weights: str | None = None,
    image_size: int | None = None,
    crop_pct: float | None = None,
    color: str | None = None,
    pca: int | None = None,
    normalize: bool = False,
    dtype: str = "float16",
    precision: str = "auto",
    device: str = "auto",
) -> Settings:
    """Check the options against each other and fill in what was left out.

    Raises:
        UsageError: the network does not take one of the options.
        InputError: there is no such weights file.
    """
    network = parse_model(model)
    chosen = {"weights": weights, "image-size": image_size, "crop-pct": crop_pct, "color": color, "pca": pca}
    chosen["precision"] = precision if precision not in ("auto", "fp32") else None
    for name, value in chosen.items():
        if value is not None and name not in TAKES[network.library]:
            raise UsageError(f"--{name} {value}: {network.library} takes no such option: leave it out.")
    if network.library == "pixels":
        image_size, color = image_size or PIXELS_SIZE, color or "rgb"
        _check_pca(image_size, color, pca)
    elif network.library == "timm" and "_dinov2" in network.name:
        image_size = image_size or DINOV2_SIZE
    path = check_file(weights) if weights is not None else None
    return Settings(network, path, _digest(network, path), image_size, crop_pct, color, pca, normalize, dtype,
                    _precision(network, precision, device))  # fmt: skip


def _check_pca(image_size: int, color: str, pca: int | None) -> None:
    values = image_size**2 * (3 if color == "rgb" else 1)
    if pca is not None and pca > values:
        raise UsageError(f"--pca {pca}: an image of {image_size} pixels in {color} has only {values:,} values.")
    if pca is not None and values > PIXELS_LIMIT:
        raise UsageError(f"--pca of {values:,} values an image takes too long: give a smaller --image-size.")


def _digest(network: Network, weights: Path | None) -> str | None:
    if network.library == "pixels":
        return None
    if weights is None:
        return INCEPTION_SHA256 if network.library == "inception" else HUB
    return file_digest(weights)


def _precision(network: Network, precision: str, device: str) -> str:
    if "precision" not in TAKES[network.library]:
        return "float32"
    return resolved(precision, device)
