"""Which way a network is run: by Triton's kernels, compiled, or plainly. It is chosen here and nowhere else."""

from __future__ import annotations

import torch

from dprune.kernels.available import triton_works
from dprune.models.dit import DiT

FUSED, COMPILED, PLAIN = "fused", "compiled", "plain"


def quicken_dit(model: DiT, precision: torch.dtype, *, compiles: bool, hooked: bool = False) -> str:
    """Have the blocks of a transformer run as fast as they can where they are, in place.

    Args:
        model: on its device.
        precision: of its products, by autocast or of its weights.
        compiles: whether anything is to be compiled, kernels included.
        hooked: whether layers were replaced by others, which only the readable blocks call.

    Returns:
        The name of the path: `fused`, `compiled` or `plain`.
    """
    if not compiles:
        return PLAIN
    if not hooked and precision == torch.bfloat16 and triton_works(model.pos_embed.device):
        from dprune.models.fast_dit import through

        model.through = through
        return FUSED
    model.compile_blocks()
    return COMPILED
