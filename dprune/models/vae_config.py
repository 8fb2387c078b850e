"""What an autoencoder is, layer by layer; nothing here imports torch, so that a wrong file is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, NamedTuple

from dprune.formats.latents import PIXELS

IMAGE_CHANNELS = 3
LATENT_SCALE = 0.18215
"""What the latents of Stable Diffusion's autoencoder are multiplied with for transformers made elsewhere."""


@dataclass(frozen=True)
class VAEConfig:
    """What determines an autoencoder's parameters.

    Attributes:
        kind: `vq`, `kl`, or `pixels` for what has no layers, see `Identity`.
        image_size: side of the images that it was trained on, in pixels; of one made elsewhere, that it is used for.
        width: channels at full resolution, a multiple of 4.
        multipliers: of the width at each resolution; each but the first has half the side of the one before.
        blocks: residual blocks at each resolution.
        latent_channels: channels of a latent.
        codes: in the codebook, 0 for `kl`.
        l2_codes: whether codes have unit length.
        attention: resolutions with an attention after each block, by their position among the multipliers.
        middle_attention: whether there is one between the two blocks in the middle.
        groups: of each normalisation; 0 for what goes by the channels, see `group_norm`.
        encoded_channels: beside a latent's, between encoder and decoder and their 1x1 convolutions; 0 for as many.
        quant_conv: whether there are those convolutions.
        scored_codes: whether the encoder's outputs get the code that a linear layer scores highest, not the nearest.
    """

    kind: str
    image_size: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    latent_channels: int
    codes: int
    l2_codes: bool
    attention: tuple[int, ...] = ()
    middle_attention: bool = True
    groups: int = 0
    encoded_channels: int = 0
    quant_conv: bool = True
    scored_codes: bool = False

    @property
    def downsample(self) -> int:
        """How many pixels a side of a latent stands for."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def latent_size(self) -> int:
        """Side of an image's latents."""
        return self.image_size // self.downsample

    @property
    def moments(self) -> int:
        """How many numbers the encoder gives for each of a latent: mean and log-variance, or itself."""
        return 2 if self.kind == "kl" else 1

    @property
    def between(self) -> int:
        """Channels that the decoder takes, and the encoder gives `moments` times."""
        return self.encoded_channels or self.latent_channels

    def as_json(self) -> dict[str, Any]:
        """Return the configuration as the header of a file holds it, where `kind` says that it is an autoencoder.

        What `train-vae` never makes is left out where an autoencoder does without.
        """
        values = {name: value for name, value in asdict(self).items() if name not in _ELSEWHERE}
        unusual = {name: getattr(self, name) for name, usual in _ELSEWHERE.items() if getattr(self, name) != usual}
        held = {**values, "latents": self.kind, **unusual}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in held.items()
                if name != "kind"}  # fmt: skip

    @classmethod
    def from_json(cls, header: Mapping[str, Any]) -> VAEConfig:
        """Read what `as_json` wrote, among other things; see `DESCRIPTIONS`."""
        values = {field.name: header[field.name] for field in fields(cls)
                  if field.name != "kind" and field.name not in _ELSEWHERE.keys() - header.keys()}  # fmt: skip
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists, "kind": header["latents"]})

    def trained_options(self) -> dict[str, Any]:
        """Return what `train-vae` chose."""
        return {name: value for name, value in asdict(self).items() if name not in _ELSEWHERE}


_ELSEWHERE = {field.name: field.default for field in fields(VAEConfig) if field.default is not MISSING}
"""What only autoencoders made elsewhere have, and what it is in ours."""


class Layer(NamedTuple):
    """A layer of an encoder or a decoder.

    Attributes:
        kind: `first` or `last` convolution, `block`, `attention`, `down`, `up`, `norm` or `activation`.
        inputs: channels.
        outputs: channels.
        level: which resolution it belongs to, 0 the full one; None for the middle and the ends.
        number: among those of its kind at this resolution.
    """

    kind: str
    inputs: int
    outputs: int
    level: int | None = None
    number: int = 0


def encoder_layers(config: VAEConfig) -> list[Layer]:
    """Return the layers from images [B, 3, H, W] to [B, moments * between, h, w]."""
    if config.kind == PIXELS:
        return []
    channels = config.width
    layers = [Layer("first", IMAGE_CHANNELS, channels)]
    for level, multiplier in enumerate(config.multipliers):
        if level:
            layers.append(Layer("down", channels, channels, level - 1))
        layers += _blocks(config, level, channels, config.blocks)
        channels = config.width * multiplier
    return [*layers, *_middle(config), *_end(channels, config.moments * config.between)]


def decoder_layers(config: VAEConfig) -> list[Layer]:
    """Return the layers from [B, between, h, w] to images [B, 3, H, W]; one block a level more than the encoder."""
    if config.kind == PIXELS:
        return []
    channels = config.width * config.multipliers[-1]
    layers = [Layer("first", config.between, channels), *_middle(config)]
    for level, multiplier in reversed(list(enumerate(config.multipliers))):
        layers += _blocks(config, level, channels, config.blocks + 1)
        channels = config.width * multiplier
        if level:
            layers.append(Layer("up", channels, channels, level))
    return [*layers, *_end(channels, IMAGE_CHANNELS)]


def _blocks(config: VAEConfig, level: int, inputs: int, count: int) -> list[Layer]:
    layers, outputs = list[Layer](), config.width * config.multipliers[level]
    for number in range(count):
        layers.append(Layer("block", inputs if not number else outputs, outputs, level, number))
        if level in config.attention:
            layers.append(Layer("attention", outputs, outputs, level, number))
    return layers


def _middle(config: VAEConfig) -> list[Layer]:
    channels = config.width * config.multipliers[-1]
    between = [Layer("attention", channels, channels)] if config.middle_attention else []
    return [Layer("block", channels, channels), *between, Layer("block", channels, channels, number=1)]


def _end(channels: int, outputs: int) -> list[Layer]:
    return [Layer("norm", channels, channels), Layer("activation", channels, channels),
            Layer("last", channels, outputs)]  # fmt: skip
