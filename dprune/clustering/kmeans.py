"""k-means by Lloyd's iterations over all points, Euclidean or spherical, in one process or several."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.clustering.engines import Engine, make_engine
from dprune.clustering.kernels import RunningSums, own_squared_distances
from dprune.clustering.points import Points, unit
from dprune.clustering.starts import initial_centroids
from dprune.collectives import all_gather, all_sum
from dprune.errors import InputError, Interrupted
from dprune.namespace import Array, namespace, take_rows
from dprune.runtime import Monitor

# Closer than this share of the points' mean squared norm, a matrix product cannot tell a point from its centroid.
RESOLUTION = 1e-6

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class KMeansSettings:
    """What determines a clustering besides the features and the seed.

    Attributes:
        k: number of clusters.
        metric: `l2`, or `cosine` for spherical k-means.
        init: `kmeans++`, `random` or `file`.
        n_init: starts, of which the one with the lowest inertia is kept.
        iterations: most iterations of one start.
        tolerance: an iteration that moves the centroids by less, squared and summed, than this share of the points'
            mean variance a dimension is the last; scikit-learn's definition.
        engine: `faiss`, `torch` or `sklearn`.
        centroids: where to start for `file`, float32 [k, d].
    """

    k: int = 24
    metric: str = "l2"
    init: str = "kmeans++"
    n_init: int = 1
    iterations: int = 100
    tolerance: float = 1e-4
    engine: str = "torch"
    centroids: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    def options(self) -> dict[str, Any]:
        """Return what provenance records."""
        names = ("k", "metric", "init", "n_init", "iterations", "tolerance", "engine")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Solution:
    """Where one start of k-means ended.

    Attributes:
        centroids: float32 [k, d], in the space of the points, the same on every rank.
        inertia: sum over points of the squared distance, or of 1 - cosine, to the centroid, at the last update.
        iterations: how many it took.
        repaired: empty clusters that were given a new centroid on the way.
    """

    centroids: Array
    inertia: float
    iterations: int
    repaired: int


def fit(points: Points, settings: KMeansSettings, seed: int, monitor: Monitor) -> Solution:
    """Cluster points and keep the best of several starts.

    Args:
        points: the points, of which each rank holds a part.
        settings: number of clusters, metric, init, engine.
        seed: seed of the run; with it and the machine's thread count a CPU gives the same bits again.
        monitor: told of each iteration.

    Raises:
        InputError: there are fewer points than clusters.
        Interrupted: some rank was asked to stop.
    """
    if settings.k > points.total:
        raise InputError(f"-k {settings.k} is more than the {points.total:,} samples that have features: lower it.")
    engine = make_engine(settings.engine, points.x)
    monitor.start(f"k-means, k={settings.k}", settings.iterations * settings.n_init, "iterations")
    best: Solution | None = None
    for run in range(settings.n_init):
        start = _start(points, settings, seed, run)
        solution = lloyd(points, engine, start, settings, monitor)
        _log.debug("start %d: inertia %.6g in %d iterations.", run, solution.inertia, solution.iterations)
        if best is None or solution.inertia < best.inertia:
            best = solution
    assert best is not None
    return best


def _start(points: Points, settings: KMeansSettings, seed: int, run: int) -> Array:
    if settings.centroids is not None:
        return points.place(settings.centroids)
    return initial_centroids(points, settings.k, settings.init, seed, run)


def lloyd(points: Points, engine: Engine, centroids: Array, settings: KMeansSettings, monitor: Monitor) -> Solution:
    """Alternate between assignment and means until the centroids rest (Lloyd, 1982).

    For cosine the means are scaled to unit length (Dhillon and Modha, 2001). A cluster that loses all its points
    takes over the point furthest from its centroid, as in scikit-learn.

    Args:
        points: the points, of which each rank holds a part.
        engine: finds the nearest centroids of this rank's part.
        centroids: where to start, float32 [k, d], in the space of the points.
        settings: metric, iterations and tolerance.
        monitor: told of each iteration, and asked at each whether to stop.

    Raises:
        Interrupted: some rank was asked to stop.
    """
    limit = settings.tolerance * points.mean_square / points.x.shape[1]
    repaired, inertia, step = 0, float("inf"), 0
    running = RunningSums(points.x, len(centroids))
    for step in range(1, settings.iterations + 1):
        labels = engine.assign(centroids)
        moved, counts, status = _update(points, running.update(labels), centroids, monitor)
        shift, inertia, empty, stop = status.tolist()
        if stop:
            raise Interrupted("stopped; run the same command again.")
        filled = _repair(points, labels, moved, counts, step) if empty else 0
        centroids, repaired = moved, repaired + filled
        monitor.advance()
        _log.debug("iteration %d: inertia %.9g, centroids moved by %.3g.", step, inertia, shift)
        if shift <= limit and not filled:
            break
    return Solution(centroids, inertia, step, repaired)


def _update(points: Points, own: tuple[Array, Array], centroids: Array, monitor: Monitor) -> tuple[Array, Array, Array]:
    """Return the new centroids, float32 [k, d], the points of each, float64 [k], and the state of the iteration.

    `own` holds the sums and counts of this rank's points. The state is [squared shift, inertia, empty clusters,
    ranks asked to stop]; reading it is the one wait for the device.
    """
    xp, (k, dimension) = namespace(centroids), centroids.shape
    packed = xp.zeros((k + 1, dimension + 1), dtype=xp.float64, device=centroids.device)
    packed[:k, :dimension], packed[:k, dimension] = own
    if monitor.stop_requested():
        packed[k, 0] = 1
    all_sum(packed)
    sums, counts = packed[:k, :dimension], packed[:k, dimension]
    means = unit(sums) if points.metric == "cosine" else sums / xp.clip(counts, 1, None)[:, None]
    # Opposite unit vectors add up to no direction, and a cluster that was left may keep a residue of rounding.
    empty = counts == 0
    unchanged = empty | (sums == 0).all(axis=1) if points.metric == "cosine" else empty
    moved = xp.where(unchanged[:, None], centroids, xp.asarray(means, dtype=centroids.dtype))
    # With the assignment's own means, the points' squares split into those within and those between clusters.
    inertia = points.mean_square * points.total - (sums * moved).sum()
    shift = xp.square(xp.asarray(moved - centroids, dtype=xp.float64)).sum()
    return moved, counts, xp.stack([shift, inertia, empty.sum(dtype=xp.float64), packed[k, 0]])


def _repair(points: Points, labels: Array, centroids: Array, counts: Array, step: int) -> int:
    """Move the centroids of empty clusters, in place, to the points furthest from theirs; return how many moved."""
    xp = namespace(centroids)
    empty = xp.where(counts == 0)[0]
    distances = own_squared_distances(points.x, labels, centroids)
    # Every rank offers as many points; one that has fewer offers worthless ones.
    worth = xp.concat([distances, xp.zeros(len(empty), dtype=distances.dtype, device=distances.device)])
    offered, last = _largest(worth, len(empty)), len(points.x) - 1
    rows = take_rows(points.x, xp.clip(offered, 0, last)) if last >= 0 else centroids[empty]
    worth, rows = all_gather(worth[offered]), all_gather(rows)
    furthest = _largest(worth, len(empty))
    count = int((worth[furthest] > RESOLUTION * points.mean_square).sum())
    centroids[empty[:count]] = rows[furthest[:count]]
    if count:
        _log.info("k-means: %d empty clusters took over the furthest points (iteration %d).", count, step)
    return count


def _largest(values: Array, count: int) -> Array:
    """Return the places of the `count` largest values [n], the largest first, the first of equal ones."""
    return namespace(values).argsort(-values, stable=True)[:count]
