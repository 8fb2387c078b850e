"""Precision and recall of distributions, by Sajjadi et al. (2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dprune.metrics.distances import common_centre
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.metrics.rows import check_pair
from dprune.seeds import generator

CLUSTERS = 20
RUNS = 10
ANGLES = 1001
BETA = 8.0

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
    alike, and counted in full. Standard errors are given the clusterings.

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
    histograms = [_histograms(clustering(some, x, clusters, each), len(generated), clusters, blocks) for each in seeds]
    ours, theirs = (torch.stack(parts) for parts in zip(*histograms, strict=True))
    whole = ours.sum(1, keepdim=True)
    (p, r), (p_left, r_left) = (
        (part.mean(0) for part in prd_curve(counts, theirs.unsqueeze(1))) for counts in (whole, whole - ours)
    )
    f_8, f_1_8 = (
        blocks.estimate(float(f_beta(p, r, beta)[0]), f_beta(p_left, r_left, beta)) for beta in (BETA, 1 / BETA)
    )
    return Curve(p[0], r[0], f_8, f_1_8, clusters, runs)


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


def _histograms(cluster: Tensor, generated: int, clusters: int, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Count the generated rows, which come first, by block and cluster, [blocks, k], the others by cluster, [k]."""
    ours = torch.bincount(blocks.labels * clusters + cluster[:generated], minlength=len(blocks) * clusters)
    theirs = torch.bincount(cluster[generated:], minlength=clusters)
    return ours.view(len(blocks), clusters).double(), theirs.double()
