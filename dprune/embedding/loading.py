"""Decoding in worker processes: pieces of shards in, tensors of images out."""

from __future__ import annotations

import contextlib
import signal
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dprune.errors import DpruneError
from dprune.formats.images import BadImage, check_shape, decode_image
from dprune.formats.shards import ShardReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from dprune.formats.provenance import Record
    from dprune.formats.shards import Shard

PIECE = 16


class Piece(NamedTuple):
    """A few samples of one shard, by the shard's position and the samples' rows."""

    shard: int
    rows: Sequence[int]


class Decoded(NamedTuple):
    """A piece after decoding.

    Attributes:
        images: [n, c, h, w], uint8 or float32 in 0 to 255; black where an image is bad.
        labels: int64 [n], -1 for none.
        bad: ledger, each entry with `row`, `key` and `reason`.
        error: why the shard cannot be read, empty if it can.
    """

    images: Tensor
    labels: Tensor
    bad: list[Record]
    error: str = ""


class Images(Dataset[Decoded]):
    """Decodes pieces; each worker process opens the shards anew.

    Args:
        shards: that pieces speak of.
        transform: brings an RGB image to a tensor [c, h, w].
    """

    def __init__(self, shards: Sequence[Shard], transform: Callable[[Image.Image], Tensor]) -> None:
        self._shards = shards
        self._transform = transform
        self._black = transform(Image.new("RGB", (32, 32)))
        self.shape: tuple[int, ...] = tuple(self._black.shape)
        self._position = -1
        self._reader: ShardReader | None = None

    def _open(self, position: int) -> ShardReader:
        if self._reader is None or position != self._position:
            shard = self._shards[position]
            self._reader, self._position = ShardReader(shard, shard.index()), position
        return self._reader

    def __getitem__(self, piece: Piece) -> Decoded:
        """Decode a piece; what goes wrong is returned, since exceptions of workers come with their tracebacks."""
        try:
            reader = self._open(piece.shard)
            labels = torch.tensor([reader.label(row) for row in piece.rows], dtype=torch.int64)
            images, bad = self._decode(reader, piece.rows)
        except DpruneError as error:
            return Decoded(self._black[None], torch.empty(0, dtype=torch.int64), [], str(error))
        except OSError as error:
            place = self._shards[piece.shard].location
            return Decoded(
                self._black[None], torch.empty(0, dtype=torch.int64), [], f"{place}: cannot be read: {error}."
            )
        return Decoded(images, labels, bad)

    def _decode(self, reader: ShardReader, rows: Sequence[int]) -> tuple[Tensor, list[Record]]:
        images = torch.empty((len(rows), *self.shape), dtype=self._black.dtype)
        bad: list[Record] = []
        for place, row in enumerate(rows):
            try:
                images[place] = self._shaped(decode_image(reader.image(row)))
            except BadImage as error:
                images[place] = 0
                bad.append({"row": int(row), "key": reader.index.key(row), "reason": str(error)})
        return images, bad

    def _shaped(self, image: Image.Image) -> Tensor:
        # Bringing the shorter side of a thread-like image to size would blow its longer side up.
        side = min(image.size)
        check_shape((round(image.width * self.shape[2] / side), round(image.height * self.shape[1] / side)))
        return self._transform(image)


def cut(shard: int, rows: Sequence[int], batch_size: int) -> Iterator[Piece]:
    """Cut rows of a shard into pieces of batches; small pieces keep every worker busy to the end."""
    for batch in (rows[begin : begin + batch_size] for begin in range(0, len(rows), batch_size)):
        for begin in range(0, len(batch), PIECE):
            yield Piece(shard, batch[begin : begin + PIECE])


@contextlib.contextmanager
def decoding(images: Images, pieces: Sequence[Piece], workers: int, *, pin: bool) -> Iterator[Iterator[Decoded]]:
    """Decode pieces in order, ahead of their use, and end the workers with the block however it ends.

    Args:
        images: what decodes them.
        pieces: in the order in which they will come.
        workers: processes, 0 for this one; never more than pieces.
        pin: whether to put them into memory that a GPU can copy from by itself.

    Yields:
        An iterator over the decoded pieces.
    """
    workers = min(workers, len(pieces))
    ahead: dict[str, Any] = {"prefetch_factor": 4, "worker_init_fn": _deaf} if workers else {}
    with warnings.catch_warnings():
        # Whoever asks for more workers than cores means it.
        warnings.simplefilter("ignore")
        loader = DataLoader(images, sampler=pieces, batch_size=None, num_workers=workers, pin_memory=pin, **ahead)
    decoded = iter(loader)
    try:
        yield decoded
    finally:
        # Workers are deaf to the signal by which Python ends those that an exception left behind, and would be
        # waited for without end.
        if workers:
            decoded._shutdown_workers()  # type: ignore[attr-defined]


def _deaf(worker: int) -> None:
    """Leave signals to the main process, which lets its workers finish; batch systems signal all processes at once."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
