"""Cells of feature space, in which the copying test compares like with like: k-means on the training features.

Meehan et al. (2020) test inside the cells of a partition that the training set induces. Where features have more than
64 dimensions, cells are made in the first 64 principal components, in which distances between groups remain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.clustering.kernels import nearest_two
from dprune.clustering.kmeans import KMeansSettings, fit
from dprune.clustering.points import load_points
from dprune.formats.features import ArrayFeatures
from dprune.measuring.sides import TrainingRows
from dprune.metrics.reading import blocks
from dprune.runtime import Monitor
from dprune.seeds import generator

SAMPLES_IN_CELL = 50
MOST_CELLS = 1000
COMPONENTS = 64
# Rows that k-means is fitted to: enough for each cell and for the components, and no more than memory bears.
ROWS_A_CELL, FEWEST_ROWS, FIT_BYTES = 256, 1 << 16, 1 << 30
# Cells need not be the best: any partition by the training set makes a valid test.
ITERATIONS = 25
OVERSAMPLING, POWERS = 8, 3


def default_cells(*counts: int) -> int:
    """Return how many cells sets of such sizes fill: one for each 50 samples of the smallest, at most 1,000."""
    return max(1, min(MOST_CELLS, min(counts) // SAMPLES_IN_CELL))


@dataclass(frozen=True)
class Cells:
    """A partition of feature space.

    Attributes:
        centre: mean of the training features, float32 [d].
        basis: principal components as columns, float32 [d, 64]; None where there are no more dimensions than that.
        centroids: of the cells, float32 [k, 64] or [k, d].
    """

    centre: Tensor
    basis: Tensor | None
    centroids: Tensor

    @classmethod
    def fit(cls, train: TrainingRows, count: int, seed: int, device: torch.device, monitor: Monitor) -> Cells:
        """Cluster the training features, or a sample of them where they are many.

        Args:
            train: training features.
            count: number of cells, at most that of the training samples with finite features.
            seed: seed of the sample and of k-means.
            device: where to work.
            monitor: told of the iterations.

        Raises:
            Interrupted: the monitor asks to stop.
        """
        sample = torch.from_numpy(train.take(_chosen(train.shape, count, seed))).float()
        # Rows beyond what float32 can square are never found either.
        sample = sample[torch.isfinite(torch.linalg.vector_norm(sample, dim=1))].to(device)
        centre = sample.mean(0, dtype=torch.float64).float()
        sample -= centre
        basis = components(sample, seed) if sample.shape[1] > COMPONENTS else None
        placed = sample if basis is None else sample @ basis
        points = load_points(ArrayFeatures("the training features", placed.cpu().numpy()), "l2", device, monitor)
        solution = fit(points, KMeansSettings(k=count, iterations=ITERATIONS), seed, monitor)
        return cls(centre, basis, solution.centroids + points.centre)

    def of(self, x: Tensor) -> Tensor:
        """Return the cell of each row [n, d], int64 [n]."""
        placed = x.float() - self.centre
        labels: Tensor
        labels, _, _ = nearest_two(placed if self.basis is None else placed @ self.basis, self.centroids)
        return labels.long()

    def of_training(self, train: TrainingRows) -> Tensor:
        """Return the cell of each training row, int64 [n]; that of a row that is not finite means nothing."""
        parts = blocks(train.stage("assigning cells"), self.centre.device)
        return torch.cat([self.of(rows) for _, rows in parts])


def components(x: Tensor, seed: int, count: int = COMPONENTS) -> Tensor:
    """Find the principal components of centred rows by subspace iteration.

    Halko, Martinsson and Tropp (2011), algorithm 4.4: no matrix of d x d is formed.

    Args:
        x: float32 [n, d].
        seed: seed of the subspace that the iteration starts from.
        count: how many, at most d.

    Returns:
        Orthonormal columns, float32 [d, count].
    """
    width = min(count + OVERSAMPLING, x.shape[1])
    draws = generator(seed, "principal components of cells").standard_normal((x.shape[1], width))
    space = torch.linalg.qr(torch.from_numpy(draws).to(x)).Q
    for _ in range(POWERS):
        space = torch.linalg.qr(x.T @ (x @ space)).Q
    _, vectors = torch.linalg.eigh((x @ space).double().T @ (x @ space).double())
    found: Tensor = space @ vectors[:, -count:].float()
    return found


def _chosen(shape: tuple[int, int], count: int, seed: int) -> npt.NDArray[np.int64]:
    rows, dimension = shape
    most = max(count, min(max(ROWS_A_CELL * count, FEWEST_ROWS), FIT_BYTES // (4 * dimension)))
    draw = generator(seed, "training samples that make cells")
    chosen: npt.NDArray[np.int64] = draw.choice(rows, min(rows, most), replace=False, shuffle=False)
    chosen.sort()
    return chosen
