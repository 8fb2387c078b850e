"""Images in folders, and in what holds files as folders do: which are taken, and what their classes are."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import re
import stat
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dprune.errors import BadImage, InputError, UsageError, unreadable
from dprune.formats.images import FORMATS, readable_suffixes
from dprune.formats.members import IMAGE_SUFFIXES, LABEL_SUFFIX
from dprune.formats.provenance import Record, parent_record
from dprune.packing.samples import Sample
from dprune.packing.sources import MOST_BYTES, Source, is_called_an_image
from dprune.packing.splits import find_classes

# What systems put into folders by themselves.
_LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
_UNSEEN = {"__MACOSX", "lost+found"}
_SUFFIX = re.compile(r"[a-z0-9_+-]{1,12}")


@dataclass(frozen=True)
class ImageFile:
    """A file in a folder or zip: its relative path, size in bytes, and checksum where the zip tells it."""

    path: str
    size: int
    crc: int | None = None
    entry: int = 0

    @property
    def name(self) -> str:
        """What it is called in its folder."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Lower-case suffix without the dot."""
        return self.path.rpartition(".")[2].lower()

    @property
    def stem(self) -> str:
        """Path without the suffix."""
        return self.path.rpartition(".")[0]

    @property
    def folder(self) -> str:
        """The folder that it lies in."""
        return self.path.rpartition("/")[0]

    @property
    def hidden(self) -> bool:
        """Whether systems hide it or a folder that it lies in, or make them for themselves."""
        return any(map(_is_hidden, self.path.split("/")))

    @property
    def is_image(self) -> bool:
        """Whether its suffix says that it is an image that can be read."""
        return self.suffix in readable_suffixes()

    @property
    def kind(self) -> str:
        """What files that are left out are counted under."""
        suffix = self.suffix
        if "." not in self.name:
            return "without suffix"
        return f".{suffix}" if _SUFFIX.fullmatch(suffix) else "others"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _UNSEEN


@dataclass(frozen=True)
class FileChoice:
    """Which files of a folder or zip are wanted.

    Attributes:
        split: folder that is taken of those called train, val and the like; `none` takes them for classes.
        beside: suffixes of files that become members of the sample of the image that they are called like.
    """

    split: str | None = None
    beside: Collection[str] = ()

    def __post_init__(self) -> None:
        """Refuse images beside images.

        Raises:
            UsageError: a suffix is that of an image.
        """
        if found := set(self.beside) & set(readable_suffixes()):
            raise UsageError(f"--beside {min(found)}: is the suffix of images, which are samples of their own.")


class ImageFiles(Source):
    """Images in a folder or a zip; the folder that an image lies in is its class."""

    trusted = False

    def __init__(self, location: str, files: Iterable[ImageFile], choice: FileChoice, left: Counter[str]) -> None:
        """Sort the images and number their classes.

        Args:
            location: the folder or zip.
            files: all files in it.
            choice: which are wanted.
            left: counts of what is left out, which may grow while the files are drawn.

        Raises:
            InputError: there are no images.
            UsageError: there are several splits to choose from.
        """
        self._location = location
        images, others = _sorted_out(files, left)
        classes = find_classes(location, Counter(file.folder for file in images), choice.split)
        if classes.split is not None:
            self.options = {"split": classes.split}
            left.update(classes.left_out)
            images = [file for file in images if file.folder in classes.labels]
        stems = {file.stem for file in images} if choice.beside else set()
        self._beside = _beside(stems, others, choice.beside, left)
        self.left_out = {kind: count for kind, count in left.most_common() if count}
        if not images:
            raise _without_images(location, self.left_out)
        self._files = sorted(images, key=lambda f: f.path.split("/"))
        names = [] if LABEL_SUFFIX in choice.beside else classes.names
        # Their file has a line for each.
        self.classes = [name.replace("\n", "\\n") for name in names]
        self._labels_beside = LABEL_SUFFIX in choice.beside
        numbers = {name: number for number, name in enumerate(names)}
        self._labels = {folder: numbers[name] for folder, name in classes.labels.items() if name in numbers}

    @functools.cached_property
    def parents(self) -> dict[str, Record]:
        """The names and sizes of the files, and their checksums if they are in a zip, as a digest."""
        listing = hashlib.sha256()
        if "split" in self.options:
            # Folders of other splits count among the classes.
            listing.update("".join(f"{name}\n" for name in self.classes).encode("utf-8", "surrogateescape"))
        for image in self._files:
            for file in (image, *self._beside.get(image.stem, ())):
                checksum = "" if file.crc is None else f"\0{file.crc:08x}"
                listing.update(f"{file.path}\0{file.size}{checksum}\n".encode("utf-8", "surrogateescape"))
        return {"images": parent_record(None, listing.hexdigest())}

    def has_labels(self) -> bool:
        """Tell whether images lie in folders of classes, or labels may lie beside them."""
        return bool(self.classes) or self._labels_beside

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def keys(self) -> Iterable[str]:
        """Relative paths with dots as `_`, since a key ends at its first dot."""
        return (file.stem.replace(".", "_") for file in self._files)

    def load(self, number: int) -> Sample:
        """Read one image, its label and what is kept beside it."""
        file = self._files[number]
        members = [(shard_suffix(file.suffix), self._whole(file))]
        if file.folder in self._labels:
            members.append((LABEL_SUFFIX, str(self._labels[file.folder]).encode()))
        members += [(other.suffix, self._whole(other)) for other in self._beside.get(file.stem, ())]
        return Sample("", members)

    def _whole(self, file: ImageFile) -> bytes:
        if file.size > MOST_BYTES:
            raise BadImage(f"has {file.size:,} bytes, more than any image that can be decoded")
        return self._read(file)

    @abstractmethod
    def _read(self, file: ImageFile) -> bytes:
        """Read a file's bytes."""


