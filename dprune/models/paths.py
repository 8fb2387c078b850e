"""Which way a network is run: by Triton's kernels, compiled, or plainly. It is chosen here and nowhere else."""

from __future__ import annotations

import torch

from dprune.formats.latents import PIXELS
from dprune.kernels.available import triton_works
from dprune.models.discriminator import PatchGAN
from dprune.models.dit import DiT, DiTConfig
from dprune.models.perceptual import PerceptualDistance
from dprune.models.vae import VAE

FUSED, COMPILED, PLAIN = "fused", "compiled", "plain"
MOST_WIDTH, HEAD_SIZES = 2048, (16, 128)
"""Of transformers that the kernels serve."""


def quicken_dit(model: DiT, precision: torch.dtype, *, compiles: bool, hooked: bool = False) -> str:
    """Have the blocks of a transformer run as fast as they can where they are, in place.

    Args:
        model: on its device.
        precision: of its products, by autocast or of its weights.
        compiles: whether anything is to be compiled, kernels included.
        hooked: whether layers were replaced by others, which only the readable blocks call.

    Returns:
        The name of the path: `fused`, `compiled` or `plain`.
    """
    if not compiles:
        return PLAIN
    serves = precision == torch.bfloat16 and not hooked and _fits_kernels(model.config)
    if serves and triton_works(model.pos_embed.device):
        from dprune.models.fast_dit import through

        model.through = through
        return FUSED
    model.compile_blocks()
    return COMPILED


def _fits_kernels(config: DiTConfig) -> bool:
    """Tell whether a program holds a row of tokens, and a product the columns of a head."""
    least, most = HEAD_SIZES
    return config.width <= MOST_WIDTH and least <= config.width // config.heads <= most


def quicken_vae(vae: VAE) -> str:
    """Have an autoencoder run as fast as it can where it is, in place, in the arithmetic that autocast asks for.

    Args:
        vae: on its device.

    Returns:
        The name of the path: `fused`, for which parameters should be channels last, or `plain`.
    """
    if vae.config.kind == PIXELS or not triton_works(vae.last_weight.device):
        return PLAIN
    from dprune.kernels.codes import MOST_CHANNELS, nearest_rows
    from dprune.models.fast_vae import run_fused

    vae.run = run_fused
    if vae.config.kind == "vq" and vae.config.latent_channels <= MOST_CHANNELS:
        vae.quantizer.nearest = nearest_rows
    return FUSED


def quicken_losses(discriminator: PatchGAN | None, distance: PerceptualDistance | None, device: torch.device) -> None:
    """Have what judges an autoencoder run by the path that `quicken_vae` names for it, in place."""
    if not triton_works(device):
        return
    from dprune.kernels.feature_distance import unit_distance
    from dprune.models.fast_perceptual import fuse_rectifiers
    from dprune.models.fast_vae import run_fused_discriminator

    if discriminator is not None:
        discriminator.run = run_fused_discriminator
    if distance is not None:
        distance.apart = unit_distance
        fuse_rectifiers(distance)
