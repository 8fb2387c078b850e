"""Kernel herding: the mean embedding of all, and the order in which samples approach it.

Each step changes the values of all samples by about as much as these differ, so the next sample may be any: of 6,000
features of CIFAR-10 half of the next ones were not among the first tenth the step before. So no batch can go on by
itself, as in `farthest_first`: every step asks all samples. Small groups have all their kernels in one table; for large
ones a GPU does a step in one pass over the rows.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.kernels.available import triton_works
from dprune.precision import float32
from dprune.runtime import Monitor, check_stop
from dprune.scoring.vectors import Vectors

SAMPLED = 2000
"""Samples between which the median distance is taken."""
MOST_TABLED = 1 << 14
"""Samples of a group whose kernels fit into a table."""
TILE = {"cpu": 1024, "cuda": 8192}
"""Sides of the tiles in which kernels are added up."""
READ = 1 << 16
"""Rows that a step reads at once, where it has no kernel of its own."""
STEPS = 64
"""Steps between two looks at the monitor."""


def herding(
    x: Tensor, ties: npt.NDArray[np.int64], count: int, device: torch.device, monitor: Monitor, *,
    bandwidth: float | None = None, most_tabled: int = MOST_TABLED,
) -> tuple[npt.NDArray[np.int64], float]:  # fmt: skip
    """Order rows by kernel herding without replacement (Chen, Welling and Smola, "Super-samples from kernel herding").

    With k(x, y) = exp(-|x - y|² / 2h²), step t + 1 takes the row that brings the mean embedding of all that are taken
    nearest to that of all rows. Since k(x, x) = 1, it is the one with the largest
    (t + 1) mean_j k(x, x_j) - sum over what is taken of k(x, x_i).

    Args:
        x: floats [n, d], see `Vectors`.
        ties: distinct, int64 [n]; of equal rows the lower goes first.
        count: rows to take, at most n.
        device: where to compute.
        monitor: told of the rows taken.
        bandwidth: h; None for the median distance between distinct rows of a sample, chosen by `ties`.
        most_tabled: most rows whose kernels are held in a table, which changes the speed alone.

    Returns:
        Positions of the rows in the order in which they are taken, int64 [count], and the bandwidth.
    """
    with float32(tf32=False):
        vectors = Vectors(x, device)
        width = median_distance(vectors, ties) if bandwidth is None else bandwidth
        scale = 1 / (2 * width * width)
        if len(x) <= most_tabled:
            return _by_table(vectors, ties, count, scale, monitor), width
        means = mean_kernels(vectors, scale, monitor)
        step = _by_numpy if device.type == "cpu" and vectors.factor is None else _plainly
        if triton_works(device) and vectors.is_there:
            step = _fused
        return step(vectors, means, ties, count, scale, monitor), width


def median_distance(vectors: Vectors, ties: npt.NDArray[np.int64]) -> float:
    """Return the median distance between distinct rows among those with the lowest ties, 1 where all are copies."""
    some = torch.as_tensor(np.argsort(ties)[:SAMPLED], device=vectors.device)
    table = vectors.among(some)
    squares = table[torch.ones_like(table, dtype=torch.bool).triu_(1)]
    squares = squares[squares > 0]
    return math.sqrt(float(squares.median())) if len(squares) else 1.0


def mean_kernels(vectors: Vectors, scale: float, monitor: Monitor) -> Tensor:
    """Return the mean of exp(-scale |x - y|²) over all rows y for each row x, float64 [n].

    Each pair is computed once, in tiles that are added up and forgotten. Numbers of float16 have as many digits as tf32
    holds, so their products are exact in it.
    """
    sums = torch.zeros(len(vectors), dtype=torch.float64, device=vectors.device)
    tile, exact = TILE[vectors.device.type], vectors.factor is not None
    with float32(tf32=exact):
        for low, high, rows in vectors.blocks(0, tile, stored=exact):
            monitor.note(f"mean kernels {100 * low // len(vectors)}%")
            for left, right, columns in vectors.blocks(low, tile, stored=exact):
                check_stop(monitor)
                table = _tile(vectors, slice(low, high), rows, slice(left, right), columns, scale)
                sums[low:high] += table.sum(1)
                if left > low:
                    sums[left:right] += table.sum(0)
    monitor.note("")
    return sums / len(vectors)


def _tile(vectors: Vectors, own: slice, rows: Tensor, others: slice, columns: Tensor, scale: float) -> Tensor:
    """Return the kernels of two blocks of rows, as they are stored."""
    if vectors.factor is None:
        return _kernels(rows, vectors.squares[own], columns, vectors.squares[others], scale)
    # All have unit length.
    table = (rows @ columns.T).mul_(vectors.factor[others] * (2 * scale)).mul_(vectors.factor[own].unsqueeze(1))
    return table.sub_(2 * scale).clamp_(max=0).exp_()


def _kernels(rows: Tensor, squares: Tensor, others: Tensor, other_squares: Tensor, scale: float) -> Tensor:
    """Return exp(-scale |x - y|²) of rows [n, d] and others [m, d], [n, m]."""
    table = torch.addmm(other_squares, rows, others.T, beta=-scale, alpha=2 * scale)
    return table.sub_(scale * squares.unsqueeze(1)).clamp_(max=0).exp_()


def _by_table(
    vectors: Vectors, ties: npt.NDArray[np.int64], count: int, scale: float, monitor: Monitor
) -> npt.NDArray[np.int64]:
    # In the order of their ties the first of equal values is the one to take.
    by_tie = np.argsort(ties)
    rows = vectors.take(torch.as_tensor(by_tie, device=vectors.device))
    squares = rows.square().sum(1)
    step = TILE[vectors.device.type]
    table = np.concatenate([
        _kernels(rows[low : low + step], squares[low : low + step], rows, squares, scale).cpu().numpy()
        for low in range(0, len(rows), step)
    ])  # fmt: skip
    means = table.mean(1, dtype=np.float64)
    values, order = means.copy(), np.empty(count, dtype=np.int64)
    for step in range(count):
        if step % STEPS == 0:
            check_stop(monitor)
        best = order[step] = values.argmax()
        values += means
        values -= table[best]
        values[best] = -np.inf
    monitor.advance(count)
    return by_tie[order]


def _by_numpy(
    vectors: Vectors, means: Tensor, ties: npt.NDArray[np.int64], count: int, scale: float, monitor: Monitor
) -> npt.NDArray[np.int64]:
    """Do as `_plainly` on a CPU, where numpy multiplies by a vector twice as fast as torch, and in all threads."""
    x, squares, mean = vectors.x.numpy(), (scale * vectors.squares).numpy(), means.numpy()
    values, order = mean.copy(), np.empty(count, dtype=np.int64)
    for step in range(count):
        if step % STEPS == 0:
            check_stop(monitor)
            monitor.advance(min(STEPS, count - step))
        equal = np.flatnonzero(values == values.max())
        best = order[step] = equal[ties[equal].argmin()]
        kernels = x @ x[best]
        kernels *= 2 * scale
        kernels -= squares
        kernels -= squares[best]
        np.exp(np.minimum(kernels, 0, out=kernels), out=kernels)
        values += mean
        values -= kernels
        values[best] = -np.inf
    return order


def _plainly(
    vectors: Vectors, means: Tensor, ties: npt.NDArray[np.int64], count: int, scale: float, monitor: Monitor
) -> npt.NDArray[np.int64]:
    among = torch.as_tensor(ties, device=vectors.device)
    values, order, last = means.clone(), torch.empty(count, dtype=torch.int64, device=vectors.device), len(ties)
    for step in range(count):
        if step % STEPS == 0:
            check_stop(monitor)
            monitor.advance(min(STEPS, count - step))
        best = torch.where(values == values.max(), among, last).argmin(keepdim=True)
        order[step : step + 1] = best
        row, square = vectors.take(best)[0], vectors.squares[best]
        values += means
        for low, high, rows in vectors.blocks(0, READ):
            table = torch.addmv(vectors.squares[low:high], rows, row, beta=-scale, alpha=2 * scale)
            values[low:high] -= table.sub_(scale * square).clamp_(max=0).exp_()
        values.index_fill_(0, best, -torch.inf)
    return order.cpu().numpy()


def _fused(
    vectors: Vectors, means: Tensor, ties: npt.NDArray[np.int64], count: int, scale: float, monitor: Monitor
) -> npt.NDArray[np.int64]:
    # Triton is not to be had everywhere.
    from dprune.kernels.herding_step import HerdingSteps

    def on_device(values: npt.NDArray[np.int64]) -> Tensor:
        return torch.as_tensor(values.astype(np.int32), device=vectors.device)

    x, by_tie = vectors.x, np.argsort(ties)
    order = torch.empty(count + 1, dtype=torch.int32, device=vectors.device)
    order[0] = on_device(by_tie)[means[torch.as_tensor(by_tie, device=vectors.device)].argmax()]
    factor = torch.ones_like(vectors.squares) if vectors.factor is None else vectors.factor
    steps = HerdingSteps(x.contiguous(), factor, vectors.squares, means, means.clone(),
                         on_device(ties), on_device(by_tie), order, scale)  # fmt: skip
    for begin in range(0, count, STEPS):
        check_stop(monitor)
        end = min(begin + STEPS, count)
        steps.run(begin, end)
        # Launches run ahead of the device, and a signal would wait for all of them.
        order[end].cpu()
        monitor.advance(end - begin)
    return order[:count].cpu().numpy().astype(np.int64)
