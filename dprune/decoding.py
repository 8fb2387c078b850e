"""Images of shards decoded in worker processes, piece by piece."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dprune.errors import BadImage, DpruneError, InputError
from dprune.formats.filling import Filling
from dprune.formats.images import check_shape, decode_image, resize_image
from dprune.formats.provenance import Record
from dprune.formats.shards import SampleReader, Shard
from dprune.runtime import Monitor, check_stop, default_workers
from dprune.workers import Workers

PIECE = 16
AHEAD = 4
LABEL_BYTES = 64
"""At least what a label takes, and the rounding of a piece's labels and images."""
T = TypeVar("T")
P_contra = TypeVar("P_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)


class Decoder(Protocol[P_contra, T_co]):
    """What decodes a piece into a named tuple."""

    @property
    def image_bytes(self) -> int:
        """What an image takes after decoding."""

    def __getitem__(self, piece: P_contra, /) -> T_co:
        """Decode a piece of at most `PIECE` images."""


class Piece(NamedTuple):
    """A few samples of one shard, by the shard's position and the samples' rows."""

    shard: int
    rows: Sequence[int]


class Decoded(NamedTuple):
    """A piece after decoding.

    Attributes:
        images: [n, c, h, w], uint8 or float32 in 0 to 255; black where an image is bad.
        labels: int64 [n], -1 for none.
        bad: images that cannot be decoded, each with `row`, `key` and `reason`.
        error: why the shard cannot be read, empty if it can.
    """

    images: Tensor
    labels: Tensor
    bad: list[Record]
    error: str = ""


class ReadPiece(Protocol):
    """A piece as workers give it: `Decoded`, or what is decoded later."""

    @property
    def labels(self) -> Tensor:
        """int64 [n], -1 for none."""

    @property
    def bad(self) -> list[Record]:
        """See `Decoded`."""

    @property
    def error(self) -> str:
        """See `Decoded`."""


class Images:
    """Decodes pieces; each worker process opens the shards anew.

    Args:
        shards: that pieces speak of.
        transform: brings an RGB image to a tensor [c, h, w].
    """

    def __init__(self, shards: Sequence[Shard], transform: Callable[[Image.Image], Tensor]) -> None:
        self.shards = shards
        self._transform = transform
        self.black = transform(Image.new("RGB", (32, 32)))
        self.shape: tuple[int, ...] = tuple(self.black.shape)
        self._position = -1
        self._reader: SampleReader | None = None

    @property
    def image_bytes(self) -> int:
        """What an image takes after decoding."""
        return self.black.nbytes

    def _open(self, position: int) -> SampleReader:
        if self._reader is None or position != self._position:
            self._reader, self._position = self.shards[position].reader(), position
        return self._reader

    def __getitem__(self, piece: Piece) -> ReadPiece:
        """Decode a piece; what goes wrong is returned, since exceptions of workers come with their tracebacks."""
        try:
            reader = self._open(piece.shard)
            labels = torch.tensor([reader.label(row) for row in piece.rows], dtype=torch.int64)
            return self.decode(reader, piece.rows, labels)
        except (DpruneError, OSError) as error:
            place, ours = self.shards[piece.shard].location, isinstance(error, DpruneError)
            return self.unreadable(str(error) if ours else f"{place}: cannot be read: {error}.")

    def decode(self, reader: SampleReader, rows: Sequence[int], labels: Tensor) -> ReadPiece:
        """Decode rows of a shard, whose labels are read already, into a named tuple such as `Decoded`."""
        images = torch.empty((len(rows), *self.shape), dtype=self.black.dtype)
        bad: list[Record] = []
        for place, row in enumerate(rows):
            try:
                images[place] = self.shaped(decode_image(reader.image(row)))
            except BadImage as error:
                images[place] = 0
                bad.append({"row": int(row), "key": reader.key(row), "reason": str(error)})
        return Decoded(images, labels, bad)

    def unreadable(self, reason: str) -> ReadPiece:
        """Return what stands for a piece whose shard cannot be read."""
        return Decoded(self.black[None], torch.empty(0, dtype=torch.int64), [], reason)

    def check_shape(self, size: tuple[int, int]) -> None:
        """Refuse a thread-like image, given by width and height.

        Raises:
            BadImage: bringing its shorter side to size would blow its longer side up.
        """
        side = min(size)
        check_shape((round(size[0] * self.shape[2] / side), round(size[1] * self.shape[1] / side)))

    def shaped(self, image: Image.Image) -> Tensor:
        """Bring an RGB image to what the network sees.

        Raises:
            BadImage: it is like a thread.
        """
        self.check_shape(image.size)
        return self._transform(image)


class CentreCrop:
    """Brings an image to a square: the shorter side to size, the middle cut out.

    Args:
        size: of the square's side in pixels.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 [3, size, size]."""
        pixels = np.asarray(resize_image(image, self._size, "center"))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def cut(shard: int, rows: Sequence[int], batch_size: int) -> Iterator[Piece]:
    """Cut rows of a shard into pieces of batches; small pieces keep every worker busy to the end."""
    for batch in (rows[begin : begin + batch_size] for begin in range(0, len(rows), batch_size)):
        for begin in range(0, len(batch), PIECE):
            yield Piece(shard, batch[begin : begin + PIECE])


@contextlib.contextmanager
def decoding(
    images: Decoder[Any, T], pieces: Iterable[Any], workers: int | None, monitor: Monitor, *, pin: bool
) -> Iterator[Iterator[T]]:
    """Decode pieces in order, ahead of their use, and end the workers with the block however it ends.

    Args:
        images: what decodes them.
        pieces: in the order in which they will come; taken one by one if they are no sequence.
        workers: processes, 0 for this one, None for one a core; never more than pieces of a sequence.
        monitor: is asked whether to stop while workers are waited for.
        pin: whether to put tensors into memory that a GPU can copy from by itself.

    Yields:
        An iterator over the decoded pieces, which raises what `Workers.map` does.
    """
    workers = default_workers() if workers is None else workers
    workers = min(workers, len(pieces)) if isinstance(pieces, Sized) else workers
    decode = functools.partial(_in_worker, images) if workers else images.__getitem__
    room = PIECE * (images.image_bytes + LABEL_BYTES)
    with (
        Workers(decode, workers, ahead=AHEAD, room=room, monitor=monitor) as crew,
        contextlib.closing(crew.map(pieces)) as decoded,
    ):
        yield (_as_tensors(piece, pin=pin) for piece in decoded)


def _in_worker(images: Decoder[Any, Any], piece: Any) -> Any:
    """Decode a piece; its tensors travel as arrays, since torch would send them through files in /dev/shm."""
    # A fork has none of its parent's threads, which torch would wait for.
    torch.set_num_threads(1)
    return _replaced(images[piece], Tensor, Tensor.numpy)


def _as_tensors(decoded: Any, *, pin: bool) -> Any:
    return _replaced(decoded, np.ndarray, _pinned if pin else torch.from_numpy)


def _pinned(values: npt.NDArray[Any]) -> Tensor:
    """Copy an array to memory that a GPU can copy from by itself.

    By numpy: torch would share the copy among as many threads as there are cores, which the workers keep busy.
    """
    tensor = torch.empty(values.shape, dtype=torch.from_numpy(values).dtype, pin_memory=True)
    tensor.numpy()[...] = values
    return tensor


def _replaced(decoded: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Change the fields of a named tuple that are of a kind."""
    return decoded._make(change(value) if isinstance(value, kind) else value for value in decoded)


def checked(
    images: Images, pieces: Iterable[Piece], filling: Filling, workers: int | None, label: str, monitor: Monitor,
    *, pin: bool = False,
) -> Generator[tuple[Piece, Any]]:  # fmt: skip
    """Decode pieces in order and raise what went wrong in the workers.

    Args:
        images: what decodes them.
        pieces: of its shards; taken one by one, ahead of their use, if they are no sequence.
        filling: whether bad images are forgiven.
        workers: see `decoding`.
        label: what progress calls the work.
        monitor: progress and requests to stop.
        pin: see `decoding`.

    Raises:
        InputError: a shard cannot be read, or holds an image that is not forgiven.
        DpruneError: a worker was killed.
        Interrupted: a signal or a deadline came.
    """
    total = sum(len(piece.rows) for piece in pieces) if isinstance(pieces, Sequence) else None
    ahead, pieces = (pieces, pieces) if isinstance(pieces, Sequence) else itertools.tee(pieces)
    with decoding(images, ahead, workers, monitor, pin=pin) as all_decoded:
        monitor.start(label, total, "images")
        for piece, decoded in zip(pieces, all_decoded, strict=True):
            check_stop(monitor)
            if decoded.error:
                raise InputError(decoded.error)
            filling.forgive(images.shards[piece.shard], decoded.bad)
            monitor.advance(len(piece.rows))
            yield piece, decoded
