"""What a baseline is: a generator of images that one pass makes out of noise. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KIND = "baseline"
"""What files of weights call such networks."""
TITLES = {"vae": "a VAE", "gan": "a GAN"}
"""What messages call them."""
LEAST_SIDE, MOST_SIDE = 8, 256
"""Of images, in pixels."""
SMALLEST = 4
"""Side, in pixels, at which a generator begins and an encoder ends."""
GROUP = 16
"""Channels that are normalised together."""
_WIDEST = 8


@dataclass(frozen=True)
class BaselineConfig:
    """What determines the parameters of a baseline.

    Attributes:
        model: `vae` or `gan`.
        image_size: side of the images in pixels, a power of two.
        width: channels at full resolution; they double at each halving, up to eight times as many.
        latent_size: numbers that an image is made of.
        classes: that it knows, 0 for none.
    """

    model: str
    image_size: int
    width: int
    latent_size: int
    classes: int

    @property
    def channels(self) -> list[int]:
        """Channels at each resolution, from that of the images to the smallest."""
        halvings = (self.image_size // SMALLEST).bit_length()
        return [self.width * min(2**number, _WIDEST) for number in range(halvings)]

    @property
    def title(self) -> str:
        """What messages call it."""
        return TITLES[self.model]

    def as_json(self) -> dict[str, Any]:
        """Describe it for the metadata of a file."""
        return asdict(self)


def is_side(pixels: int) -> bool:
    """Tell whether baselines make images of so many pixels on a side."""
    return LEAST_SIDE <= pixels <= MOST_SIDE and pixels.bit_count() == 1
