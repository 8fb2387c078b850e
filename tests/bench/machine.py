"""What all benchmarks ask of a device; a CPU has nothing to wait for, and does not tell its memory."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from dprune.cli import cli
from dprune.training.throughput import synchronize


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def held_gib(device: torch.device) -> float:
    return torch.cuda.memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def timed(run: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median seconds of `run`, the device waited for."""
    run()
    times = []
    for _ in range(repeats):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def command(*arguments: object) -> None:
    """Run a subcommand of dprune in this process."""
    try:
        cli([str(argument) for argument in arguments], prog_name="dprune")
    except SystemExit as end:
        if end.code:
            raise
