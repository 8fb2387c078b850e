"""From images to features: backbones and batched extraction."""
