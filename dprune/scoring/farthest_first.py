"""Farthest-first traversal, batch by batch, with the result of one sample at a time.

Distances to what is taken only shrink. So among the M samples that are furthest by now the traversal can go on by
itself, from their distances to each other alone, for as long as its next sample is further than any sample besides the
M ever was. Then one matrix product tells all samples of the whole batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.precision import float32
from dprune.runtime import Monitor, check_stop
from dprune.scoring.vectors import Vectors, largest

CANDIDATES = {"cpu": 512, "cuda": 2048}
"""How many of the furthest samples go on by themselves."""
TAKEN = -1.0


def farthest_first(
    x: Tensor, ties: npt.NDArray[np.int64], count: int, device: torch.device, monitor: Monitor,
    candidates: int | None = None,
) -> npt.NDArray[np.int64]:  # fmt: skip
    """Order rows by farthest-first traversal (Gonzalez, 1985; k-center greedy of Sener and Savarese, 2018).

    It begins with the row nearest to the mean; each next one is that whose nearest row among those taken is furthest.
    Copies of what is taken come last. Equally far ones, to rounding, go by `ties`.

    Args:
        x: floats [n, d].
        ties: distinct, int64 [n]; the lower goes first.
        count: rows to take, at most n.
        device: where to compute.
        monitor: told of the rows taken.
        candidates: rows that go on by themselves, which changes the speed alone.

    Returns:
        Positions of the rows in the order in which they are taken, int64 [count].
    """
    many, order = candidates or CANDIDATES[device.type], list[Tensor]()
    with float32(tf32=False):
        vectors, among = Vectors(x, device), torch.as_tensor(ties, device=device)
        nearest = torch.full_like(vectors.squares, torch.inf)
        batch, taken = _central(vectors, among), 0
        while True:
            order.append(batch)
            taken += len(batch)
            monitor.advance(len(batch))
            if taken >= count:
                break
            check_stop(monitor)
            nearest = torch.minimum(nearest, vectors.nearest(batch)).index_fill_(0, torch.cat(order), TAKEN)
            found, bound, tie = largest(nearest, among, many)
            values = nearest[found].cpu().numpy()
            if values.max() <= 0:
                # What is left are copies.
                order.append(_rest(nearest, among, count - taken))
                monitor.advance(count - taken)
                break
            table = vectors.among(found).cpu().numpy()
            follow = _follow(values, table, among[found].cpu().numpy(), (bound, tie), count - taken)
            batch = found[torch.as_tensor(follow, device=device)]
    return torch.cat(order).cpu().numpy()


def _central(vectors: Vectors, ties: Tensor) -> Tensor:
    """Return the position of the row nearest to the mean, int64 [1]."""
    mean = vectors.mean().to(vectors.dtype)
    away = torch.cat([(rows - mean).square().sum(1) for _, _, rows in vectors.blocks()])
    return largest(-away, ties, 1)[0]


def _rest(nearest: Tensor, ties: Tensor, count: int) -> Tensor:
    left = (nearest != TAKEN).nonzero()[:, 0]
    return left[ties[left].argsort()][:count]


def _follow(
    values: npt.NDArray[np.floating], table: npt.NDArray[np.floating], ties: npt.NDArray[np.int64],
    bound: tuple[float, int], most: int,
) -> list[int]:  # fmt: skip
    """Return the candidates that come next, in order.

    Args:
        values: squared distances of the candidates to what is taken [m].
        table: those among them [m, m].
        ties: of the candidates, ascending.
        bound: the largest value of any other row, and its tie.
        most: how many to take.
    """
    chosen: list[int] = []
    # Copies of what is taken wait for all that are none.
    while len(chosen) < min(most, len(values)):
        best = int(values.argmax())
        if values[best] <= 0 or (values[best], -ties[best]) < (bound[0], -bound[1]):
            break
        chosen.append(best)
        np.minimum(values, table[best], out=values)
        values[best] = TAKEN
    return chosen
