"""Levels of clusters: the centroids of one are the points that the next is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dprune.clustering.kernels import nearest_two
from dprune.clustering.kmeans import KMeansSettings, fit
from dprune.clustering.points import load_points
from dprune.formats.features import ArrayFeatures
from dprune.namespace import Device, host
from dprune.runtime import Monitor


def upper_levels(
    centroids: npt.NDArray[np.float32], levels: Sequence[int], settings: KMeansSettings, seed: int, device: Device,
    monitor: Monitor,
) -> tuple[npt.NDArray[np.int32], ...]:  # fmt: skip
    """Cluster centroids, then the centroids of that, level by level.

    Each centroid counts once, however many samples its cluster has: so the upper clusters spread over the space evenly
    and do not follow the density of the data (Vo et al., Automatic Data Curation for Self-Supervised Learning: A
    Clustering-Based Approach, 2024, arXiv 2405.15613; their resampling between levels is left out).

    Args:
        centroids: of the clusters of samples, float32 [k, d], the same on every rank.
        levels: numbers of clusters above them, the lowest level first.
        settings: of the clusters of samples.
        seed: of the run.
        device: of this rank.
        monitor: told of each iteration.

    Returns:
        For each level, the cluster of each one below, int32 [k of the level below]; complete on rank 0 only.

    Raises:
        InputError: there are fewer centroids than clusters.
        Interrupted: some rank was asked to stop.
    """
    found = []
    init = "kmeans++" if settings.init == "file" else settings.init
    for k in levels:
        points = load_points(ArrayFeatures("the centroids", centroids), settings.metric, device, monitor)
        solution = fit(points, replace(settings, k=k, init=init, centroids=None), seed, monitor)
        # A centroid without a direction, of which cosine can say nothing, is that of an empty cluster.
        found.append(points.over_samples(nearest_two(points.x, solution.centroids)[0], 0))
        centroids = host(solution.centroids + points.centre)
    return tuple(found)
