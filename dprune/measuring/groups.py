"""Which cluster or class each sample of an evaluation belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.clustering.kernels import nearest_two
from dprune.clustering.kmeans import KMeansSettings, fit
from dprune.clustering.points import Points, unit
from dprune.clustering.torch_engines import TorchEngine
from dprune.formats.clusters import Clusters
from dprune.formats.features import Features
from dprune.measuring.sides import Side
from dprune.metrics.catalogue import CLASS_NEIGHBOURS
from dprune.metrics.neighbour_classes import predict_classes
from dprune.metrics.rows import spans
from dprune.runtime import Silent
from dprune.seeds import generator


@dataclass(frozen=True)
class Groups:
    """Groups of both sides.

    Attributes:
        generated: group of each generated sample, int64 [n], -1 for none.
        reference: group of each reference sample, int64 [m], -1 for none.
        names: what the groups are called: numbers of clusters, or labels.
        by: what gave the generated samples theirs.
    """

    generated: Tensor
    reference: Tensor
    names: list[int]
    by: str

    def places(self, labels: npt.NDArray[np.int64]) -> Tensor:
        """Return the groups of other samples by what these are called, int64 [n], -1 for none."""
        names = np.asarray(self.names, dtype=np.int64)
        found = np.minimum(np.searchsorted(names, labels), len(names) - 1)
        return torch.from_numpy(np.where(names[found] == labels, found, -1)).to(self.generated.device)


@dataclass(frozen=True)
class PredictedClasses(Groups):
    """Classes of generated samples as the reference's features predict them.

    Attributes:
        asked: label that each generated sample was asked for, int64 [n], -1 for none; None where nobody knows of any.
        reference_accuracy: share of reference samples whose class the others predict, None where there are too few.
        reference_count: how many reference samples that is over.
    """

    asked: Tensor | None
    reference_accuracy: float | None
    reference_count: int

    @property
    def right(self) -> Tensor | None:
        """Whether each sample shows the class that it was asked for, float64 [n], NaN for none; None without any."""
        if self.asked is None or not (self.asked >= 0).any():
            return None
        names = torch.tensor([*self.names, -2], device=self.asked.device)
        return (names[self.generated] == self.asked).double().where(self.asked >= 0, torch.nan)


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
    return Groups(first, second, names.tolist(), "labels")


def by_neighbours(
    generated: Side, ours: npt.NDArray[np.int64] | None, reference: Side, theirs: npt.NDArray[np.int64], seed: int
) -> PredictedClasses | None:
    """Group generated samples by the class that most of their nearest reference samples have.

    Args:
        generated: samples.
        ours: labels that all samples were asked for, which the generated ones are from, or None.
        reference: samples, grouped by their labels.
        theirs: labels of all samples that these are from, negative for none.
        seed: of the reference samples, as many as generated ones, that are predicted to tell how well it can be done.

    Returns:
        Groups for the labels of the reference, or None where it has none.
    """
    labels, device = theirs[reference.ids], generated.x.device
    names, places = np.unique(labels[labels >= 0], return_inverse=True)
    if not len(names):
        return None
    classes, labelled = torch.from_numpy(places).to(device), torch.from_numpy(labels >= 0).to(device)
    rows = reference.x if labelled.all() else reference.x[labelled]
    k = min(CLASS_NEIGHBOURS, len(rows))
    predicted = predict_classes(generated.x, rows, classes, len(names), k)
    accuracy, count = _accuracy(rows, classes, len(names), len(generated.x), seed)
    theirs_by_group = torch.full_like(labelled, -1, dtype=torch.int64).masked_scatter(labelled, classes)
    asked = None if ours is None else torch.from_numpy(np.maximum(ours[generated.ids], -1)).to(device)
    by = f"{k} nearest neighbours"
    return PredictedClasses(predicted, theirs_by_group, names.tolist(), by, asked, accuracy, count)


def _accuracy(rows: Tensor, classes: Tensor, count: int, most: int, seed: int) -> tuple[float | None, int]:
    """Tell how often the others predict the class of a labelled row, and for how many rows that was tried."""
    if len(rows) < 2:
        return None, 0
    draw = generator(seed, "reference samples whose class is predicted")
    chosen = draw.choice(len(rows), min(len(rows), most), replace=False, shuffle=False)
    places = torch.from_numpy(np.sort(chosen)).to(rows.device)
    k = min(CLASS_NEIGHBOURS, len(rows) - 1)
    predicted = predict_classes(rows[places], rows, classes, count, k, exclude=places)
    return float((predicted == classes[places]).double().mean()), len(places)


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
        if (others := theirs < 0).any():
            # What is usable here was left out of the clustering.
            theirs[others] = nearest_centroids(reference.x[others], clusters)
    else:
        theirs = nearest_centroids(reference.x, clusters)
    return Groups(
        nearest_centroids(generated.x, clusters), theirs, list(range(len(clusters.centroids))), "nearest centroid"
    )


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
