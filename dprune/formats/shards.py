"""A dataset: an ordered list of WebDataset shards, its ids and its fingerprint."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dprune.errors import BadImage, InputError
from dprune.formats.class_names import NAMELESS, ClassNames, names_in_folders
from dprune.formats.img2dataset import warn_of_unfinished
from dprune.formats.index_cache import cached_index
from dprune.formats.locations import expand
from dprune.formats.manifests import read_manifest
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, digest, parent_record, record_digest
from dprune.formats.ranges import base_name, is_url, open_blocks
from dprune.formats.shard_index import LeftOut, ShardIndex
from dprune.formats.tar import Bytes, changed_meanwhile, read_member
from dprune.runtime import cpu_count

BAD = "bad.jsonl"
MOST_IMAGE_BYTES, MOST_SAMPLE_BYTES = 512 << 20, 1 << 30
TELL_S = 30.0

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class ShardSize:
    """How many samples a shard holds, the digest of its members, and what belongs to no sample."""

    count: int
    members: str
    left: LeftOut


@dataclass(frozen=True)
class Shard:
    """One tar of a dataset.

    Attributes:
        location: path or URL.
        choice: which members are images and labels.
        listed: what the manifest of its folder says of it, empty without one.
    """

    location: str
    choice: MemberChoice = field(default_factory=MemberChoice)
    listed: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """Basename, which is what derived files call the shard by."""
        return base_name(self.location)

    @functools.cached_property
    def size(self) -> ShardSize:
        """What it holds, checked against what is listed; of the members that were chosen the digest says so.

        Raises:
            InputError: the shard is damaged, or another than the one that is listed.
        """
        index = cached_index(self.location, self.choice, self.listed)
        return ShardSize(len(index), self.members_digest(index), index.left)

    def members_digest(self, index: ShardIndex) -> str:
        """Return the digest of its members, which with a choice is another."""
        chosen = self.choice.options()
        return digest([index.digest, chosen]) if chosen else index.digest

    def reader(self) -> SampleReader:
        """Return what reads its samples, to be made anew in each process.

        Raises:
            InputError: as `index` does.
        """
        return ShardReader(self, self.index())

    def sample_keys(self) -> Sequence[str]:
        """Return the keys of its samples.

        Raises:
            InputError: as `index` does.
        """
        return self.index().keys()

    def stored_keys(self) -> Sequence[str] | None:
        """Return what the parts of stores keep of `sample_keys`."""
        return self.sample_keys()

    def index(self) -> ShardIndex:
        """Return the shard's samples and offsets, those that `size` counted.

        Raises:
            InputError: the shard has become another since, or is damaged.
        """
        index = cached_index(self.location, self.choice)
        if self.members_digest(index) != self.size.members:
            raise changed_meanwhile(self.location)
        return index


def survey(title: str, shards: Sequence[Shard]) -> tuple[ShardSize, ...]:
    """Walk shards, several side by side, and warn of what belongs to no sample.

    Args:
        title: what messages call them.
        shards: any number.

    Raises:
        InputError: one of them is damaged, or another than the one that is listed.
    """
    sizes: list[ShardSize] = []
    told = time.monotonic()
    # While one is read for its digest, another can be walked.
    with ThreadPoolExecutor(cpu_count()) as pool:
        for size in pool.map(lambda shard: shard.size, shards):
            sizes.append(size)
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                _log.info("%s: looked at %s of %s shards.", title, f"{len(sizes):,}", f"{len(shards):,}")
    if any(size.count for size in sizes):
        _tell_of_what_is_left_out(title, shards, sizes)
    return tuple(sizes)


def _tell_of_what_is_left_out(title: str, shards: Sequence[Shard], sizes: Sequence[ShardSize]) -> None:
    for shard, size in zip(shards, sizes, strict=True):
        if not size.count and not size.left.keys:
            _log.warning("%s holds no samples.", shard.location)
    if words := left_out(sizes).words():
        _log.warning("%s: %s.", title, words)


def left_out(sizes: Iterable[ShardSize]) -> LeftOut:
    """Return what of several shards belongs to no sample."""
    return sum((size.left for size in sizes), LeftOut())


class SampleReader(Protocol):
    """Reads what networks see of samples, by their rows."""

    def key(self, row: int) -> str:
        """Return the key of a sample."""

    def label(self, row: int) -> int:
        """Return the label of a sample, -1 for none; raises InputError where it is not a whole number."""

    def image(self, row: int) -> bytes:
        """Return the encoded image of a sample; raises BadImage where it cannot be read."""


class ShardReader:
    """Reads members of one shard by offset; made anew in each worker process."""

    def __init__(self, shard: Shard, index: ShardIndex) -> None:
        self._blocks = open_blocks(shard.location)
        self.shard = shard
        self.index = index

    def member(self, member: int) -> bytes:
        """Return a member's content.

        Raises:
            InputError: the shard has become another since it was indexed.
        """
        return read_member(self._blocks, *self._place(member))

    def members(self, row: int) -> list[tuple[str, bytes]]:
        """Return suffix and content of each member of a sample.

        Raises:
            BadImage: together they are larger than what is held in memory, and were not read.
            InputError: the shard has become another since it was indexed.
        """
        members = range(int(self.index.start[row]), int(self.index.stop[row]))
        size = int(self.index.size[members.start : members.stop].sum())
        if size > MOST_SAMPLE_BYTES:
            raise BadImage(f"has {size:,} bytes in all, more than a sample may have")
        return [(self.index.suffix(member), self.member(member)) for member in members]

    def _place(self, member: int) -> tuple[int, int, int]:
        return int(self.index.offset[member]), int(self.index.size[member]), int(self.index.header[member])

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        return self.index.key(row)

    def image(self, row: int) -> bytes:
        """Return the encoded image of a sample; see `read_image`."""
        return read_image(self._blocks, *self._place(int(self.index.image[row])))

    def label(self, row: int) -> int:
        """Return the label of a sample, -1 for none.

        Raises:
            InputError: the label is not a whole number.
        """
        member = int(self.index.label[row])
        if member < 0:
            return -1
        name, size = f"{self.shard.location}: {self.index.name(member)}", int(self.index.size[member])
        if size > self.shard.choice.most_label_bytes:
            raise InputError(f"{name} has {size:,} bytes, too many for a label: mend the shard.")
        return self.shard.choice.label(name, self.member(member))


def read_image(blocks: Bytes, offset: int, size: int, header: int) -> bytes:
    """Read an image; see `read_member`.

    Raises:
        BadImage: it is larger than any image, and was not read.
        InputError: the shard has become another since it was indexed.
    """
    if size > MOST_IMAGE_BYTES:
        raise BadImage(f"has {size:,} bytes, more than any image that can be decoded")
    return read_member(blocks, offset, size, header)


@dataclass(frozen=True)
class Dataset:
    """Shards in order.

    Attributes:
        shards: all with one choice of members.
        records: provenance of the folders that they come from, empty without a manifest.
        choice: which members are images and labels.
    """

    shards: tuple[Shard, ...]
    records: tuple[Record, ...]
    choice: MemberChoice = field(default_factory=MemberChoice)

    @property
    def title(self) -> str:
        """What messages call the dataset."""
        return _title([shard.location for shard in self.shards])

    @functools.cached_property
    def sizes(self) -> tuple[ShardSize, ...]:
        """What each shard holds; see `survey`.

        Raises:
            InputError: a shard is damaged, or none holds an image.
        """
        # Indexes are dropped after this: those of ImageNet together take gigabytes.
        sizes = survey(self.title, self.shards)
        if not any(size.count for size in sizes):
            why = left_out(sizes).words() or "its shards are empty: give shards with images"
            raise InputError(f"{self.title}: holds no image that can be used: {why}.")
        return sizes

    @property
    def counts(self) -> list[int]:
        """Samples in each shard."""
        return [size.count for size in self.sizes]

    @property
    def origins(self) -> tuple[str, ...]:
        """Keys of the folders' records."""
        return tuple(map(record_digest, self.records))

    @property
    def fingerprint(self) -> str:
        """Hash of the shards' names, every member's name and size, and the manifests' provenance."""
        names = (shard.name for shard in self.shards)
        return fingerprint(zip(names, (size.members for size in self.sizes), strict=True), self.origins)

    @functools.cached_property
    def class_names(self) -> ClassNames:
        """What its labels are called, where the folders of all shards say so; of other labels nobody does."""
        if self.choice.label_member is not None:
            return NAMELESS
        return names_in_folders(_folder(shard.location) for shard in self.shards)

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


