"""One side of a measurement: narrowed to a subset, in memory or read block by block, without what is not finite."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import Array
from dprune.formats.features import Features
from dprune.formats.provenance import Record
from dprune.formats.results import summarized, write_result
from dprune.formats.statistics import Statistics
from dprune.formats.subsets import narrowed
from dprune.measuring.sources import FeatureSource
from dprune.metrics.rows import finite_rows
from dprune.namespace import Array as AnyArray
from dprune.namespace import Device, host, namespace_on
from dprune.runtime import Monitor, check_stop

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Side:
    """The samples of one side that take part.

    Attributes:
        x: features on the device, float32 or float64 [n, d], all finite.
        ids: of the samples in their dataset, sorted, int64 [n].
        dropped: samples left out because their features are not finite.
    """

    x: AnyArray
    ids: npt.NDArray[np.int64]
    dropped: int


@dataclass
class SubsetRows:
    """Some rows of features, read block by block as `metrics.nearest` wants them.

    Attributes:
        features: all rows.
        ids: sorted ids of those that take part, int64 [n].
    """

    features: Features
    ids: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and dimension."""
        return len(self.ids), self.features.shape[1]

    def rows(self, begin: int, end: int) -> npt.NDArray[np.floating]:
        """Return rows `begin` to `end` of those that take part."""
        return self.features.take(self.ids[begin:end])


@dataclass
class TrainingRows(SubsetRows):
    """Training features on their way through a search: counted, shown, and stopped on request.

    Attributes:
        monitor: told of the rows read, and asked at each block whether to stop.
        dropped: rows read so far whose features are not finite.
    """

    monitor: Monitor
    dropped: int = 0
    _counted: int = 0

    @property
    def finite(self) -> int:
        """Rows whose features are finite, once all were read; the others are never found."""
        return len(self.ids) - self.dropped

    def check(self) -> None:
        """Warn of rows that are not finite, once all were read.

        Raises:
            InputError: these are all.
        """
        tell_dropped(self.features, "training", self.dropped, len(self.ids))

    def stage(self, label: str) -> TrainingRows:
        """Announce one more pass over all rows."""
        self.monitor.start(label, len(self.ids), "training samples")
        return self

    def rows(self, begin: int, end: int) -> npt.NDArray[np.floating]:
        """Return rows `begin` to `end`, float32 or float64.

        Raises:
            Interrupted: the monitor asks to stop.
        """
        check_stop(self.monitor)
        rows = super().rows(begin, end)
        if begin == self._counted:
            # In float64 sums of finite numbers stay finite.
            self.dropped += int((~np.isfinite(rows.sum(1, dtype=np.float64))).sum())
            self._counted = end
        self.monitor.advance(end - begin)
        return rows

    def take(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Return the rows at some places from 0 to n - 1, ascending."""
        return self.features.take(self.ids[places])


def chosen_ids(features: Features, subset: Array | None) -> npt.NDArray[np.int64]:
    """Return the ids that a subset names, or all.

    Raises:
        InputError: an id is outside the features, or there is none.
        MismatchError: the subset speaks of another dataset.
    """
    ids = narrowed(subset, features.name, features.fingerprint, features.shape[0])
    if subset is not None and not len(ids):
        raise InputError(f"{subset.name}: holds no ids: give a subset with samples in it.")
    return ids


def load_side(features: Features, ids: npt.NDArray[np.int64], role: str, device: Device) -> Side:
    """Read the features of `ids` onto the device, leave out those that are not finite, and say how many these were.

    Raises:
        InputError: none is left.
    """
    x = namespace_on(device).asarray(features.take(ids), device=device)
    kept = finite_rows(x)
    dropped = len(ids) - int(kept.sum())
    tell_dropped(features, role, dropped, len(ids))
    if dropped:
        x, ids = x[kept], ids[host(kept)]
    return Side(x, ids, dropped)


def tell_dropped(features: Features, role: str, dropped: int, count: int) -> None:
    """Warn of samples that are left out.

    Raises:
        InputError: these are all.
    """
    if dropped == count:
        raise InputError(f"{features.name}: no {role} sample has features that are numbers: embed the images again.")
    if dropped:
        _log.warning("%d of the %s samples have features that are not finite and are left out.", dropped, role)


@dataclass(frozen=True)
class Measurement:
    """What a measurement found: what `formats.results.Result` says of it, before it is written."""

    metrics: Record
    details: Record
    inputs: list[Record]

    def publish(self, path: str, kind: str, record: Record) -> Record:
        """Write the result, and summarize it."""
        write_result(path, kind, self.metrics, self.details, self.inputs, record)
        return summarized(self.metrics, self.inputs)


def describe_side(
    role: str, source: FeatureSource | Statistics, count: int | None, dropped: int, dimension: int
) -> Record:
    """Describe one side for the result file; a count of None is not known."""
    return {
        "role": role,
        "count": count,
        "dropped": dropped,
        "dimension": dimension,
        "model": source.model,
        "digest": source.parent["digest"],
    }
