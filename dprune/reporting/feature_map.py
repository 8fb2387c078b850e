"""A map of features in two dimensions: training samples light, generated ones marked, coloured by cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.charts.figure import Figure
from dprune.charts.scatter import scatter
from dprune.errors import InputError, MismatchError
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.features import Features, open_features
from dprune.formats.provenance import check_same_dataset
from dprune.formats.readable import presentable
from dprune.measuring.sources import check_space
from dprune.reporting.study.experiments import Choice, Point, point_of_images
from dprune.reporting.study.grouping import Comparison, called_alike, cell_title, compare
from dprune.reporting.study.training_sets import EXTERNAL
from dprune.reporting.tables import csv_text
from dprune.seeds import generator

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MOST_TRAIN, MOST_GENERATED = 2000, 500
MOST_NUMBERS = 40
"""Clusters whose numbers stand on the map: more would hide it."""
# t-SNE looks at distances alone, which hardly change when directions of no variance go.
_FIRST = 50


@dataclass(frozen=True)
class MapInputs:
    """What a map shows.

    Attributes:
        train: features of the training set.
        generated: features of generated samples, each a map of its own.
        clusters: of the training set, or None.
        projection: `pca` or `tsne`.
        baselines: training sets that count as unpruned.
    """

    train: Features
    generated: tuple[Features, ...]
    clusters: Clusters | None
    projection: str
    baselines: frozenset[Choice] = frozenset()

    @classmethod
    def open(cls, train: str, generated: Sequence[str], clusters: str | None, projection: str) -> MapInputs:
        """Open features and clusters and hold them together.

        Raises:
            InputError: one of them is not what it should be.
            MismatchError: they do not belong together.
        """
        features = open_features(train)
        others = tuple(open_features(path) for path in generated)
        check_space({other.name: other.record for other in (features, *others)})
        for other in others:
            if other.shape[1] != features.shape[1]:
                raise MismatchError(
                    f"{features.name} has {features.shape[1]:,} dimensions and {other.name} {other.shape[1]:,}: "
                    "embed both with the same options."
                )
        if features.shape[1] < 2 or features.shape[0] < 3:
            raise InputError(f"{features.name}: a map takes three samples or more of two dimensions or more.")
        found = read_clusters(clusters) if clusters else None
        if found is not None:
            _check_clusters(found, features)
        return cls(features, others, found, projection)


def _check_clusters(clusters: Clusters, train: Features) -> None:
    check_same_dataset({train.name: train.fingerprint, clusters.name: clusters.fingerprint})
    if len(clusters) != train.shape[0]:
        raise MismatchError(
            f"{clusters.name} is of {len(clusters):,} samples and {train.name} of {train.shape[0]:,}: "
            "give the clusters of these features."
        )
    if not len(clusters.centroids):
        raise InputError(f"{clusters.name}: holds no centroids, by which generated samples get their colours.")
    if clusters.centroids.shape[1] != train.shape[1]:
        raise MismatchError(
            f"{clusters.name} has centroids of {clusters.centroids.shape[1]:,} dimensions and {train.name} features of "
            f"{train.shape[1]:,}: give the clusters of these features."
        )


@dataclass(frozen=True)
class FeatureMap:
    """Training samples and one set of generated ones in two dimensions.

    Attributes:
        title: what the generated samples are.
        train: places `[n, 2]` of training samples.
        train_groups: their clusters, -1 for none.
        generated: places `[m, 2]` of generated samples.
        generated_groups: the clusters of their nearest centroids, 0 without clusters.
        bounds: least and greatest of both axes, over all maps.
    """

    title: str
    train: FloatArray
    train_groups: IntArray
    generated: FloatArray
    generated_groups: IntArray
    bounds: FloatArray

    def figure(self) -> Figure:
        """Draw it."""
        low, high = self.bounds.tolist()
        title = presentable(self.title)
        return scatter(title, f"Map of training samples and {title}", self.train.tolist(), self.train_groups.tolist(),
                       self.generated.tolist(), self.generated_groups.tolist(), (low, high),
                       self._middles())  # fmt: skip

    def _middles(self) -> dict[int, tuple[float, float]]:
        """Return the median place of the training samples of each cluster, none where there are too many."""
        known = np.unique(self.train_groups[self.train_groups >= 0]).tolist()
        if len(known) > MOST_NUMBERS:
            return {}
        middles = (np.median(self.train[self.train_groups == group], axis=0).tolist() for group in known)
        return {group: (x, y) for group, (x, y) in zip(known, middles, strict=True)}

    def csv(self) -> str:
        """Write it, a row for each sample."""
        sets = (("training", self.train, self.train_groups), ("generated", self.generated, self.generated_groups))
        rows = [
            (name, *place, group)
            for name, places, groups in sets
            for place, group in zip(places.tolist(), groups.tolist(), strict=True)
        ]
        return csv_text(("set", "x", "y", "cluster"), rows)


def make_maps(inputs: MapInputs, known: Sequence[Comparison] = ()) -> list[FeatureMap]:
    """Place the samples of each set of generated features among those of training, all with the same bounds.

    Args:
        inputs: what is placed.
        known: results, whose lines are called alike.

    Raises:
        InputError: too few samples have features that are numbers.
    """
    clustered = None if inputs.clusters is None else np.flatnonzero(inputs.clusters.assignment >= 0)
    train, ids = _shown(inputs.train, MOST_TRAIN, clustered)
    if len(train) < 3:
        raise InputError(f"{inputs.train.name}: fewer than three samples have features that are numbers: embed again.")
    group = inputs.clusters.assignment[ids].astype(np.int64) if inputs.clusters else np.full(len(ids), -1)
    others = [_shown(features, MOST_GENERATED)[0] for features in inputs.generated]
    placed = _project([train, *others], inputs.projection)
    every = np.concatenate(placed)
    bounds = np.stack([every.min(0), every.max(0)])
    titles = _titles(inputs, known)
    return [
        FeatureMap(title, placed[0], group, points, _nearest_clusters(other, inputs.clusters), bounds)
        for title, other, points in zip(titles, others, placed[1:], strict=True)
    ]


def _shown(features: Features, most: int, among: IntArray | None = None) -> tuple[FloatArray, IntArray]:
    """Return the features of at most so many samples that have any, and their ids.

    Args:
        features: of all samples.
        most: samples that are shown.
        among: ids of those that may be, None for all: what was left out of the clusters is in no training set.
    """
    count = features.shape[0] if among is None else len(among)
    draw = generator(0, "samples on a map")
    places = np.sort(draw.choice(count, min(most, count), replace=False)).astype(np.int64)
    ids = places if among is None else among[places]
    x = features.take(ids).astype(np.float64)
    kept = np.isfinite(x).all(1)
    if kept.sum() < 1:
        raise InputError(f"{features.name}: no sample has features that are numbers: embed the images again.")
    return x[kept], ids[kept]


def _nearest_clusters(x: FloatArray, clusters: Clusters | None) -> IntArray:
    if clusters is None:
        return np.zeros(len(x), dtype=np.int64)
    import torch

    from dprune.measuring.groups import nearest_centroids

    return nearest_centroids(torch.from_numpy(x.astype(np.float32)), clusters).numpy()


def _project(parts: Sequence[FloatArray], projection: str) -> list[FloatArray]:
    """Project all samples at once; the axes of PCA are those of the training set, which comes first."""
    from sklearn.decomposition import PCA

    every = np.concatenate(parts)
    stops = np.cumsum([len(part) for part in parts])[:-1]
    if projection == "pca":
        placed = PCA(2, svd_solver="full").fit(parts[0]).transform(every)
    else:
        from sklearn.manifold import TSNE

        if every.shape[1] > _FIRST and len(every) > _FIRST:
            every = PCA(_FIRST, svd_solver="full").fit_transform(every)
        perplexity = min(30.0, (len(every) - 1) / 3)
        placed = TSNE(2, init="pca", random_state=0, perplexity=perplexity).fit_transform(every)
    return np.split(placed.astype(np.float64), stops)


def _titles(inputs: MapInputs, known: Sequence[Comparison]) -> list[str]:
    """Name each map by how its samples were made."""
    points = [
        point_of_images(some.name, some.record, some.as_parent()["digest"], inputs.baselines) if some.record else None
        for some in inputs.generated
    ]
    names = {
        point.mark: cell_title(line, cell)
        for comparison in compare([point for point in points if point is not None])
        for line, cell in called_alike(comparison, known).cells()
        for point in cell.points
        if _is_known(point)
    }
    return [names.get(point.mark if point else "", f"generated {n}") for n, point in enumerate(points, 1)]


def _is_known(point: Point) -> bool:
    """Tell whether anything says how images were made: of real ones, or those of other tools without a tag, nothing."""
    return (point.subset.method, point.subset.ratio) != (EXTERNAL, None)
