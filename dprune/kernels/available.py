"""Whether Triton's kernels can run."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Ampere's, the first with bfloat16.
LEAST_CAPABILITY = (8, 0)


def triton_works(device: torch.device) -> bool:
    """Tell whether kernels written in Triton run on a device.

    That takes a GPU of 2020 or later, Triton, and what it builds the launchers of its kernels with.
    """
    return device.type == "cuda" and _works(device.index or 0)


@functools.cache
def _works(index: int) -> bool:
    import torch

    found = importlib.util.find_spec("triton") is not None and torch.version.hip is None and builds_launchers()
    return found and torch.cuda.get_device_capability(index) >= LEAST_CAPABILITY


def builds_launchers() -> bool:
    """Tell whether there are a C compiler and Python's headers, which slim containers lack, where Triton looks."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    # Debian's local scheme has no headers, and Triton does not look there.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    folders = [sysconfig.get_path("include", scheme), *os.environ.get("CPATH", "").split(os.pathsep)]
    return compiler is not None and any(Path(folder, "Python.h").exists() for folder in folders)
