"""Whether Triton's kernels can run."""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Ampere's, the first with bfloat16.
LEAST_CAPABILITY = (8, 0)


def triton_works(device: torch.device) -> bool:
    """Tell whether kernels written in Triton run on a device: a GPU of 2020 or later, with Triton installed."""
    return device.type == "cuda" and _works(device.index or 0)


@functools.cache
def _works(index: int) -> bool:
    import torch

    found = importlib.util.find_spec("triton") is not None and torch.version.hip is None
    return found and torch.cuda.get_device_capability(index) >= LEAST_CAPABILITY
