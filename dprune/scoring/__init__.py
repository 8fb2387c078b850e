"""Scores by models: what networks say of every sample of a latent store."""
