"""Features on their way to a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from dprune.formats.features import Features
from dprune.namespace import HOST, Array, Device, device_type
from dprune.runtime import default_workers

if TYPE_CHECKING:
    import torch

ROW_BYTES = {"cpu": 4 << 20, "cuda": 32 << 20}
"""Bytes of float32 that are worked on at once: on a CPU what stays in cache, on a GPU what hides its launches."""
MOST_READERS = 8


def rows_at_once(dimension: int, device: Device) -> int:
    """Return how many rows of `dimension` float32 numbers are worked on at once."""
    return max(1, ROW_BYTES[device_type(device)] // (4 * dimension))


def read_rows(features: Features, begin: int, end: int, device: Device) -> Iterator[Array]:
    """Yield samples `begin` to `end` in pieces, float32 [m, d] on the device."""
    step = rows_at_once(features.shape[1], device)
    yield from read_pieces(features, ((low, min(low + step, end)) for low in range(begin, end, step)), device)


def read_pieces(features: Features, pieces: Iterable[tuple[int, int]], device: Device) -> Generator[Array]:
    """Yield samples by where each piece of them begins and ends, float32 [m, d] on the device.

    For a GPU several threads read ahead, into memory that it copies from by itself, and in the precision in which
    the features are stored, so that they travel in the least time.
    """
    if device == HOST:
        for low, high in pieces:
            yield features.rows(low, high)
        return
    import torch

    if device_type(device) == "cpu":
        for low, high in pieces:
            yield torch.from_numpy(features.rows(low, high))
        return
    readers, coming = min(MOST_READERS, default_workers()), iter(pieces)
    with ThreadPoolExecutor(readers) as pool:
        ahead = deque(pool.submit(_pinned, features, *piece) for piece in islice(coming, 2 * readers))
        while ahead:
            rows = ahead.popleft().result()
            ahead.extend(pool.submit(_pinned, features, *piece) for piece in islice(coming, 1))
            yield rows.to(device, non_blocking=True).float()


def _pinned(features: Features, begin: int, end: int) -> torch.Tensor:
    import torch

    dtype = torch.float16 if features.dtype == "float16" else torch.float32
    rows = torch.empty((end - begin, features.shape[1]), dtype=dtype, pin_memory=True)
    features.fill(rows.numpy(), begin, end)
    return rows
