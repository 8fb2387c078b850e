"""The autoencoder whose latents the diffusion model works in.

Encoder and decoder follow VQGAN (Esser et al., 2021) and latent diffusion (Rombach et al., 2022): residual blocks, one
attention where the resolution is lowest, and a 1x1 convolution on either side of the latents, which are quantised
(`vq`) or Gaussian (`kl`). One without layers, whose latents are the pixels, is the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.errors import InputError
from dprune.models.files import ModelFile, fits
from dprune.models.quantizer import Quantizer
from dprune.models.vae_config import Layer, VAEConfig, decoder_layers, encoder_layers
from dprune.models.vae_files import open_vae

MOST_GROUPS, LEAST_CHANNELS = 32, 4


def group_norm(channels: int, groups: int = 0) -> nn.GroupNorm:
    """Normalise over so many groups; 0 for groups of at least four channels, for little is left of narrower ones."""
    return nn.GroupNorm(groups or math.gcd(MOST_GROUPS, channels // LEAST_CHANNELS), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int = 0) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = group_norm(outputs, groups)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        h = self.conv1(F.silu(self.norm1(x_BCHW)))
        out: Tensor = self.shortcut(x_BCHW) + self.conv2(F.silu(self.norm2(h)))
        return out


class Attention(nn.Module):
    """Every place looks at every other, with one head."""

    def __init__(self, channels: int, groups: int = 0) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        q, k, v = (part.flatten(2).mT[:, None] for part in self.qkv(self.norm(x_BCHW)).chunk(3, dim=1))
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x_BCHW + self.proj(mixed[:, 0].mT.unflatten(2, x_BCHW.shape[2:]))
        return out


class Downsample(nn.Conv2d):
    """Halves the resolution; padded at the right and the bottom only, so that an output lies over its own pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, H/2, W/2]."""
        return super().forward(F.pad(x_BCHW, (0, 1, 0, 1)))


class Upsample(nn.Conv2d):
    """Doubles the resolution, then smooths."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, 2H, 2W]."""
        return super().forward(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))


def _made(layer: Layer, groups: int) -> nn.Module:
    match layer.kind:
        case "block":
            return ResidualBlock(layer.inputs, layer.outputs, groups)
        case "attention":
            return Attention(layer.inputs, groups)
        case "down":
            return Downsample(layer.inputs)
        case "up":
            return Upsample(layer.inputs)
        case "norm":
            return group_norm(layer.inputs, groups)
        case "activation":
            return nn.SiLU()
    return nn.Conv2d(layer.inputs, layer.outputs, 3, padding=1)


def _sequence(layers: Sequence[Layer], config: VAEConfig) -> nn.Sequential:
    return nn.Sequential(*(_made(layer, config.groups) for layer in layers))


def run_layers(layers: nn.Sequential, x_BCHW: Tensor) -> Tensor:
    """Run layers one after the other."""
    out: Tensor = layers(x_BCHW)
    return out


class VAE(nn.Module):
    """Turns images into latents and back.

    Attributes:
        run: runs the layers of the encoder or the decoder: `run_layers`, or what `quicken_vae` puts in its place.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.run: Callable[[nn.Sequential, Tensor], Tensor] = run_layers
        between, latent, moments = config.between, config.latent_channels, config.moments
        self.encoder = _sequence(encoder_layers(config), config)
        self.before_latent: nn.Module = nn.Identity()
        self.after_latent: nn.Module = nn.Identity()
        if config.quant_conv:
            self.before_latent = nn.Conv2d(moments * between, moments * latent, 1)
            self.after_latent = nn.Conv2d(latent, between, 1)
        self.decoder = _sequence(decoder_layers(config), config)
        if config.kind == "vq":
            self.quantizer = Quantizer(config.codes, latent, config.l2_codes, scored=config.scored_codes)

    @property
    def codebook(self) -> Tensor:
        """The vectors that decoding uses, float32 [K, c]; `vq` only."""
        return self.quantizer.codebook

    @property
    def last_weight(self) -> Tensor:
        """The weight of the decoder's last layer."""
        weight = self.decoder[-1].weight
        assert isinstance(weight, Tensor)
        return weight

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Return what the encoder says of images, float32: latents before quantisation, or mean and log-variance."""
        out: Tensor = self.before_latent(self.run(self.encoder, images_BCHW))
        return out.float()

    def codes(self, images_BCHW: Tensor) -> Tensor:
        """Return the codes of images [B, 3, H, W] in [-1, 1], int64 [B, h * w], row by row; `vq` only."""
        return self.quantizer.chosen(self.encode(images_BCHW))

    def moments(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latents of images, float32 [B, c, h, w] each; `kl` only."""
        return self.split(self.encode(images_BCHW))

    def split(self, encoded_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance [B, c, h, w] of what `encode` returns, [B, 2c, h, w]; `kl` only."""
        mean, logvar = encoded_BCHW.chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Turn latents [B, c, h, w] into images [B, 3, H, W], which may go a little beyond [-1, 1]."""
        return self.run(self.decoder, self.after_latent(latents_BCHW))

    def snap(self, latents_BCHW: Tensor) -> Tensor:
        """Replace each place of latents [B, c, h, w] by the nearest code; latents without codes stay as they are."""
        if self.config.kind != "vq":
            return latents_BCHW
        return self.quantizer.look_up(self.quantizer.codes(latents_BCHW), latents_BCHW.shape[2])

    def reconstruct(self, images_BCHW: Tensor) -> Tensor:
        """Encode and decode images; Gaussian latents are taken at their mean."""
        encoded = self.encode(images_BCHW)
        if self.config.kind != "vq":
            return self.decode(encoded[:, : self.config.latent_channels])
        return self.decode(self.quantizer.look_up(self.quantizer.chosen(encoded), encoded.shape[2]))


def load_vae(path: str | Path, device: torch.device) -> tuple[VAE, ModelFile]:
    """Load an autoencoder.

    Args:
        path: see `open_vae`.
        device: where the weights go.

    Returns:
        The network in evaluation mode, float32, without gradients; and its file.

    Raises:
        InputError: the file is missing, damaged, or no autoencoder that dprune knows.
    """
    file = open_vae(path)
    return vae_of(file, device), file


def vae_of(file: ModelFile, device: torch.device) -> VAE:
    """Load the autoencoder of a file that `open_vae` opened; see `load_vae`."""
    try:
        with torch.device("meta"):
            vae = VAE(VAEConfig.from_json(file.network))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{file.path}: describes no possible autoencoder ({error}): make it again.") from error
    state = file.weights()
    if unlike := fits(vae.state_dict(), state):
        raise InputError(f"{file.path}: does not fit its own description ({unlike}): make it again.")
    # Copied to memory of their own, see `load_dit`.
    own = {name: state[name].to(device, value.dtype, copy=True) for name, value in vae.state_dict().items()}
    vae.load_state_dict(own, assign=True)
    return vae.eval().requires_grad_(False)
