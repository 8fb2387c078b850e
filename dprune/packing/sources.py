"""What can be packed: each source knows its samples' keys and loads their members by number."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import stat
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dprune.errors import BadImage, InputError
from dprune.formats.images import encode_image
from dprune.formats.members import IMAGE_SUFFIXES, LABEL_SUFFIX
from dprune.formats.provenance import Record, parent_record
from dprune.formats.ranges import is_url
from dprune.formats.shards import CLASSES, Dataset, ShardReader

CONVERTIBLE_SUFFIXES = ("bmp", "gif", "ppm", "tif", "tiff")
MOST_BYTES = 1 << 30

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Sample:
    """A sample that is to be packed.

    Attributes:
        key: its key.
        members: (suffix, content) in the order in which they are written.
        image: which of the members is the image.
    """

    key: str
    members: list[tuple[str, bytes]]
    image: int = 0


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
        folders: real paths of the folders that nothing must be removed from while the samples are read.
    """

    trusted = True
    classes: Sequence[str] = ()
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


@dataclass(frozen=True)
class ImageFile:
    """An image in a folder or zip: its relative path, size in bytes, and checksum where the zip tells it."""

    path: str
    size: int
    crc: int | None = None
    entry: int = 0

    @property
    def suffix(self) -> str:
        """Lower-case suffix without the dot."""
        return self.path.rpartition(".")[2].lower()

    @property
    def folder(self) -> str:
        """The folder that it lies in, which is its class."""
        return self.path.rpartition("/")[0]


class ImageFiles(Source):
    """Images in a folder or a zip; the folder that an image lies in is its class."""

    trusted = False

    def __init__(self, location: str, files: Iterable[ImageFile], *, convert: bool) -> None:
        """Sort the images and number their classes.

        Args:
            location: the folder or zip.
            files: all files in it.
            convert: whether suffixes that shards cannot hold are welcome, since images are encoded anew.

        Raises:
            InputError: there are no images.
        """
        visible = [f for f in files if not any(part.startswith((".", "__MACOSX")) for part in f.path.split("/"))]
        wanted = (*IMAGE_SUFFIXES, *CONVERTIBLE_SUFFIXES) if convert else IMAGE_SUFFIXES
        self._location = location
        self._files = sorted((f for f in visible if f.suffix in wanted), key=lambda f: f.path.split("/"))
        left = sum(f.suffix in CONVERTIBLE_SUFFIXES for f in visible) if not convert else 0
        if left:
            _log.warning("%s: %d images in formats that shards cannot hold are left out: --size converts them.",
                         location, left)  # fmt: skip
        if not self._files:
            raise InputError(f"{location}: holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        folders = sorted({f.folder for f in self._files if f.folder})
        self._labels = {name: number for number, name in enumerate(folders)}
        # Their file has a line for each.
        self.classes = [name.replace("\n", "\\n") for name in folders]

    @functools.cached_property
    def parents(self) -> dict[str, Record]:
        """The names and sizes of the files, and their checksums if they are in a zip, as a digest."""
        listing = hashlib.sha256()
        for file in self._files:
            checksum = "" if file.crc is None else f"\0{file.crc:08x}"
            listing.update(f"{file.path}\0{file.size}{checksum}\n".encode("utf-8", "surrogateescape"))
        return {"images": parent_record(None, listing.hexdigest())}

    def keys(self) -> Iterable[str]:
        """Relative paths with dots as `_`, since a key ends at its first dot."""
        return (file.path.rpartition(".")[0].replace(".", "_") for file in self._files)

    def load(self, number: int) -> Sample:
        """Read one image and its label."""
        file = self._files[number]
        if file.size > MOST_BYTES:
            raise BadImage(f"has {file.size:,} bytes, more than any image that can be decoded")
        members = [(file.suffix, self._read(file))]
        if file.folder:
            members.append((LABEL_SUFFIX, str(self._labels[file.folder]).encode()))
        return Sample("", members)

    @abstractmethod
    def _read(self, file: ImageFile) -> bytes:
        """Read an image's bytes."""


def is_images(location: str) -> bool:
    """Tell a folder or zip of images from what else may be packed."""
    if os.path.isdir(location):
        return not any(name.endswith(".tar") for name in os.listdir(location))
    return location.lower().endswith(".zip") and os.path.isfile(location)


class FolderSource(ImageFiles):
    """Images in a folder and the folders below it."""

    def __init__(self, location: str, *, convert: bool) -> None:
        super().__init__(location, self._walk(location), convert=convert)
        self.folders = {os.path.realpath(location)}

    @staticmethod
    def _walk(location: str) -> Iterable[ImageFile]:
        seen = set()
        for folder, below, names in os.walk(location, followlinks=True):
            if (real := os.path.realpath(folder)) in seen:
                # A link that leads back up would be followed for ever.
                below.clear()
                continue
            seen.add(real)
            for name in names:
                path = os.path.join(folder, name)
                status = os.stat(path) if os.path.exists(path) else None
                if status and stat.S_ISREG(status.st_mode):
                    yield ImageFile(os.path.relpath(path, location).replace(os.sep, "/"), status.st_size)

    def _read(self, file: ImageFile) -> bytes:
        try:
            return Path(self._location, file.path).read_bytes()
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error


class ZipSource(ImageFiles):
    """Images in a zip archive, read without unpacking it."""

    def __init__(self, location: str, *, convert: bool) -> None:
        try:
            with zipfile.ZipFile(location) as archive:
                entries = enumerate(archive.infolist())
                files = [ImageFile(i.filename, i.file_size, i.CRC, n) for n, i in entries if not i.is_dir()]
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{location}: is not a whole zip archive: {error}.") from error
        super().__init__(location, files, convert=convert)
        self._open: tuple[int, zipfile.ZipFile] | None = None

    def _read(self, file: ImageFile) -> bytes:
        # Forked workers would share one file position, so each opens the archive for itself.
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), zipfile.ZipFile(self._location))
        try:
            # By entry, since two may have one name.
            return self._open[1].read(self._open[1].infolist()[file.entry])
        except Exception as error:  # damaged archives make the decompressors raise nearly anything
            raise BadImage(f"cannot be read from the archive: {error}") from error


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
        self.folders = local_folders(shard.location for shard in dataset.shards)
        self.classes = _shared_classes(dataset)

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
        begin, end = int(reader.index.start[row]), int(reader.index.stop[row])
        members = [(reader.index.suffix(member), reader.member(member)) for member in range(begin, end)]
        return Sample("", members, int(reader.index.image[row]) - begin)


def _shared_classes(dataset: Dataset) -> Sequence[str]:
    """Return the class names that lie beside the shards, if all folders agree on them."""
    found = {Path(shard.location).parent / CLASSES for shard in dataset.shards}
    texts = {path.read_text(encoding="utf-8", errors="surrogateescape") for path in found if path.exists()}
    # Names may hold what str.splitlines takes for the end of a line.
    return texts.pop().rstrip("\n").split("\n") if len(texts) == 1 else []
