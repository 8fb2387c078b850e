"""Images that were never packed as a dataset: stretches of a source stand for the shards that they would become.

Measuring reads them where they are, so that no copy of them takes room or time.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from dprune.errors import BadImage, InputError, UsageError
from dprune.formats.class_names import ClassNames
from dprune.formats.members import LABEL_SUFFIX
from dprune.formats.provenance import digest
from dprune.formats.shard_index import LeftOut
from dprune.formats.shards import Dataset, Shard, ShardSize
from dprune.packing.folders import FolderSource
from dprune.packing.opening import opener_of
from dprune.packing.samples import Sample
from dprune.packing.settings import PackSettings
from dprune.packing.sources import Source

PORTION = 2048
"""Images whose features are made and published together."""
HELD = 16
"""Samples that a reader keeps: as many as are decoded together, of which all labels are read before the images."""
PROBED = 16
"""Images of a folder that are read to tell it from another with the same names and sizes."""


def is_unpacked(location: str) -> bool:
    """Tell what `pack` takes and what is no shards: folders and archives of images, tables and the like."""
    return opener_of(location) is not None


def open_images(location: str) -> Source:
    """Open a location that `is_unpacked`.

    Args:
        location: a folder or zip of images, or another of its sources.

    Raises:
        InputError: it holds no images, is not sound, or takes options to be read.
        UsageError: it holds several splits.
    """
    opener = opener_of(location)
    assert opener is not None
    try:
        return opener.opened([location], PackSettings())
    except (InputError, UsageError) as error:
        if " --" not in str(error):
            raise
        remedy = "these are options of dprune pack, and its shards will do here"
        raise type(error)(f"{str(error).rstrip('.')}: {remedy}.") from error


def as_dataset(location: str, source: Source) -> Dataset:
    """Cut a source into stretches.

    Args:
        location: what messages call it.
        source: its samples.
    """
    keys, content = Keys(source), _content(source)
    stretches = []
    for number, begin in enumerate(range(0, len(source), PORTION)):
        count = min(PORTION, len(source) - begin)
        place = f"{location}/{number:06d}"
        stretches.append(UnpackedShard(place, source=source, keys=keys, content=content, begin=begin, count=count))
    return UnpackedDataset(tuple(stretches), (), source=source)


@dataclass(frozen=True, kw_only=True)
class UnpackedDataset(Dataset):
    """Stretches of a source, which knows what its labels are called."""

    source: Source = field(compare=False)

    @functools.cached_property
    def class_names(self) -> ClassNames:
        """See `Dataset`."""
        return ClassNames(tuple(self.source.classes))


class Keys:
    """Keys of a source: for a table its column of names is read, which takes long and is seldom wanted."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @functools.cached_property
    def all(self) -> Sequence[str]:
        """The keys of all samples, in order."""
        return list(self._source.keys())


def _content(source: Source) -> str:
    """Return a digest of a source that does not depend on where it lies."""
    parents = {role: parent["digest"] for role, parent in source.parents.items()}
    probed = hashlib.sha256()
    if isinstance(source, FolderSource):
        # Its parent knows names and sizes, which images drawn anew share wherever their format does not compress.
        for number in sorted({len(source) * place // PROBED for place in range(PROBED)}):
            sample = _loaded(source, number)
            probed.update(b"" if isinstance(sample, BadImage) else sample.members[sample.image][1])
    return digest([parents, dict(source.options), probed.hexdigest()])


def _loaded(source: Source, number: int) -> Sample | BadImage:
    try:
        return source.load(number)
    except BadImage as error:
        return error


@dataclass(frozen=True, kw_only=True)
class UnpackedShard(Shard):
    """Consecutive samples of a source, in the place of a shard.

    Attributes:
        source: all samples.
        keys: of all of them.
        content: digest of the source.
        begin: number in the source of the first sample of this one.
        count: samples of this one.
    """

    source: Source = field(compare=False)
    keys: Keys = field(compare=False)
    content: str
    begin: int
    count: int

    @functools.cached_property
    def size(self) -> ShardSize:
        """What it holds, for which nothing is read."""
        return ShardSize(self.count, digest([self.content, self.begin, self.count]), LeftOut())

    def sample_keys(self) -> Sequence[str]:
        """See `Shard`."""
        return self.keys.all[self.begin : self.begin + self.count]

    def stored_keys(self) -> None:
        """Return None: of a table a column would be read for them, and whoever has the images can ask those."""

    def reader(self) -> UnpackedReader:
        """See `Shard`."""
        return UnpackedReader(self)


class UnpackedReader:
    """Loads samples of an unpacked shard; made anew in each worker process."""

    def __init__(self, shard: UnpackedShard) -> None:
        self._shard = shard
        self._held: dict[int, Sample | BadImage] = {}

    def _sample(self, row: int) -> Sample | BadImage:
        if row not in self._held:
            if len(self._held) == HELD:
                del self._held[next(iter(self._held))]
            self._held[row] = _loaded(self._shard.source, self._shard.begin + row)
        return self._held[row]

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        return self._shard.keys.all[self._shard.begin + row]

    def label(self, row: int) -> int:
        """Return the label of a sample, -1 for none.

        Raises:
            InputError: the label is not a whole number.
        """
        sample = self._sample(row)
        found = dict(() if isinstance(sample, BadImage) else sample.members).get(LABEL_SUFFIX)
        return -1 if found is None else self._shard.choice.label(f"{self._shard.location}: {self.key(row)}", found)

    def image(self, row: int) -> bytes:
        """Return the encoded image of a sample.

        Raises:
            BadImage: it cannot be read.
        """
        sample = self._sample(row)
        if isinstance(sample, BadImage):
            raise sample
        return sample.members[sample.image][1]
