"""Which folders of images are classes, and which are splits: those called train, val, test and the like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dprune.errors import InputError, UsageError

AS_CLASSES = "none"
"""What takes folders that are called like splits for classes."""

# Year and number as in train2017 and test1, and what people add, as in training_set.
_SPLIT = re.compile(
    r"(?:(?P<train>train|training|trainval)|(?P<val>val|valid|validation|dev|eval|evaluation)"
    r"|(?P<test>test|testing|holdout|held[-_ ]?out))(?:[-_ ]?(?:set|data|images|imgs|split))?(?:[-_]?\d{1,4})?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FolderClasses:
    """What is taken of folders of images.

    Attributes:
        labels: class of the images in each folder that is taken, "" for none.
        names: all classes, sorted; those of the splits that are left out too, so that all splits number them alike.
        split: the folder that is taken of several splits or as the only one, None where folders are classes.
        left_out: number of images in the folders that are not taken.
    """

    labels: Mapping[str, str]
    names: Sequence[str]
    split: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


def find_classes(location: str, folders: Mapping[str, int], split: str | None) -> FolderClasses:
    """Tell classes from splits.

    Args:
        location: what messages call the whole.
        folders: number of images in each folder, by its path.
        split: folder that is to be taken, in any case, by default the training data; `AS_CLASSES` where folders of
            such names are classes.

    Raises:
        InputError: there is no such split.
        UsageError: there are several to choose from, and not one of them is the training data.
    """
    asked = split not in (None, AS_CLASSES)
    splits = None if split == AS_CLASSES else _find_splits(folders, asked=asked)
    if splits is None and asked:
        raise InputError(f"{location}: all images lie in the same folder, so there is no split {split!r}.")
    if splits is None:
        return FolderClasses({folder: folder for folder in folders}, sorted(filter(None, folders)))
    taken = splits.chosen(location, split)
    labels = {folder: splits.label(folder) for folder in folders if splits.at(folder) == taken}
    alike = {splits.label(folder) for folder in folders if split_kind(splits.at(folder))}
    left = {f"{name or '.'}/": count for name, count in splits.sizes.items() if name != taken}
    return FolderClasses(labels, sorted(filter(None, alike.union(labels.values()))), taken, left)


@dataclass(frozen=True)
class _Splits:
    """Folders of one depth that are splits.

    Attributes:
        depth: how many folders they lie in.
        sizes: number of images in each folder of this depth, of which some may be no splits; "" for those in none.
        shared: whether the folders that they lie in are the same for all images, and so say nothing of a class.
    """

    depth: int
    sizes: Mapping[str, int]
    shared: bool

    def chosen(self, location: str, split: str | None) -> str:
        names = [name for name in self.sizes if name]
        told = ", ".join(f"{name} ({self.sizes[name]:,})" for name in sorted(names))
        if split is not None:
            found = [name for name in names if name == split] or [n for n in names if n.lower() == split.lower()]
            if len(found) != 1:
                raise InputError(f"{location}: has no split {split!r}, but images in {told}.")
            return found[0]
        # What lies beside the training data is there to measure with; of two trainings nobody can know.
        wanted = [name for name in names if split_kind(name) == "train"] if len(names) > 1 else names
        if len(wanted) == 1:
            return wanted[0]
        raise UsageError(
            f"{location}: holds images of the splits {told}: give --split {(wanted or names)[0]} or another, or "
            f"--split {AS_CLASSES} if they are classes."
        )

    def at(self, folder: str) -> str:
        """Return the folder of this depth in a path, "" for none."""
        parts = folder.split("/")
        return parts[self.depth] if len(parts) > self.depth else ""

    def label(self, folder: str) -> str:
        """Return the folders below the split as one, and those above if they tell apart."""
        parts = folder.split("/")
        return "/".join([*([] if self.shared else parts[: self.depth]), *parts[self.depth + 1 :]])


def _find_splits(folders: Mapping[str, int], *, asked: bool) -> _Splits | None:
    """Find the depth at which folders are splits: below folders that all images share, or below classes.

    They are where all have names of splits, or two have those of different ones: `bus` and `train` may well be classes.
    Where one is asked for, the first folders that differ may have any names.
    """
    paths = {tuple(folder.split("/")) if folder else (): count for folder, count in folders.items()}
    differing: _Splits | None = None
    for depth in range(max(map(len, paths), default=0)):
        sizes = Counter[str]()
        for parts, count in paths.items():
            sizes[parts[depth] if len(parts) > depth else ""] += count
        kinds = {split_kind(name) for name in sizes}
        found = _Splits(depth, sizes, len({parts[:depth] for parts in paths}) == 1)
        if None not in kinds or (found.shared and len(kinds - {None}) > 1):
            return found
        if found.shared and len(sizes) > 1:
            differing = found
    return differing if asked else None


def split_kind(folder: str) -> str | None:
    """Return `train`, `val` or `test` for what is called like a split, None for other names."""
    match = _SPLIT.fullmatch(folder)
    return match.lastgroup if match else None
