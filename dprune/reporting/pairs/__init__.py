"""Two models that were sampled with the same seeds: how alike they are, and what they made of the same noise."""
