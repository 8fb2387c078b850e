"""Precision and recall of distributions, by Sajjadi et al. (2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dprune.metrics.distances import common_centre
from dprune.metrics.jackknife import Blocks, Estimate, draw_halves
from dprune.metrics.rows import check_pair
from dprune.namespace import beside
from dprune.precision import float32
from dprune.seeds import generator

CLUSTERS = 20
RUNS = 10
ANGLES = 1001
BETA = 8.0
STEPS = 2
"""Of k-means that halves take from the clusters of all."""

Clustering = Callable[[Tensor, Tensor, int, int], Tensor]
"""Takes centred rows to be clustered, float32 [m, d], all rows, float32 [n, d], the number of clusters and a seed, and
returns the cluster of each of all rows, int64 [n]."""


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve of distributions.

    Attributes:
        precision: float64 [angles], from the slope of nearly no weight on precision to nearly all.
        recall: float64 [angles].
        f_8: largest F score on the curve that weights recall 8 times as much as precision.
        f_1_8: the same with precision and recall exchanged.
        clusters: clusters of the shared histogram.
        runs: clusterings averaged over.
    """

    precision: Tensor
    recall: Tensor
    f_8: Estimate
    f_1_8: Estimate
    clusters: int
    runs: int


def prd(
    generated: Tensor,
    reference: Tensor,
    clustering: Clustering,
    seed: int = 0,
    clusters: int = CLUSTERS,
    runs: int = RUNS,
    blocks: Blocks | None = None,
) -> Curve:
    """Compute the PRD curve of Sajjadi et al. (2018), averaged over several seeded clusterings of both sets.

    The larger set is thinned to the size of the smaller one for the clustering, so that both shape the clusters
    alike, and counted in full. Standard errors are made of halves, see `_halved`.

    Args:
        generated: features [n, d] of any float type.
        reference: features [m, d] on the same device.
        clustering: such as k-means.
        seed: seed of the clusterings.
        clusters: how many, lowered to the number of samples clustered.
        runs: clusterings.
        blocks: of the generated samples, for the standard errors.

    Raises:
        InputError: a side is empty or not finite.
        MismatchError: the dimensions differ.
    """
    check_pair(generated, reference)
    x, balanced = _union(generated, reference, seed)
    clusters = min(clusters, len(balanced))
    some = x if len(balanced) == len(x) else x.index_select(0, balanced)
    seeds, blocks = range(seed * RUNS, seed * RUNS + runs), blocks or Blocks.whole(generated)
    labels = torch.stack([clustering(some, x, clusters, each) for each in seeds], 1)
    p, r = _mean_curve(labels[: len(generated)], labels[len(generated) :], clusters)
    f_8, f_1_8 = (Estimate(float(f_beta(p, r, beta))) for beta in (BETA, 1 / BETA))
    if len(blocks) > 1 and len(reference) > 1:
        halves = _halved(x, balanced, labels, clusters, blocks)
        f_8, f_1_8 = (
            blocks.estimate_by_halves(whole.value, halves[0, :, number] - halves[1, :, number])
            for number, whole in enumerate((f_8, f_1_8))
        )
    return Curve(p, r, f_8, f_1_8, clusters, runs)


def prd_curve(generated: Tensor, reference: Tensor, angles: int = ANGLES) -> tuple[Tensor, Tensor]:
    """Return precision = sum min(slope · reference, generated) and recall = precision / slope.

    Args:
        generated: counts in the bins of a histogram, float64 [..., k].
        reference: counts in the same bins, float64 [..., k], broadcast against `generated`.
        angles: number of slopes, the tangents of evenly spaced angles.

    Returns:
        Precision and recall, float64 [..., angles].
    """
    slopes = torch.tan(torch.linspace(1e-10, math.pi / 2 - 1e-10, angles, dtype=torch.float64, device=generated.device))
    p = (generated / generated.sum(-1, keepdim=True)).unsqueeze(-2)
    q = (reference / reference.sum(-1, keepdim=True)).unsqueeze(-2)
    precision = torch.minimum(slopes.unsqueeze(1) * q, p).sum(-1)
    return precision.clamp(max=1), (precision / slopes).clamp(max=1)


def f_beta(precision: Tensor, recall: Tensor, beta: float) -> Tensor:
    """Return the largest (1 + beta²) P R / (beta² P + R) along the last dimension."""
    weighted = beta**2 * precision + recall
    scores = torch.where(weighted > 0, (1 + beta**2) * precision * recall / weighted, 0)
    return scores.amax(-1)


