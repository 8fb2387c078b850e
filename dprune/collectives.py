"""Collective operations that are also right in a process without a group, where they do nothing.

The ranks of a group are processes that torchrun started, or threads of one process, see `on_devices`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
import torch.distributed as dist

from dprune.runtime import Monitor, Ranks, Silent, acting_as, ranks

T = TypeVar("T")

_mine = threading.local()


class _Threads:
    """Ranks that are threads of this process and exchange tensors through its memory."""

    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world)
        self._given: list[torch.Tensor] = [torch.empty(0)] * world

    def act(self, rank: int, device: torch.device, work: Callable[[torch.device, Monitor], T], monitor: Monitor) -> T:
        """Do the work as one of the ranks; if it fails, the others are not left waiting."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        _mine.group = self
        try:
            with acting_as(Ranks(rank, self._barrier.parties, rank)):
                return work(device, monitor)
        except BaseException:
            self._barrier.abort()
            raise
        finally:
            del _mine.group

    def exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Give a tensor, and return those of all ranks in their order, on this one's device, the others copied."""
        self._given[ranks().rank] = tensor
        self._barrier.wait()
        found = [given if given is tensor else given.to(tensor.device, copy=True) for given in self._given]
        # What was given may change once all have it.
        self._barrier.wait()
        return found


def on_devices(devices: Sequence[torch.device], work: Callable[[torch.device, Monitor], T], monitor: Monitor) -> T:
    """Do a work whose ranks exchange tensors on several devices: each is a rank, and a thread of this process.

    Threads start at once and find all imported, where torchrun and its processes take seconds.

    Args:
        devices: one of each rank; with a single one this thread works alone, or in the group that torchrun made.
        work: done by every rank; given its device and a monitor, which only rank 0's shows.
        monitor: for rank 0, which is this thread.

    Returns:
        What rank 0's work returned; raises what the first rank to fail raised.
    """
    first, *others = devices
    if not others:
        return work(first, monitor)
    group = _Threads(len(devices))
    with ThreadPoolExecutor(len(others)) as pool:
        running = [pool.submit(group.act, rank, device, work, Silent()) for rank, device in enumerate(others, 1)]
        try:
            result = group.act(0, first, work, monitor)
        except threading.BrokenBarrierError:
            _raise_cause([rank.exception() for rank in running])
            raise
        for rank in running:
            rank.result()
        return result


def _raise_cause(errors: Sequence[BaseException | None]) -> None:
    for error in errors:
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error


def _threads() -> _Threads | None:
    return getattr(_mine, "group", None)


def in_group() -> bool:
    """Tell whether this process or thread belongs to a group."""
    return _threads() is not None or (dist.is_available() and dist.is_initialized())


def is_root() -> bool:
    """Tell whether this rank is the one that writes."""
    if _threads() is not None:
        return not ranks().rank
    return not in_group() or dist.get_rank() == 0


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Add up `tensor` over the ranks, in place, and return it."""
    if group := _threads():
        tensor.copy_(functools.reduce(torch.add, group.exchange(tensor)))
    elif in_group():
        dist.all_reduce(tensor)
    return tensor


def from_root(tensor: torch.Tensor) -> torch.Tensor:
    """Replace `tensor` by rank 0's, in place, and return it."""
    if group := _threads():
        tensor.copy_(group.exchange(tensor)[0])
    elif in_group():
        dist.broadcast(tensor, 0)
    return tensor


def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensors of all ranks, which have one shape, joined along the first dimension."""
    if group := _threads():
        return torch.cat(group.exchange(tensor))
    if not in_group():
        return tensor
    pieces = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, tensor)
    return torch.cat(pieces)


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Join tensors [n, ...] of different lengths on rank 0, in the order of the ranks.

    Args:
        rows: this rank's rows.

    Returns:
        All rows on rank 0, on its device; this rank's own elsewhere.
    """
    if group := _threads():
        found = group.exchange(rows)
        return torch.cat(found) if is_root() else rows
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
