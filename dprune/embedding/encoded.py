"""Pieces whose JPEGs are not decoded yet: workers read them and their headers, and decode only what is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dprune.decoding import Images
from dprune.errors import BadImage
from dprune.formats.images import decode_image
from dprune.formats.jpegs import PlainJpeg, plain_jpeg
from dprune.formats.provenance import Record
from dprune.formats.shards import SampleReader

JPEG_BYTES = 256 << 10
"""Of a large photo; larger ones travel too, by a slower way."""


class Encoded(NamedTuple):
    """A piece on its way to the device that decodes it.

    Attributes:
        data: JPEGs, one after another, uint8.
        headers: of each image, None for one that is among `images`.
        names: row and key of each image.
        images: what Pillow has decoded here, uint8 [m, 3, h, w]; black where one is bad.
        labels, bad, error: see `Decoded`.
    """

    data: Tensor
    headers: list[PlainJpeg | None]
    names: list[tuple[int, str]]
    images: Tensor
    labels: Tensor
    bad: list[Record]
    error: str = ""


class EncodedImages(Images):
    """Reads pieces; of images that are no plain JPEGs it makes what the network sees."""

    @property
    def image_bytes(self) -> int:
        """What an image takes on its way."""
        return JPEG_BYTES

    def decode(self, reader: SampleReader, rows: Sequence[int], labels: Tensor) -> Encoded:
        """See `Images`."""
        data, headers, images, bad = bytearray(), list[PlainJpeg | None](), [self.black[None][:0]], list[Record]()
        names = [(int(row), reader.key(row)) for row in rows]
        for row, key in names:
            header, image = None, torch.zeros_like(self.black)
            try:
                content = reader.image(row)
                if header := plain_jpeg(content):
                    self.check_shape(header.upright)
                    data += content
                else:
                    image = self.shaped(decode_image(content))
            except BadImage as error:
                header = None
                bad.append({"row": row, "key": key, "reason": str(error)})
            headers.append(header)
            if header is None:
                images.append(image[None])
        return Encoded(_bytes(data), headers, names, torch.cat(images), labels, bad)

    def unreadable(self, reason: str) -> Encoded:
        """See `Images`."""
        return Encoded(_bytes(bytearray()), [], [], self.black[None], torch.empty(0, dtype=torch.int64), [], reason)


def _bytes(data: bytearray) -> Tensor:
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