def open_dataset(sources: Sequence[str], choice: MemberChoice | None = None) -> Dataset:
    """Find the shards that the sources name.

    Args:
        sources: folders (their `*.tar` by name), paths, globs, brace ranges, `@list.txt` and URLs.
        choice: which members are images and labels, None for the default.

    Raises:
        InputError: nothing is found, a folder's pack is unfinished, or a shard is named twice.
    """
    choice = choice or MemberChoice()
    locations = expand(sources)
    if not locations:
        raise InputError("no shards given: name a folder with .tar files, or the files themselves.")
    if len(set(locations)) < len(locations):
        twice = next(location for location, count in Counter(locations).items() if count > 1)
        raise InputError(f"{twice} is named twice: name each shard once.")
    folders = dict.fromkeys(_folder(location) for location in locations if not is_url(location))
    manifests = {folder: manifest for folder in folders if (manifest := read_manifest(folder)).get("kind") == "shards"}
    listed = {
        os.path.join(folder, entry["name"]): entry
        for folder, manifest in manifests.items()
        for entry in manifest["shards"]
    }
    warn_of_unfinished(_title(locations), locations)
    shards = tuple(Shard(location, choice, listed.get(_place(location), {})) for location in locations)
    return Dataset(shards, tuple(manifest["provenance"] for manifest in manifests.values()), choice)


def _folder(location: str) -> str:
    return os.path.dirname(location) or "."


def _place(location: str) -> str:
    return os.path.join(_folder(location), os.path.basename(location))


def _title(locations: Sequence[str]) -> str:
    folders = sorted(set(map(_folder_title, locations)))
    return folders[0] if len(folders) == 1 else f"{folders[0]} and {len(folders) - 1} more folders"


def _folder_title(location: str) -> str:
    """Return what messages call the folder of a shard: never one or two dots, which say nothing to a reader."""
    folder = location.rpartition("/")[0] or "."
    return os.path.basename(os.path.abspath(folder)) or folder if set(os.path.basename(folder)) == {"."} else folder
