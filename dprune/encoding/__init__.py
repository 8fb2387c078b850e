"""Encoding: the images of shards into a store of latents."""
