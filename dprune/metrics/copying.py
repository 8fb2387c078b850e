"""What tells copies from new samples: nearest distances, authenticity, Meehan's test, the calibrated ratio.

All take what `nearest` found, on any device, and return numbers on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.errors import InputError, MismatchError
from dprune.metrics.nearest import Neighbours, nearest
from dprune.metrics.reading import Rows, take

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
LEAST_IN_CELL = 20
CORRECTION = 0.5


@dataclass(frozen=True)
class DistanceSummary:
    """The distribution of nearest distances.

    Samples that have none, without features or without any row to compare with, are left out.

    Attributes:
        mean: NaN, as the quantiles, where no sample has one.
        quantiles: by level, linear between order statistics.
        histogram: samples in each bin, those beyond the edges left out.
        zero_count: samples at distance exactly 0.
    """

    mean: float
    quantiles: dict[float, float]
    histogram: list[int]
    zero_count: int


@dataclass(frozen=True)
class CopyingTest:
    """The result of a data-copying test.

    Attributes:
        c_t: weighted mean of the cells' z; far below 0 for copies, far above for samples far from the training data.
        z: `c_t` over the deviation that it has when nothing is copied.
        p: chance of a z as low as this when nothing is copied (one-sided).
        cells: cells that count.
        weight: share of the held-out samples in them.
    """

    c_t: float
    z: float
    p: float
    cells: int
    weight: float


def histogram_edges(distances: Sequence[Tensor], bins: int = 50) -> list[float]:
    """Return edges from 0 that hold the finite distances of all sets, so that their histograms can be laid over."""
    tops = [float(found.max()) for x in distances if len(found := _finite(x))]
    top = max(tops, default=0.0) or 1.0
    edges: list[float] = torch.linspace(0, top, bins + 1, dtype=torch.float64).tolist()
    # A product may round the last edge to below the largest distance.
    return [*edges[:-1], top]


def summarize(distances: Tensor, edges: Sequence[float]) -> DistanceSummary:
    """Summarize nearest distances, [n] of any float dtype, over bins with these edges."""
    kept = _finite(distances).sort().values
    return DistanceSummary(
        mean=float(kept.mean()) if len(kept) else math.nan,
        quantiles={level: _quantile(kept, level) for level in QUANTILES},
        histogram=np.histogram(kept.numpy(), edges)[0].tolist(),
        zero_count=int((kept == 0).sum()),
    )


def authenticity(found: Neighbours, train: Rows | Tensor | npt.NDArray[np.floating]) -> tuple[float, Tensor]:
    """Compare each sample's nearest distance with that of its nearest training sample to the rest of these.

    A sample is authentic if its nearest training row is nearer to some other training row than to the sample: Alaa et
    al., "How faithful is your synthetic data?", ICML 2022, as a percentage as in Stein et al., 2023. Only training
    rows that are somebody's nearest are searched for.

    Args:
        found: what `nearest` found for the generated samples, on the device that is to work.
        train: the training rows [n, d] that it found them in; read twice.

    Returns:
        The percentage of authentic samples among those that have a distance, NaN where none has, and which samples
        are authentic, bool [m].
    """
    ids, distances = found.id[:, 0], found.distance[:, 0]
    matched, owner = ids[ids >= 0].unique(return_inverse=True)
    authentic = torch.zeros(len(ids), dtype=torch.bool)
    if not len(matched):
        return math.nan, authentic
    rest = nearest(take(train, matched), train, exclude=matched).distance[:, 0]
    authentic[(ids >= 0).cpu()] = (rest[owner] < distances[ids >= 0]).cpu()
    return 100 * int(authentic.sum()) / len(owner), authentic


def mann_whitney_z(generated: Tensor, held_out: Tensor, correction: float = 0.0) -> float:
    """Tell whether generated distances [m] tend to be larger than held-out ones [n], in standard deviations.

    U counts the pairs in which they are, ties one half: Mann and Whitney, 1947, without a correction for ties. Meehan
    et al., 2020, add a continuity correction of one half to U inside cells and none for whole sets.

    Args:
        generated: distances, [m].
        held_out: distances, [n].
        correction: what to add to U.

    Returns:
        z, far below 0 for copies; NaN where a side is empty.
    """
    m, n = len(generated), len(held_out)
    if not m or not n:
        return math.nan
    ordered = held_out.double().cpu().sort().values
    values = generated.double().cpu().contiguous()
    below = torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)
    u = int(below.sum()) / 2
    return (u + correction - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)


def copying_test(
    generated: Tensor, held_out: Tensor, generated_cells: Tensor, held_out_cells: Tensor, tau: float | None = None
) -> CopyingTest:
    """Compute the data-copying statistic C_T of Meehan et al., "A non-parametric test to detect data-copying", 2020.

    Args:
        generated: distance of each generated sample to the nearest training sample of its cell, [m].
        held_out: the same for samples that were not trained on, [n].
        generated_cells: cell of each generated sample, int64 [m].
        held_out_cells: cell of each held-out sample, int64 [n].
        tau: cells count that hold more than this share of the generated samples, and a held-out one; 20/m by default.

    Returns:
        NaN where no cell counts. Samples whose distance is not finite are left out.

    Raises:
        MismatchError: there is not one cell a distance.
    """
    if generated.shape != generated_cells.shape or held_out.shape != held_out_cells.shape:
        raise MismatchError("the copying test needs one cell per sample: make the clusters from the same features.")
    generated, generated_cells = _with_cells(generated, generated_cells)
    held_out, held_out_cells = _with_cells(held_out, held_out_cells)
    tau = LEAST_IN_CELL / max(1, len(generated)) if tau is None else tau
    scores, shares = [], []
    for cell, count in zip(*(x.tolist() for x in generated_cells.unique(return_counts=True)), strict=True):
        others = held_out[held_out_cells == cell]
        if count / len(generated) > tau and len(others):
            scores.append(mann_whitney_z(generated[generated_cells == cell], others, CORRECTION))
            shares.append(len(others))
    if not scores:
        return CopyingTest(math.nan, math.nan, math.nan, 0, 0.0)
    total = sum(shares)
    c_t = math.fsum(z * share for z, share in zip(scores, shares, strict=True)) / total
    z = c_t * total / math.sqrt(sum(share * share for share in shares))
    return CopyingTest(c_t, z, math.erfc(-z / math.sqrt(2)) / 2, len(scores), total / len(held_out))


def copying_test_in_cells(
    generated: Tensor,
    held_out: Tensor,
    train: Rows | Tensor | npt.NDArray[np.floating],
    cells: tuple[Tensor, Tensor, Tensor],
    tau: float | None = None,
) -> CopyingTest:
    """Search each sample's nearest training sample of its cell, and test for copying.

    Args:
        generated: float32 or float64 [m, d], on the device that is to work.
        held_out: samples that were not trained on, [n, d], on the same device.
        train: training rows [N, d]; read twice.
        cells: cell of each generated, held-out and training sample, int64.
        tau: see `copying_test`.
    """
    own, other, rows = cells
    near = nearest(generated, train, cells=(own, rows)).distance[:, 0]
    far = nearest(held_out, train, cells=(other, rows)).distance[:, 0]
    return copying_test(near, far, own, other, tau)


def calibrated_ratios(distances: Tensor, alpha: float = 0.5) -> Tensor:
    """Divide each nearest distance by alpha times the mean of the first k: below 1 the nearest is unusually near.

    Carlini et al., "Extracting training data from diffusion models", 2023, with k = 50 and alpha = 0.5. An exact copy
    has ratio 0, also where all k neighbours are copies.

    Args:
        distances: ascending, [n, k], as `nearest` gives them; infinite ones are left out of the mean.
        alpha: the factor.

    Returns:
        The ratio of each sample, float64 [n], NaN where there is no distance.

    Raises:
        InputError: there is but one neighbour, whose ratio says nothing.
    """
    if distances.ndim != 2 or distances.shape[1] < 2:
        raise InputError("the calibrated ratio needs at least two neighbours per sample.")
    table = distances.double().cpu()
    known = torch.isfinite(table)
    mean = table.where(known, 0.0).sum(1) / known.sum(1)
    return torch.where(table[:, 0] == 0, 0.0, table[:, 0] / (alpha * mean))


def _finite(distances: Tensor) -> Tensor:
    values = distances.double().cpu().flatten()
    return values[torch.isfinite(values)]


def _with_cells(distances: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    values, cells = distances.double().cpu(), cells.cpu()
    kept = torch.isfinite(values)
    return values[kept], cells[kept]


def _quantile(ordered: Tensor, level: float) -> float:
    # torch.quantile refuses more than 16 million values.
    if not len(ordered):
        return math.nan
    place = level * (len(ordered) - 1)
    low, high = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
    return low + (high - low) * (place - math.floor(place))
