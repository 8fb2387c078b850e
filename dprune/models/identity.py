"""The autoencoder that changes nothing: its latents are the pixels, and there is no file of it.

A transformer on pixels is trained, scored and sampled as one on latents is; patches of 4 x 4 pixels make it as quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dprune.formats.latents import PIXELS
from dprune.models.files import ModelFile
from dprune.models.vae_config import IMAGE_CHANNELS, VAEConfig

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_SIZE = 256
"""Side of the images that what is made for any size is used for unless told otherwise, in pixels."""


@dataclass(frozen=True)
class Identity(ModelFile):
    """Stands where the file of an autoencoder does; its path is the word that asks for it."""

    @classmethod
    def of(cls, image_size: int = IMAGE_SIZE) -> Identity:
        """Return it for images of so many pixels on a side."""
        config = VAEConfig(PIXELS, image_size, 0, (1,), 0, IMAGE_CHANNELS, 0, l2_codes=False, quant_conv=False)
        return cls(Path(PIXELS), {"kind": "vae", **config.as_json()}, None)

    @property
    def digest(self) -> str:
        """The word: there is one of its kind."""
        return PIXELS

    def digest_ahead(self) -> None:
        """Do nothing."""

    def weights(self) -> dict[str, Tensor]:
        """Return that there are none."""
        return {}
