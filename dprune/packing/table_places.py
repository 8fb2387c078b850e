"""Where tables lie: files, globs, folders of parquet files, and datasets as Hugging Face caches and saves them.

- A cached dataset is a folder with `dataset_info.json` and files `NAME-SPLIT.arrow` or, of several,
  `NAME-SPLIT-00000-of-00008.arrow`; `cache-*.arrow` beside them are what its `map` and `filter` left, no part of it.
- `save_to_disk` writes a folder with `state.json`, which lists its files and may name its split; a DatasetDict is such
  a folder for each split beside `dataset_dict.json`.
- On the hub a dataset is a folder of parquet files, `data/train-00000-of-00294.parquet` and so on.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.checked_json import read_json
from dprune.formats.clip_retrieval import is_clip_folder
from dprune.formats.images import readable_suffixes
from dprune.formats.table_files import TableFile, open_table
from dprune.packing.folders import walk_files
from dprune.packing.splits import find_classes, split_kind
from dprune.packing.table_columns import holds_images

SUFFIXES = (".parquet", ".arrow")
_INFO, _STATE = "dataset_info.json", "state.json"
_NUMBERED = re.compile(r"[-_.]?\d+(?:-of-\d+)?$|-\d+-of-\d+(?:-[0-9a-f]+)?$")
_PARTS = re.compile(r"[-_. ]")
_REMEDY = "name its files themselves"


@dataclass(frozen=True)
class TablePlace:
    """A file of rows before it is opened.

    Attributes:
        path: of the file.
        split: the folders and the split that it belongs to by its name, such as `data/train`.
    """

    path: str
    split: str


@dataclass(frozen=True)
class Tables:
    """The files of rows that are taken.

    Attributes:
        files: in order.
        others: files of other splits.
        split: that was taken of several, or the only one; None where names tell of none.
        left_out: number of rows in other splits, and of files that are no part of a dataset.
    """

    files: Sequence[TableFile]
    others: Sequence[TableFile]
    split: str | None
    left_out: dict[str, int]


def is_table(location: str) -> bool:
    """Tell files of rows, globs of them, and folders of such files.

    A folder that holds tars is none, and one that holds images only where its tables hold some, too: pictures may lie
    beside a dataset's description, and tables beside images that they describe.
    """
    if os.path.isdir(location):
        # Metadata of embeddings are tables without images.
        return not is_clip_folder(location) and _is_folder_of_tables(location)
    if not location.lower().endswith(SUFFIXES):
        return False
    return os.path.isfile(location) or (glob.has_magic(location) and bool(glob.glob(location)))


def _is_folder_of_tables(folder: str) -> bool:
    """Look for tables until an image or a tar turns up, which in a folder of images is at once."""
    waiting, seen, found = [folder], set[str](), False
    while waiting:
        here = waiting.pop()
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        with contextlib.suppress(OSError), os.scandir(here) as entries:
            for entry in entries:
                name = entry.name.lower()
                if name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append(entry.path)
                elif ".tar" in name:
                    return False
                elif name.rpartition(".")[2] in readable_suffixes():
                    return _has_tables_of_images(folder)
                found = found or name.endswith(SUFFIXES)
    return found


def _has_tables_of_images(folder: str) -> bool:
    paths = (os.path.join(place, name) for place in (folder, os.path.join(folder, "data")) if os.path.isdir(place)
             for name in sorted(os.listdir(place)) if name.lower().endswith(SUFFIXES))  # fmt: skip
    try:
        return (path := next(paths, None)) is not None and holds_images(open_table(path))
    except InputError:
        return False


def find_tables(locations: Sequence[str], split: str | None) -> Tables:
    """Open the files of rows at the locations, and take one split of them.

    Args:
        locations: as `is_table` takes them.
        split: see `find_classes`.

    Raises:
        InputError: a file is damaged, or there is no such split.
        UsageError: there are several splits to choose from.
    """
    left = Counter[str]()
    places = [place for location in locations for place in _places(location, left)]
    if not places:
        raise InputError(f"{locations[0]}: holds no parquet or Arrow files of a dataset.")
    files = [open_table(place.path) for place in places]
    sizes = Counter[str]()
    for place, file in zip(places, files, strict=True):
        sizes[place.split] += file.rows
    # Files are to splits what folders of images are to them.
    found = find_classes(locations[0], sizes, split)
    left.update(found.left_out)
    taken, others = list[TableFile](), list[TableFile]()
    for place, file in zip(places, files, strict=True):
        wanted = found.split is None or place.split in found.labels
        (taken if wanted else others).append(file)
    return Tables(taken, others, found.split, {kind: count for kind, count in left.items() if count})


def _places(location: str, left: Counter[str]) -> Iterator[TablePlace]:
    if not os.path.isdir(location):
        for path in [location] if os.path.isfile(location) else sorted(glob.glob(location)):
            yield TablePlace(path, _split_in(os.path.basename(path)))
        return
    folders: dict[str, list[str]] = {}
    for file in walk_files(location, left):
        # Names that end so are of a download that was not finished.
        if not file.hidden and ".incomplete/" not in file.path:
            left[file.kind] += file.is_image
            folders.setdefault(file.folder, []).append(file.name)
    _check_alone(location, folders)
    for folder in sorted(folders):
        for name, split in _files_in(os.path.join(location, folder), sorted(folders[folder]), left):
            yield TablePlace(os.path.join(location, folder, name), "/".join(filter(None, [folder, split])))


def _check_alone(location: str, folders: Mapping[str, Sequence[str]]) -> None:
    """Refuse several datasets, or versions of one, that a cache keeps below a folder: they are not meant as one.

    Raises:
        InputError: there are.
    """
    cached = [folder for folder, names in folders.items() if _INFO in names and _STATE not in names]
    snapshots = {match[0] for folder in folders if (match := re.match(r"(?:.*/)?snapshots/[0-9a-f]{40}", folder))}
    for found in (sorted(cached), sorted(snapshots)):
        if len(found) > 1:
            raise InputError(
                f"{location}: holds {len(found)} cached datasets, such as {found[0]} and {found[1]}: give one folder."
            )


def _files_in(folder: str, names: Sequence[str], left: Counter[str]) -> list[tuple[str, str]]:
    """Return the files of rows in one folder, each with the split that its name or what lies beside it tells."""
    found = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if _STATE in names and any(name.endswith(".arrow") for name in found):
        return _saved(folder)
    if _INFO in names and (known := _cached(folder)):
        parts = [(name, match[1]) for name in found if (match := known.match(name))]
        if parts:
            left["cached results of map and filter"] += sum(name.startswith("cache-") for name in found)
            return parts
    return [(name, _split_in(name)) for name in found]


def _split_in(name: str) -> str:
    """Return the split that a part of a file's name tells, else what the file is called without its number."""
    stem = name.rpartition(".")[0]
    told = [part for part in _PARTS.split(stem) if split_kind(part)]
    return told[0] if len(told) == 1 else _NUMBERED.sub("", stem) or stem


