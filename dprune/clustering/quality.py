"""How good a clustering is, and the knee of several."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.clusters import Clusters

_MEASURES = ("inertia", "silhouette", "imbalance")


@dataclass(frozen=True)
class Quality:
    """How good one clustering is.

    Attributes:
        k: number of clusters.
        inertia: sum of squared distances, or of 1 - cosine, to the own centroid.
        silhouette: mean silhouette of sampled points (Rousseeuw, 1987), NaN for a single cluster.
        imbalance: faiss's imbalance factor.
    """

    k: int
    inertia: float
    silhouette: float
    imbalance: float


def inertia(clusters: Clusters, metric: str) -> float:
    """Return the sum of squared Euclidean distances, or of 1 - cosine, accumulated in float64."""
    distances = clusters.distance[clusters.assignment >= 0].astype(np.float64)
    return float(distances.sum() if metric == "cosine" else np.square(distances).sum())


def imbalance(sizes: npt.NDArray[np.int64]) -> float:
    """Return faiss's imbalance factor, k·Σn²/(Σn)²: 1 for equal sizes, k when one cluster has everything."""
    shares = sizes / sizes.sum()
    return float(len(sizes) * np.square(shares).sum())


def silhouette(rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], metric: str) -> float:
    """Return the mean silhouette of points [n, d], NaN where all are in one cluster or each is in its own."""
    from sklearn.metrics import silhouette_score

    if not 1 < len(np.unique(labels)) < len(labels):
        return float("nan")
    return float(silhouette_score(rows, labels, metric="cosine" if metric == "cosine" else "euclidean"))


def find_knee(ks: Sequence[float], inertias: Sequence[float]) -> int | None:
    """Return the k whose inertia is furthest below the straight line between the ends, both axes scaled to [0, 1].

    This is the offline form of Kneedle (Satopää, Albrecht, Irwin and Raghavan, 2011) for a convex falling curve.

    Returns:
        None if there are fewer than three points or the inertia does not fall.
    """
    if len(ks) < 3 or inertias[-1] >= inertias[0]:
        return None
    x = (np.asarray(ks, dtype=np.float64) - ks[0]) / (ks[-1] - ks[0])
    y = (np.asarray(inertias, dtype=np.float64) - inertias[-1]) / (inertias[0] - inertias[-1])
    below = 1 - x - y
    return int(ks[int(below.argmax())]) if below.max() > 0 else None


def quality_table(qualities: Sequence[Quality]) -> bytes:
    """Write qualities as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Quality.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(quality) for quality in qualities)
    return text.getvalue().encode()


def read_quality_table(name: str, data: bytes) -> list[Quality]:
    """Read what `quality_table` wrote.

    Raises:
        InputError: it is something else.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        return [Quality(int(row["k"]), *(float(row[name]) for name in _MEASURES)) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name}: is damaged: remove it, and the same command makes it again.") from error
