"""What an autoencoder is and how its loss is made up, resolved from options; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dprune.errors import UsageError
from dprune.formats.latents import MOST_CODES
from dprune.models.vae_config import VAEConfig
from dprune.models.weights import check_file, file_digest

LEAST_SIDE = 16
# Of channels that are normalised together.
GROUP = 4
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
        config: of the network.
        commitment: weight of the term that pulls the encoder's outputs to their codes.
        kl_weight: weight of the divergence from a standard normal.
        loss: of the pixels, `mse` or `l1`.
        perceptual: `none`, `lpips` or `timm:NAME`.
        perceptual_file: its weights, None for `none`.
        perceptual_weight: of the perceptual term.
        gan_weight: of the adversarial term, 0 for no discriminator.
        gan_start: first step with it.
        flip: whether images are mirrored at random.
    """

    config: VAEConfig
    commitment: float = 0.25
    kl_weight: float = 1e-6
    loss: str = "mse"
    perceptual: str = "none"
    perceptual_file: Path | None = None
    perceptual_weight: float = 1.0
    gan_weight: float = 0.0
    gan_start: int = 0
    flip: bool = False

    def options(self) -> dict[str, Any]:
        """Return the settings as provenance holds them, without those that play no role."""
        idle = {"kl_weight"} if self.config.kind == "vq" else {"codes", "l2_codes", "commitment"}
        idle |= {"perceptual_file"}
        idle |= {"perceptual_weight"} if self.perceptual == "none" else set()
        idle |= {"gan_start"} if not self.gan_weight else set()
        values = asdict(self)
        del values["config"]
        values = self.config.trained_options() | values
        kept = {name: value for name, value in values.items() if name not in idle}
        weights = {} if self.perceptual_file is None else {"perceptual_weights": file_digest(self.perceptual_file)}
        return {**kept, "multipliers": list(self.config.multipliers), **weights}


@dataclass(frozen=True)
class VAEOptions:
    """The options of `dprune train-vae`, which says what each means, without those of the loop."""

    subset: str | None = None
    held_out: tuple[str, ...] = ()
    preset: str = "base"
    kind: str = "vq"
    image_size: int | None = None
    width: int | None = None
    multipliers: tuple[int, ...] | None = None
    downsample: int | None = None
    blocks: int | None = None
    latent_channels: int | None = None
    codes: int | None = None
    l2_codes: bool = False
    commitment: float | None = None
    kl_weight: float | None = None
    loss: str = "mse"
    perceptual: str | None = None
    lpips_weights: str | None = None
    perceptual_weights: str | None = None
    perceptual_weight: float | None = None
    gan_weight: float = 0.0
    gan_start: int | None = None
    flip: bool = False
    strict: bool = False
    workers: int | None = None

    def resolve(self) -> VAESettings:
        """Fill in what was not said, and check all against each other.

        Raises:
            UsageError: options contradict each other.
            InputError: a file of weights does not exist.
        """
        self._refuse_idle()
        perceptual, file = self._perceptual()
        given = {name: getattr(self, name) for name in ("commitment", "kl_weight", "perceptual_weight", "gan_start")}
        said = {name: value for name, value in given.items() if value is not None}
        return VAESettings(self._config(), loss=self.loss, perceptual=perceptual, perceptual_file=file,
                           gan_weight=self.gan_weight, flip=self.flip, **said)  # fmt: skip

    def _config(self) -> VAEConfig:
        preset = PRESETS[self.preset]
        config = VAEConfig(
            kind=self.kind,
            image_size=self.image_size or preset["image_size"],
            width=self.width or preset["width"],
            multipliers=self._multipliers(preset),
            blocks=self.blocks or preset["blocks"],
            latent_channels=self.latent_channels or LATENT_CHANNELS[self.preset][self.kind],
            codes=0 if self.kind == "kl" else self.codes or preset["codes"],
            l2_codes=self.l2_codes,
        )
        if config.image_size % config.downsample or config.image_size < LEAST_SIDE:
            raise UsageError(
                f"--image-size {config.image_size}: give a multiple of {config.downsample}, the side of a latent, "
                f"from {LEAST_SIDE}."
            )
        if config.width % GROUP:
            raise UsageError(f"--width {config.width}: give a multiple of {GROUP}, "
                             "since channels are normalised in groups.")  # fmt: skip
        if config.kind == "vq" and not 2 <= config.codes <= MOST_CODES:
            raise UsageError(f"--codes {config.codes}: give 2 to {MOST_CODES:,}, which is what latents are stored for.")
        return config

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
            raise UsageError("--gan-start does nothing without a discriminator: give --gan-weight, 0.1 for example.")

    def _multipliers(self, preset: Mapping[str, Any]) -> tuple[int, ...]:
        if self.multipliers is None:
            return MULTIPLIERS[self.downsample or preset["downsample"]]
        if len(self.multipliers) - 1 not in (2, 3, 4):
            raise UsageError("--multipliers takes 3, 4 or 5 numbers, one per resolution: give 1,2,4 for example.")
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
