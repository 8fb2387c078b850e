"""Which cluster or class each sample of an evaluation belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.clustering.engines import TorchEngine
from dprune.clustering.kernels import nearest_two
from dprune.clustering.kmeans import KMeansSettings, fit
from dprune.clustering.points import Points, unit
from dprune.formats.clusters import Clusters
from dprune.formats.features import Features
from dprune.measuring.sides import Side
from dprune.metrics.rows import spans
from dprune.runtime import Silent


@dataclass(frozen=True)
class Groups:
    """Groups of both sides.

    Attributes:
        generated: group of each generated sample, int64 [n], -1 for none.
        reference: group of each reference sample, int64 [m], -1 for none.
        names: what the groups are called: numbers of clusters, or labels.
    """

    generated: Tensor
    reference: Tensor
    names: list[int]


def by_class(
    generated: Side, ours: npt.NDArray[np.int64] | None, reference: Side, theirs: npt.NDArray[np.int64] | None
) -> Groups | None:
    """Group samples by their labels.

    Args:
        generated: samples.
        ours: labels of all samples that the generated ones are from, negative for none.
        reference: samples.
        theirs: labels of all samples that these are from.

    Returns:
        Groups for the labels that occur, or None where a side has none.
    """
    if ours is None or theirs is None:
        return None
    labels = [np.maximum(ours[generated.ids], -1), np.maximum(theirs[reference.ids], -1)]
    if not all((label >= 0).any() for label in labels):
        return None
    names = np.unique(np.concatenate(labels))
    names = names[names >= 0]
    found = (np.where(label < 0, -1, np.searchsorted(names, label)) for label in labels)
    first, second = (torch.from_numpy(group).to(generated.x.device) for group in found)
    return Groups(first, second, names.tolist())


def by_cluster(clusters: Clusters, generated: Side, reference: Side, features: Features) -> Groups:
    """Group samples by the nearest centroid; those that were clustered keep their cluster.

    Args:
        clusters: centroids in the space of the features.
        generated: samples.
        reference: samples.
        features: that the reference's samples are from.
    """
    if clusters.fingerprint and clusters.fingerprint == features.fingerprint:
        assigned = clusters.assignment[reference.ids].astype(np.int64)
        theirs = torch.from_numpy(assigned).to(reference.x.device)
    else:
        theirs = nearest_centroids(reference.x, clusters)
    return Groups(nearest_centroids(generated.x, clusters), theirs, list(range(len(clusters.centroids))))


def nearest_centroids(x: Tensor, clusters: Clusters) -> Tensor:
    """Return the nearest centroid of each row [n, d], int64 [n], by the distance that the clusters were made with."""
    cosine = (clusters.record or {}).get("options", {}).get("metric") == "cosine"
    centroids = torch.from_numpy(clusters.centroids).to(x.device, torch.float64)
    # Products of centred vectors lose the fewest digits.
    centre = torch.zeros_like(centroids[0]) if cosine else centroids.mean(0)
    placed = (centroids - centre).float()
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for low, high in spans(len(x), x.shape[1]):
        rows = (x[low:high].double() - centre).float()
        labels[low:high] = nearest_two(unit(rows), placed)[0] if cosine else nearest_two(rows, placed)[0]
    return labels


def by_kmeans(some: Tensor, every: Tensor, k: int, seed: int) -> Tensor:
    """Cluster some rows by k-means and assign all to the nearest centroid, as the curve of `metrics.prd` wants it.

    Args:
        some: centred, float32 [m, d].
        every: of the same space, float32 [n, d].
        k: clusters, at most m.
        seed: of the centroids that k-means begins with.

    Returns:
        The cluster of each row, int64 [n].
    """
    square = float(torch.linalg.vector_norm(some, dim=1).double().square().mean())
    valid = np.ones(len(some), dtype=np.bool_)
    points = Points(some, valid, (len(some),), "l2", some.new_zeros(some.shape[1]), square)
    return TorchEngine(every).assign(fit(points, KMeansSettings(k), seed, Silent()).centroids).long()
