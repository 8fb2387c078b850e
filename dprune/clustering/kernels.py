"""The two heavy steps of k-means besides the assignment: sums by cluster, and exact distances at the end."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import embedding_bag

from dprune.kernels.available import triton_works
from dprune.precision import float32

SEGMENT = 256
CPU_ROWS = 4096
GPU_SCORES = 1 << 25
MOST_MOVED = 0.25


def rows_at_once(x: torch.Tensor, k: int) -> int:
    """Return how many rows of `x` to multiply with k centroids at once: those whose scores stay in cache."""
    return CPU_ROWS if x.device.type == "cpu" else max(1, GPU_SCORES // k)


def chunks(tensor: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
    """Yield views of `step` rows each, the last one shorter."""
    for low in range(0, len(tensor), step):
        yield tensor[low : low + step]


def scores(x: torch.Tensor, centroids: torch.Tensor, half_norms: torch.Tensor) -> torch.Tensor:
    """Return x·c - |c|²/2, float32 [n, k], which is largest for the nearest centroid."""
    return torch.addmm(half_norms, x, centroids.T, beta=-1)


def half_squared_norms(centroids: torch.Tensor) -> torch.Tensor:
    """Return |c|²/2 of each centroid, float32 [k]."""
    norms: torch.Tensor = torch.linalg.vector_norm(centroids, dim=1)
    return norms.square_().mul_(0.5)


def cluster_sums(x: torch.Tensor, labels: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
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
    ordered, order = labels.sort(stable=True)
    clusters = torch.arange(k + 1, dtype=labels.dtype, device=x.device)
    borders = torch.searchsorted(ordered, clusters)
    cuts = torch.arange(0, len(x), SEGMENT, device=x.device)
    starts = torch.cat([borders[:-1], cuts]).sort().values
    if not len(x):
        return x.new_zeros((k, x.shape[1]), dtype=torch.float64), borders.diff()
    partial = _segment_sums(x, order, starts).double()
    # An empty segment starts where the next begins, or behind the last row; its sum is zero, so its owner is free.
    owner = ordered.index_select(0, starts.clamp(max=len(x) - 1))
    firsts = torch.searchsorted(owner, clusters[:-1])
    return embedding_bag(torch.arange(len(starts), device=x.device), partial, firsts, mode="sum"), borders.diff()


def _segment_sums(x: torch.Tensor, order: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Return the sum of the rows that each segment of `order` names, float32 [segments, d]."""
    if not triton_works(x.device):
        return embedding_bag(order, x, starts, mode="sum")
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

    def __init__(self, x: torch.Tensor, k: int) -> None:
        self._x = x
        self._k = k
        self._labels: torch.Tensor | None = None
        self._sums = x.new_zeros((k, x.shape[1]), dtype=torch.float64)
        self._counts = torch.zeros(k, dtype=torch.int64, device=x.device)

    def update(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sums, float64 [k, d], and the points of each cluster, int64 [k], for labels int32 [n]."""
        before, self._labels = self._labels, labels
        moved = None if before is None or self._x.is_cuda else torch.nonzero(labels != before).squeeze(1)
        if before is None or moved is None or len(moved) > len(labels) * MOST_MOVED:
            self._sums, self._counts = cluster_sums(self._x, labels, self._k)
            return self._sums, self._counts
        rows = self._x.index_select(0, moved)
        for sign, owners in ((1, labels), (-1, before)):
            sums, counts = cluster_sums(rows, owners.index_select(0, moved), self._k)
            self._sums = self._sums + sign * sums
            self._counts = self._counts + sign * counts
        return self._sums, self._counts


def own_squared_distances(x: torch.Tensor, labels: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of each point to its own centroid by differences, float32 [n]."""
    step = rows_at_once(x, x.shape[1])
    squares = x.new_empty(len(x))
    for rows, own, out in zip(chunks(x, step), chunks(labels, step), chunks(squares, step), strict=True):
        out.copy_(distance(rows, centroids, own).square_())
    return squares


def distance(rows: torch.Tensor, centroids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distance of each row to the centroid that `labels` names, by differences, float32 [n]."""
    norms: torch.Tensor = torch.linalg.vector_norm(rows - centroids.index_select(0, labels), dim=1)
    return norms


def nearest_two(x: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Assign each point to its nearest centroid, in full float32.

    A matrix product names the two nearest; their distances are then recomputed by differences, which do not cancel.
    Of centroids that are equal only the first takes points.

    Args:
        x: points, float32 [n, d].
        centroids: float32 [k, d].

    Returns:
        Nearest centroid, int32 [n]; distance to it and to the second nearest, float32 [n], the latter NaN where
        all centroids are one.
    """
    offsets = half_squared_norms(centroids).masked_fill_(_repeats(centroids), torch.inf)
    single = int(torch.isfinite(offsets).sum()) < 2
    found: list[tuple[torch.Tensor, ...]] = []
    with float32(tf32=False):
        for rows in chunks(x, rows_at_once(x, len(centroids))):
            table = scores(rows, centroids, offsets)
            first = table.argmax(1)
            second = table.scatter_(1, first.unsqueeze(1), -torch.inf).argmax(1)
            near, far = distance(rows, centroids, first), distance(rows, centroids, second)
            # Among two that are as good as equal the product may have chosen the wrong one.
            swap = ((far < near) | ((far == near) & (second < first))) & (not single)
            first, near, far = torch.where(swap, second, first), torch.where(swap, far, near), torch.maximum(near, far)
            found.append((first.int(), near, torch.full_like(far, torch.nan) if single else far))
    if not found:
        return x.new_empty(0, dtype=torch.int32), x.new_empty(0), x.new_empty(0)
    labels, nearest, second = (torch.cat(parts) for parts in zip(*found, strict=True))
    return labels, nearest, second


def _repeats(centroids: torch.Tensor) -> torch.Tensor:
    _, group = torch.unique(centroids, dim=0, return_inverse=True)
    first = torch.full_like(group, len(group)).scatter_reduce_(
        0, group, torch.arange(len(group), device=group.device), "amin"
    )
    return first.index_select(0, group) != torch.arange(len(group), device=group.device)
