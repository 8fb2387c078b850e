"""The points that k-means clusters: each rank's slice of the features, on its device, ready for matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dprune.clustering.kernels import chunks
from dprune.clustering.reading import read_rows, rows_at_once
from dprune.collectives import all_gather, all_sum, gather_rows
from dprune.errors import InputError
from dprune.formats.features import Features
from dprune.runtime import Monitor, ranks
from dprune.seeds import generator


@dataclass(frozen=True)
class Points:
    """Rows of a feature matrix without those that hold no usable number.

    Attributes:
        x: this rank's points, float32 [n, d]: minus the mean of all for l2, scaled to unit length for cosine.
        valid: which rows of this rank's slice the points are, bool [rows].
        counts: points on each rank.
        metric: `l2` or `cosine`.
        centre: what was subtracted from the features, float32 [d]; zero for cosine.
        mean_square: mean squared norm over all ranks' points.
    """

    x: torch.Tensor
    valid: npt.NDArray[np.bool_]
    counts: tuple[int, ...]
    metric: str
    centre: torch.Tensor
    mean_square: float

    @property
    def total(self) -> int:
        """Points of all ranks."""
        return sum(self.counts)

    def place(self, centroids: torch.Tensor) -> torch.Tensor:
        """Bring centroids [k, d] from the features' space into that of `x`."""
        placed = centroids.to(self.x) - self.centre
        return unit(placed) if self.metric == "cosine" else placed

    def sample(self, count: int, seed: int, purpose: str) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
        """Draw points of all ranks without replacement; which ones does not depend on the number of ranks.

        Args:
            count: points to draw.
            seed: seed of the run.
            purpose: what they are for.

        Returns:
            The rows, float32 [count, d] (complete on rank 0 only), and their positions among all points, ascending.
        """
        if count >= self.total:
            chosen = np.arange(self.total)
        else:
            chosen = np.sort(generator(seed, purpose).choice(self.total, count, replace=False, shuffle=False))
        alone = len(self.counts) == 1
        if alone and len(chosen) == self.total:
            return self.x, chosen
        first = 0 if alone else sum(self.counts[: ranks().rank])
        here = chosen[(chosen >= first) & (chosen < first + len(self.x))] - first
        rows = self.x.index_select(0, torch.from_numpy(here).to(self.x.device))
        return gather_rows(rows), chosen


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Scale rows [n, d] to unit length; zero rows stay zero."""
    return torch.nn.functional.normalize(rows, dim=1)


def load_points(features: Features, metric: str, device: torch.device, monitor: Monitor) -> Points:
    """Read this rank's slice of the features.

    Rows that could not be decoded (NaN), that overflow float32 when squared, and for cosine those of zero length,
    which have no direction, are left out.

    Args:
        features: what to cluster.
        metric: `l2` or `cosine`.
        device: where the points are to be.
        monitor: told of the rows read.

    Raises:
        InputError: no row is usable.
    """
    worker, (samples, dimension) = ranks(), features.shape
    begin, end = (samples * rank // worker.world for rank in (worker.rank, worker.rank + 1))
    x = torch.empty((end - begin, dimension), dtype=torch.float32, device=device)
    sums = torch.zeros(dimension, dtype=torch.float64, device=device)
    valid, filled, read = np.zeros(end - begin, dtype=np.bool_), 0, 0
    monitor.start("reading features", end - begin, "samples")
    for rows in read_rows(features, begin, end, device):
        kept = _usable(rows, metric)
        here = slice(read, read := read + len(rows))
        valid[here] = kept.cpu().numpy()
        usable = rows if valid[here].all() else rows[kept]
        x[filled : filled + len(usable)] = usable
        sums += usable.sum(0)
        filled += len(usable)
        monitor.advance(len(rows))
    counts = tuple(all_gather(torch.tensor([filled])).tolist())
    if not sum(counts):
        raise InputError(f"{features.name}: no sample has usable features: all are NaN, infinite or zero.")
    # Products of centred vectors lose the fewest digits; any centre is right as long as all ranks share it.
    centre = (all_sum(sums) / sum(counts)).float() if metric == "l2" else x.new_zeros(dimension)
    return _placed(x[:filled], valid, counts, metric, centre)


def _usable(rows: torch.Tensor, metric: str) -> torch.Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1)
    return torch.isfinite(norms) & (norms > 0) if metric == "cosine" else torch.isfinite(norms)


def _placed(
    x: torch.Tensor, valid: npt.NDArray[np.bool_], counts: tuple[int, ...], metric: str, centre: torch.Tensor
) -> Points:
    squares = torch.zeros((), dtype=torch.float64, device=x.device)
    for chunk in chunks(x, rows_at_once(x.shape[1], x.device)):
        chunk.copy_(unit(chunk)) if metric == "cosine" else chunk.sub_(centre)
        squares += torch.linalg.vector_norm(chunk, dim=1).double().square().sum()
    return Points(x, valid, counts, metric, centre, float(all_sum(squares)) / sum(counts))
