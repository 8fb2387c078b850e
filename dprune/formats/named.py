"""What samples are called outside dprune: keys, and uids of DataComp; in shards, stores and clip-retrieval's folders.

Ids count the rows of one dataset. What has its rows in another order, as clip-retrieval's have another than the shards
that they were made from, speaks of the same samples by their keys.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.checked_json import parse_json
from dprune.formats.clip_retrieval import ClipFolder
from dprune.formats.columns import has_arrow
from dprune.formats.img2dataset import table_beside, table_uids
from dprune.formats.kinds import kind_of
from dprune.formats.members import MemberChoice
from dprune.formats.shards import Dataset, ShardReader, open_dataset, split_ids
from dprune.formats.stores import Store
from dprune.formats.uids import UID, UidArray, UidSet, parse_uids

IntArray = npt.NDArray[np.int64]

_log = logging.getLogger("dprune")


class NamedSamples(ABC):
    """Samples of a dataset in the order of their ids, part by part, with their keys and uids.

    Attributes:
        title: what messages call the dataset.
    """

    title: str

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Fingerprint of the dataset."""

    @property
    @abstractmethod
    def counts(self) -> Sequence[int]:
        """Samples in each part."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[str]:
        """Names of the parts, such as those of shards."""

    @abstractmethod
    def keys(self, part: int) -> Sequence[str]:
        """Return the keys of the samples of a part.

        Raises:
            InputError: they are not known.
        """

    @abstractmethod
    def labels(self, part: int, rows: IntArray) -> IntArray:
        """Return the labels of some samples of a part, by their rows, -1 for none.

        Raises:
            InputError: one is not a whole number.
        """

    @abstractmethod
    def uids(self, part: int) -> UidArray:
        """Return the uids of the samples of a part.

        Raises:
            InputError: they are not known.
        """

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(self.counts)

    def keys_of(self, ids: IntArray) -> list[str]:
        """Return the keys of samples by their sorted ids.

        Raises:
            InputError: two of them share one, so that it names neither, or one is more than a line.
        """
        keys = self.any_keys_of(ids)
        seen: set[str] = set()
        for key in keys:
            if key in seen:
                raise InputError(f"{self.title}: the key {key!r} names two samples: write ids, by --format npy.")
            seen.add(key)
        if broken := next((key for key in keys if "\n" in key or "\r" in key), None):
            raise InputError(f"the key {broken!r} is more than one line: write ids, by --format npy.")
        return keys

    def any_keys_of(self, ids: IntArray) -> list[str]:
        """Return the keys of samples by their sorted ids, though two of them share one."""
        return [keys[row] for part, rows in self._rows(ids) for keys in [self.keys(part)] for row in rows.tolist()]

    def uids_of(self, ids: IntArray) -> UidArray:
        """Return the uids of samples by their sorted ids, in that order."""
        return np.concatenate([np.empty(0, UID), *(self.uids(part)[rows] for part, rows in self._rows(ids))])

    def parts_of(self, ids: IntArray) -> list[str]:
        """Return the names of the parts that samples are in, by their sorted ids."""
        return [self.parts[part] for part, rows in self._rows(ids) for _ in range(len(rows))]

    def labels_of(self, ids: IntArray) -> IntArray:
        """Return the labels of samples by their sorted ids, -1 for none."""
        return np.concatenate([np.empty(0, np.int64), *(self.labels(part, rows) for part, rows in self._rows(ids))])

    def _rows(self, ids: IntArray) -> Iterator[tuple[int, IntArray]]:
        """Yield the parts that have some of the samples, each with their rows in it."""
        return ((part, rows) for part, rows in enumerate(split_ids(ids, self.counts)) if len(rows))

    def find_each(self, name: str, wanted: Collection[str]) -> dict[str, int]:
        """Return the ids of the samples that have some of the keys, by key.

        Args:
            name: what messages call the list of keys.
            wanted: the keys, or paths of images that `dprune pack` made keys of.

        Raises:
            InputError: a key names two samples, or keys are not known.
        """
        found = self._places(name, set(wanted))
        if found or not wanted:
            return found
        keys = self._packed(name, set(wanted))
        places = self._places(name, set(keys.values()))
        return {path: places[key] for path, key in keys.items() if key in places}

    def _places(self, name: str, wanted: Collection[str]) -> dict[str, int]:
        found, first = dict[str, int](), 0
        for part, count in enumerate(self.counts):
            for row, key in enumerate(self.keys(part)):
                if key in wanted:
                    if key in found:
                        raise InputError(f"{name}: the key {key!r} names two samples: choose by ids instead.")
                    found[key] = first + row
            first += count
        return found

    def _packed(self, name: str, paths: set[str]) -> dict[str, str]:
        """Return the keys that `dprune pack` made of paths of images, by path; none where it made none of them.

        Rows of clip-retrieval that come from a folder are called by their paths, and keys are those below the folder.
        """
        stems = {path: path.rpartition(".")[0].replace(".", "_") for path in paths}
        folders = min(stems.values()).split("/")
        tails = ["/".join(folders[at:]) for at in range(len(folders))]
        known = self._places(name, set(tails))
        for tail in (tail for tail in tails if tail and tail in known):
            above = min(stems.values()).removesuffix(tail)
            keys = {path: stem.removeprefix(above) for path, stem in stems.items() if stem.startswith(above)}
            if len(set(keys.values())) == len(paths):
                return keys
        return {}

    def find_uids(self, name: str, wanted: UidArray) -> IntArray:
        """Return the sorted ids of the samples with some uids; a uid may name several, and none where one was lost.

        Raises:
            InputError: none of them names a sample.
        """
        known, rows, first = UidSet(wanted), [np.empty(0, np.int64)], 0
        seen = np.zeros(len(known), dtype=bool)
        for part, count in enumerate(self.counts):
            places = known.find(self.uids(part))
            rows.append(first + np.flatnonzero(places >= 0))
            seen[places[places >= 0]] = True
            first += count
        if len(known) and not seen.any():
            raise InputError(f"{name}: none of its {len(known):,} uids is that of a sample of {self.title}.")
        if lost := int((~seen).sum()):
            _log.info("%s: %s of its %s uids are of no sample of %s.", name, f"{lost:,}", f"{len(known):,}", self.title)
        return np.concatenate(rows)


class NamedShards(NamedSamples):
    """Samples of shards: their keys are those of their members, their uids those in a table beside or in KEY.json."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.title = dataset, dataset.title

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset."""
        return self.dataset.fingerprint

    @property
    def counts(self) -> Sequence[int]:
        """Samples in each shard."""
        return self.dataset.counts

    @property
    def parts(self) -> Sequence[str]:
        """Basenames of the shards."""
        return [shard.name for shard in self.dataset.shards]

    def keys(self, part: int) -> Sequence[str]:
        """Return the keys of a shard's samples."""
        return self.dataset.shards[part].sample_keys()

    def labels(self, part: int, rows: IntArray) -> IntArray:
        """Return labels of a shard's samples, each of which is read."""
        reader = self.dataset.shards[part].reader()
        return np.array([reader.label(row) for row in rows.tolist()], dtype=np.int64)

    def uids(self, part: int) -> UidArray:
        """Return the uids of a shard's samples."""
        shard = self.dataset.shards[part]
        table = table_beside(shard.location)
        if table is not None and has_arrow():
            uids = table_uids(table, [key.rpartition("/")[2] for key in self.keys(part)])
            if uids is not None:
                return uids
        reader = ShardReader(shard, shard.index())
        try:
            return parse_uids([_uid(reader, row) for row in range(len(reader.index))])
        except ValueError as error:
            raise InputError(f"{shard.location}: {error}.") from error