def _union(generated: Tensor, reference: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return all rows, float32 and centred, and the ids of as many of either side."""
    x = torch.cat([generated.float(), reference.float()])
    x -= common_centre(x).float()
    fewer, ids = min(len(generated), len(reference)), []
    for first, count, role in ((0, len(generated), "generated"), (len(generated), len(reference), "reference")):
        chosen = np.sort(generator(seed, f"PRD {role}").choice(count, fewer, replace=False, shuffle=False))
        ids.append(first + torch.from_numpy(chosen))
    return x, torch.cat(ids).to(x.device)


def _mean_curve(generated: Tensor, reference: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Average the curves of several clusterings, given the clusters of either side, int64 [rows, runs]."""
    ours, theirs = (_counts(labels, clusters) for labels in (generated, reference))
    precision, recall = prd_curve(ours, theirs)
    return precision.mean(0), recall.mean(0)


def _counts(labels: Tensor, clusters: int) -> Tensor:
    """Count rows by clustering and cluster, float64 [runs, clusters], for labels [rows, runs]."""
    runs = labels.shape[1]
    cells = labels + clusters * torch.arange(runs, device=labels.device)
    return torch.bincount(cells.flatten(), minlength=runs * clusters).view(runs, clusters).double()


def _halved(x: Tensor, balanced: Tensor, labels: Tensor, clusters: int, blocks: Blocks) -> Tensor:
    """Compute both F scores of halves of the generated rows, held against the same half of the reference.

    The clusters of all rows go on to the halves' own: clusters that stayed as they are would tell too large an error
    for one score and too small a one for the other, and ones begun anew that of another seed.

    Args:
        x: all rows, the generated ones first, float32 [n + m, d].
        balanced: ids of those that shape the clusters.
        labels: clusters of all rows in each clustering, int64 [n + m, runs].
        clusters: how many.
        blocks: of the generated rows.

    Returns:
        F scores that weigh recall and precision, of the first and second halves, float64 [2, ways, 2].
    """
    shapes = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    ours = beside(x, blocks.halves())
    theirs = beside(x, draw_halves(len(x) - len(ours), len(blocks), blocks.seed, "reference"))
    shapes[balanced] = True
    start = _centroids(x[balanced], labels[balanced], clusters, None)
    scores = torch.empty((2, len(blocks), 2), dtype=torch.float64, device=x.device)
    for way in range(len(blocks)):
        for half in (0, 1):
            rows = torch.nonzero(torch.cat([ours[:, way] == bool(half), theirs[:, way]])).squeeze(1)
            own = _settled(x[rows], labels[rows], shapes[rows], start)
            generated = int((rows < len(ours)).sum())
            curve = _mean_curve(own[:generated], own[generated:], clusters)
            scores[half, way] = torch.stack([f_beta(*curve, beta) for beta in (BETA, 1 / BETA)])
    return scores


def _settled(x: Tensor, labels: Tensor, shapes: Tensor, start: Tensor) -> Tensor:
    """Take some steps of k-means (Lloyd, 1982) from given clusters, in all clusterings at once.

    Args:
        x: rows [n, d].
        labels: clusters to go on from, int64 [n, runs].
        shapes: which rows shape the clusters, bool [n].
        start: centroids of clusters that have no row, [runs, clusters, d].

    Returns:
        Clusters, int64 [n, runs].
    """
    centroids = start
    for _ in range(STEPS):
        centroids = _centroids(x[shapes], labels[shapes], start.shape[1], centroids)
        flat = centroids.flatten(0, 1)
        with float32(tf32=False):
            nearness = torch.addmm(flat.square().sum(1), x, flat.T, alpha=-2)
        labels = nearness.view(len(x), *start.shape[:2]).argmin(2)
    return labels


def _centroids(x: Tensor, labels: Tensor, clusters: int, empty: Tensor | None) -> Tensor:
    """Return the means of clusters of rows [n, d], [runs, clusters, d]; of a cluster without a row that in `empty`."""
    member = torch.nn.functional.one_hot(labels, clusters).to(x.dtype).flatten(1)
    counts = member.sum(0).unsqueeze(1)
    with float32(tf32=False):
        means = member.T @ x / counts.clamp(min=1)
    found = means.view(labels.shape[1], clusters, x.shape[1])
    return found if empty is None else found.where(counts.view(labels.shape[1], clusters, 1) > 0, empty)
