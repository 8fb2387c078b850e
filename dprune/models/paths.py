"""Which way a network is run: by Triton's kernels, compiled, or plainly. It is chosen here and nowhere else."""

from __future__ import annotations

import torch

from dprune.kernels.available import triton_works
from dprune.models.discriminator import PatchGAN
from dprune.models.perceptual import PerceptualDistance
from dprune.models.vae import VAE

FUSED, COMPILED, PLAIN = "fused", "compiled", "plain"


def quicken_vae(vae: VAE, dtype: torch.dtype) -> str:
    """Have an autoencoder run as fast as it can where it is, in place.

    Args:
        vae: on its device.
        dtype: of its arithmetic, whatever autocast says of it: float16, bfloat16 or float32.

    Returns:
        The name of the path: `fused`, for which parameters should be channels last, or `plain`.
    """
    if not triton_works(vae.last_weight.device):
        return PLAIN
    from dprune.kernels.codes import MOST_CHANNELS, nearest_rows
    from dprune.models.fast_vae import FusedLayers

    vae.run = FusedLayers(dtype)
    if vae.config.kind == "vq" and vae.config.latent_channels <= MOST_CHANNELS:
        vae.quantizer.nearest = nearest_rows
    return FUSED


def quicken_losses(critic: PatchGAN | None, distance: PerceptualDistance | None, device: torch.device,
                   dtype: torch.dtype) -> str:  # fmt: skip
    """Have what judges an autoencoder run as fast as it can, in place; see `quicken_vae`."""
    if not triton_works(device):
        return PLAIN
    from dprune.kernels.feature_distance import unit_distance
    from dprune.models.fast_vae import FusedCritic

    if critic is not None:
        critic.run = FusedCritic(dtype)
    if distance is not None:
        distance.apart = unit_distance
    return FUSED