def _uid(reader: ShardReader, row: int) -> str:
    index = reader.index
    members = range(int(index.start[row]), int(index.stop[row]))
    member = next((member for member in members if index.suffix(member) == "json"), None)
    table: Any = {}
    if member is not None:
        table = parse_json(f"{reader.shard.location}: {index.name(member)}", reader.member(member), "mend the shard")
    uid = table.get("uid") if isinstance(table, dict) else None
    if not isinstance(uid, str):
        raise InputError(
            f"{reader.shard.location}: {index.key(row)} has no uid, neither in its JSON nor in a .parquet beside the "
            "shard: uids of DataComp speak of what its download wrote."
        )
    return uid


class NamedRows(NamedSamples):
    """Rows of a folder of clip-retrieval, whose metadata holds their keys and perhaps uids."""

    def __init__(self, folder: ClipFolder) -> None:
        self._folder, self.title = folder, folder.name

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the rows."""
        return self._folder.fingerprint

    @property
    def counts(self) -> Sequence[int]:
        """Rows in each part."""
        return self._folder.counts

    @property
    def parts(self) -> Sequence[str]:
        """Names of the files of embeddings."""
        return [part.name for part in self._folder.parts]

    def keys(self, part: int) -> Sequence[str]:
        """Return the keys of a part's rows."""
        return self._folder.keys(part)

    def labels(self, part: int, rows: IntArray) -> IntArray:
        """Return that there are none: captions are no labels."""
        return np.full(len(rows), -1)

    def uids(self, part: int) -> UidArray:
        """Return the uids of a part's rows."""
        return self._folder.uids(part)


class NamedStore(NamedSamples):
    """Samples of a store of features or latents, whose parts hold their keys."""

    def __init__(self, store: Store) -> None:
        self._store, self.title = store, str(store.folder)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset that the store was made from."""
        return self._store.fingerprint

    @property
    def counts(self) -> Sequence[int]:
        """Samples in each part."""
        return self._store.counts

    @property
    def parts(self) -> Sequence[str]:
        """Basenames of the shards that the parts were made from."""
        return self._store.shards

    def keys(self, part: int) -> Sequence[str]:
        """Return the keys of a part's samples.

        Raises:
            InputError: an older dprune wrote the part, which kept none.
        """
        keys = self._store.keys(self._store.shards[part])
        if keys is None:
            raise InputError(
                f"{self.title}: keeps no keys, as an older dprune made it: dprune select --within FILE --shards "
                "SHARDS -o keep.npy makes ids of keys."
            )
        return keys

    def uids(self, part: int) -> UidArray:
        """Refuse: uids are not kept."""
        raise InputError(
            f"{self.title}: keeps no uids of DataComp: dprune select --within FILE --shards SHARDS -o keep.npy makes "
            "ids of them."
        )

    def labels(self, part: int, rows: IntArray) -> IntArray:
        """Return labels of a part's samples."""
        labels = self._store.read(self._store.shards[part], "label")
        return np.full(len(rows), -1) if labels is None else labels[rows].astype(np.int64)


def open_named(sources: Sequence[str], choice: MemberChoice | None = None) -> NamedSamples:
    """Open the dataset that ids are of.

    Args:
        sources: a store, one folder of clip-retrieval, or what `open_dataset` takes.
        choice: which members of shards are images, None for the default.

    Raises:
        InputError: it is none of these, or damaged.
    """
    kind = kind_of(sources[0]) if len(sources) == 1 else ""
    if kind == "clip-retrieval":
        return NamedRows(ClipFolder(sources[0]))
    if kind in ("features", "latents") and os.path.isdir(sources[0]):
        return NamedStore(Store.open(sources[0], kind))
    return NamedShards(open_dataset(sources, choice))
