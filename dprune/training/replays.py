"""Work on a GPU that is captured once as a CUDA graph and then launched whole: small models wait for launches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from dprune.training.throughput import synchronize

Work = Callable[[Sequence[Any]], Any]

# Kernels are compiled and workspaces made before anything is captured.
WARM_UP = 3
# Of the time of the work, what the host takes to launch it; below, the device is the one that is waited for.
LEAST_SHARE = 0.7

_log = logging.getLogger("dprune")


class Captured:
    """A graph of work, which runs on other inputs of the same shapes.

    Args:
        work: what is captured. All that it reads and changes must lie on the device and stay where it is; it is not
            run meanwhile.
        batch: micro-batches, named tuples of tensors on the device.
    """

    def __init__(self, work: Work, batch: Sequence[Any]) -> None:
        self._batch = [type(micro)(*(part.clone() for part in micro)) for micro in batch]
        self._graph = torch.cuda.CUDAGraph()
        # Threads of other work may allocate and copy in the meantime.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._made = work(self._batch)

    def __call__(self, batch: Sequence[Any]) -> Any:
        """Run the work; what it returns lies where it did the last time."""
        for held, given in zip(self._batch, batch, strict=True):
            torch._foreach_copy_(list(held), list(given))
        self._graph.replay()
        return self._made


class Replays:
    """Runs work as it is, and as a graph where that pays; the results are the same bits.

    The first runs are plain, and so warm up what a capture must not do for the first time.

    Args:
        device: where the work is done.
        capture: makes a graph.
    """

    def __init__(self, device: torch.device, capture: Callable[[Work, Sequence[Any]], Work] = Captured) -> None:
        self._device, self._capture = device, capture
        self._key: Hashable = None
        self._runs, self._pays = 0, True
        self._captured: Work | None = None

    def __call__(self, key: Hashable, work: Work, batch: Sequence[Any]) -> Any:
        """Run work.

        Args:
            key: tells what launches the same work; None where it may not be captured.
            work: see `Captured`.
            batch: its micro-batches.
        """
        if key is None:
            return work(batch)
        key = key, [[part.shape for part in micro] for micro in batch]
        if key != self._key:
            self._key, self._runs, self._pays, self._captured = key, 0, True, None
        self._runs += 1
        if self._captured is None and self._runs == WARM_UP:
            return self._timed(work, batch)
        if self._captured is None and self._runs > WARM_UP and self._pays:
            self._captured = self._attempt(work, batch)
        return work(batch) if self._captured is None else self._captured(batch)

    def _timed(self, work: Work, batch: Sequence[Any]) -> Any:
        """Run work and find out whether the device waits for the host."""
        synchronize(self._device)
        began = time.perf_counter()
        made = work(batch)
        launched = time.perf_counter()
        synchronize(self._device)
        share = (launched - began) / (time.perf_counter() - began)
        self._pays = share >= LEAST_SHARE
        _log.debug("launches take %.2f of a step's time: %s.", share,
                   "steps become a graph" if self._pays else "steps stay as they are")  # fmt: skip
        return made

    def _attempt(self, work: Work, batch: Sequence[Any]) -> Work | None:
        try:
            return self._capture(work, batch)
        except RuntimeError as error:
            self._pays = False
            _log.debug("a step cannot be captured, and stays as it is: %s", str(error).partition("\n")[0])
            return None
