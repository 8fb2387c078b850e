"""Folders that the inference of clip-retrieval wrote: embeddings of images, and what it knows of each row.

    img_emb/img_emb_0.npy       float16 [n, d], of unit length
    metadata/metadata_0.parquet a row for each embedding: image_path (of a WebDataset the key, else the path) and others
    stats/0.json                how many samples the partition had

Both kinds may also lie flat in one folder, as people copy them. Partitions are numbered, with as many digits as their
count has, and each takes every n-th shard; inside it the batches of several workers take turns. So rows are in no order
of shards: what a row is of, its key alone tells. (clip_inference/writer.py, runner.py and reader.py of
github.com/rom1504/clip-retrieval 2.45.)
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, unreadable
from dprune.formats.arrays import map_array
from dprune.formats.checked_json import Object, Whole, read_json, shaped
from dprune.formats.columns import Column, column_names, count_rows, has_arrow, padded_ascii, read_columns
from dprune.formats.provenance import ROWS, digest
from dprune.formats.uids import DIGITS, ZERO, UidArray, decode_digits

EMBEDDINGS, METADATA, STATS = "img_emb", "metadata", "stats"
KEYS = ("image_path", "key")
"""Columns that name a row's sample: clip-retrieval's own, and that of img2dataset."""
UIDS = "uid"
AGAIN = "run its inference again, or copy the folder again"
_SAMPLED = 1 << 16
_PARTS = re.compile(
    r"img_emb_(?P<emb>\d{1,9})\.npy|metadata_(?P<meta>\d{1,9})\.parquet|(?P<stats>(?:wip_)?\d{1,9})\.json"
)
_STATISTICS = Object({}, {"sample_count": Whole()})


def is_clip_folder(folder: str | Path) -> bool:
    """Tell a folder that holds embeddings of images as clip-retrieval names them."""
    return any(_numbered(Path(folder), kind="emb")) or any(_numbered(Path(folder, EMBEDDINGS), kind="emb"))


def _numbered(folder: Path, kind: str) -> Iterator[tuple[int, Path]]:
    """Yield the number and the path of each file of one kind in a folder, which need not exist."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if (match := _PARTS.fullmatch(entry.name)) and match[kind]:
                    yield int(match[kind].removeprefix("wip_")), folder / entry.name
    except OSError:
        # What cannot be listed is none of clip-retrieval's, whatever else it is.
        return


@dataclass(frozen=True)
class ClipPart:
    """What one partition of the inference wrote.

    Attributes:
        name: of its file of embeddings.
        values: the embeddings, mapped, floats [n, d].
        path: of the embeddings.
        metadata: parquet with one row an embedding, None without.
    """

    name: str
    values: npt.NDArray[np.floating]
    path: Path
    metadata: Path | None


