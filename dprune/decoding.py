"""Images of shards through a network: decoded in worker processes, gathered into batches, shard by shard."""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
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
from dprune.formats.shards import Shard, ShardReader
from dprune.precision import float32
from dprune.runtime import Monitor, check_stop, default_workers, single_threads
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
        bad: ledger, each entry with `row`, `key` and `reason`.
        error: why the shard cannot be read, empty if it can.
    """

    images: Tensor
    labels: Tensor
    bad: list[Record]
    error: str = ""


class Images:
    """Decodes pieces; each worker process opens the shards anew.

    Args:
        shards: that pieces speak of.
        transform: brings an RGB image to a tensor [c, h, w].
    """

    def __init__(self, shards: Sequence[Shard], transform: Callable[[Image.Image], Tensor]) -> None:
        self.shards = shards
        self._transform = transform
        self._black = transform(Image.new("RGB", (32, 32)))
        self.shape: tuple[int, ...] = tuple(self._black.shape)
        self.image_bytes: int = self._black.nbytes
        self._position = -1
        self._reader: ShardReader | None = None

    def _open(self, position: int) -> ShardReader:
        if self._reader is None or position != self._position:
            shard = self.shards[position]
            self._reader, self._position = ShardReader(shard, shard.index()), position
        return self._reader

    def __getitem__(self, piece: Piece) -> Decoded:
        """Decode a piece; what goes wrong is returned, since exceptions of workers come with their tracebacks."""
        try:
            reader = self._open(piece.shard)
            labels = torch.tensor([reader.label(row) for row in piece.rows], dtype=torch.int64)
            images, bad = self._decode(reader, piece.rows)
        except (DpruneError, OSError) as error:
            place, ours = self.shards[piece.shard].location, isinstance(error, DpruneError)
            reason = str(error) if ours else f"{place}: cannot be read: {error}."
            return Decoded(self._black[None], torch.empty(0, dtype=torch.int64), [], reason)
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
    images: Images, pieces: Sequence[Piece], filling: Filling, workers: int | None, label: str, monitor: Monitor,
    *, pin: bool = False,
) -> Generator[tuple[Piece, Decoded]]:  # fmt: skip
    """Decode pieces in order and raise what went wrong in the workers.

    Args:
        images: what decodes them.
        pieces: of its shards.
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
    with decoding(images, pieces, workers, monitor, pin=pin) as all_decoded:
        monitor.start(label, sum(len(piece.rows) for piece in pieces), "images")
        for piece, decoded in zip(pieces, all_decoded, strict=True):
            check_stop(monitor)
            if decoded.error:
                raise InputError(decoded.error)
            filling.forgive(images.shards[piece.shard], decoded.bad)
            monitor.advance(len(piece.rows))
            yield piece, decoded


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
        bad: ledger of the images that could not be decoded.
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
    images: Images, network: BatchNetwork, filling: Filling, batch_size: int, workers: int | None, label: str,
    monitor: Monitor,
) -> Generator[Part]:  # fmt: skip
    """Send all images of shards through a network and yield what came out, a shard at a time.

    Args:
        images: what decodes them.
        network: what each batch goes through.
        filling: counts of the shards, and whether bad images are forgiven.
        batch_size: images in a batch; none crosses the end of a shard.
        workers, label, monitor: see `checked`, which says what is raised, too.
    """
    counts = [filling.sizes[shard.name].count for shard in images.shards]
    pieces = [piece for number, count in enumerate(counts) for piece in cut(number, range(count), batch_size)]
    pin = network.device.type == "cuda"
    with contextlib.closing(checked(images, pieces, filling, workers, label, monitor, pin=pin)) as all_decoded:
        for shard, count in zip(images.shards, counts, strict=True):
            # Outputs stay on the device until the whole shard is through, so that nothing waits for it.
            part = Part(shard, [], torch.empty(count, dtype=torch.int64), [])
            done = 0
            while done < count:
                batch: list[Tensor] = []
                stop = min(done + batch_size, count)
                while done < stop:
                    _, decoded = next(all_decoded)
                    batch.append(decoded.images)
                    part.labels[done : done + len(decoded.labels)] = decoded.labels
                    part.bad.extend(decoded.bad)
                    done += len(decoded.images)
                part.batches.append(network(batch))
            yield part
