"""How fast training is, beside what the device could do."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_PRODUCTS, _ROUNDS = 4, 4


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations a second of a large matrix product, which the log's `mfu` is a share of."""
    side = 8192 if device.type == "cuda" else 512
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2))
    out = torch.mm(a, b)
    synchronize(device)
    # The fastest of a few, since whatever else runs can only slow one down.
    return 2 * side**3 / min(_seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(_ROUNDS))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    for _ in range(_PRODUCTS):
        work()
    synchronize(device)
    return (time.perf_counter() - begin) / _PRODUCTS


def synchronize(device: torch.device) -> None:
    """Wait for what was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Rates since it was last asked."""

    def __init__(self, device: torch.device, ceiling: float) -> None:
        self._device, self._ceiling = device, ceiling
        self.restart()

    def count(self, samples: int, flop: int) -> None:
        """Note that so many samples, over all ranks, were trained on, each by so many floating-point operations."""
        self._samples += samples
        self._flop += samples * flop

    def restart(self) -> None:
        """Forget what was counted, after work that is no training."""
        self._samples, self._flop, self._began = 0, 0, time.perf_counter()

    def read(self, world: int) -> dict[str, float]:
        """Return samples a second, memory and the share of the ceiling, and begin again; the device must be idle."""
        seconds = time.perf_counter() - self._began
        found = {"img_per_s": self._samples / seconds}
        if self._device.type == "cuda":
            found["memory_gib"] = torch.cuda.max_memory_allocated(self._device) / 2**30
        if self._flop:
            found["mfu"] = self._flop / seconds / (self._ceiling * world)
        self.restart()
        return found
