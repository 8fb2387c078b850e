"""Where samples get their names: shards, stores of what was made from them, and folders of clip-retrieval."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dprune.errors import InputError
from dprune.formats.checked_json import parse_json
from dprune.formats.class_names import ClassNames
from dprune.formats.clip_retrieval import ClipFolder
from dprune.formats.columns import has_arrow
from dprune.formats.img2dataset import table_beside, table_uids
from dprune.formats.kinds import kind_of
from dprune.formats.members import MemberChoice
from dprune.formats.named import IntArray, NamedSamples
from dprune.formats.shards import Dataset, ShardReader, open_dataset
from dprune.formats.stores import KEYS, Store
from dprune.formats.uids import UidArray, parse_uids


class NamedShards(NamedSamples):
    """Samples of shards: their keys are those of their members, their uids those in a table beside or in KEY.json."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.title = dataset, dataset.title

    @property
    def class_names(self) -> ClassNames:  # type: ignore[override]
        """What their labels are called, for which a column of a table may have to be read."""
        return self.dataset.class_names

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

    @property
    def knows_keys(self) -> bool:
        """Whether there are metadata that can be read."""
        return has_arrow() and all(part.metadata is not None for part in self._folder.parts)

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
        self._store, self.title, self.class_names = store, str(store.folder), store.class_names

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset that the store was made from."""
        return self._store.fingerprint

    @property
    def counts(self) -> Sequence[int]:
        """Samples in each part."""
        return self._store.counts

    @property
    def knows_keys(self) -> bool:
        """Whether each part keeps its keys, as those that an older dprune wrote do not."""
        return all(KEYS in file.places for file in self._store.files)

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
                f"{self.title}: holds no keys, because an older dprune made it: dprune select --within FILE --shards "
                "SHARDS -o keep.npy makes ids of keys."
            )
        return keys

    def uids(self, part: int) -> UidArray:
        """Refuse: uids are not kept."""
        raise InputError(
            f"{self.title}: holds no uids of DataComp: dprune select --within FILE --shards SHARDS -o keep.npy makes "
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
