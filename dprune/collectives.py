"""Collective operations that are also right in a process without a group, where they do nothing.

There they take arrays of numpy as well as tensors, and torch is not imported. The ranks of a group are processes that
torchrun started, or threads of one process, see `on_devices`.
"""

from __future__ import annotations

import functools
import operator
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from dprune.namespace import Array, Device, device_type, namespace
from dprune.runtime import Monitor, Ranks, Silent, acting_as, ranks

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_mine = threading.local()


class _Threads:
    """Ranks that are threads of this process and exchange tensors through its memory."""

    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world)
        self._given: list[Array] = [None] * world

    def act(self, rank: int, device: Device, work: Callable[[Any, Monitor], T], monitor: Monitor) -> T:
        """Do the work as one of the ranks; if it fails, the others are not left waiting."""
        if device_type(device) == "cuda":
            import torch

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


def on_devices(devices: Sequence[Device], work: Callable[[Any, Monitor], T], monitor: Monitor) -> T:
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


def _processes() -> Any:
    """Return torch.distributed if this process is in a group of processes; whoever made that imported it."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def in_group() -> bool:
    """Tell whether this process or thread belongs to a group."""
    return (_threads() or _processes()) is not None


def is_root() -> bool:
    """Tell whether this rank is the one that writes."""
    if _threads() is not None:
        return not ranks().rank
    dist = _processes()
    return dist is None or dist.get_rank() == 0


def all_sum(tensor: Array) -> Array:
    """Add up `tensor` over the ranks, in place, and return it."""
    if group := _threads():
        tensor.copy_(functools.reduce(operator.add, group.exchange(tensor)))
    elif dist := _processes():
        dist.all_reduce(tensor)
    return tensor


def from_root(tensor: Array) -> Array:
    """Replace `tensor` by rank 0's, in place, and return it."""
    if group := _threads():
        tensor.copy_(group.exchange(tensor)[0])
    elif dist := _processes():
        dist.broadcast(tensor, 0)
    return tensor


def all_gather(tensor: Array) -> Array:
    """Return the tensors of all ranks, which have one shape, joined along the first dimension."""
    xp = namespace(tensor)
    if group := _threads():
        return xp.concat(group.exchange(tensor))
    if (dist := _processes()) is None:
        return tensor
    pieces = [xp.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, tensor)
    return xp.concat(pieces)


def gather_rows(rows: Array) -> Array:
    """Join tensors [n, ...] of different lengths on rank 0, in the order of the ranks.

    Args:
        rows: this rank's rows.

    Returns:
        All rows on rank 0, on its device; this rank's own elsewhere.
    """
    xp = namespace(rows)
    if group := _threads():
        found = group.exchange(rows)
        return xp.concat(found) if is_root() else rows
    if (dist := _processes()) is None:
        return rows
    sizes: list[int] = all_gather(xp.asarray([len(rows)])).tolist()
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    if not is_root():
        dist.gather(padded, None, 0)
        return rows
    pieces = [xp.empty_like(padded) for _ in sizes]
    dist.gather(padded, pieces, 0)
    return xp.concat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])
