"""From images and shards of any origin to WebDataset shards."""
