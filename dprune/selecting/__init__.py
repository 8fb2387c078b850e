"""From scores, clusters and subsets to the samples that are kept."""
