"""Names of classes: `classes.txt` with a name a line, of which the first is that of label 0.

It lies in the folder of shards and of whatever is made from them: features, latents and generated images. Files carry
the same list in their metadata. Names are for people: they are no part of what a file was made from, so that whoever
lays a classes.txt into a folder that has none names its labels.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.publish import publish_bytes
from dprune.formats.whole_files import read_file

CLASSES = "classes.txt"
MOST_BYTES = 64 << 20
"""Of a list of classes."""
MOST_LISTED = 8
"""Names in a sentence."""


@dataclass(frozen=True)
class ClassNames:
    """What the labels 0, 1 and so on are called; labels beyond the list, and all of an empty one, by their numbers."""

    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether any label has a name."""
        return bool(self.names)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The label of each name."""
        return {name: label for label, name in enumerate(self.names) if name}

    def name(self, label: int) -> str:
        """Return what a label is called; no two are called alike."""
        if 0 <= label < len(self.names) and self.names[label]:
            return self.names[label]
        return f"label {label}" if str(label) in self.numbers else str(label)

    def counts(self, labels: npt.NDArray[np.integer]) -> dict[str, int]:
        """Count labels by their names, in the order of the labels: 0 where there are none, not those below 0."""
        found, counts = np.unique(labels[labels >= 0], return_counts=True)
        known = dict.fromkeys((self.name(label) for label in range(len(self.names))), 0)
        return known | {self.name(label): count for label, count in zip(found.tolist(), counts.tolist(), strict=True)}

    def listed(self, labels: Iterable[int]) -> str:
        """Name labels in a sentence, the first few of many."""
        names = [self.name(int(label)) for label in labels]
        few = ", ".join(names[:MOST_LISTED])
        return few if len(names) <= MOST_LISTED else f"{few} and {len(names) - MOST_LISTED:,} more"

    @property
    def content(self) -> bytes:
        """The names as `classes.txt` holds them."""
        return "".join(f"{name}\n" for name in self.names).encode("utf-8", "surrogateescape")

    def publish(self, folder: str | Path) -> None:
        """Write `classes.txt` into a folder; nothing where there are no names."""
        if self.names:
            publish_bytes(Path(folder) / CLASSES, self.content)


NAMELESS = ClassNames()
"""Where nobody says what labels are called."""


def parse_names(content: bytes) -> ClassNames:
    """Read the names that `ClassNames.content` wrote, or somebody else did."""
    return _told_apart(_lines(content))


def names_in_folders(folders: Iterable[str | Path]) -> ClassNames:
    """Return the names that the folders of one dataset give to its labels: none unless all of them agree.

    Raises:
        InputError: a classes.txt cannot be read.
    """
    lists = [_lines_in(folder) for folder in dict.fromkeys(map(str, folders))]
    longest = max(lists, key=len, default=[])
    agree = all(names and names == longest[: len(names)] for names in lists)
    return _told_apart(longest) if agree else NAMELESS


def classes_of_folder(folder: str) -> list[str]:
    """Return the names in the classes.txt of a folder, in order; empty without one.

    Raises:
        InputError: it is damaged, see `read_classes`.
    """
    path = os.path.join(folder, CLASSES)
    return read_classes(path, read_file(path, MOST_BYTES)) if os.path.isfile(path) else []


def read_classes(title: str, content: bytes) -> list[str]:
    """Read names of classes, a line each, of which the first is that of label 0.

    Args:
        title: what messages call the file.
        content: of the file.

    Raises:
        InputError: a name stands twice.
    """
    names = _lines(content)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            f"{title}: the class {twice[0]!r} stands twice, so its lines do not number the classes: mend it."
        )
    return names


def check_order(title: str, names: Sequence[str]) -> None:
    """Refuse a list that somebody may have written with a gap, by which all that follow would be another class.

    Raises:
        InputError: a line is empty.
    """
    if "" in names:
        raise InputError(
            f"{title}: line {names.index('') + 1} is empty, so its lines do not number the classes: mend it."
        )


def _lines_in(folder: str) -> list[str]:
    path = os.path.join(folder, CLASSES)
    return _lines(read_file(path, MOST_BYTES)) if os.path.isfile(path) else []


def _told_apart(names: Sequence[str]) -> ClassNames:
    """Give names that several labels share, as ImageNet's two cranes do, their numbers."""
    often = Counter(names)
    return ClassNames(tuple(f"{name} ({n})" if name and often[name] > 1 else name for n, name in enumerate(names)))


def _lines(content: bytes) -> list[str]:
    # Names may hold what str.splitlines takes for the end of a line.
    lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").rstrip("\r\n").split("\n")
    names = [line.removesuffix("\r") for line in lines]
    return names if names != [""] else []
