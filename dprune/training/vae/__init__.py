"""`train-vae`: the autoencoder whose latents a diffusion model works in."""
