"""Duplicates: how like a sample is to one that is kept before it (SemDeDup); nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dprune.errors import UsageError
from dprune.formats.arrays import write_array
from dprune.formats.beside import Beside
from dprune.formats.provenance import Record, variant
from dprune.formats.publish import STDOUT, Output
from dprune.runtime import Monitor
from dprune.scoring.orders import Group, OrderJob, OrderMethod, OrderOptions, open_order
from dprune.selecting.quotas import IntArray

if TYPE_CHECKING:
    import torch


NONE = -1
"""Id that stands for no earlier sample."""


@dataclass(frozen=True)
class DuplicatesOptions(OrderOptions):
    """What `dprune score duplicates` was told, in the words of its options."""

    prefer: str = "nearest"
    of: str | None = None


@dataclass(frozen=True)
class Duplicates(OrderMethod):
    """A sample's largest cosine to one before it in the order of distance to the centre.

    Keeping all scores below t leaves no two samples of a group that are more similar than t, and of each set of copies
    one (Abbas, Tirumala, Simig, Ganguli and Morcos: SemDeDup, 2023, arXiv 2303.09540; the authors keep the furthest).

    Attributes:
        seed: by which samples at one distance are ordered.
        prefer: which end of the order comes first, `nearest` or `furthest`.
        of: takes the id of the earlier sample of each, int64 [N], None where nobody asks.
    """

    seed: int
    prefer: str
    of: IntArray | None = None
    name = "duplicates"
    ranks = False

    def options(self) -> Mapping[str, Any]:
        """See `OrderMethod`."""
        return {"prefer": self.prefer}

    def scores(
        self, rows: torch.Tensor, group: Group, device: torch.device, monitor: Monitor
    ) -> tuple[npt.NDArray[np.float32], Mapping[str, float]]:
        """See `OrderMethod`; the first of a group has none before it, and gets -1."""
        import torch

        from dprune.scoring.similarities import largest_similarities

        order = torch.from_numpy(self._order(rows, group, device))
        cosines, similar = largest_similarities(rows, order, device, monitor)
        if self.of is not None:
            places = similar.cpu().numpy()
            self.of[group.ids] = np.where(places < 0, NONE, group.ids[places])
        return cosines.cpu().numpy(), {}

    def _order(self, rows: torch.Tensor, group: Group, device: torch.device) -> IntArray:
        """Return positions from the sample that is preferred to all others on; `rows` are asked where no file tells."""
        distance = group.distance
        if distance is None or np.isnan(distance).any():
            from dprune.scoring.similarities import away_from_mean

            distance = away_from_mean(rows, device).cpu().numpy()
        order: IntArray = np.lexsort((group.ties(self.seed), distance if self.prefer == "nearest" else -distance))
        return order


@dataclass(frozen=True)
class DuplicatesJob(OrderJob):
    """Scores by duplicates and, in a file beside them, of which sample each may be one.

    Attributes:
        of: that file, None for none.
    """

    of: str | None = None

    @property
    def _of_record(self) -> Record:
        return variant(self.record, values="earlier sample")

    @property
    def beside(self) -> Sequence[Beside]:
        """The ids of the earlier samples."""
        return [] if self.of is None else [Beside("--of", Path(self.of), self._of_record)]

    def _scores(self, monitor: Monitor) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Score all samples, and publish the ids, so that whoever finds the scores finds these."""
        if self.of is None:
            return super()._scores(monitor)
        assert isinstance(self.method, Duplicates)
        ids = np.full(self.features.shape[0], NONE, dtype=np.int64)
        found = OrderJob._scores(replace(self, method=replace(self.method, of=ids)), monitor)
        write_array(self.of, ids, self._of_record)
        return found


def open_duplicates(path: str, options: DuplicatesOptions, output: Output) -> DuplicatesJob:
    """Open what `dprune score duplicates` was given; see `open_order`.

    Raises:
        UsageError: the ids have no file.
    """
    if options.of == STDOUT:
        raise UsageError("--of -: ids go to a file: name one.")
    job = open_order(path, options, Duplicates(options.seed, options.prefer), output)
    return DuplicatesJob(**vars(job), of=options.of)
