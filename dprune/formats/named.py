"""What samples are called outside dprune: keys, and uids of DataComp; in shards, stores and clip-retrieval's folders.

Ids count the rows of one dataset. What has its rows in another order, as clip-retrieval's have another than the shards
that they were made from, speaks of the same samples by their keys.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.class_names import NAMELESS, ClassNames
from dprune.formats.shards import split_ids
from dprune.formats.uids import UID, UidArray, UidSet

IntArray = npt.NDArray[np.int64]

_log = logging.getLogger("dprune")


class NamedSamples(ABC):
    """Samples of a dataset in the order of their ids, part by part, with their keys and uids.

    Attributes:
        title: what messages call the dataset.
        class_names: what its labels are called.
    """

    title: str
    class_names: ClassNames = NAMELESS

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

    @property
    def knows_keys(self) -> bool:
        """Whether `keys` returns any."""
        return True

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
                raise InputError(f"{self.title}: the key {key!r} names two samples: write ids, with --format npy.")
            seen.add(key)
        if broken := next((key for key in keys if "\n" in key or "\r" in key), None):
            raise InputError(f"the key {broken!r} is more than one line: write ids, with --format npy.")
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
            raise InputError(f"{name}: none of its {len(known):,} uids matches a sample of {self.title}.")
        if lost := int((~seen).sum()):
            _log.info("%s: %s of its %s uids match no sample of %s.", name, f"{lost:,}", f"{len(known):,}", self.title)
        return np.concatenate(rows)
