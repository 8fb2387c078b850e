"""Images in folders, and in what holds files as folders do: which are taken, and what their classes are."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import stat
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dprune.errors import BadImage, InputError, unreadable
from dprune.formats.class_names import check_order, read_classes
from dprune.formats.img2dataset import are_shards
from dprune.formats.members import LABEL_SUFFIX
from dprune.formats.provenance import Record, parent_record
from dprune.packing.classes import escaped, in_order
from dprune.packing.files import FileChoice, ImageFile, beside_images, classes_file, is_hidden, shard_suffix, sorted_out
from dprune.packing.samples import Sample
from dprune.packing.sources import MOST_BYTES, Source, is_called_an_image
from dprune.packing.splits import FolderClasses, find_classes


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
        self._location, self._choice = location, choice
        images, others = sorted_out(files, left)
        classes = find_classes(location, Counter(file.folder for file in images), choice.split)
        self._others = [file.path for file in images if file.folder not in classes.labels]
        if classes.split is not None:
            self.options = {"split": classes.split}
            left.update(classes.left_out)
            images = [file for file in images if file.folder in classes.labels]
        shards = are_shards({file.folder for file in images}, {file.path for file in others})
        if choice.relabelled or LABEL_SUFFIX in choice.beside or shards:
            classes = FolderClasses({}, [])
        self._name_classes(classes, classes_file(images, others), others)
        self._listing = next((file for file in others if file.path == choice.listing), None)
        others = [file for file in others if file is not self._listing]
        self._beside = beside_images(images, others, {*choice.beside, *choice.sidecars}, left)
        self.left_out = {kind: count for kind, count in left.most_common() if count}
        if not images:
            raise _without_images(location, self.left_out)
        self._files = sorted(images, key=lambda f: f.path.split("/"))

    def _name_classes(self, classes: FolderClasses, listed: ImageFile | None, others: list[ImageFile]) -> None:
        """Number the classes, in the order of a list if there is one, which then is none of the other files."""
        by_files = LABEL_SUFFIX in self._choice.beside
        if listed and (classes.names or by_files or self._choice.relabelled):
            title = f"{self._location}: {listed.path}"
            self.order = read_classes(title, self._text(listed))
            check_order(title, self.order)
            others.remove(listed)
            if classes.names:
                classes = in_order(classes, self.order, listed.folder, title)
            elif by_files:
                classes = FolderClasses({}, self.order)
        # Their file has a line for each.
        self.classes = [escaped(name) for name in classes.names]
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._labels = {folder: numbers[escaped(name)] for folder, name in classes.labels.items() if name}

    @functools.cached_property
    def parents(self) -> dict[str, Record]:
        """The names and sizes of the files, and their checksums if they are in a zip, as a digest."""
        listing = hashlib.sha256()
        if "split" in self.options or self.order:
            # Folders of other splits count among the classes, and a list says what their order is.
            names = self.order or self.classes
            listing.update("".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape"))
        for image in self._files:
            for file in (image, *self._beside.get(image.stem, ())):
                checksum = "" if file.crc is None else f"\0{file.crc:08x}"
                listing.update(f"{file.path}\0{file.size}{checksum}\n".encode("utf-8", "surrogateescape"))
        return {"images": parent_record(None, listing.hexdigest())}

    def has_labels(self) -> bool:
        """Tell whether images lie in folders of classes, or labels may lie beside them."""
        return bool(self.classes) or LABEL_SUFFIX in self._choice.beside

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
        others = (other for other in self._beside.get(file.stem, ()) if other.suffix in self._choice.beside)
        return Sample("", [*members, *((other.suffix, self._whole(other)) for other in others)])

    def names(self) -> Iterable[str]:
        """Whole paths of the images."""
        return (f"{self._place}/{file.path}" for file in self._files)

    def others(self) -> Iterable[str]:
        """Whole paths of the images of other splits."""
        return (f"{self._place}/{path}" for path in self._others)

    @property
    def _place(self) -> str:
        return os.path.abspath(self._location)

    def listing(self) -> bytes | None:
        """Read the file of labels that was chosen, None where there is none."""
        return None if self._listing is None else self._text(self._listing)

    def sidecar(self, number: int, suffix: str) -> bytes | None:
        """Read the file of this suffix that is called like an image, None if there is none."""
        files = self._beside.get(self._files[number].stem, ())
        return next((self._whole(file) for file in files if file.suffix == suffix), None)

    def _text(self, file: ImageFile) -> bytes:
        try:
            return self._whole(file)
        except BadImage as error:
            raise InputError(f"{self._location}: {file.path} {error}.") from error

    def _whole(self, file: ImageFile) -> bytes:
        if file.size > MOST_BYTES:
            raise BadImage(f"has {file.size:,} bytes, more than any image that can be decoded")
        return self._read(file)

    @abstractmethod
    def _read(self, file: ImageFile) -> bytes:
        """Read a file's bytes."""


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
        below[:] = sorted(name for name in below if not is_hidden(name))
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
