"""Sampling: images from noise, one a seed, as shards."""
