"""Pictures that stand in a report as they are: contact sheets, closest pairs, and any others that say something."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dprune.errors import BadImage, InputError, unreadable
from dprune.formats.images import decode_image, drawn_png, png_words

if TYPE_CHECKING:
    from PIL import Image

WIDEST, TALLEST = 1600, 4800
"""Pixels to which larger ones are scaled down."""
_MOST_BYTES = 1 << 20
"""Of a picture without loss: the page holds them all."""
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        caption: what stands below it.
        image: RGB, scaled down where it is large.
        digest: of its file.
        path: of its file, without the ending, where that says what it shows; None where the user does.
    """

    caption: str
    image: Image.Image
    digest: str
    path: str | None

    @classmethod
    def open(cls, text: str) -> Picture:
        """Read FILE or FILE=CAPTION; without a caption, what dprune wrote into the file says what it shows.

        Raises:
            InputError: there is no such file, it is no picture, or the caption is empty.
        """
        path, caption = _parted(text)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(f"--picture {path}", error) from error
        try:
            image = decode_image(data)
        except BadImage as error:
            raise InputError(f"--picture {path}: {error}: give a PNG or a JPEG.") from error
        bare = path.with_suffix("")
        said = caption or png_words(data) or "/".join(bare.parts[-2:])
        return cls(said, _scaled_down(image), hashlib.sha256(data).hexdigest(), None if caption else str(bare))

    def encoded(self) -> tuple[str, bytes]:
        """Return the type and the bytes for a page: without loss unless that would be large."""
        exact = drawn_png(self.image)
        if len(exact) <= _MOST_BYTES:
            return "image/png", exact
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
        return "image/jpeg", buffer.getvalue()


def open_pictures(texts: Iterable[str]) -> tuple[Picture, ...]:
    """Read pictures in their order, one that is given twice once; files that say the same tell whose they are.

    Raises:
        InputError: one cannot be shown.
    """
    found: dict[tuple[str, str], Picture] = {}
    for picture in map(Picture.open, texts):
        found.setdefault((picture.digest, picture.caption), picture)
    return tuple(_told_apart(picture, [*found.values()]) for picture in found.values())


def _told_apart(picture: Picture, every: Sequence[Picture]) -> Picture:
    """Add to a caption that several files give themselves the part of the path in which these differ."""
    alike = [os.path.abspath(other.path) for other in every if other.path and other.caption == picture.caption]
    if picture.path is None or len(alike) < 2:
        return picture
    own = os.path.relpath(os.path.abspath(picture.path), os.path.commonpath(map(os.path.dirname, alike)))
    return replace(picture, caption=f"{picture.caption} ({own})")


def _parted(text: str) -> tuple[Path, str]:
    """Part a file from its caption; either may hold further `=`: the longest FILE that is there counts."""
    for name, caption in _partings(text):
        if Path(name).is_file():
            if caption is not None and not caption.strip():
                raise InputError(f"--picture {text}: the caption is empty: write one after the equals sign.")
            return Path(name), (caption or "").strip()
    return Path(text.partition("=")[0]), ""


def _partings(text: str) -> Iterator[tuple[str, str | None]]:
    yield text, None
    for place in reversed([number for number, letter in enumerate(text) if letter == "="]):
        yield text[:place], text[place + 1 :]


def _scaled_down(image: Image.Image) -> Image.Image:
    from PIL import Image as Images

    times = min(WIDEST / image.width, TALLEST / image.height)
    if times >= 1:
        return image
    size = max(1, round(image.width * times)), max(1, round(image.height * times))
    return image.resize(size, Images.Resampling.LANCZOS)
