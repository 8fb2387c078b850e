"""JPEGs decoded, turned, resized and cropped on the device, a batch at a time.

What the device's decoder cannot decode, Pillow does, so that the same images are bad, and for the same reasons.
Turning, resizing and cropping equal Pillow's to the bit, so that only the decoders' rounding, and how they enlarge the
colours of subsampled images, tells the two ways apart.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from dprune.embedding.encoded import Encoded, EncodedImages
from dprune.embedding.geometry import Geometry, down_first, resize_like_pillow
from dprune.embedding.weights import hushed
from dprune.errors import BadImage, UsageError
from dprune.formats.images import decode_image
from dprune.formats.jpegs import PlainJpeg
from dprune.formats.provenance import Record
from dprune.kernels.available import triton_works
from dprune.models.imports import without_compiler
from dprune.parts import Finished

Decode = Callable[[list[Tensor]], Sequence[Tensor]]
"""Brings JPEGs, uint8 [bytes] each in main memory, to images uint8 [3, h, w] on a device, or raises a RuntimeError."""

PIXELS_AT_ONCE = 1 << 28
"""That a call of the decoder is asked for, or a batch of large photos would not fit smaller GPUs."""
LIBRARIES = ("torchvision.io", "torchcodec.decoders")
_log = logging.getLogger("dprune")


class Jpeg(NamedTuple):
    """A JPEG of a batch: its place there, its row and key in the shard, its header and its bytes."""

    place: int
    name: tuple[int, str]
    header: PlainJpeg
    data: Tensor


class DeviceDecoder:
    """Brings pieces of JPEGs to a batch on the device; to be called by one thread at a time.

    Args:
        images: that the pieces come from.
        geometry: the network's preprocessing.
        device: where images are decoded.
        decode: what decodes them there.
    """

    def __init__(self, images: EncodedImages, geometry: Geometry, device: torch.device, decode: Decode) -> None:
        self._images, self._geometry, self._device, self._decode = images, geometry, device, decode
        self._fused = triton_works(device)
        # Few and short, its kernels go before those of the network that runs at the same time.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        by = "a fused kernel" if self._fused else "matrix products"
        _log.info("JPEGs are decoded on %s by %s and resized by %s.", device, _library(decode), by)

    def __call__(self, pieces: Sequence[Encoded]) -> Finished:
        """Decode a batch to images uint8 [n, 3, h, w] on the device, black where one is bad."""
        jpegs, others = _sorted(pieces)
        bad: list[Record] = []
        spent: list[object] = [jpegs]
        with self._working():
            out = torch.empty((len(jpegs) + len(others), *self._images.shape), dtype=torch.uint8, device=self._device)
            if others:
                out[others] = torch.cat([piece.images for piece in pieces]).to(self._device)
            for some in _at_once(jpegs):
                decoded = self._decoded(some)
                spent.append(decoded)
                bad += self._fill(out, decoded)
        return Finished(out, bad, spent)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Work on a stream of its own, and wait until all is done.

        Libraries decode on streams of theirs, which do not wait for whoever used the memory before.
        """
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()

    def _fill(self, out: Tensor, decoded: Sequence[tuple[Jpeg, Tensor | None]]) -> list[Record]:
        """Put images into a batch, by Pillow where the device could not decode; return those that neither could."""
        upright = [(jpeg, turned(image, jpeg.header.orientation)) for jpeg, image in decoded if image is not None]
        if upright:
            resized = self._resized([image for _, image in upright])
            out[[jpeg.place for jpeg, _ in upright]] = resized
        return [entry for jpeg, image in decoded if image is None for entry in self._by_pillow(out, jpeg)]

    def _decoded(self, jpegs: Sequence[Jpeg]) -> list[tuple[Jpeg, Tensor | None]]:
        """Decode on the device, halving what fails until only those are left out that fail alone."""
        try:
            images = self._decode([jpeg.data for jpeg in jpegs])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if len(jpegs) == 1:
                return [(jpegs[0], None)]
            half = len(jpegs) // 2
            return [*self._decoded(jpegs[:half]), *self._decoded(jpegs[half:])]
        return [(jpeg, image if _fits(image, jpeg.header) else None) for jpeg, image in zip(jpegs, images, strict=True)]

    def _by_pillow(self, out: Tensor, jpeg: Jpeg) -> list[Record]:
        try:
            image = self._images.shaped(decode_image(jpeg.data.numpy().tobytes()))
        except BadImage as error:
            out[jpeg.place] = 0
            return [{"row": jpeg.name[0], "key": jpeg.name[1], "reason": str(error)}]
        out[jpeg.place] = image.to(self._device)
        return []

    def _resized(self, images: list[Tensor]) -> Tensor:
        """Resize and crop images uint8 [3, h, w], giving uint8 [n, 3, *size]."""
        size, cubic = self._geometry.size, self._geometry.cubic
        windows = [self._geometry.window(image.shape[2], image.shape[1]) for image in images]
        if not self._fused:
            return torch.stack([resize_like_pillow(*pair, size, cubic) for pair in zip(images, windows, strict=True)])
        from dprune.kernels.resize import resize_crop

        out = resize_crop(images, windows, size, cubic)
        for number, (image, window) in enumerate(zip(images, windows, strict=True)):
            if down_first(image, window):
                out[number] = resize_like_pillow(image, window, size, cubic)
        return out


