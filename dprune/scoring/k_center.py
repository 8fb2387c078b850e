"""k-center: ranks by farthest-first traversal; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dprune.formats.publish import Output
from dprune.runtime import Monitor
from dprune.scoring.orders import Group, OrderJob, OrderMethod, OrderOptions, open_order

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class KCenter(OrderMethod):
    """The rank at which farthest-first traversal takes a sample; see `farthest_first`.

    Attributes:
        seed: by which equally far samples are ordered.
    """

    seed: int
    name = "k-center"

    def scores(
        self, rows: torch.Tensor, group: Group, device: torch.device, monitor: Monitor
    ) -> tuple[npt.NDArray[np.float32], Mapping[str, float]]:
        """See `OrderMethod`."""
        from dprune.scoring.farthest_first import farthest_first

        order = farthest_first(rows, group.ties(self.seed), group.ranked, device, monitor)
        return group.as_ranks(order), {}


def open_k_center(path: str, options: OrderOptions, output: Output) -> OrderJob:
    """Open what `dprune score k-center` was given; see `open_order`."""
    return open_order(path, options, KCenter(options.seed), output)
