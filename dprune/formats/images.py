"""Images: decoding those that nobody vouches for, the one resize that packing uses, and pictures for people."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, features
from PIL.PngImagePlugin import PngInfo

from dprune.errors import BadImage, InputError
from dprune.formats.publish import publish_bytes
from dprune.formats.shards import Dataset

SOFTWARE, PNG_MARK, PNG_WORDS = "dprune", "Content", "Description"
MISSING = "#d9dee4"
"""Colour of the thumbnail of an image that cannot be decoded."""
# Pillow opens more than images (PostScript, for one, by running Ghostscript), and some formats by no mark at all, so
# that noise might be taken for a picture.
DECODERS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "AVIF", "JPEG2000", "QOI", "PCX", "SGI", "SUN")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
"""Tags of a TIFF."""


@functools.cache
def readable_suffixes() -> dict[str, str]:
    """Return the suffixes of files that `decode_image` reads here, lower-case, and the format that each stands for."""
    known = Image.registered_extensions()
    formats = set(DECODERS) - ({"AVIF"} if not features.check("avif") else set())
    return {suffix.removeprefix("."): name for suffix, name in known.items() if name in formats}


def decode_image(data: bytes) -> Image.Image:
    """Decode an image to RGB of 8 bits, upright, transparency over white; see `first_frame`."""
    return first_frame(data)[0]


def first_frame(data: bytes) -> tuple[Image.Image, bool]:
    """Decode an image as `decode_image` does, and tell whether it has more frames or pages.

    Greys of more than 8 bits are scaled by the range of their type, floats from 0 to 1.

    Raises:
        BadImage: the bytes are cut short, damaged, no image, more pixels than Pillow's limit against bombs, or
            numbers whose range is not known.
    """
    try:
        with warnings.catch_warnings():
            # A warning is all that Pillow gives for images between one and two times its limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", message="Palette images with Transparency")
            image: Image.Image = Image.open(io.BytesIO(data), formats=DECODERS)
            # Cameras add a preview or a map of depth to a JPEG, which nobody misses.
            more = image.format != "MPO" and (getattr(image, "is_animated", False) or getattr(image, "n_frames", 1) > 1)
            image.load()
            if image.mode[0] in "IF":
                image = _eight_bits(image)
            # Otherwise what is upright already would be copied.
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image), more
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"too many pixels: {str(error).split(',')[0]}") from error
    except BadImage:
        raise
    except Exception as error:
        reason = str(error).split(" <_io")[0] or type(error).__name__
        raise BadImage(f"cannot be decoded: {reason}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale greys of more than eight bits by the range of their type; converting them directly would clip them."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == "F":
        if not ((values >= 0) & (values <= 1)).all():
            raise BadImage("holds floats that are not from 0 to 1, so their range is not known: write it with 8 bits")
        grey = np.rint(values * 255)
    elif image.mode == "I" and tags:
        raise BadImage("holds integers of 32 bits or with a sign, whose range is not known: write it with 8 bits")
    else:
        grey = values >> (int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 8)
    if tags.get(_PHOTOMETRIC) == 0:
        grey = 255 - grey
    scaled = Image.fromarray(grey.astype(np.uint8))
    # It tells which side is up.
    scaled.getexif().update(image.getexif())
    return scaled


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image.convert("RGB")


def first_side(dataset: Dataset) -> int:
    """Return the shorter side, in pixels, of the first image of a dataset that can be decoded.

    Raises:
        InputError: none can be, or a shard cannot be read.
    """
    for shard in dataset.shards:
        reader = shard.reader()
        for row in range(shard.size.count):
            with contextlib.suppress(BadImage):
                return min(decode_image(reader.image(row)).size)
    raise InputError(f"{dataset.title}: holds no image that can be decoded: give other shards.")


def resize_image(image: Image.Image, size: int, crop: str) -> Image.Image:
    """Bring the shorter side to `size` pixels by one antialiased Lanczos resize.

    Args:
        image: RGB image.
        size: pixels of the shorter side.
        crop: `center` cuts the middle square out first, `none` keeps the shape.

    Raises:
        BadImage: keeping the shape of a thread-like image would give it too many pixels.
    """
    width, height = image.size
    side = min(width, height)
    if crop == "center":
        left, top = (width - side) / 2, (height - side) / 2
        # Whole pixels, so that an image of the right size passes unchanged.
        box = (int(left), int(top), int(left) + side, int(top) + side)
        return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS, box)
    target = (max(1, round(width * size / side)), max(1, round(height * size / side)))
    check_shape(target)
    return image if image.size == target else image.resize(target, Image.Resampling.LANCZOS)


def check_shape(size: tuple[int, int]) -> None:
    """Refuse to make an image that Pillow would refuse to read.

    Raises:
        BadImage: width times height is over Pillow's limit against bombs.
    """
    if size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or 1 << 27):
        raise BadImage(f"too long and thin: it would become {size[0]:,} x {size[1]:,} pixels")


FORMATS: dict[str, dict[str, Any]] = {
    # Photos of 256 pixels are written 2.8 times as fast as at Pillow's own level, and take 3% more.
    "png": {"format": "PNG", "compress_level": 1},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    # Twenty times as fast as at its own method, 4, and 9% more: still less than PNG.
    "webp": {"format": "WEBP", "lossless": True, "method": 0},
}


def encode_image(image: Image.Image, suffix: str) -> bytes:
    """Encode an image as `png`, `jpg` (quality 95) or lossless `webp`.

    Raises:
        BadImage: the format cannot hold an image of this shape.
    """
    buffer = io.BytesIO()
    try:
        image.save(buffer, **FORMATS[suffix])
    except (OSError, ValueError) as error:
        raise BadImage(f"cannot be written as {suffix}: {error}") from error
    return buffer.getvalue()


def thumbnail(data: bytes, side: int) -> Image.Image:
    """Decode an image and bring its middle square to `side` pixels; one that cannot be decoded becomes grey."""
    try:
        image = decode_image(data)
    except BadImage:
        return Image.new("RGB", (side, side), MISSING)
    square = min(image.size)
    left, top = (image.width - square) // 2, (image.height - square) // 2
    # Enlarging tiny images smoothly would show detail that they do not have.
    smooth = Image.Resampling.LANCZOS if square > side else Image.Resampling.NEAREST
    return image.resize((side, side), smooth, (left, top, left + square, top + square))


def thumbnails(dataset: Dataset, ids: npt.NDArray[np.int64], side: int) -> dict[int, Image.Image]:
    """Make a thumbnail of each sample that sorted ids name.

    Raises:
        InputError: an id is outside the dataset.
    """
    found, first = {}, 0
    for shard, rows, count in zip(dataset.shards, dataset.split(ids), dataset.counts, strict=True):
        reader = shard.reader() if len(rows) else None
        for row in rows.tolist():
            assert reader is not None
            found[first + row] = thumbnail(reader.image(row), side)
        first += count
    return found


def png_mark(path: str | Path) -> str:
    """Return the mark of a PNG that dprune drew, `unknown` for one without, empty for a file of others."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            text = dict(image.info)
    except OSError:
        return ""
    return str(text.get(PNG_MARK, "unknown")) if text.get("Software") == SOFTWARE else ""


def drawn_png(image: Image.Image, text: PngInfo | None = None) -> bytes:
    """Encode a picture that dprune drew as a PNG as small as can be."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, pnginfo=text)
    return buffer.getvalue()


def png_words(data: bytes) -> str:
    """Return what a PNG that dprune drew says that it shows, empty for any other image."""
    with Image.open(io.BytesIO(data), formats=DECODERS) as image:
        text = dict(image.info)
    return str(text.get(PNG_WORDS, "")) if text.get("Software") == SOFTWARE else ""


def described_png(image: Image.Image, words: str, mark: str = "") -> bytes:
    """Encode a picture as a PNG that says that dprune drew it, and in words what it shows; see `Beside.mark`."""
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    if mark:
        text.add_text(PNG_MARK, mark)
    text.add_text(PNG_WORDS, words)
    return drawn_png(image, text)


def publish_png(image: Image.Image, path: str | Path, mark: str, words: str) -> None:
    """Publish what `described_png` makes."""
    publish_bytes(path, described_png(image, words, mark))
