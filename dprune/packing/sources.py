"""What can be packed: each source knows its samples' keys and loads their members by number."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dprune.formats.images import encode_image
from dprune.formats.members import IMAGE_SUFFIXES, LABEL_SUFFIX
from dprune.formats.provenance import Record, parent_record
from dprune.formats.ranges import is_url
from dprune.formats.shards import CLASSES, Dataset, ShardReader, left_out

MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Sample:
    """A sample that is to be packed.

    Attributes:
        key: its key.
        members: (suffix, content) in the order in which they are written.
        image: which of the members is the image.
        cut: whether the image had more frames or pages, which are left out.
    """

    key: str
    members: list[tuple[str, bytes]]
    image: int = 0
    cut: bool = False


def is_called_an_image(path: str) -> bool:
    """Tell by its name an image of the formats that shards hold."""
    return path.rpartition(".")[2].lower() in IMAGE_SUFFIXES


def local_folders(locations: Iterable[str]) -> set[str]:
    """Return the real paths of the folders that files are in, and of those that links to them are in."""
    paths = [location.removeprefix("file://") for location in locations]
    local = [path for path in paths if path != "-" and not path.startswith("pipe:") and not is_url(path)]
    return {os.path.realpath(os.path.dirname(path) or ".") for path in local} | {
        os.path.dirname(os.path.realpath(path)) for path in local
    }


class Source(ABC):
    """Samples in a fixed order that can be loaded one by one, in any process.

    Attributes:
        trusted: whether the images were packed before, so that copying need not decode them.
        classes: names of the labels, empty where there are none.
        options: what was found in the source and changes the result, as the record has it.
        left_out: how many files of each kind are no samples or parts of them.
        folders: real paths of the folders that nothing must be removed from while the samples are read.
    """

    trusted = True
    classes: Sequence[str] = ()
    options: Mapping[str, Any] = {}
    left_out: Mapping[str, int] = {}
    folders: set[str] = set()

    @property
    @abstractmethod
    def parents(self) -> dict[str, Record]:
        """The inputs, as a record names them."""

    @abstractmethod
    def keys(self) -> Iterable[str]:
        """Keys of all samples, before repeated ones are told apart."""

    @abstractmethod
    def load(self, number: int) -> Sample:
        """Read one sample.

        Raises:
            BadImage: it cannot be read.
        """


class DigitsSource(Source):
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships, as 32 px RGB."""

    classes = [str(digit) for digit in range(10)]

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self._pixels: npt.NDArray[np.uint8] = (digits.images * (255 / 16)).round().astype(np.uint8)
        self._labels: list[int] = digits.target.tolist()

    @property
    def parents(self) -> dict[str, Record]:
        """The pixels, as a digest."""
        return {"images": parent_record(None, hashlib.sha256(self._pixels.tobytes()).hexdigest())}

    def keys(self) -> Iterable[str]:
        """Their numbers."""
        return (f"digit-{number:04d}" for number in range(len(self._labels)))

    def load(self, number: int) -> Sample:
        """Enlarge and encode one digit."""
        image = Image.fromarray(self._pixels[number]).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB")
        label = str(self._labels[number]).encode()
        return Sample("", [("png", encode_image(image, "png")), (LABEL_SUFFIX, label)])


class ShardSource(Source):
    """Samples of existing shards, or a subset of them, with all their members byte for byte.

    Args:
        dataset: the shards.
        ids: of the samples that are wanted, sorted; None for all.
        subset: the ids as an input of the pack.
    """

    def __init__(
        self, dataset: Dataset, ids: npt.NDArray[np.int64] | None = None, subset: Record | None = None
    ) -> None:
        self._dataset, self._subset = dataset, subset
        self._rows = dataset.split(np.arange(len(dataset)) if ids is None else ids)
        self._stops = np.cumsum([len(rows) for rows in self._rows])
        self._open: tuple[int, int, ShardReader] | None = None
        self.options, self.left_out = dataset.choice.options(), left_out(dataset.sizes).counts()
        self.folders = local_folders(shard.location for shard in dataset.shards)
        self.classes = shared_classes(dataset)

    @property
    def parents(self) -> dict[str, Record]:
        """The dataset by its fingerprint, and the subset."""
        return self._dataset.parents() | ({} if self._subset is None else {"subset": self._subset})

    def keys(self) -> Iterable[str]:
        """Keys as they are."""
        for shard, rows in zip(self._dataset.shards, self._rows, strict=True):
            if len(rows):
                index = shard.index()
                yield from (index.key(int(row)) for row in rows)

    def load(self, number: int) -> Sample:
        """Read one sample's members by offset."""
        which = int(np.searchsorted(self._stops, number, side="right"))
        row = int(self._rows[which][number - self._stops[which]])
        if self._open is None or self._open[:2] != (os.getpid(), which):
            shard = self._dataset.shards[which]
            self._open = (os.getpid(), which, ShardReader(shard, shard.index()))
        reader = self._open[2]
        found = self._dataset.choice.standard(f"{reader.shard.location}: {reader.index.key(row)}", reader.members(row))
        assert found is not None
        return Sample("", *found)


def shared_classes(dataset: Dataset) -> Sequence[str]:
    """Return the class names that lie beside the shards, if all folders agree on them."""
    found = {Path(shard.location).parent / CLASSES for shard in dataset.shards}
    texts = {path.read_text(encoding="utf-8", errors="surrogateescape") for path in found if path.is_file()}
    # Names may hold what str.splitlines takes for the end of a line.
    return texts.pop().rstrip("\n").split("\n") if len(texts) == 1 else []