def shard_suffix(suffix: str) -> str:
    """Return the suffix that a shard calls an image by: that of its format, or its own if no shard holds the format."""
    if suffix in IMAGE_SUFFIXES:
        return suffix
    names = {str(options["format"]): name for name, options in FORMATS.items()}
    return names.get(readable_suffixes()[suffix], suffix)


def _sorted_out(files: Iterable[ImageFile], left: Counter[str]) -> tuple[list[ImageFile], list[ImageFile]]:
    """Return the images and what might lie beside them, and count the hidden images."""
    images, others = list[ImageFile](), list[ImageFile]()
    for file in files:
        if file.hidden:
            # macOS gives a shadow, ._NAME, to every file that it copies.
            left["hidden"] += file.is_image and not file.name.startswith("._")
        elif file.is_image:
            images.append(file)
        elif file.name.lower() not in _LITTER:
            others.append(file)
    return images, others


def _beside(
    stems: set[str], others: Iterable[ImageFile], suffixes: Collection[str], left: Counter[str]
) -> dict[str, list[ImageFile]]:
    """Return the files that are wanted beside each image, by its stem, and count the others by their suffixes."""
    found: dict[str, list[ImageFile]] = {}
    for file in sorted(others, key=lambda f: (f.suffix, f.path)) if suffixes else others:
        kept = found.setdefault(file.stem, []) if file.suffix in suffixes and file.stem in stems else None
        # Two suffixes may differ in their case alone.
        if kept is None or file.suffix in (other.suffix for other in kept):
            left[file.kind] += 1
        else:
            kept.append(file)
    return found


def _without_images(location: str, left: Mapping[str, int]) -> InputError:
    told = ", ".join(f"{count:,} {kind}" for kind, count in left.items())
    remedy = ": give the folders that its tars lie in" if ".tar" in left else ""
    return InputError(f"{location}: holds no images that can be read{f' (but {told})' if told else ''}{remedy}.")


def images_beside_shards(location: str) -> int:
    """Return how many images lie in a folder of shards or in the folders in it, where nobody looks for them."""
    if not os.path.isdir(location):
        return 0
    places = (path for pattern in ("*", "*/*") for path in glob.iglob(os.path.join(glob.escape(location), pattern)))
    return sum(map(is_called_an_image, places))


def is_images(location: str) -> bool:
    """Tell a folder or zip of images from what else may be packed."""
    if os.path.isdir(location):
        return not any(name.endswith(".tar") for name in os.listdir(location))
    return location.lower().endswith(".zip") and os.path.isfile(location)


class FolderSource(ImageFiles):
    """Images in a folder and the folders below it."""

    def __init__(self, location: str, choice: FileChoice) -> None:
        left = Counter[str]()
        super().__init__(location, walk_files(location, left), choice, left)
        self.folders = {os.path.realpath(location)}

    def _read(self, file: ImageFile) -> bytes:
        try:
            return Path(self._location, file.path).read_bytes()
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error


def walk_files(location: str, left: Counter[str]) -> Iterator[ImageFile]:
    """Yield the files below a folder, each folder once however many links lead to it.

    Raises:
        InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise unreadable(error.filename, error)

    seen = set()
    for folder, below, names in os.walk(location, followlinks=True, onerror=refuse):
        # In this order, so that it does not depend on the system which of several links to one folder is followed.
        below[:] = sorted(name for name in below if not _is_hidden(name))
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
            above = os.path.realpath(os.path.dirname(folder)) + os.sep
            # A link that leads back up would be followed for ever, and misses nothing.
            left["folders linked again"] += not above.startswith(real + os.sep)
            continue
        seen.add(real)
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError:
                left["broken links"] += 1
                continue
            if stat.S_ISREG(status.st_mode):
                yield ImageFile(os.path.relpath(path, location).replace(os.sep, "/"), status.st_size)
            else:
                left["pipes and devices"] += 1
