"""In what precision kernels add up."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

TRITON: dict[torch.dtype, Any] = {torch.float32: tl.float32, torch.float64: tl.float64}
"""What Triton calls the dtypes of sums."""


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the precision in which values of a dtype are added up: float32, or float64 of float64."""
    return torch.promote_types(dtype, torch.float32)
