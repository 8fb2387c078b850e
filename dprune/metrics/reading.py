"""Training sets of any size, read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dprune.namespace import Array, Device, beside, device_type, namespace, namespace_on


@dataclass(frozen=True)
class Sizes:
    """How much a search works on at once, which bounds its memory.

    Attributes:
        block_bytes: of the training rows read at once, as float32.
        columns: training rows of a tile.
        scores: pairs of a tile.
        numbers: float64 numbers of the rows compared at once.
        pairs: pairs that may wait for their comparison.
    """

    block_bytes: int
    columns: int
    scores: int
    numbers: int
    pairs: int


SIZES = {
    "cpu": Sizes(block_bytes=256 << 20, columns=1 << 12, scores=1 << 22, numbers=1 << 17, pairs=1 << 20),
    "cuda": Sizes(block_bytes=1 << 30, columns=1 << 15, scores=1 << 29, numbers=1 << 27, pairs=1 << 24),
}


class Rows(Protocol):
    """Rows that are read piece by piece, such as the features of a store."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and dimension."""

    def rows(self, begin: int, end: int) -> Any:
        """Return rows `begin` to `end` as an array or tensor of floats [end - begin, d]."""


@dataclass(frozen=True)
class TensorRows:
    """Rows of a tensor or array [n, d]."""

    values: Array

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and dimension."""
        return self.values.shape[0], self.values.shape[1]

    def rows(self, begin: int, end: int) -> Array:
        """Return rows `begin` to `end`."""
        rows = self.values[begin:end]
        # A copy, because torch does not take what is mapped read-only.
        return np.array(rows) if isinstance(rows, np.ndarray) else rows


def as_rows(train: Rows | Array) -> Rows:
    """Wrap a tensor or array [n, d]; leave alone what can be read by rows."""
    return train if hasattr(train, "rows") else TensorRows(train)


def blocks(source: Rows, device: Device) -> Iterator[tuple[int, Array]]:
    """Yield the first id and the rows of each block, on the device, reading one block ahead."""
    samples, dimension = source.shape
    step = max(1, SIZES[device_type(device)].block_bytes // (4 * max(1, dimension)))
    begins, xp = range(0, samples, step), namespace_on(device)
    with ThreadPoolExecutor(1) as reader:
        ahead = None
        for begin in begins:
            now = ahead or reader.submit(source.rows, begin, min(begin + step, samples))
            after = begin + step
            ahead = reader.submit(source.rows, after, min(after + step, samples)) if after < samples else None
            # To the device first: half precision travels in half the time.
            rows = xp.asarray(now.result(), device=device)
            yield begin, rows if rows.dtype == xp.float64 else xp.asarray(rows, dtype=xp.float32)


def take(train: Rows | Array, ids: Array) -> Array:
    """Read the training rows that `ids`, int64 [m] ascending, name, as floats [m, d] on the device of `ids`."""
    source, found, xp = as_rows(train), [], namespace(ids)
    for begin, rows in blocks(source, ids.device):
        bounds = beside(ids, np.array([begin, begin + len(rows)]))
        low, high = xp.searchsorted(ids, bounds).tolist()
        found.append(rows[ids[low:high] - begin])
    return xp.concat(found) if found else xp.empty((0, source.shape[1]), device=ids.device)
