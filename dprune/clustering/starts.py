"""Where k-means starts: greedy k-means++ on a subsample, or points drawn at random."""

from __future__ import annotations

import math

import torch

from dprune.clustering.points import Points
from dprune.collectives import from_root, is_root
from dprune.seeds import generator

SMALLEST_SAMPLE = 100_000


def initial_centroids(points: Points, k: int, method: str, seed: int, run: int = 0) -> torch.Tensor:
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
    centroids = points.x.new_empty((k, points.x.shape[1]))
    if is_root():
        if method == "random":
            centroids.copy_(rows)
        else:
            draws = generator(seed, f"k-means++ {run}").random((k, 2 + int(math.log(k))))
            centroids.copy_(greedy_kmeans_plus_plus(rows, torch.from_numpy(draws)))
    return from_root(centroids)


def greedy_kmeans_plus_plus(x: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Choose centroids among points, each the best of several drawn with probability proportional to D².

    k-means++ is by Arthur and Vassilvitskii (SODA 2007), who name the greedy variant; `2 + log k` trials a step are
    scikit-learn's. Nothing in the loop waits for the device.

    Args:
        x: points, float32 [n, d].
        draws: uniform numbers in [0, 1), float64 [k, trials].

    Returns:
        float32 [k, d], rows of `x`.
    """
    draws = draws.to(x.device)
    norms = torch.linalg.vector_norm(x, dim=1).square_()
    chosen = torch.empty(len(draws), dtype=torch.int64, device=x.device)
    chosen[:1] = (draws[0, :1] * len(x)).long()
    nearest = _squared_distances(x, norms, chosen[:1]).squeeze(0)
    for step in range(1, len(draws)):
        mass = nearest.cumsum(0, dtype=torch.float64)
        candidates = torch.searchsorted(mass, draws[step] * mass[-1:], right=True).clamp_(max=len(x) - 1)
        distances = torch.minimum(_squared_distances(x, norms, candidates), nearest)
        # Indexing with a tensor of one element rather than a number keeps the choice on the device.
        best = distances.sum(1, dtype=torch.float64).argmin().unsqueeze(0)
        chosen[step : step + 1] = candidates.index_select(0, best)
        nearest = distances.index_select(0, best).squeeze(0)
    return x.index_select(0, chosen)


def _squared_distances(x: torch.Tensor, norms: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    # The product is fastest with the points first, the sums over points with the candidates first.
    products = (x @ x.index_select(0, rows).T).T.contiguous()
    distances = products.mul_(-2).add_(norms).add_(norms.index_select(0, rows).unsqueeze(1)).clamp_(min=0)
    # A point is no candidate for itself, which rounding would leave a little chance of.
    return distances.scatter_(1, rows.unsqueeze(1), 0)
