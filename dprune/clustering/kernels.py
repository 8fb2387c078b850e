"""The two heavy steps of k-means besides the assignment: sums by cluster, and exact distances at the end."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dprune.kernels.available import triton_works
from dprune.namespace import Array, host, namespace, take_rows
from dprune.precision import float32

SEGMENT = 256
CPU_ROWS = 4096
GPU_SCORES = 1 << 25
MOST_MOVED = 0.25


def on_gpu(x: Array) -> bool:
    """Tell whether `x` is a tensor on a GPU."""
    return not isinstance(x, np.ndarray) and bool(x.is_cuda)


def rows_at_once(x: Array, k: int) -> int:
    """Return how many rows of `x` to multiply with k centroids at once: those whose scores stay in cache."""
    return max(1, GPU_SCORES // k) if on_gpu(x) else CPU_ROWS


def chunks(x: Array, step: int) -> Iterator[Array]:
    """Yield views of `step` rows each, the last one shorter."""
    for low in range(0, len(x), step):
        yield x[low : low + step]


def scores(x: Array, centroids: Array, half_norms: Array) -> Array:
    """Return x·c - |c|²/2, float32 [n, k], which is largest for the nearest centroid."""
    if isinstance(x, np.ndarray):
        return x @ centroids.T - half_norms
    # torch does both in one kernel.
    return namespace(x).addmm(half_norms, x, centroids.T, beta=-1)


def half_squared_norms(centroids: Array) -> Array:
    """Return |c|²/2 of each centroid, float32 [k]."""
    xp = namespace(centroids)
    return xp.square(xp.linalg.vector_norm(centroids, axis=1)) / 2


def cluster_sums(x: Array, labels: Array, k: int) -> tuple[Array, Array]:
    """Add up the points of each cluster.

    The row numbers, sorted by label, are cut into segments of at most 256 rows, at the clusters' borders too; each
    segment is summed in float32 by one kernel, which reads every row once and in place, and the segments of a
    cluster then in float64. The result does not depend on threads, and nothing waits for the device.

    Args:
        x: points, float32 [n, d].
        labels: cluster of each, int32 [n].
        k: number of clusters.

    Returns:
        float64 [k, d] and the number of points in each, int64 [k].
    """
    xp, device = namespace(x), x.device
    order = xp.argsort(labels, stable=True)
    ordered = take_rows(labels, order)
    clusters = xp.arange(k + 1, dtype=labels.dtype, device=device)
    borders = xp.searchsorted(ordered, clusters)
    counts = xp.diff(borders)
    if not len(x):
        return xp.zeros((k, x.shape[1]), dtype=xp.float64, device=device), counts
    starts = xp.concat([borders[:-1], xp.arange(0, len(x), SEGMENT, device=device)])
    starts = starts[xp.argsort(starts)]
    partial = xp.asarray(_segment_sums(x, order, starts), dtype=xp.float64)
    # An empty segment starts where the next begins, or behind the last row; its sum is zero, so its owner is free.
    owner = take_rows(ordered, xp.clip(starts, 0, len(x) - 1))
    firsts = xp.searchsorted(owner, clusters[:-1])
    return _segment_sums(partial, xp.arange(len(starts), device=device), firsts), counts


def _segment_sums(x: Array, order: Array, starts: Array) -> Array:
    """Return the sum of the rows that each segment of `order` names, in the precision of `x` [segments, d]."""
    if isinstance(x, np.ndarray):
        bounds = [*starts.tolist(), len(order)]
        return np.stack([x[order[low:high]].sum(0) for low, high in itertools.pairwise(bounds)])
    if x.dtype != namespace(x).float32 or not triton_works(x.device):
        return namespace(x).nn.functional.embedding_bag(order, x, starts, mode="sum")
    # Triton is not to be had everywhere.
    from dprune.kernels.segment_sum import segment_sums

    return segment_sums(x, order, starts)


class RunningSums:
    """The sums of each cluster's points, kept up to date through the points that change cluster.

    From the third iteration on few points do, so a CPU reads little more than those. On a GPU finding them would
    mean to wait for it, and adding all points up costs less.

    Args:
        x: points, float32 [n, d].
        k: number of clusters.
    """

    def __init__(self, x: Array, k: int) -> None:
        self._x = x
        self._k = k
        self._labels: Array = None
        self._sums: Array = None
        self._counts: Array = None

    def update(self, labels: Array) -> tuple[Array, Array]:
        """Return the sums, float64 [k, d], and the points of each cluster, int64 [k], for labels int32 [n]."""
        before, self._labels = self._labels, labels
        moved = None if before is None or on_gpu(self._x) else namespace(labels).where(labels != before)[0]
        if moved is None or len(moved) > len(labels) * MOST_MOVED:
            self._sums, self._counts = cluster_sums(self._x, labels, self._k)
            return self._sums, self._counts
        rows = take_rows(self._x, moved)
        for sign, owners in ((1, labels), (-1, before)):
            sums, counts = cluster_sums(rows, take_rows(owners, moved), self._k)
            self._sums = self._sums + sign * sums
            self._counts = self._counts + sign * counts
        return self._sums, self._counts


def own_squared_distances(x: Array, labels: Array, centroids: Array) -> Array:
    """Return the squared distance of each point to its own centroid by differences, float32 [n]."""
    step, xp = rows_at_once(x, x.shape[1]), namespace(x)
    squares = xp.empty(len(x), dtype=x.dtype, device=x.device)
    for rows, own, out in zip(chunks(x, step), chunks(labels, step), chunks(squares, step), strict=True):
        out[:] = xp.square(distance(rows, centroids, own))
    return squares


def distance(rows: Array, centroids: Array, labels: Array) -> Array:
    """Return the Euclidean distance of each row to the centroid that `labels` names, by differences, float32 [n]."""
    return namespace(rows).linalg.vector_norm(rows - take_rows(centroids, labels), axis=1)


class NearestTwo:
    """Assigns points to the nearest of some centroids, in full float32.

    A matrix product names the two nearest; their distances are then recomputed by differences, which do not cancel.
    Of centroids that are equal only the first takes points.

    Args:
        centroids: float32 [k, d].
    """

    def __init__(self, centroids: Array) -> None:
        repeats = _repeats(host(centroids))
        self._centroids, self._offsets = centroids, half_squared_norms(centroids)
        xp = namespace(centroids)
        self._offsets[xp.asarray(repeats, device=centroids.device)] = xp.inf
        self._single = bool(len(repeats) - repeats.sum() < 2)

    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """Assign points, float32 [n, d].

        Returns:
            Nearest centroid, int32 [n]; distance to it and to the second nearest, float32 [n], the latter NaN where
            all centroids are one.
        """
        xp = namespace(x)
        with contextlib.nullcontext() if xp is np else float32(tf32=False):
            found = [self._of_chunk(rows) for rows in chunks(x, rows_at_once(x, len(self._centroids)))]
        if not found:
            labels, nearest = (xp.empty(0, dtype=dtype, device=x.device) for dtype in (xp.int32, x.dtype))
            return labels, nearest, nearest
        labels, nearest, second = (xp.concat(parts) for parts in zip(*found, strict=True))
        return labels, nearest, second

    def _of_chunk(self, rows: Array) -> tuple[Array, Array, Array]:
        xp, centroids = namespace(rows), self._centroids
        table = scores(rows, centroids, self._offsets)
        first = table.argmax(axis=1)
        table[xp.arange(len(rows), device=rows.device), first] = -xp.inf
        second = table.argmax(axis=1)
        near, far = distance(rows, centroids, first), distance(rows, centroids, second)
        # Among two that are as good as equal the product may have chosen the wrong one.
        swap = ((far < near) | ((far == near) & (second < first))) & (not self._single)
        first, near, far = xp.where(swap, second, first), xp.where(swap, far, near), xp.maximum(near, far)
        return xp.asarray(first, dtype=xp.int32), near, xp.full_like(far, xp.nan) if self._single else far


def nearest_two(x: Array, centroids: Array) -> tuple[Array, Array, Array]:
    """Assign points [n, d] to the nearest of centroids [k, d], once; see `NearestTwo`."""
    return NearestTwo(centroids)(x)


def _repeats(centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Tell which centroids [k, d] are equal to an earlier one, bool [k]."""
    seen: dict[bytes, int] = {}
    # Zero is zero whatever its sign.
    rows = (row.tobytes() for row in centroids + np.float32(0))
    return np.array([seen.setdefault(row, number) != number for number, row in enumerate(rows)], dtype=np.bool_)
