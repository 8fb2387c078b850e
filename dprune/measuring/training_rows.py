"""Training features on their way through a search: read block by block, counted, shown, and stopped on request."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dprune.measuring.sides import SubsetRows, tell_dropped
from dprune.runtime import Monitor, check_stop


class TrainingRows:
    """Rows as `metrics.nearest` wants them, of which one block at a time is in memory.

    Args:
        source: the training rows that take part.
        monitor: told of the rows read, and asked at each block whether to stop.
    """

    def __init__(self, source: SubsetRows, monitor: Monitor) -> None:
        self._source, self._monitor = source, monitor
        self._counted = self.dropped = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and dimension."""
        return self._source.shape

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Ids of the rows in their dataset, sorted, int64 [n]."""
        return self._source.ids

    @property
    def finite(self) -> int:
        """Rows whose features are finite, once all were read; the others are never found."""
        return len(self.ids) - self.dropped

    def check(self) -> None:
        """Warn of rows that are not finite, once all were read.

        Raises:
            InputError: these are all.
        """
        tell_dropped(self._source.features, "training", self.dropped, len(self.ids))

    def stage(self, label: str) -> TrainingRows:
        """Announce one more pass over all rows."""
        self._monitor.start(label, len(self.ids), "training samples")
        return self

    def rows(self, begin: int, end: int) -> npt.NDArray[np.floating]:
        """Return rows `begin` to `end`, float32 or float64.

        Raises:
            Interrupted: the monitor asks to stop.
        """
        check_stop(self._monitor)
        rows = self._source.rows(begin, end)
        if begin == self._counted:
            # In float64 sums of finite numbers stay finite.
            self.dropped += int((~np.isfinite(rows.sum(1, dtype=np.float64))).sum())
            self._counted = end
        self._monitor.advance(end - begin)
        return rows

    def take(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Return the rows at some places from 0 to n - 1, ascending."""
        return self._source.features.take(self.ids[places])