def _sorted(pieces: Sequence[Encoded]) -> tuple[list[Jpeg], list[int]]:
    """Return a batch's JPEGs, and the places of what Pillow has decoded already."""
    jpegs: list[Jpeg] = []
    others: list[int] = []
    for piece in pieces:
        data = iter(piece.data.split([header.size for header in piece.headers if header]))
        for header, name in zip(piece.headers, piece.names, strict=True):
            place = len(jpegs) + len(others)
            if header:
                jpegs.append(Jpeg(place, name, header, next(data)))
            else:
                others.append(place)
    return jpegs, others


def _at_once(jpegs: Sequence[Jpeg]) -> Iterator[list[Jpeg]]:
    """Cut a batch so that what is decoded at once fits into memory."""
    some: list[Jpeg] = []
    pixels = 0
    for jpeg in jpegs:
        more = jpeg.header.width * jpeg.header.height
        if some and pixels + more > PIXELS_AT_ONCE:
            yield some
            some, pixels = [], 0
        some.append(jpeg)
        pixels += more
    if some:
        yield some


def _fits(image: Tensor, header: PlainJpeg) -> bool:
    return tuple(image.shape) == (3, header.height, header.width)


def turned(image: Tensor, orientation: int) -> Tensor:
    """Turn an image upright.

    Args:
        image: [c, h, w].
        orientation: 1 to 8, as EXIF counts.
    """
    if orientation == 1:
        return image
    if orientation > 4:
        image = image.transpose(1, 2)
    flips = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation, ())
    return (image.flip(flips) if flips else image).contiguous()


def jpeg_decoders(device: torch.device) -> dict[str, Decode]:
    """Return what decodes JPEGs on a device, by the library that it is of, as far as imports tell.

    Raises:
        UsageError: nothing does.
    """
    if device.type != "cuda":
        raise UsageError(f"--decode gpu: needs a GPU, and this runs on the {device.type}: leave it out.")
    # Of torchvision 0.29, whose other decoders are to go.
    warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)
    found: dict[str, Decode] = {}
    for library in LIBRARIES:
        with contextlib.suppress(ImportError, AttributeError, OSError, RuntimeError), hushed(), without_compiler():
            function = importlib.import_module(library).decode_jpeg
            found[library] = functools.partial(function, mode="RGB", device=device)
    if not found:
        raise UsageError("--decode gpu: neither torchvision nor torchcodec decodes JPEGs: install one that does.")
    return found


def first_working(decoders: Mapping[str, Decode]) -> Decode:
    """Try decoders on a small image, which also wakes the GPU's, and return the first that works.

    Raises:
        UsageError: none does.
    """
    reasons: list[str] = []
    for library, decode in decoders.items():
        try:
            image = decode([_lying()])[0]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            reasons.append(str(error).strip().split("\n")[0].rstrip("."))
            continue
        if tuple(image.shape) != (3, 8, 16):
            reasons.append(f"{library} turns images")
            continue
        return decode
    raise UsageError(f"--decode gpu: no JPEG can be decoded on this GPU ({reasons[0]}): leave it out.")


def _library(decode: Decode) -> str:
    return str(getattr(getattr(decode, "func", decode), "__module__", "")).partition(".")[0]


def _lying() -> Tensor:
    """Return a JPEG of 16 x 8 pixels that is to be turned, which is left to `turned`."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (16, 8)).save(buffer, "JPEG", exif=exif)
    return torch.from_numpy(np.frombuffer(buffer.getvalue(), dtype=np.uint8).copy())