class ClipFolder:
    """Embeddings in the order of their partitions' numbers, and the keys and uids of their rows.

    Attributes:
        name: what messages call it.
        parts: at least one, all of one dimension.
    """

    def __init__(self, folder: str | Path) -> None:
        """Map the embeddings and look at the footers of the metadata.

        Raises:
            InputError: a part is missing, is no matrix of floats, or has not as many rows as its metadata.
        """
        self.folder, self.name = Path(folder), str(folder)
        embeddings, metadata = self._files("emb", EMBEDDINGS), self._files("meta", METADATA)
        if not embeddings:
            raise InputError(f"{self.name}: holds no img_emb_*.npy of clip-retrieval: {AGAIN}.")
        self._check_numbers(embeddings, metadata)
        parts = (_open_part(path, metadata.get(number)) for number, path in sorted(embeddings.items()))
        self.parts = tuple(part for part in parts if len(part.values))
        if not self.parts:
            raise InputError(f"{self.name}: holds no embeddings: {AGAIN}.")
        self._check_shapes()

    def _files(self, kind: str, below: str) -> dict[int, Path]:
        """Return the files of one kind by their numbers, from the folder for them or from the folder itself."""
        found: dict[int, Path] = {}
        for place in (self.folder / below, self.folder):
            for number, path in _numbered(place, kind):
                if number in found:
                    raise InputError(
                        f"{self.name}: {found[number].name} and {path.name} have the same number {number}: keep "
                        "the files of one inference."
                    )
                found[number] = path
            if found:
                break
        return found

    def _check_numbers(self, embeddings: dict[int, Path], metadata: dict[int, Path]) -> None:
        """Refuse a folder that lacks a part; those of partitions without samples were never written."""
        written, stated = embeddings.keys() | metadata.keys(), dict(self._stated())
        gap = next(number for number in itertools.count() if number not in written and number not in stated)
        gaps = {gap} if gap < max(written) else set[int]()
        for number in sorted(written | gaps | {number for number, some in stated.items() if some}):
            if number not in embeddings:
                raise InputError(f"{self.name}: img_emb_{number}.npy is missing: {AGAIN}.")
            if metadata and number not in metadata:
                raise InputError(f"{self.name}: metadata_{number}.parquet is missing: {AGAIN}.")

    def _stated(self) -> Iterator[tuple[int, bool]]:
        """Yield the number of each partition that has statistics, and whether it had samples or never ended."""
        for number, path in _numbered(self.folder / STATS, "stats"):
            unfinished = path.name.startswith("wip_")
            count = 0 if unfinished else _sample_count(path)
            yield number, unfinished or count > 0

    def _check_shapes(self) -> None:
        dimension = self.parts[0].values.shape[1]
        for part in self.parts:
            if part.values.shape[1] != dimension:
                raise InputError(
                    f"{part.path}: has {part.values.shape[1]} dimensions and {self.parts[0].name} {dimension}: "
                    "keep the embeddings of one network together."
                )
            if part.metadata is None or not has_arrow():
                continue
            if (rows := count_rows(part.metadata)) != len(part.values):
                raise InputError(f"{part.metadata}: has {rows:,} rows, and {part.name} {len(part.values):,}: {AGAIN}.")

    @property
    def counts(self) -> list[int]:
        """Rows of each part."""
        return [len(part.values) for part in self.parts]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identity of the rows and their order: `clip:` and a hash of the parts' names, counts and samples of metadata.

        Of the metadata, or of the embeddings where there is none, the size and three blocks are taken: two networks'
        embeddings of the same rows are of one dataset.
        """
        parts = [[part.name, len(part.values), _sampled(part.metadata or part.path)] for part in self.parts]
        return f"{ROWS}{digest(parts)}"

    def keys(self, number: int) -> list[str]:
        """Return the key of each row of a part: what its sample is called in its shard, or the path of its image.

        Raises:
            InputError: the metadata is missing or has no such column.
        """
        column, name = self._column(number, KEYS)
        if column.null_count:
            raise InputError(f"{self.parts[number].metadata}: its column {name!r} has rows without a key: {AGAIN}.")
        return [str(key) for key in column.to_pylist()]

    def uids(self, number: int) -> UidArray:
        """Return the uid of each row of a part.

        Raises:
            InputError: the metadata is missing, or has no uids.
        """
        column, _ = self._column(number, (UIDS,))
        try:
            return decode_digits(padded_ascii(column, DIGITS, ZERO))
        except ValueError as error:
            raise InputError(f"{self.parts[number].metadata}: holds no uids of DataComp ({error}).") from error

    def columns(self) -> list[str]:
        """Return the names of the columns of the metadata, none where it cannot be read."""
        first = self.parts[0].metadata
        return column_names(first) if first is not None and has_arrow() else []

    def _column(self, number: int, names: tuple[str, ...]) -> tuple[Column, str]:
        path = self.parts[number].metadata
        if path is None:
            raise InputError(
                f"{self.name}: has no metadata_*.parquet that says what its rows are: put those "
                "files beside the embeddings."
            )
        found = read_columns(path, names)
        if not found:
            raise InputError(
                f"{path}: has no column {names[0]!r}: clip-retrieval writes it with --enable_metadata True."
            )
        name = next(iter(found))
        return found[name], name


def _open_part(path: Path, metadata: Path | None) -> ClipPart:
    values = map_array(path)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise InputError(f"{path}: embeddings are floats of shape [n, d], not {values.dtype} of {list(values.shape)}.")
    return ClipPart(path.name, values, path, metadata)


def _sample_count(path: Path) -> int:
    """Return how many samples the statistics of a partition count; those of an empty one are an empty table."""
    return int(shaped(str(path), read_json(path), _STATISTICS).get("sample_count", 0))


def _sampled(path: Path) -> list[Any]:
    """Return the size of a file, and a digest of blocks from its beginning, middle and end."""
    sha = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            for place in (0, (size - _SAMPLED) // 2, size - _SAMPLED):
                file.seek(max(0, place))
                sha.update(file.read(_SAMPLED))
    except OSError as error:
        raise unreadable(path, error) from error
    return [size, sha.hexdigest()]
