"""Herding: ranks by which the kernel mean of what is taken approaches that of all; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dprune.formats.publish import Output
from dprune.runtime import Monitor
from dprune.scoring.orders import Group, OrderJob, OrderMethod, OrderOptions, open_order

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class HerdingOptions(OrderOptions):
    """Options of `dprune score herding`."""

    bandwidth: float | None = None


@dataclass(frozen=True)
class Herding(OrderMethod):
    """The rank at which kernel herding takes a sample; see `kernel_herding`.

    Attributes:
        seed: by which equal samples are ordered, and those chosen whose median distance is the bandwidth.
        bandwidth: of the kernel, None for the median distance in each group.
    """

    seed: int
    bandwidth: float | None
    name = "herding"
    takes_stored = True

    def options(self) -> Mapping[str, Any]:
        """See `OrderMethod`."""
        return {"bandwidth": "median" if self.bandwidth is None else self.bandwidth}

    def scores(
        self, rows: torch.Tensor, group: Group, device: torch.device, monitor: Monitor
    ) -> tuple[npt.NDArray[np.float32], Mapping[str, float]]:
        """See `OrderMethod`."""
        from dprune.scoring.kernel_herding import herding

        order, width = herding(rows, group.ties(self.seed), group.ranked, device, monitor, bandwidth=self.bandwidth)
        return group.as_ranks(order), {"bandwidth": width}


def open_herding(path: str, options: HerdingOptions, output: Output) -> OrderJob:
    """Open what `dprune score herding` was given; see `open_order`."""
    return open_order(path, options, Herding(options.seed, options.bandwidth), output)
