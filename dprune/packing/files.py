"""Files in folders and zips: which are images, and what lies beside them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dprune.errors import UsageError
from dprune.formats.class_names import CLASSES
from dprune.formats.images import FORMATS, readable_suffixes
from dprune.formats.members import IMAGE_SUFFIXES

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
        return any(map(is_hidden, self.path.split("/")))

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


def is_hidden(name: str) -> bool:
    """Tell the name of a file or folder that systems hide, or make for themselves."""
    return name.startswith(".") or name in _UNSEEN


@dataclass(frozen=True)
class FileChoice:
    """Which files of a folder or zip are wanted.

    Attributes:
        split: folder that is taken of those called train, val and the like; `none` takes them for classes.
        beside: suffixes of files that become members of the sample of the image that they are called like.
        sidecars: suffixes of files beside images that are read and do not become members.
        relabelled: whether labels come from elsewhere, so that folders say nothing of them.
        listing: path of the file in it that holds them, which then is none of those that are left out.
    """

    split: str | None = None
    beside: Collection[str] = ()
    sidecars: Collection[str] = ()
    relabelled: bool = False
    listing: str | None = None

    def __post_init__(self) -> None:
        """Refuse images beside images.

        Raises:
            UsageError: a suffix is that of an image.
        """
        if found := set(self.beside) & set(readable_suffixes()):
            raise UsageError(f"--beside {min(found)}: is the suffix of images, which are samples of their own.")


def shard_suffix(suffix: str) -> str:
    """Return the suffix that a shard calls an image by: that of its format, or its own if no shard holds the format."""
    if suffix in IMAGE_SUFFIXES:
        return suffix
    names = {str(options["format"]): name for name, options in FORMATS.items()}
    return names.get(readable_suffixes()[suffix], suffix)


def sorted_out(files: Iterable[ImageFile], left: Counter[str]) -> tuple[list[ImageFile], list[ImageFile]]:
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


def beside_images(
    images: Iterable[ImageFile], others: Iterable[ImageFile], suffixes: Collection[str], left: Counter[str]
) -> dict[str, list[ImageFile]]:
    """Return the files that are wanted beside each image, by its stem, and count the others by their suffixes."""
    stems = {image.stem for image in images} if suffixes else set()
    found: dict[str, list[ImageFile]] = {}
    for file in sorted(others, key=lambda f: (f.suffix, f.path)) if suffixes else others:
        kept = found.setdefault(file.stem, []) if file.suffix in suffixes and file.stem in stems else None
        # Two suffixes may differ in their case alone.
        if kept is None or file.suffix in (other.suffix for other in kept):
            left[file.kind] += 1
        else:
            kept.append(file)
    return found


def classes_file(images: Collection[ImageFile], others: Iterable[ImageFile]) -> ImageFile | None:
    """Return the list of classes in the folder that holds all images, or the nearest folder above."""
    known = {file.path: file for file in others if file.name == CLASSES}
    shared = os.path.commonpath({file.folder for file in images}).split("/") if known and images else []
    places = ("/".join([*shared[:depth], CLASSES]).lstrip("/") for depth in range(len(shared), -1, -1))
    return next((known[place] for place in places if place in known), None)
