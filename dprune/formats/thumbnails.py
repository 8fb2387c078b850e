"""Small pictures of samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from dprune.formats.images import BadImage, decode_image
from dprune.formats.shards import Dataset, ShardReader

MISSING = "#d9dee4"


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
        reader = ShardReader(shard, shard.index()) if len(rows) else None
        for row in rows.tolist():
            assert reader is not None
            found[first + row] = thumbnail(reader.image(row), side)
        first += count
    return found
