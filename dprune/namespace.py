"""numpy or torch, so that one formula serves the arrays of both, and torch is imported only where tensors are wanted.

The two share most names, and torch takes numpy's `axis` and `keepdims`. Code that keeps to what they share asks
`namespace` for the module, as the array API standard has it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

Array: TypeAlias = Any
"""A numpy array, or a torch tensor on any device."""
Device: TypeAlias = "torch.device | str"
"""Where arrays are: a device of torch, or `HOST`."""
HOST = "cpu"
"""What numpy calls the device of its arrays: the CPU without torch."""


def namespace(x: Array) -> Any:
    """Return the module that an array is of; torch was imported by whoever made a tensor."""
    return np if isinstance(x, np.ndarray) else sys.modules["torch"]


def namespace_on(device: Device) -> Any:
    """Return the module that makes arrays on a device."""
    if device == HOST:
        return np
    import torch

    return torch


def device_type(device: Device) -> str:
    """Return `cpu` or `cuda`."""
    return device if isinstance(device, str) else device.type


def is_floating(x: Array) -> bool:
    """Tell whether an array holds floats."""
    return x.dtype.kind == "f" if isinstance(x, np.ndarray) else bool(x.is_floating_point())


def beside(x: Array, values: Any) -> Array:
    """Return a numpy array as an array like `x`, on its device."""
    return namespace(x).asarray(values, device=x.device)


def take_rows(x: Array, ids: Array) -> Array:
    """Return the rows of `x` [n, ...] that `ids`, integers [m], name."""
    # Indexing does the same, but copies a tensor number by number.
    return x[ids] if isinstance(x, np.ndarray) else x.index_select(0, ids)


def host(x: Array) -> Any:
    """Return an array, or a tensor on whatever device, as a numpy array."""
    return x if isinstance(x, np.ndarray) else x.cpu().numpy()
