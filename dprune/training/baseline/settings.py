"""What a baseline is and how its loss is made up, resolved from options; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dprune.errors import UsageError
from dprune.models.baselines import GROUP, TITLES, BaselineConfig, is_side

AUGMENTATIONS = ("colour", "translation", "cutout")
PRESETS: dict[str, dict[str, Any]] = {
    "base": {"width": 64, "latent_size": 128},
    "tiny": {"width": 32, "latent_size": 64},
}
PLANS: dict[str, dict[str, Any]] = {
    "base": {"steps": 30_000, "batch_size": 128, "ema": 0.999},
    "tiny": {"steps": 1000, "batch_size": 32, "ema": 0.999},
}
VAE_PLAN: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99)}
GAN_BETAS = (0.0, 0.9)
GAN_RATES = {"base": 1e-4, "tiny": 2e-4}
"""Learning rates of the generator, by the preset.

Base's and the betas are those of Zhang et al., "Self-attention generative adversarial networks" (2019). At several
times these rates the discriminator may tell all images apart at once, and gets no more gradients from the hinge.
"""
DISCRIMINATOR_RATE = 4.0
"""Heusel et al., "GANs trained by a two time-scale update rule" (2017); 4e-4 with 1e-4 is as in Zhang et al. (2019)."""


@dataclass(frozen=True)
class BaselineSettings:
    """Everything that changes the weights, besides the plan of the training and the data.

    Attributes:
        config: of the networks.
        kl_weight: weight of the divergence from the prior; of a VAE.
        discriminator_rate: what the learning rate is multiplied by for the discriminator; of a GAN.
        augment: what is done to all images that the discriminator sees, of `AUGMENTATIONS` in their order; of a GAN.
        flip: whether images are mirrored at random.
    """

    config: BaselineConfig
    kl_weight: float = 1.0
    discriminator_rate: float = 1.0
    augment: tuple[str, ...] = ()
    flip: bool = False

    def options(self) -> dict[str, Any]:
        """Return what changes the weights, as provenance holds it."""
        config = self.config
        shape = {"image_size": config.image_size, "width": config.width, "latent_size": config.latent_size}
        own: dict[str, Any] = (
            {"kl_weight": self.kl_weight}
            if config.model == "vae"
            else {"discriminator_rate": self.discriminator_rate, "augment": list(self.augment)}
        )
        return shape | own | {"flip": self.flip} | ({} if config.classes else {"unconditional": True})


@dataclass(frozen=True)
class BaselineOptions:
    """The options of `dprune train-baseline`, which says what each means, without those of the loop."""

    subset: str | None = None
    preset: str = "base"
    image_size: int | None = None
    width: int | None = None
    latent_size: int | None = None
    unconditional: bool = False
    kl_weight: float | None = None
    discriminator_rate: float | None = None
    augment: tuple[str, ...] = ()
    flip: bool = False
    strict: bool = False
    workers: int | None = None

    def resolve(self, model: str, side: int, classes: int) -> BaselineSettings:
        """Fill in what was not said, and check all against each other.

        Args:
            model: `vae` or `gan`.
            side: of the first image in pixels.
            classes: of the training set, 0 where they are left out.

        Raises:
            UsageError: options contradict each other, or no such images are made.
        """
        self._refuse_idle(model)
        preset = PRESETS[self.preset]
        size = self.image_size or side
        if not is_side(size):
            what = f"--image-size {size}" if self.image_size else f"the first image has {size} pixels on its short side"
            raise UsageError(
                f"{what}: dprune train-baseline makes images of 8, 16, 32, 64, 128 or 256 pixels: give --image-size."
            )
        width = self.width or preset["width"]
        if width % GROUP:
            raise UsageError(f"--width {width}: give a multiple of {GROUP}, since channels are normalised in groups.")
        config = BaselineConfig(model, size, width, self.latent_size or preset["latent_size"], classes)
        kl_weight = 1.0 if self.kl_weight is None else self.kl_weight
        rate = DISCRIMINATOR_RATE if self.discriminator_rate is None else self.discriminator_rate
        return BaselineSettings(config, kl_weight, rate, self.augment, self.flip)

    def plan(self, model: str) -> Mapping[str, Any]:
        """What the training is where nothing was said of it."""
        gan = {"lr": GAN_RATES[self.preset], "betas": GAN_BETAS}
        return PLANS[self.preset] | (VAE_PLAN if model == "vae" else gan)

    def _refuse_idle(self, model: str) -> None:
        """Refuse options that would do nothing."""
        idle = {
            "--kl-weight": model == "gan" and self.kl_weight is not None,
            "--discriminator-rate": model == "vae" and self.discriminator_rate is not None,
            "--augment": model == "vae" and self.augment,
        }
        for option, given in idle.items():
            if given:
                raise UsageError(f"{option} does nothing with {TITLES[model]}: leave it out.")
