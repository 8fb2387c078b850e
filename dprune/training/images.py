"""Images to train on, by random access into shards: held decoded where they fit, else decoded ahead of their use."""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.decoding import PIECE, decoding
from dprune.errors import BadImage, DpruneError, InputError
from dprune.formats.images import decode_image, resize_image
from dprune.formats.ranges import LocalBlocks, open_blocks
from dprune.formats.remote import RemoteBlocks
from dprune.formats.shards import Dataset, read_image
from dprune.models.latents import sent
from dprune.models.pixels import centred
from dprune.runtime import Monitor, Silent
from dprune.training.order import Positions

HELD_BYTES = 2 << 30
MOST_BAD_IN_A_ROW = 256

_log = logging.getLogger("dprune")


class Chunk(NamedTuple):
    """A few images after decoding.

    Attributes:
        images: uint8 [n, 3, side, side].
        bad: position of each that could not be decoded, and the reason.
        error: why nothing could be read, empty if it could.
    """

    images: Tensor
    bad: list[tuple[int, str]]
    error: str = ""


@functools.lru_cache(maxsize=64)
def _blocks(location: str, process: int) -> LocalBlocks | RemoteBlocks:
    # By process, since connections do not survive a fork.
    return open_blocks(location)


class _Source:
    """Decodes images by their positions in a list of ids.

    An image that cannot be decoded is replaced by the next that can, so that an epoch always has as many samples, and
    the batch of a step does not depend on which images were tried before.
    """

    def __init__(self, dataset: Dataset, ids: npt.NDArray[np.int64], side: int) -> None:
        self._locations = [shard.location for shard in dataset.shards]
        self._side = side
        self.image_bytes = 3 * side**2
        rows = dataset.split(ids)
        self.shard = np.repeat(np.arange(len(rows), dtype=np.int32), [len(own) for own in rows])
        self.row = np.concatenate(rows)
        # Indexes are dropped after this: of each image only its place is kept.
        places = [_places(dataset, number, own) for number, own in enumerate(rows) if len(own)]
        self._places = np.concatenate(places, axis=1)

    def __getitem__(self, positions: Positions) -> Chunk:
        """Decode a few images; what goes wrong is returned, since exceptions of workers come with tracebacks."""
        images = torch.empty((len(positions), 3, self._side, self._side), dtype=torch.uint8)
        bad: list[tuple[int, str]] = []
        try:
            for place, position in enumerate(positions):
                images[place] = self._stand_in(int(position), bad)
        except (DpruneError, OSError) as error:
            return Chunk(images, bad, str(error))
        return Chunk(images, bad)

    def _stand_in(self, position: int, bad: list[tuple[int, str]]) -> Tensor:
        for offset in range(min(len(self.row), MOST_BAD_IN_A_ROW)):
            tried = (position + offset) % len(self.row)
            try:
                return self._decode(tried)
            except BadImage as error:
                bad.append((tried, str(error)))
        location = self._locations[self.shard[position]]
        raise InputError(f"{location}: {len(bad)} images in a row cannot be decoded: make the shards again.")

    def _decode(self, position: int) -> Tensor:
        blocks = _blocks(self._locations[self.shard[position]], os.getpid())
        content = read_image(blocks, *self._places[:, position].tolist())
        image = resize_image(decode_image(content), self._side, "center")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _places(dataset: Dataset, number: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    index = dataset.shards[number].index()
    members = index.image[rows]
    return np.stack((index.offset[members], index.size[members], index.header[members]))


class TrainingImages:
    """Images of a dataset, or of some of its samples, cut to squares of one size.

    Attributes:
        held: all images on the device, uint8 [n, 3, side, side], None where they take too much room.

    Args:
        dataset: the shards.
        ids: sorted sample ids, int64 [n], at least one.
        side: of the images in pixels.
        device: where batches are wanted.
        workers: processes that decode, see `decoding`.
        strict: whether an image that cannot be decoded ends the work.
        held_bytes: how much decoded images may take to be held on the device.
        monitor: is asked whether to stop while images are waited for.

    Raises:
        InputError: a shard cannot be read, or with `strict` an image cannot be decoded.
        DpruneError: a worker was killed.
        Interrupted: the monitor asked to stop while images were waited for.
    """

    def __init__(self, dataset: Dataset, ids: npt.NDArray[np.int64], side: int, device: torch.device,
                 workers: int | None, *, strict: bool = False, held_bytes: int = HELD_BYTES,
                 monitor: Monitor | None = None) -> None:  # fmt: skip
        self.dataset, self.ids, self.device = dataset, ids, device
        self.side, self._workers, self._strict, self._monitor = side, workers, strict, monitor or Silent()
        self._source = _Source(dataset, ids, side)
        self._bad: set[int] = set()
        self.held: Tensor | None = None
        if len(ids) * 3 * side**2 <= held_bytes:
            self.held = self.load(np.arange(len(ids)))
        _log.debug("%s images of %s are %s.", f"{len(self):,}", dataset.title,
                   "held decoded" if self.held is not None else "decoded as they are needed")  # fmt: skip

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def load(self, positions: Positions) -> Tensor:
        """Decode images at once; uint8 [n, 3, side, side] on the device."""
        return next(self.batches(iter([[positions]])))[0]

    def batches(self, steps: Iterable[list[Positions]]) -> Generator[list[Tensor]]:
        """Turn the positions of steps into images, decoding ahead; close the iterator to end the workers.

        Args:
            steps: the micro-batches of each, as positions in `ids`.

        Yields:
            The images of each micro-batch of a step, uint8 [n, 3, side, side] on the device.
        """
        if self.held is not None:
            for parts in steps:
                yield [self.held[sent(torch.from_numpy(part), self.device)] for part in parts]
            return
        ahead: deque[list[Positions]] = deque()
        pin = self.device.type == "cuda"
        with decoding(self._source, _pieces(steps, ahead), self._workers, self._monitor, pin=pin) as decoded:
            for first in decoded:
                pieces = itertools.chain([first], decoded)
                yield [self._collect(len(part), pieces) for part in ahead.popleft()]

    def _collect(self, count: int, pieces: Iterator[Chunk]) -> Tensor:
        found: list[Tensor] = []
        for _ in range(0, count, PIECE):
            piece = next(pieces)
            self._check(piece)
            found.append(piece.images.to(self.device, non_blocking=True))
        return torch.cat(found)

    def _check(self, piece: Chunk) -> None:
        """Say once what cannot be decoded.

        Raises:
            InputError: nothing can be, or with --strict a single image cannot.
        """
        if piece.error and not (piece.bad and self._strict):
            raise InputError(piece.error)
        for position, reason in piece.bad:
            if position in self._bad:
                continue
            self._bad.add(position)
            shard, row = self.dataset.shards[self._source.shard[position]], int(self._source.row[position])
            told = f"{shard.location}: {shard.index().key(row)} {reason}"
            if self._strict:
                raise InputError(f"{told}: replace it, or leave --strict out to train on another in its place.")
            _log.warning("%s; the next sample is trained on in its place.", told)


def _pieces(steps: Iterable[list[Positions]], ahead: deque[list[Positions]]) -> Iterator[Positions]:
    """Cut the micro-batches of steps into pieces, and note each step before its first piece is given out."""
    for parts in steps:
        ahead.append(parts)
        for part in parts:
            yield from (part[begin : begin + PIECE] for begin in range(0, len(part), PIECE))


def to_unit(pixels: Tensor) -> Tensor:
    """Bring uint8 [n, 3, H, W] to float32 in [-1, 1], channels last on a GPU, where convolutions want that."""
    layout = torch.channels_last if pixels.is_cuda else torch.contiguous_format
    return centred(pixels.contiguous(memory_format=layout))
