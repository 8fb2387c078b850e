"""What an autoencoder is and how its loss is made up, resolved from options; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dprune.errors import UsageError
from dprune.formats.latents import MOST_CODES
from dprune.models.weights import check_file, file_digest

MULTIPLIERS = {4: (1, 2, 4), 8: (1, 2, 2, 4), 16: (1, 1, 2, 2, 4)}

PRESETS: dict[str, dict[str, Any]] = {
    "base": {"image_size": 256, "width": 128, "downsample": 8, "blocks": 2, "codes": 16_384},
    "tiny": {"image_size": 32, "width": 16, "downsample": 4, "blocks": 1, "codes": 512},
}
LATENT_CHANNELS = {"base": {"vq": 8, "kl": 4}, "tiny": {"vq": 4, "kl": 4}}
PLANS: dict[str, dict[str, Any]] = {
    "base": {"steps": 100_000, "batch_size": 64, "lr": 1e-4, "betas": (0.5, 0.9), "warmup": 1000, "clip": 1.0},
    "tiny": {"steps": 300, "batch_size": 16, "lr": 2e-3, "betas": (0.9, 0.99), "warmup": 20, "clip": 1.0,
             "ema": 0.99, "schedule": "cosine"},
}  # fmt: skip


@dataclass(frozen=True)
class VAESettings:
    """Everything that changes the weights, besides the plan of the training and the data.

    Attributes:
        kind: `vq` or `kl`.
        image_size: side of the images in pixels.
        width: channels at full resolution.
        multipliers: of the width, one a resolution.
        blocks: residual blocks a resolution.
        latent_channels: channels of a latent.
        codes: in the codebook, 0 for `kl`.
        l2_codes: whether codes have unit length.
        commitment: weight of the term that pulls the encoder's outputs to their codes.
        kl_weight: weight of the divergence from a standard normal.
        loss: of the pixels, `mse` or `l1`.
        perceptual: `none`, `lpips` or `timm:NAME`.
        perceptual_file: its weights, None for `none`.
        perceptual_weight: of the perceptual term.
        gan_weight: of the adversarial term, 0 for no critic.
        gan_start: first step with it.
        flip: whether images are mirrored at random.
    """

    kind: str
    image_size: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    latent_channels: int
    codes: int
    l2_codes: bool
    commitment: float
    kl_weight: float
    loss: str
    perceptual: str
    perceptual_file: Path | None
    perceptual_weight: float
    gan_weight: float
    gan_start: int
    flip: bool

    def options(self) -> dict[str, Any]:
        """Return the settings as provenance holds them, without those that play no role."""
        idle = {"perceptual_file"} | ({"kl_weight"} if self.kind == "vq" else {"codes", "l2_codes", "commitment"})
        idle |= {"perceptual_weight"} if self.perceptual == "none" else set()
        idle |= {"gan_start"} if not self.gan_weight else set()
        kept = {name: value for name, value in asdict(self).items() if name not in idle}
        weights = {} if self.perceptual_file is None else {"perceptual_weights": file_digest(self.perceptual_file)}
        return {**kept, "multipliers": list(self.multipliers), **weights}


@dataclass(frozen=True)
class VAEOptions:
    """What the user said of the autoencoder; None where nothing was said. See `VAESettings`."""

    preset: str
    kind: str
    image_size: int | None
    width: int | None
    multipliers: tuple[int, ...] | None
    downsample: int | None
    blocks: int | None
    latent_channels: int | None
    codes: int | None
    l2_codes: bool
    commitment: float | None
    kl_weight: float | None
    loss: str
    perceptual: str | None
    lpips_weights: str | None
    perceptual_weights: str | None
    perceptual_weight: float | None
    gan_weight: float
    gan_start: int | None
    flip: bool

    def resolve(self) -> VAESettings:
        """Fill in what was not said, and check all against each other.

        Raises:
            UsageError: options contradict each other.
            InputError: a file of weights does not exist.
        """
        self._refuse_idle()
        preset = PRESETS[self.preset]
        said = {name: getattr(self, name) for name in ("image_size", "width", "blocks", "codes")}
        filled = {name: preset[name] if value is None else value for name, value in said.items()}
        perceptual, file = self._perceptual()
        channels = self.latent_channels or LATENT_CHANNELS[self.preset][self.kind]
        filled |= {"multipliers": self._multipliers(preset), "latent_channels": channels}
        filled |= {} if self.kind == "vq" else {"codes": 0}
        settings = VAESettings(
            **filled, kind=self.kind, l2_codes=self.l2_codes, commitment=_or(self.commitment, 0.25),
            kl_weight=_or(self.kl_weight, 1e-6), loss=self.loss, perceptual=perceptual, perceptual_file=file,
            perceptual_weight=_or(self.perceptual_weight, 1.0), gan_weight=self.gan_weight,
            gan_start=self.gan_start or 0, flip=self.flip,
        )  # fmt: skip
        _check(settings)
        return settings

    def _refuse_idle(self) -> None:
        """Refuse options that would do nothing."""
        idle: Mapping[str, Any] = {
            "--codes": self.kind == "kl" and self.codes,
            "--l2-codes": self.kind == "kl" and self.l2_codes,
            "--commitment": self.kind == "kl" and self.commitment is not None,
            "--kl-weight": self.kind == "vq" and self.kl_weight is not None,
        }
        for option, given in idle.items():
            if given:
                raise UsageError(f"{option} does nothing with --kind {self.kind}: leave it out.")
        if self.gan_start is not None and not self.gan_weight:
            raise UsageError("--gan-start does nothing without a critic: give --gan-weight, 0.1 for example.")

    def _multipliers(self, preset: Mapping[str, Any]) -> tuple[int, ...]:
        if self.multipliers is None:
            return MULTIPLIERS[self.downsample or preset["downsample"]]
        if len(self.multipliers) - 1 not in (2, 3, 4):
            raise UsageError("--multipliers takes 3, 4 or 5 numbers, one a resolution: give 1,2,4 for example.")
        downsample = 2 ** (len(self.multipliers) - 1)
        if self.downsample not in (None, downsample):
            raise UsageError(
                f"--multipliers of {len(self.multipliers)} numbers mean --downsample {downsample}, "
                f"not {self.downsample}: give one of the two."
            )
        return self.multipliers

    def _perceptual(self) -> tuple[str, Path | None]:
        """Return the perceptual term and the file of its weights."""
        chosen = self.perceptual or ("lpips" if self.lpips_weights else "none")
        library = chosen.partition(":")[0]
        if chosen not in ("none", "lpips") and not (library == "timm" and chosen.partition(":")[2]):
            raise UsageError(f"--perceptual {chosen}: is neither none, lpips nor timm:NAME.")
        files = {
            "lpips": ("--lpips-weights", self.lpips_weights),
            "timm": ("--perceptual-weights", self.perceptual_weights),
        }
        for name, (option, given) in files.items():
            if given and name != library:
                raise UsageError(f"{option} does nothing with --perceptual {chosen}: leave it out.")
        if library == "none":
            if self.perceptual_weight is not None:
                raise UsageError("--perceptual-weight does nothing without --perceptual: give that too.")
            return chosen, None
        option, given = files[library]
        if not given:
            raise UsageError(
                f"--perceptual {chosen} needs its weights, which are never downloaded: give {option} FILE."
            )
        return chosen, check_file(given, option)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _check(settings: VAESettings) -> None:
    downsample = 2 ** (len(settings.multipliers) - 1)
    if settings.image_size % downsample or settings.image_size < 16:
        raise UsageError(
            f"--image-size {settings.image_size}: give a multiple of {downsample}, the side of a latent, from 16."
        )
    if settings.width % 4:
        raise UsageError(f"--width {settings.width}: give a multiple of 4, since channels are normalised in groups.")
    if settings.kind == "vq" and not 2 <= settings.codes <= MOST_CODES:
        raise UsageError(f"--codes {settings.codes}: give 2 to {MOST_CODES:,}, which is what latents are stored for.")
