"""Collective operations that are also right in a process without a group, where they do nothing."""

from __future__ import annotations

import torch
import torch.distributed as dist


def in_group() -> bool:
    """Tell whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def is_root() -> bool:
    """Tell whether this process is the one that writes."""
    return not in_group() or dist.get_rank() == 0


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Add up `tensor` over the ranks, in place, and return it."""
    if in_group():
        dist.all_reduce(tensor)
    return tensor


def from_root(tensor: torch.Tensor) -> torch.Tensor:
    """Replace `tensor` by rank 0's, in place, and return it."""
    if in_group():
        dist.broadcast(tensor, 0)
    return tensor


def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensors of all ranks, which have one shape, joined along the first dimension."""
    if not in_group():
        return tensor
    pieces = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, tensor)
    return torch.cat(pieces)


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Join tensors [n, ...] of different lengths on rank 0, in the order of the ranks.

    Args:
        rows: this rank's rows, on the CPU.

    Returns:
        All rows on rank 0; this rank's own elsewhere.
    """
    if not in_group():
        return rows
    sizes: list[int] = all_gather(torch.tensor([len(rows)])).tolist()
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    if not is_root():
        dist.gather(padded, None, 0)
        return rows
    pieces = [torch.empty_like(padded) for _ in sizes]
    dist.gather(padded, pieces, 0)
    return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])
