"""Shards through a network: decoded pieces gathered into batches, one part out for each shard."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.decoding import PIECE, Images, Piece, checked, cut
from dprune.formats.filling import Filling
from dprune.formats.provenance import Record
from dprune.formats.shards import Shard
from dprune.precision import float32
from dprune.runtime import Monitor, single_threads


class Finished(NamedTuple):
    """A batch that is ready for the network.

    Attributes:
        images: [n, c, h, w] on the device.
        bad: those that could not be decoded after all, as in `Decoded`.
        spent: tensors for the main thread to let go of: for each the interpreter's lock is given up and waited for,
            which is quick in that thread alone.
    """

    images: Tensor
    bad: list[Record]
    spent: list[Any]


Finish = Callable[[Sequence[Any]], Finished]
"""Makes of the pieces of a batch what the network takes."""


class BatchNetwork(ABC):
    """A network that takes batches in the pieces that workers decode.

    Args:
        device: where it is.
        tf32: whether products and convolutions of float32 may keep ten bits.
    """

    def __init__(self, device: torch.device, *, tf32: bool = False) -> None:
        self.device = device
        self._tf32 = tf32
        self._pool = single_threads() if device.type == "cpu" else None

    def __call__(self, pieces: list[Tensor]) -> tuple[Tensor, ...]:
        """Send one batch through the network.

        Args:
            pieces: images [n_i, c, h, w], see `Decoded`.

        Returns:
            What `outputs` gives for the whole batch.
        """
        if self._pool is not None:
            return tuple(torch.cat(outputs) for outputs in zip(*self._pool.map(self.outputs, pieces), strict=True))
        # The flag is the whole process's: threads that set it and set it back would get into each other's way.
        with float32(tf32=self._tf32):
            return self.outputs(torch.cat([piece.to(self.device, non_blocking=True) for piece in pieces]))

    @abstractmethod
    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the network gives for images [n, c, h, w] on its device, each with a row for an image."""


class Part(NamedTuple):
    """A shard whose images have been through a network.

    Attributes:
        shard: which one.
        batches: the network's outputs, on its device.
        labels: int64 [n], -1 for none.
        bad: the images that could not be decoded, as in `Decoded`.
    """

    shard: Shard
    batches: list[tuple[Tensor, ...]]
    labels: Tensor
    bad: list[Record]

    def output(self, number: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return one output of all batches, [n, *shape]; float32 for a shard without samples."""
        if not self.batches:
            return np.empty((0, *shape), dtype=np.float32)
        found: npt.NDArray[Any] = torch.cat([batch[number] for batch in self.batches]).cpu().numpy()
        return found


def parts(
    numbers: Iterable[int], images: Images, network: BatchNetwork, filling: Filling, batch_size: int,
    workers: int | None, label: str, monitor: Monitor, finish: Finish | None = None,
) -> Generator[Part]:  # fmt: skip
    """Send all images of shards through a network and yield what came out, a shard at a time.

    Args:
        numbers: of the shards in the dataset; taken one by one, ahead of their use, if they are no sequence.
        images: what decodes them.
        network: what each batch goes through.
        filling: counts of the shards, and whether bad images are forgiven.
        batch_size: images in a batch; none crosses the end of a shard.
        workers, label, monitor: see `checked`, which says what is raised, too.
        finish: what is left to do to the pieces of a batch, done in a thread while the network has the one before
            (without workers in this one, since Pillow's warnings are caught for a whole process); None for nothing.
    """
    ahead, waiting, shards = itertools.tee(((number, filling.count(number)) for number in numbers), 3)
    coming = (piece for number, count in ahead for piece in cut(number, range(count), batch_size))
    pieces = list(coming) if isinstance(numbers, Sized) else coming
    pin = network.device.type == "cuda" and finish is None
    with (
        contextlib.closing(checked(images, pieces, filling, workers, label, monitor, pin=pin)) as read,
        contextlib.closing(_finished(_batches(read, waiting, batch_size), finish, workers)) as batches,
    ):
        for number, count in shards:
            shard = images.shards[number]
            # Outputs stay on the device until the whole shard is through, so that nothing waits for it.
            part, labels = Part(shard, [], torch.empty(count, dtype=torch.int64), []), []
            for _ in range(0, count, batch_size):
                batch, tensors, bad = next(batches)
                filling.forgive(shard, bad)
                labels += [piece.labels for piece in batch]
                part.bad.extend(sorted([*bad, *(entry for piece in batch for entry in piece.bad)], key=_row))
                part.batches.append(network(tensors))
            part.labels[:] = torch.cat(labels) if labels else 0
            yield part


def _batches(
    read: Iterator[tuple[Piece, Any]], shards: Iterable[tuple[int, int]], batch_size: int
) -> Iterator[list[Any]]:
    """Gather the pieces of each batch, as `cut` cut them of shards by number and count."""
    for _, count in shards:
        for begin in range(0, count, batch_size):
            images = min(batch_size, count - begin)
            yield [piece for _, piece in itertools.islice(read, -(-images // PIECE))]


def _finished(
    batches: Iterator[list[Any]], finish: Finish | None, workers: int | None
) -> Generator[tuple[list[Any], list[Tensor], list[Record]]]:
    """Bring the pieces of each batch to tensors, one batch ahead of its use where that is work."""
    if finish is None:
        yield from ((batch, [piece.images for piece in batch], []) for batch in batches)
        return
    if workers == 0:
        yield from (_ready(batch, finish(batch)) for batch in batches)
        return
    with ThreadPoolExecutor(1) as thread:
        before: tuple[list[Any], Future[Finished]] | None = None
        for batch in batches:
            coming = (batch, thread.submit(finish, batch))
            if before:
                yield _ready(before[0], before[1].result())
            before = coming
        if before:
            yield _ready(before[0], before[1].result())


def _ready(batch: list[Any], finished: Finished) -> tuple[list[Any], list[Tensor], list[Record]]:
    if finished.images.is_cuda:
        # The network will read them on this thread's stream, after all have let them go.
        finished.images.record_stream(torch.cuda.current_stream(finished.images.device))
    return batch, [finished.images], finished.bad


def _row(entry: Record) -> int:
    return int(entry["row"])