def _saved(folder: str) -> list[tuple[str, str]]:
    """Return the files that `save_to_disk` lists."""
    state = _table(os.path.join(folder, _STATE))
    listed = state.get("_data_files")
    entries = listed if isinstance(listed, list) else []
    names = [str(entry.get("filename")) for entry in entries if isinstance(entry, dict)]
    if not names or any(os.path.basename(name) != name for name in names):
        raise InputError(f"{folder}/{_STATE}: does not list the files of a dataset: {_REMEDY}.")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(
            f"{folder}: keeps the order of its rows in a file of its own: write it again with flatten_indices() and "
            "save_to_disk()."
        )
    # A DatasetDict calls the folder like the split; where it stands alone the state may name one.
    split = state.get("_split")
    alone = not Path(folder).parent.joinpath("dataset_dict.json").exists()
    return [(name, str(split) if alone and split else "") for name in names]


def _cached(folder: str) -> re.Pattern[str] | None:
    """Return what the files of a cached dataset are called, their splits as group 1, or None for another folder."""
    splits = _table(os.path.join(folder, _INFO)).get("splits")
    if not isinstance(splits, dict) or not splits:
        return None
    return re.compile(rf"(?!cache-).+-({'|'.join(map(re.escape, splits))})(?:-\d+-of-\d+)?\.arrow$")


def _table(path: str) -> dict[str, Any]:
    content = read_json(path, _REMEDY)
    return content if isinstance(content, dict) else {}
