"""The scale of latents that transformers made elsewhere take; nothing here imports torch."""

from __future__ import annotations

from dprune.models.files import ModelFile

LATENT_SCALE = 0.18215
"""What DiT, SiT and REPA multiply the latents of Stable Diffusion's autoencoder with."""


def said_scale(model: ModelFile, vae: ModelFile) -> tuple[float, float] | None:
    """Return what an autoencoder's configuration says of the scale of its latents, where that is to be heard.

    Args:
        model: file of the transformer; one of dprune says itself what its latents are.
        vae: file of the autoencoder, as `open_vae` opened it.

    Returns:
        Factor f and shift s: the transformer takes (latent - s) * f. None where that is the usual one, or not said.
    """
    factor, shift = (float(vae.network.get(f"{name}_factor", usual)) for name, usual in _USUAL.items())
    usual = (factor, shift) == tuple(_USUAL.values())
    return None if usual or model.network else (factor, shift)


_USUAL = {"scaling": LATENT_SCALE, "shift": 0.0}
