"""Precision of arithmetic: its names, what `auto` means, and how torch is told of it.

torch is told by `set_float32_matmul_precision` and cuDNN's flags throughout. The newer `fp32_precision` does not mix
with them, and until torch 2.13 a compiled block asks for the older ones and fails where the newer one was used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dprune.runtime import is_gpu

PRECISIONS = {"fp32": "float32", "tf32": "tfloat32", "bf16": "bfloat16", "fp16": "float16"}
"""What records call the precisions that options name."""


def pick_precision(name: str, device: str) -> str:
    """Turn `auto` into `bf16` on a GPU and `fp32` elsewhere; other names stay."""
    return ("bf16" if is_gpu(device) else "fp32") if name == "auto" else name


def resolved(name: str, device: str) -> str:
    """Return what records call a precision as an option names it, `auto` included."""
    return PRECISIONS[pick_precision(name, device)]


@contextlib.contextmanager
def float32(*, tf32: bool) -> Iterator[None]:
    """Let products and convolutions of float32, forward and backward, use tf32, which keeps ten bits, or not."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
