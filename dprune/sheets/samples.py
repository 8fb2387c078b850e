"""Samples of a dataset as a sheet shows them: a thumbnail, the key and the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dprune.formats.images import thumbnail
from dprune.formats.shards import Dataset
from dprune.sheets.lettering import class_title

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class SampleShown:
    """One sample.

    Attributes:
        image: a square thumbnail.
        key: of the sample.
        class_name: what its class is called, empty without a label.
    """

    image: Image.Image
    key: str
    class_name: str

    @property
    def title(self) -> str:
        """The key, and the class where there is one that the key does not name, as keys of folders do."""
        named = not self.class_name or self.class_name in self.key.split("/")
        return self.key if named else f"{self.key} ({self.class_name})"


def samples_shown(dataset: Dataset, ids: npt.NDArray[np.int64], side: int) -> dict[int, SampleShown]:
    """Read the samples that sorted ids name, with thumbnails of `side` pixels.

    Raises:
        InputError: an id is outside the dataset, or a label is not a whole number.
    """
    names = dataset.class_names
    found, first = {}, 0
    for shard, rows, count in zip(dataset.shards, dataset.split(ids), dataset.counts, strict=True):
        reader = shard.reader() if len(rows) else None
        for row in rows.tolist():
            assert reader is not None
            label = reader.label(row)
            title = class_title(label, names.name(label)) if label >= 0 else ""
            # A number alone would be taken for anything.
            title = f"class {title}" if title.isdecimal() else title
            found[first + row] = SampleShown(thumbnail(reader.image(row), side), reader.key(row), title)
        first += count
    return found
