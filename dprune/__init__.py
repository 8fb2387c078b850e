"""dprune prunes the training data of generative diffusion models and measures what that did."""

__version__ = "0.1.0"
