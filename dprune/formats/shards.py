"""A dataset: an ordered list of WebDataset shards, its ids and its fingerprint."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.locations import expand
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import Record, digest, parent_record, record_digest
from dprune.formats.ranges import base_name, is_url, open_blocks
from dprune.formats.shard_index import ShardIndex, cached_index

CLASSES = "classes.txt"
BAD = "bad.jsonl"

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Shard:
    """One tar of a dataset, by path or URL."""

    location: str

    @property
    def name(self) -> str:
        """Basename, which is what derived files call the shard by."""
        return base_name(self.location)

    def index(self) -> ShardIndex:
        """Return the shard's samples and offsets; see `cached_index`."""
        return cached_index(self.location)

    def size(self) -> tuple[int, str]:
        """Return how many samples it holds and the digest of its members, and warn of a shard without samples."""
        index = self.index()
        if not len(index):
            _log.warning("%s holds no samples.", self.location)
        return len(index), index.digest


class ShardReader:
    """Reads members of one shard by offset; made anew in each worker process."""

    def __init__(self, shard: Shard, index: ShardIndex) -> None:
        self._blocks = open_blocks(shard.location)
        self.shard = shard
        self.index = index

    def member(self, member: int) -> bytes:
        """Return a member's content.

        Raises:
            InputError: the shard has become shorter than its index.
        """
        size = int(self.index.size[member])
        content = self._blocks.read(int(self.index.offset[member]), size)
        if len(content) < size:
            raise InputError(f"{self.shard.location}: was changed or cut while it was read: run the command again.")
        return content

    def image(self, row: int) -> bytes:
        """Return the encoded image of a sample."""
        return self.member(int(self.index.image[row]))

    def label(self, row: int) -> int:
        """Return the label of a sample, -1 for none.

        Raises:
            InputError: the label is not a whole number.
        """
        member = int(self.index.label[row])
        if member < 0:
            return -1
        text = self.member(member)
        try:
            # An int64, as labels are stored; numpy alone would take 1.5 too.
            return int(np.int64(int(text)))
        except (ValueError, OverflowError):
            name = self.index.name(member)
            raise InputError(
                f"{self.shard.location}: {name} holds {text[:24]!r}, not a whole number of 64 bits: mend the shard."
            ) from None


@dataclass(frozen=True)
class Dataset:
    """Shards in order, and the provenance of the folders that they come from (empty without a manifest)."""

    shards: tuple[Shard, ...]
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """What messages call the dataset."""
        folders = sorted({shard.location.rpartition("/")[0] or "." for shard in self.shards})
        return folders[0] if len(folders) == 1 else f"{folders[0]} and {len(folders) - 1} more folders"

    @functools.cached_property
    def _sizes(self) -> tuple[tuple[int, str], ...]:
        # Indexes are dropped after this: those of ImageNet together take gigabytes.
        return tuple(shard.size() for shard in self.shards)

    @property
    def counts(self) -> list[int]:
        """Samples in each shard."""
        return [count for count, _ in self._sizes]

    @property
    def origins(self) -> tuple[str, ...]:
        """Keys of the folders' records."""
        return tuple(map(record_digest, self.records))

    @property
    def fingerprint(self) -> str:
        """Hash of the shards' names, every member's name and size, and the manifests' provenance."""
        names = (shard.name for shard in self.shards)
        return fingerprint(zip(names, (digest for _, digest in self._sizes), strict=True), self.origins)

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(self.counts)

    def parents(self, content: str | None = None) -> dict[str, Record]:
        """Describe the dataset as the input of another file: `shards`, and `shards 2` and so on for more folders.

        Args:
            content: digest of the dataset, by default its fingerprint, for which every shard is walked.
        """
        content = self.fingerprint if content is None else content
        more = {
            f"shards {number}": parent_record(record, record_digest(record))
            for number, record in enumerate(self.records[1:], 2)
        }
        return {"shards": parent_record(self.records[0] if self.records else None, content), **more}

    def split(self, ids: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Split sorted ids into each shard's row numbers.

        Raises:
            InputError: an id is outside the dataset.
        """
        if len(ids) and (ids[0] < 0 or ids[-1] >= len(self)):
            wrong = int(ids[0]) if ids[0] < 0 else int(ids[-1])
            raise InputError(f"id {wrong} is outside {self.title}, which has {len(self):,} samples.")
        return split_ids(ids, self.counts)


def split_ids(ids: npt.NDArray[np.int64], counts: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Split sorted ids into row numbers of shards that hold so many samples each."""
    stops = np.cumsum(counts)
    pieces = np.split(ids, np.searchsorted(ids, stops)[:-1])
    return [piece - (stop - count) for piece, stop, count in zip(pieces, stops, counts, strict=True)]


def fingerprint(shards: Iterable[tuple[str, str]], origins: Sequence[str]) -> str:
    """Hash (name, member digest) of each shard in order together with the keys of their folders' records."""
    return digest({"shards": [list(pair) for pair in shards], "provenance": list(origins)})


def open_dataset(sources: Sequence[str]) -> Dataset:
    """Find the shards that the sources name.

    Args:
        sources: folders (their `*.tar` by name), paths, globs, brace ranges, `@list.txt` and URLs.

    Raises:
        InputError: nothing is found, a folder's pack is unfinished, or two shards share a name.
    """
    locations = expand(sources)
    if not locations:
        raise InputError("no shards given: name a folder with .tar files, or the files themselves.")
    names: dict[str, str] = {}
    for location in locations:
        name = Shard(location).name
        if name in names:
            raise InputError(
                f"{names[name]} and {location} share a name, and outputs are named after shards: rename one."
            )
        names[name] = location
    folders = dict.fromkeys(os.path.dirname(location) or "." for location in locations if not is_url(location))
    manifests = (read_manifest(folder) for folder in folders)
    records = tuple(manifest["provenance"] for manifest in manifests if manifest.get("kind") == "shards")
    return Dataset(tuple(Shard(location) for location in locations), records)
