"""What is made of generated images beside their shards: a picture of the first, and the evaluator's array of all."""

from __future__ import annotations

import itertools
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dprune.formats.beside import ZIP_MARK, Beside
from dprune.formats.class_names import ClassNames
from dprune.formats.images import decode_image, publish_png
from dprune.formats.provenance import Record, variant
from dprune.formats.publish import publish
from dprune.formats.shard_index import build_index
from dprune.formats.shards import Shard, ShardReader
from dprune.runtime import default_workers
from dprune.sheets.classes import class_grid

Pixels = npt.NDArray[np.uint8]

# Images that are decoded at once: 200 MB at 256 pixels.
CHUNK = 1024


def _rows(shards: Iterable[Path]) -> Iterator[tuple[ShardReader, int]]:
    for path in map(str, shards):
        reader = ShardReader(Shard(path), build_index(path))
        yield from ((reader, row) for row in range(len(reader.index)))


def _pixels(sample: tuple[ShardReader, int]) -> Pixels:
    reader, row = sample
    return np.asarray(decode_image(reader.image(row)))


def _label(sample: tuple[ShardReader, int]) -> int:
    reader, row = sample
    return reader.label(row)


class Export(Beside, ABC):
    """A file of images beside their shards."""

    @abstractmethod
    def publish(self, shards: Sequence[Path], names: ClassNames) -> None:
        """Make the file of the images in `shards`, in their order, whose classes have these names."""


class GridExport(Export):
    """A PNG of the first images: rows of a class each, or where most classes have one image or two, each with its own.

    Images that are tiny are shown larger.
    """

    @classmethod
    def of(cls, path: str, record: Record, count: int) -> GridExport:
        """Describe the picture of at most `count` images of a provenance."""
        return cls("--grid", Path(path), variant(record, export="grid", count=count))

    def publish(self, shards: Sequence[Path], names: ClassNames) -> None:
        """See `Export`."""
        samples = list(itertools.islice(_rows(shards), self.record["options"]["count"]))
        images = [Image.fromarray(_pixels(sample)) for sample in samples]
        sheet = class_grid(images, list(map(_label, samples)), names)
        said = f"The first {len(images):,} samples of the seeds {self.record['options']['seeds']}"
        publish_png(sheet.draw(), self.path, self.mark, said)


class NpzExport(Export):
    """All images as guided-diffusion's evaluator reads them: `arr_0` uint8 [n, h, w, 3], `arr_1` int64 labels [n]."""

    @classmethod
    def of(cls, path: str, record: Record) -> NpzExport:
        """Describe the file of all images of a provenance."""
        return cls("--npz", Path(path), variant(record, export="npz"))

    def publish(self, shards: Sequence[Path], names: ClassNames) -> None:
        """Write the images one chunk at a time: 50,000 of 256 pixels are 9.8 GB."""
        labels = [_label(sample) for sample in _rows(shards)]
        with publish(self.path) as file, zipfile.ZipFile(file, "w") as archive:
            archive.comment = ZIP_MARK + self.mark.encode()
            with archive.open(_member("arr_0"), "w", force_zip64=True) as member:
                for number, chunk in enumerate(_chunks(_rows(shards))):
                    if number == 0:
                        shape = (len(labels), *chunk.shape[1:])
                        layout = {"descr": "|u1", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(member, layout)
                    member.write(chunk.data)
            if max(labels) >= 0:
                with archive.open(_member("arr_1"), "w") as member:
                    np.lib.format.write_array(member, np.array(labels, dtype=np.int64))


def _chunks(samples: Iterator[tuple[ShardReader, int]]) -> Iterator[Pixels]:
    """Decode images in threads."""
    with ThreadPoolExecutor(default_workers()) as pool:
        while some := list(itertools.islice(samples, CHUNK)):
            yield np.stack(list(pool.map(_pixels, some)))


def _member(name: str) -> zipfile.ZipInfo:
    # A time of day would make the same images give other bytes.
    return zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
