"""Where k-means starts: greedy k-means++ on a subsample, or points drawn at random."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dprune.clustering.points import Points
from dprune.collectives import from_root, is_root
from dprune.namespace import Array, namespace, take_rows
from dprune.seeds import generator

SMALLEST_SAMPLE = 100_000


def initial_centroids(points: Points, k: int, method: str, seed: int, run: int = 0) -> Array:
    """Choose the first centroids.

    Args:
        points: the points of all ranks.
        k: how many.
        method: `kmeans++` (on the larger of 10% and 100,000 points) or `random`.
        seed: seed of the run.
        run: which of several starts this is; each draws its own numbers.

    Returns:
        float32 [k, d] in the space of the points, the same on every rank.
    """
    count = k if method == "random" else max(points.total // 10, SMALLEST_SAMPLE, k)
    rows, _ = points.sample(count, seed, f"k-means subsample {run}")
    centroids = namespace(rows).empty((k, rows.shape[1]), dtype=rows.dtype, device=rows.device)
    if is_root():
        if method == "random":
            centroids[:] = rows
        else:
            draws = generator(seed, f"k-means++ {run}").random((k, 2 + int(math.log(k))))
            centroids[:] = greedy_kmeans_plus_plus(rows, draws)
    return from_root(centroids)


def greedy_kmeans_plus_plus(x: Array, draws: npt.NDArray[np.float64]) -> Array:
    """Choose centroids among points, each the best of several drawn with probability proportional to D².

    k-means++ is by Arthur and Vassilvitskii (SODA 2007), who name the greedy variant; `2 + log k` trials a step are
    scikit-learn's. Nothing in the loop waits for the device.

    Args:
        x: points, float32 [n, d].
        draws: uniform numbers in [0, 1), float64 [k, trials].

    Returns:
        float32 [k, d], rows of `x`.
    """
    xp, last = namespace(x), len(x) - 1
    numbers = xp.asarray(draws, device=x.device)
    norms = xp.square(xp.linalg.vector_norm(x, axis=1))
    chosen = xp.empty(len(draws), dtype=xp.int64, device=x.device)
    chosen[:1] = xp.asarray(numbers[0, :1] * len(x), dtype=xp.int64)
    nearest = _squared_distances(x, norms, chosen[:1])[0]
    for step in range(1, len(draws)):
        mass = xp.cumsum(nearest, axis=0, dtype=xp.float64)
        candidates = xp.clip(xp.searchsorted(mass, numbers[step] * mass[-1:], side="right"), 0, last)
        distances = xp.minimum(_squared_distances(x, norms, candidates), nearest)
        # Indexing with one element in an array, rather than with a number, keeps the choice on the device.
        best = distances.sum(axis=1, dtype=xp.float64).argmin(axis=0, keepdims=True)
        chosen[step : step + 1] = take_rows(candidates, best)
        nearest = take_rows(distances, best)[0]
    return take_rows(x, chosen)


def _squared_distances(x: Array, norms: Array, rows: Array) -> Array:
    xp = namespace(x)
    # The product is fastest with the points first, the sums over points with the candidates first.
    distances = xp.empty((len(rows), len(x)), dtype=x.dtype, device=x.device)
    distances[:] = (x @ take_rows(x, rows).T).T
    distances *= -2
    distances += norms
    distances += take_rows(norms, rows)[:, None]
    xp.clip(distances, 0, None, out=distances)
    # A point is no candidate for itself, which rounding would leave a little chance of.
    distances[xp.arange(len(rows), device=x.device), rows] = 0
    return distances
