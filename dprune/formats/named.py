"""What samples are called outside dprune: by keys, and by uids of DataComp; in shards, and in clip-retrieval's folders.

Ids count the rows of one dataset. What has its rows in another order, as clip-retrieval's have another than the shards
that they were made from, speaks of the same samples by their keys.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
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

    @abstractmethod
    def keys(self, part: int) -> Sequence[str]:
        """Return the keys of the samples of a part.

        Raises:
            InputError: they are not known.
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
            InputError: two of them share one, so that it names neither.
        """
        keys = [part[row] for part, rows in self._parts(ids, self.keys) for row in rows.tolist()]
        seen: set[str] = set()
        for key in keys:
            if key in seen:
                raise InputError(f"{self.title}: the key {key!r} names two samples: write ids, by --format npy.")
            seen.add(key)
        return keys

    def uids_of(self, ids: IntArray) -> UidArray:
        """Return the uids of samples by their sorted ids, in that order."""
        return np.concatenate([np.empty(0, UID), *(part[rows] for part, rows in self._parts(ids, self.uids))])

    def _parts(self, ids: IntArray, read: Callable[[int], Any]) -> Iterator[tuple[Any, IntArray]]:
        for part, rows in enumerate(split_ids(ids, self.counts)):
            if len(rows):
                yield read(part), rows

    def find_keys(self, name: str, wanted: Collection[str]) -> IntArray:
        """Return the sorted ids of the samples with some keys.

        Args:
            name: what messages call the list of keys.
            wanted: the keys.

        Raises:
            InputError: a key does not exist or names two samples.
        """
        wanted = set(wanted)
        found = self._places(name, wanted)
        if wanted and not found:
            wanted = self._packed(name, wanted)
            found = self._places(name, wanted)
        if missing := sorted(wanted - found.keys()):
            raise InputError(f"{name}: there is no sample with the key {missing[0]!r} in {self.title}.")
        return np.array(sorted(found.values()), dtype=np.int64)

    def _places(self, name: str, wanted: Collection[str]) -> dict[str, int]:
        """Return the ids of those of some keys that there are."""
        found, first = dict[str, int](), 0
        for part, count in enumerate(self.counts):
            for row, key in enumerate(self.keys(part)):
                if key in wanted:
                    if key in found:
                        raise InputError(f"{name}: the key {key!r} names two samples: choose by ids instead.")
                    found[key] = first + row
            first += count
        return found

    def _packed(self, name: str, paths: set[str]) -> set[str]:
        """Return the keys that `dprune pack` made of paths of images, or these where it made none of them.

        Rows of clip-retrieval that come from a folder are called by their paths, and keys are those below the folder.
        """
        stems = {path.rpartition(".")[0].replace(".", "_") for path in paths}
        folders = min(stems).split("/")
        tails = ["/".join(folders[at:]) for at in range(len(folders))]
        known = self._places(name, set(tails))
        for tail in (tail for tail in tails if tail and tail in known):
            above = min(stems).removesuffix(tail)
            keys = {stem.removeprefix(above) for stem in stems if stem.startswith(above)}
            if len(keys) == len(paths):
                return keys
        return paths

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
            raise InputError(f"{name}: none of its {len(known):,} uids matches a sample of {self.title}.")
        if lost := int((~seen).sum()):
            _log.info("%s: %s of its %s uids match no sample of %s.", name, f"{lost:,}", f"{len(known):,}", self.title)
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

    def keys(self, part: int) -> Sequence[str]:
        """Return the keys of a shard's samples."""
        return self.dataset.shards[part].index().keys()

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
            "shard: uids of DataComp name samples that its own download wrote."
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

    def keys(self, part: int) -> Sequence[str]:
        """Return the keys of a part's rows."""
        return self._folder.keys(part)

    def uids(self, part: int) -> UidArray:
        """Return the uids of a part's rows."""
        return self._folder.uids(part)


def open_named(sources: Sequence[str], choice: MemberChoice | None = None) -> NamedSamples:
    """Open the dataset that ids are of.

    Args:
        sources: one folder of clip-retrieval, or what `open_dataset` takes.
        choice: which members of shards are images, None for the default.

    Raises:
        InputError: it is neither, or damaged.
    """
    if len(sources) == 1 and kind_of(sources[0]) == "clip-retrieval":
        return NamedRows(ClipFolder(sources[0]))
    return NamedShards(open_dataset(sources, choice))
