"""One side of an evaluation, however it came: held in memory, read in passing, or as statistics.

The Fréchet distance needs moments alone, so where nothing else is asked for, features are read block by block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dprune.formats.features import Features
from dprune.formats.statistics import Statistics
from dprune.measuring.sides import Side, SubsetRows, load_side, tell_dropped
from dprune.metrics.frechet import Moments, replicate_moments
from dprune.metrics.jackknife import Blocks
from dprune.metrics.reading import blocks as read_blocks
from dprune.metrics.rows import finite_rows
from dprune.namespace import Array, Device, beside, host, namespace_on
from dprune.runtime import Monitor, check_stop

DrawBlocks = Callable[[npt.NDArray[np.int64]], Blocks]
"""Partitions the samples of these ids into the blocks of the standard errors."""
MomentsAndReplicates = tuple[Moments, Iterable[Moments]]
"""Moments of all samples, and those without each block, which can be walked once; none without standard errors."""


@dataclass(frozen=True)
class Measured:
    """One side, ready to be measured.

    Attributes:
        count: samples that take part, None for statistics that do not say.
        dropped: samples left out because their features are not finite.
        take: computes the moments.
        side: the samples, None where only their moments are at hand.
        features: where they are from, None for statistics.
        blocks: of the samples, None without standard errors.
        ids: of the samples in their dataset, sorted, int64 [n], None for statistics.
    """

    count: int | None
    dropped: int
    take: Callable[[], MomentsAndReplicates]
    side: Side | None = None
    features: Features | None = None
    blocks: Blocks | None = None
    ids: npt.NDArray[np.int64] | None = None

    @functools.cached_property
    def moments(self) -> MomentsAndReplicates:
        """The moments, computed once."""
        return self.take()


def given(statistics: Statistics, device: Device) -> Measured:
    """Take the moments from statistics."""
    dimension = len(statistics.mean)
    # An unknown count is taken to be enough; a power of two behind the divisor rounds nothing.
    count = statistics.count or (1 << dimension.bit_length()) + 1
    xp = namespace_on(device)
    mean, covariance = (xp.asarray(values, device=device) for values in (statistics.mean, statistics.covariance))
    moments = Moments.of_covariance(count, mean, covariance, statistics.name)
    return Measured(statistics.count, 0, lambda: (moments, ()))


def held(
    features: Features, ids: npt.NDArray[np.int64], role: str, device: Device, draw: DrawBlocks | None = None
) -> Measured:
    """Read the samples that `ids` name into the device's memory.

    Args:
        features: of all samples.
        ids: of those that take part.
        role: what messages call them.
        device: where they are to be.
        draw: draws blocks of them, None for no standard errors.

    Raises:
        InputError: none of them has finite features.
    """
    side = load_side(features, ids, role, device)
    blocks = draw(side.ids) if draw else None

    def take() -> MomentsAndReplicates:
        return (Moments.of(side.x), ()) if blocks is None else replicate_moments(side.x, blocks)

    return Measured(len(side.x), side.dropped, take, side, features, blocks, side.ids)


def streamed(
    features: Features,
    ids: npt.NDArray[np.int64],
    role: str,
    device: Device,
    monitor: Monitor,
    draw: DrawBlocks | None = None,
) -> Measured:
    """Take the moments of the samples that `ids` name while reading them; arguments as those of `held`.

    Raises:
        InputError: none of them has finite features.
        Interrupted: the monitor asks to stop.
    """
    if draw and len(ids) <= features.shape[1]:
        # Moments of so few rows are not taken away from each other without loss: the rows are needed.
        return held(features, ids, role, device, draw)
    blocks = draw(ids) if draw else None
    parts, kept = _moments_by_block(features, ids, blocks, device, monitor)
    dropped = int((~kept).sum())
    tell_dropped(features, role, dropped, len(ids))
    if dropped and blocks is not None:
        # The blocks are of the samples that take part, which are known only now.
        return replace(streamed(features, ids[host(kept)], role, device, monitor, draw), dropped=dropped)
    whole = Moments.total(parts)
    replicates = () if blocks is None else (whole.without(part) for part in parts)
    taken = ids[host(kept)] if dropped else ids
    return Measured(len(taken), dropped, lambda: (whole, replicates), None, features, blocks, taken)


def stoppable(replicates: Iterable[Moments], monitor: Monitor) -> Iterator[Moments]:
    """Ask between the replicates of high dimensions, each of which takes seconds.

    Raises:
        Interrupted: the monitor asks to stop.
    """
    for replicate in replicates:
        check_stop(monitor)
        yield replicate


def _moments_by_block(
    features: Features, ids: npt.NDArray[np.int64], blocks: Blocks | None, device: Device, monitor: Monitor
) -> tuple[list[Moments], Array]:
    """Return the moments of each block's finite rows, and which rows are finite, bool [n]."""
    parts: dict[int, Moments] = {}
    xp = namespace_on(device)
    finite = xp.empty(len(ids), dtype=xp.bool, device=device)
    blocks = blocks or Blocks.whole(finite)
    monitor.start("reading features", len(ids), "samples")
    for begin, rows in read_blocks(SubsetRows(features, ids), device):
        check_stop(monitor)
        kept = finite[begin : begin + len(rows)] = finite_rows(rows)
        labels = beside(rows, blocks.labels[begin : begin + len(rows)])
        for block in range(len(blocks)):
            if len(own := rows[kept & (labels == block)]):
                part = Moments.of(own)
                parts[block] = parts[block].merge(part) if block in parts else part
        monitor.advance(len(rows))
    return list(parts.values()), finite
