"""`train-baseline`: generators of images in one pass, which diffusion models are held to."""
