"""`train-dit`: a diffusion transformer in latents, by flow matching."""
