"""Duplicates: how like a sample is to one that is kept before it (SemDeDup); nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dprune.formats.publish import Output
from dprune.runtime import Monitor
from dprune.scoring.orders import Group, OrderJob, OrderMethod, OrderOptions, open_order
from dprune.selecting.quotas import IntArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DuplicatesOptions(OrderOptions):
    """What `dprune score duplicates` was told, in the words of its options."""

    prefer: str = "nearest"


@dataclass(frozen=True)
class Duplicates(OrderMethod):
    """A sample's largest cosine to one before it in the order of distance to the centre.

    Keeping all scores below t leaves no two samples of a group that are more similar than t, and of each set of copies
    one (Abbas, Tirumala, Simig, Ganguli and Morcos: SemDeDup, 2023, arXiv 2303.09540; the authors keep the furthest).

    Attributes:
        seed: by which samples at one distance are ordered.
        prefer: which end of the order comes first, `nearest` or `furthest`.
    """

    seed: int
    prefer: str
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
        cosines, _ = largest_similarities(rows, order, device, monitor)
        return cosines.cpu().numpy(), {}

    def _order(self, rows: torch.Tensor, group: Group, device: torch.device) -> IntArray:
        """Return positions from the sample that is preferred to all others on; `rows` are asked where no file tells."""
        distance = group.distance
        if distance is None or np.isnan(distance).any():
            from dprune.scoring.similarities import away_from_mean

            distance = away_from_mean(rows, device).cpu().numpy()
        order: IntArray = np.lexsort((group.ties(self.seed), distance if self.prefer == "nearest" else -distance))
        return order


def open_duplicates(path: str, options: DuplicatesOptions, output: Output) -> OrderJob:
    """Open what `dprune score duplicates` was given; see `open_order`."""
    return open_order(path, options, Duplicates(options.seed, options.prefer), output)
