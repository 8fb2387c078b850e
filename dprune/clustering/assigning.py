"""Samples to the nearest of centroids that are given, in one pass over their features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
import numpy.typing as npt

from dprune.clustering.kernels import NearestTwo
from dprune.clustering.points import mask_of, unit, usable_rows
from dprune.clustering.reading import read_pieces, rows_at_once
from dprune.clustering.spans import Assigned, Spans
from dprune.formats.features import Features
from dprune.namespace import Array, Device, host, namespace, namespace_on
from dprune.runtime import Monitor


class Assigner:
    """Assigns rows of features to the nearest of some centroids.

    Args:
        centroids: float32 [k, d], in the features' space.
        metric: `l2` or `cosine`.
        device: where to work.
    """

    def __init__(self, centroids: npt.NDArray[np.float32], metric: str, device: Device) -> None:
        self.metric, self.device = metric, device
        # Products of centred vectors lose the fewest digits.
        self._centre = namespace_on(device).asarray(_centre(centroids, metric), device=device)
        self._nearest = NearestTwo(self._placed(namespace_on(device).asarray(centroids, device=device)))

    def _placed(self, rows: Array) -> Array:
        return unit(rows) if self.metric == "cosine" else rows - self._centre

    def __call__(self, rows: Array, wanted: npt.NDArray[np.bool_] | None = None) -> tuple[Array, Array, Array]:
        """Assign rows.

        Args:
            rows: float32 [n, d] on the device.
            wanted: which of them are assigned, bool [n]; None for all.

        Returns:
            What `Assigned` holds, on the device.
        """
        xp, kept = namespace(rows), usable_rows(rows, self.metric)
        if wanted is not None:
            kept = kept & xp.asarray(wanted, device=rows.device)
        # To leave rows out would mean to wait for the device.
        labels, near, far = self._nearest(self._placed(xp.where(kept[:, None], rows, 0)))
        if self.metric == "cosine":
            near, far = near * near / 2, far * far / 2
        return xp.where(kept, labels, -1), *(xp.where(kept, values, xp.nan) for values in (near, far))


def _centre(centroids: npt.NDArray[np.float32], metric: str) -> npt.NDArray[np.float32]:
    mean = centroids.mean(0, dtype=np.float64) if metric == "l2" else np.zeros(centroids.shape[1])
    return mean.astype(np.float32)


def assign_spans(
    features: Features, spans: Spans, numbers: Sequence[int], assigner: Assigner, chosen: npt.NDArray[np.int64] | None,
    monitor: Monitor, stop: Callable[[], bool],
) -> None:  # fmt: skip
    """Assign the samples of spans, by number, and publish each span as soon as it is done.

    Pieces of rows begin where spans do, so that a sample gets the same bits whoever assigns it.

    Args:
        features: of all samples.
        spans: that are filled.
        numbers: of those to assign.
        assigner: what assigns them.
        chosen: sorted ids of the samples that are assigned, None for all.
        monitor: told of the samples that are assigned.
        stop: asked before each span whether to leave the rest.
    """
    ends = [spans.span(number) for number in numbers]
    step = rows_at_once(features.shape[1], assigner.device)
    pieces = [(low, min(low + step, end)) for begin, end in ends for low in range(begin, end, step)]
    monitor.start("assigning", sum(end - begin for begin, end in ends), "samples")
    with closing(read_pieces(features, pieces, assigner.device)) as rows, ThreadPoolExecutor(1) as writer:
        # The next span is worked on while the disk takes in the one before.
        before: Future[None] | None = None
        for number, (begin, end) in zip(numbers, ends, strict=True):
            if stop():
                break
            assigned = _assigned(rows, range(begin, end, step), end, assigner, chosen)
            if before is not None:
                before.result()
            before = writer.submit(spans.write, number, assigned)
            monitor.advance(end - begin)
        if before is not None:
            before.result()


def _assigned(
    rows: Iterator[Array], begins: range, end: int, assigner: Assigner, chosen: npt.NDArray[np.int64] | None
) -> Assigned:
    found = []
    for low in begins:
        wanted = None if chosen is None else mask_of(chosen, low, min(low + begins.step, end))
        found.append(assigner(next(rows), wanted))
    xp = namespace(found[0][0])
    labels, near, far = (host(xp.concat(parts)) for parts in zip(*found, strict=True))
    return Assigned(labels.astype(np.int32, copy=False), near, far)
