"""From features to clusters: k-means, its engines, and sweeps over the number of clusters."""
