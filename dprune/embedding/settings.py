"""What `embed` is asked for: the network and its options, resolved without importing any network library."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

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
DIMENSIONS = {
    "dinov2-s": 384, "dinov2-b": 768, "dinov2-l": 1024, "dinov3-s": 384, "dinov3-b": 768, "dinov3-l": 1024,
    "clip-b32": 512, "clip-l14": 768,
}  # fmt: skip
"""Of the features of each short name."""
INCEPTION_DIMENSION = 2048
TAKES = {
    "timm": {"weights", "image-size", "crop-pct", "precision", "decode"},
    "open_clip": {"weights", "image-size", "precision", "decode"},
    "inception": {"weights", "resize"},
    "pixels": {"image-size", "color", "pca"},
}
DINOV2_SIZE = 224
PIXELS_SIZE = 32
PIXELS_LIMIT = 16_384
CLEAN = "clean"
"""The resize and the scale of clean-fid."""
PCA_FILE = "pca.safetensors"
# What stands for the digest of weights that are not looked at before they are needed.
HUB = "hub"
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_SIZE = 95_628_359
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@dataclass(frozen=True)
class NetworkName:
    """A network by its library (`timm`, `open_clip`, `inception` or `pixels`) and its name there."""

    library: str
    name: str = ""

    def __str__(self) -> str:
        """Return what --model takes."""
        return f"{self.library}:{self.name}" if self.name else self.library


def parse_model(text: str) -> NetworkName:
    """Read a --model.

    Raises:
        UsageError: it is no short name and no `timm:NAME` or `open_clip:ARCH/TAG`.
    """
    library, colon, name = SHORT_NAMES.get(text, text).partition(":")
    if library in ("inception", "pixels") and not colon:
        return NetworkName(library)
    if library in ("timm", "open_clip") and name:
        return NetworkName(library, name)
    known = [*SHORT_NAMES, "inception", "pixels"]
    close = get_close_matches(text, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"use {', '.join(known)}, timm:NAME or open_clip:ARCH/TAG."
    raise UsageError(f"--model {text}: no such network: {hint}")


@dataclass(frozen=True)
class EmbedOptions:
    """How features are to be made, in the words of `dprune embed`, which says what each means."""

    model: str = "dinov2-b"
    weights: str | None = None
    image_size: int | None = None
    crop_pct: float | None = None
    resize: str | None = None
    color: str | None = None
    pca: int | None = None
    normalize: bool = False
    dtype: str = "float16"
    strict: bool = False
    precision: str = "auto"
    decode: str = "cpu"
    device: str = "auto"
    batch_size: int = 256
    workers: int | None = None
    seed: int = 0

    @functools.cached_property
    def settings(self) -> EmbedSettings:
        """The options held to each other, and what was left out filled in.

        Raises:
            UsageError: the network does not take one of the options.
            InputError: there is no such weights file.
        """
        network = parse_model(self.model)
        library = network.library
        chosen = {"weights": self.weights, "image-size": self.image_size, "crop-pct": self.crop_pct,
                  "resize": self.resize, "color": self.color, "pca": self.pca}  # fmt: skip
        chosen["precision"] = self.precision if self.precision not in ("auto", "fp32") else None
        chosen["decode"] = self.decode if self.decode != "cpu" else None
        if self.decode == "gpu" and library == "inception":
            raise UsageError("--decode gpu: FID is defined with Pillow's pixels: leave it out with --model inception.")
        for name, value in chosen.items():
            if value is not None and name not in TAKES[library]:
                raise UsageError(f"--{name} {value}: {library} takes no such option: leave it out.")
        image_size, color = self.image_size, self.color
        resize = (self.resize or CLEAN) if library == "inception" else None
        if library == "pixels":
            image_size, color = image_size or PIXELS_SIZE, color or "rgb"
            _check_pca(image_size, color, self.pca)
        elif library == "timm" and "_dinov2" in network.name:
            image_size = image_size or DINOV2_SIZE
        weights = check_file(self.weights) if self.weights is not None else None
        with ThreadPoolExecutor(1) as aside:
            # Hashing a file needs no Python, and to look for a GPU is to import torch.
            digest = aside.submit(_digest, network, weights)
            precision = resolved(self.precision, self.device) if "precision" in TAKES[library] else "float32"
            return EmbedSettings(self, network, weights, digest.result(), image_size, color, precision, resize)


@dataclass(frozen=True)
class EmbedSettings:
    """What the options come to.

    Attributes:
        given: the options themselves, for those that need no filling in.
        network: which network.
        weights: its file, None to take it from the hub.
        digest: SHA-256 of the weights, `hub`, or None for pixels.
        image_size: side in pixels of what the network sees, None for the library's own.
        color: `rgb` or `grey`, for pixels.
        precision: dtype of the network's arithmetic.
        resize: how images come to Inception's size and scale, None for other networks.
    """

    given: EmbedOptions
    network: NetworkName
    weights: Path | None
    digest: str | None
    image_size: int | None
    color: str | None
    precision: str
    resize: str | None

    @property
    def dimension(self) -> int | None:
        """Dimension of the features, None where only the network itself can tell."""
        if self.network.library == "inception":
            return INCEPTION_DIMENSION
        if self.network.library == "pixels":
            assert self.image_size is not None
            return self.given.pca or self.image_size**2 * (3 if self.color == "rgb" else 1)
        short = next((short for short, name in SHORT_NAMES.items() if name == str(self.network)), "")
        return DIMENSIONS.get(short)

    def options(self) -> Record:
        """Return everything that changes the features of an image, as provenance holds it."""
        every = {
            "model": str(self.network),
            "weights": self.digest,
            "image_size": self.image_size,
            "crop_pct": self.given.crop_pct,
            "resize": self.resize,
            "color": self.color,
            "pca": self.given.pca,
            "normalize": self.given.normalize,
            "dtype": self.given.dtype,
            "precision": self.precision,
            "decode": "gpu" if self.given.decode == "gpu" else None,
        }
        return {name: value for name, value in every.items() if value is not None}


def _check_pca(image_size: int, color: str, pca: int | None) -> None:
    values = image_size**2 * (3 if color == "rgb" else 1)
    if pca is not None and pca > values:
        raise UsageError(f"--pca {pca}: an image of {image_size} pixels in {color} has only {values:,} values.")
    if pca is not None and values > PIXELS_LIMIT:
        raise UsageError(f"--pca of {values:,} values per image takes too long: give a smaller --image-size.")


def _digest(network: NetworkName, weights: Path | None) -> str | None:
    if network.library == "pixels":
        return None
    if weights is None:
        return INCEPTION_SHA256 if network.library == "inception" else HUB
    return file_digest(weights)
