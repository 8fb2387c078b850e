"""Images in `.npz` archives as a source, see `dprune.formats.npz_images`."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from dprune.formats.images import encode_image
from dprune.formats.members import LABEL_SUFFIX
from dprune.formats.npz_images import NpzImages
from dprune.formats.provenance import Record, parent_record
from dprune.packing.in_order import InOrder
from dprune.packing.samples import Sample, row_keys
from dprune.packing.table_columns import TableChoice


def is_npz(location: str) -> bool:
    """Tell an archive of arrays from what else may be packed."""
    return location.lower().endswith(".npz") and os.path.isfile(location)


class NpzSource(InOrder):
    """The images of an archive, which become PNG.

    Raises:
        InputError: it is no whole archive, or holds no images, or ones of another type or layout.
    """

    # Workers are to share in the encoding.
    trusted = False
    # To look one up is to read all that come before it.
    passed_over = sys.maxsize

    def __init__(self, location: str, choice: TableChoice) -> None:
        self._archive = NpzImages.open(location, choice.image_column, choice.label_column)
        taken = {"image_column": self._archive.images, "label_column": self._archive.label_name}
        self.options = {name: value for name, value in taken.items() if value is not None}
        self.folders = {os.path.realpath(os.path.dirname(location) or ".")}

    @property
    def parents(self) -> dict[str, Record]:
        """The archive by what it states of its arrays: their names, sizes and CRC-32."""
        return {"images": parent_record(None, self._archive.digest)}

    def has_labels(self) -> bool:
        """Tell whether there are labels."""
        return self._archive.labels is not None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._archive)

    def keys(self) -> Iterable[str]:
        """Their numbers."""
        return row_keys(len(self))

    def samples(self, begin: int) -> Iterator[Sample]:
        """Yield images with their labels; they are encoded by whoever wants them whole."""
        labels = itertools.repeat(-1) if self._archive.labels is None else iter(self._archive.labels[begin:].tolist())
        for block in self._archive.blocks(begin):
            for pixels, label in zip(block, labels, strict=False):
                members = [("png", b"")] if label < 0 else [("png", b""), (LABEL_SUFFIX, str(label).encode())]
                later = functools.partial(_encoded, pixels.tobytes(), pixels.shape)
                yield Sample("", members, trusted=True, later=later)


def _encoded(content: bytes, shape: Sequence[int]) -> tuple[str, bytes]:
    pixels = np.frombuffer(content, dtype=np.uint8).reshape(shape)
    return "png", encode_image(Image.fromarray(pixels[..., 0] if shape[-1:] == (1,) else pixels), "png")
