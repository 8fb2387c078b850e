"""The autoencoder whose latents the diffusion model works in.

Encoder and decoder follow VQGAN (Esser et al., 2021) and latent diffusion (Rombach et al., 2022): residual blocks, one
attention where the resolution is lowest, and a 1x1 convolution on either side of the latents, which are quantised
(`vq`) or Gaussian (`kl`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.errors import InputError
from dprune.models.files import ModelFile, fits
from dprune.models.quantizer import Quantizer
from dprune.models.vae_files import VAEConfig, open_vae

MOST_GROUPS, LEAST_CHANNELS = 32, 4


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalise over groups of at least four channels; in narrower ones little but the sign would be left."""
    return nn.GroupNorm(math.gcd(MOST_GROUPS, channels // LEAST_CHANNELS), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        h = self.conv1(F.silu(self.norm1(x_BCHW)))
        out: Tensor = self.shortcut(x_BCHW) + self.conv2(F.silu(self.norm2(h)))
        return out


class Attention(nn.Module):
    """Every place looks at every other, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
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


def _middle(channels: int) -> list[nn.Module]:
    return [ResidualBlock(channels, channels), Attention(channels), ResidualBlock(channels, channels)]


def encoder(config: VAEConfig, outputs: int) -> nn.Sequential:
    """Return the layers from images [B, 3, H, W] to [B, outputs, h, w]."""
    channels = config.width
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for level, multiplier in enumerate(config.multipliers):
        if level:
            layers.append(Downsample(channels))
        for _ in range(config.blocks):
            layers.append(ResidualBlock(channels, config.width * multiplier))
            channels = config.width * multiplier
    layers += [*_middle(channels), group_norm(channels), nn.SiLU(), nn.Conv2d(channels, outputs, 3, padding=1)]
    return nn.Sequential(*layers)


def decoder(config: VAEConfig) -> nn.Sequential:
    """Return the layers from latents [B, c, h, w] to images [B, 3, H, W]; one block a level more than the encoder."""
    channels = config.width * config.multipliers[-1]
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, channels, 3, padding=1), *_middle(channels)]
    for level, multiplier in reversed(list(enumerate(config.multipliers))):
        for _ in range(config.blocks + 1):
            layers.append(ResidualBlock(channels, config.width * multiplier))
            channels = config.width * multiplier
        if level:
            layers.append(Upsample(channels))
    layers += [group_norm(channels), nn.SiLU(), nn.Conv2d(channels, 3, 3, padding=1)]
    return nn.Sequential(*layers)


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
        outputs = config.latent_channels * (2 if config.kind == "kl" else 1)
        self.encoder = encoder(config, outputs)
        self.before_latent = nn.Conv2d(outputs, outputs, 1)
        self.after_latent = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = decoder(config)
        if config.kind == "vq":
            self.quantizer = Quantizer(config.codes, config.latent_channels, config.l2_codes)

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
        return self.quantizer.codes(self.encode(images_BCHW))

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
        """Replace each place of latents [B, c, h, w] by the nearest code; Gaussian latents stay as they are."""
        if self.config.kind == "kl":
            return latents_BCHW
        return self.quantizer.look_up(self.quantizer.codes(latents_BCHW), latents_BCHW.shape[2])

    def reconstruct(self, images_BCHW: Tensor) -> Tensor:
        """Encode and decode images; Gaussian latents are taken at their mean."""
        latents = self.moments(images_BCHW)[0] if self.config.kind == "kl" else self.snap(self.encode(images_BCHW))
        return self.decode(latents)


def load_vae(path: str | Path, device: torch.device) -> tuple[VAE, ModelFile]:
    """Load an autoencoder.

    Args:
        path: a `model.safetensors` of `train-vae`.
        device: where the weights go.

    Returns:
        The network in evaluation mode, float32, without gradients; and its file.

    Raises:
        InputError: the file is missing, damaged, or no autoencoder of dprune.
    """
    file = open_vae(path)
    try:
        with torch.device("meta"):
            vae = VAE(VAEConfig.from_json(file.network))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: describes no possible autoencoder ({error}): make it again.") from error
    state = file.weights()
    if unlike := fits(vae.state_dict(), state):
        raise InputError(f"{path}: does not fit the autoencoder that it is said to be ({unlike}): make it again.")
    # Copied to memory of their own, see `load_dit`.
    own = {name: state[name].to(device, value.dtype, copy=True) for name, value in vae.state_dict().items()}
    vae.load_state_dict(own, assign=True)
    return vae.eval().requires_grad_(False), file
