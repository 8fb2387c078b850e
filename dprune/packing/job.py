"""The job of `dprune pack`: samples of any origin become numbered shards with a manifest.

Which sample goes into which shard is known before anything is read, so shards are made independently of each
other, and a journal beside them lets a rerun go on where a killed run ended.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dprune.errors import BadImage, InputError, UsageError
from dprune.formats.images import encode_image, first_frame, resize_image
from dprune.formats.jobs import Job
from dprune.formats.locations import expand
from dprune.formats.members import IMAGE_SUFFIXES, MemberChoice, split_name, with_image
from dprune.formats.provenance import Record, make_record, with_findings
from dprune.formats.publish import STDOUT, Output
from dprune.formats.shard_journal import Bad, Entry, FinishedShard, Journal, complete_shards, existing_shards
from dprune.formats.shards import BAD, open_dataset
from dprune.formats.subsets import read_subset
from dprune.packing.folders import FileChoice, FolderSource, images_beside_shards, is_images
from dprune.packing.sources import DigitsSource, Sample, ShardSource, Source, is_called_an_image
from dprune.packing.streams import Streams, compressed_tars, is_compressed, is_stream
from dprune.packing.zips import ZipSource
from dprune.runtime import Monitor, check_stop, cpu_count
from dprune.workers import Workers

DIGITS = "sklearn:digits"
_log = logging.getLogger("dprune")

CHUNK = 8
"""Samples that travel together: each costs an exchange with a worker, and photos of 10 MB take room."""

# A key with the number or the content of its sample, and what becomes of it.
Task = tuple[str, "int | Sample"]
Result = tuple[str, "Sample | Bad"]


@dataclass(frozen=True)
class PackSettings:
    """What is packed, and how, in the words of `dprune pack`, which says what each means."""

    size: int | None = None
    crop: str = "center"
    format: str = "png"
    subset: str | None = None
    keys: str = "path"
    split: str | None = None
    beside: tuple[str, ...] = ()
    shard_size: int = 10_000
    strict: bool = False
    workers: int | None = None

    def options(self) -> dict[str, Any]:
        """Return what provenance records."""
        resized = {} if self.size is None else {"size": self.size, "crop": self.crop, "format": self.format}
        keys = {"keys": self.keys} if self.keys == "unique" else {}
        beside = {"beside": sorted(self.beside)} if self.beside else {}
        return {**resized, "shard_size": self.shard_size, **keys, **beside}


def open_pack(
    locations: Sequence[str], settings: PackSettings, output: Output, members: MemberChoice | None = None
) -> PackJob:
    """Find out what the locations are, and narrow shards to a subset.

    Args:
        locations: one folder or zip of images, `sklearn:digits`, or any number of shards or of streams.
        settings: what is packed of them, and how.
        output: where the shards go.
        members: which members of shards are images and labels, None for the default.

    Raises:
        InputError: a location does not exist or holds nothing to pack.
        MismatchError: the subset speaks of another dataset.
        UsageError: the locations cannot be packed together, or have no ids that a subset could speak of.
    """
    streams = [location for location in locations if is_stream(location)]
    images = [location for location in locations if location == DIGITS or _is_images(location)]
    if (streams and len(streams) < len(locations)) or (images and len(locations) > 1):
        raise UsageError("only shards can be packed together: give one folder or zip of images, or only streams.")
    if settings.subset is not None and (images or streams):
        raise _without_ids(locations[0])
    if (settings.split is not None or settings.beside) and images in ([], [DIGITS]):
        raise UsageError("--split and --beside speak of folders and zips of images.")
    members = members or MemberChoice()
    if images and members.options():
        raise UsageError("--image-member and --label-member speak of shards.")
    if STDOUT in streams and sys.stdin.isatty():
        raise UsageError("stdin is a terminal: pipe shards in, or name files.")
    source: Source | Streams
    if streams:
        source = Streams(streams, members)
    elif images == [DIGITS]:
        source = DigitsSource()
    elif images:
        kind = FolderSource if os.path.isdir(images[0]) else ZipSource
        source = kind(images[0], FileChoice(settings.split, settings.beside))
    else:
        source = _open_shards(locations, settings.subset, members)
    return PackJob(source, settings, output)


def _is_images(location: str) -> bool:
    return is_images(location) and not compressed_tars(location)


def _without_ids(location: str) -> UsageError:
    return UsageError(f"--subset speaks of samples of shards: pack {location} first, then a subset of that.")


def _open_shards(sources: Sequence[str], subset: str | None, members: MemberChoice) -> ShardSource | Streams:
    found = expand([place for source in sources for place in compressed_tars(source) or [source]])
    if any(map(is_compressed, found)):
        if subset is not None:
            raise _without_ids(sources[0])
        return Streams(found, members)
    for location in sources:
        if is_called_an_image(location) and os.path.isfile(location):
            raise InputError(f"{location}: is an image: give the folder or zip that it lies in.")
        if count := images_beside_shards(location):
            _log.warning("%s: is taken as a folder of shards, and its %s images are left out.", location, f"{count:,}")
    dataset = open_dataset(found, members)
    if subset is None:
        return ShardSource(dataset)
    ids, record = read_subset(subset, dataset)
    if not len(ids):
        raise InputError(f"{subset}: keeps no sample, and shards without samples help nobody.")
    return ShardSource(dataset, ids, record)


@dataclass(frozen=True)
class PackJob(Job):
    """One pack."""

    source: Source | Streams
    settings: PackSettings
    output: Output
    _cut: Counter[str] = field(default_factory=Counter, init=False, compare=False)

    @property
    def record(self) -> Record:
        """Provenance of the shards; what a stream holds is known to it when the stream has ended."""
        options = {**self.settings.options(), **self.source.options}
        record = make_record("pack", options, parents=self.source.parents, tags=self.output.tags)
        return with_findings(record, {"left_out": self.source.left_out} if self.source.left_out else {})

    def existing(self) -> Record | None:
        """Return the record of a finished or an interrupted pack."""
        return existing_shards(self.output.path)

    def complete(self) -> bool:
        """Tell whether the pack was finished and has all its shards.

        Raises:
            InputError: it lacks unreadable images, with `strict`.
        """
        if not complete_shards(self.output.path):
            return False
        ledger = Path(self.output.path) / BAD
        if self.settings.strict and ledger.exists():
            first = ledger.read_bytes().partition(b"\n")[0]
            raise _unreadable(**json.loads(first.decode("utf-8", "surrogateescape")))
        return True

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Write the shards that are missing, then classes, ledger and manifest."""
        output = Path(self.output.path)
        if os.path.realpath(output) in self.source.folders:
            raise InputError(f"{self.output.path}: is the folder that is to be packed: give another -o.")
        keys = None if isinstance(self.source, Streams) else self._keys(self.source.keys())
        plan = {} if keys is None else {"shards": -(-len(keys) // self.settings.shard_size), "samples": len(keys)}
        journal = Journal.begin(output, self.record, monitor, plan, resume=keys is not None)
        try:
            with Workers(self._load, self._worker_count(), chunk=CHUNK, monitor=monitor) as workers:
                monitor.start("pack", None if keys is None else len(keys), "samples")
                shards = list(self._shards(journal, keys, workers, monitor))
        except InputError:
            journal.abandon()
            raise
        journal.finish(self.record, shards, self.source.classes)
        if cut := self._cut.total():
            _log.warning("images of several frames or pages, of which the first was taken: %s.", f"{cut:,}")
        samples, bad = sum(shard.count for shard in shards), sum(len(shard.bad) for shard in shards)
        said = {"split": self.source.options.get("split"), "left_out": self.source.left_out}
        counts = {"samples": samples, "unreadable": bad, "shards": len(shards), "classes": len(self.source.classes)}
        return counts | {name: value for name, value in said.items() if value}

    def _worker_count(self) -> int:
        if self.settings.size is None and self.source.trusted:
            # Bytes that are only copied would cost more on their way through a worker than they cost here.
            return 0
        if self.settings.workers is not None:
            return self.settings.workers
        return count if (count := cpu_count()) > 1 else 0

    def _keys(self, keys: Iterable[str]) -> list[str]:
        seen: set[str] = set()
        return [self._claim(key, seen) for key in keys]

    def _claim(self, key: str, seen: set[str]) -> str:
        """Tell a key apart from those that were seen, or refuse it, and add it to them."""
        if split_name(f"{key}.png") != (key, "png"):
            raise InputError(f"the key {key!r} would be ignored by loaders, as names __like_this__ are: rename it.")
        if key in seen and self.settings.keys != "unique":
            raise InputError(f"the key {key!r} occurs twice: rename one, or give --keys unique.")
        variants = itertools.chain([key], (f"{key}-{number}" for number in itertools.count(2)))
        key = next(name for name in variants if name not in seen)
        seen.add(key)
        return key

    def _load(self, task: Task) -> Result:
        """Read and treat one sample; runs in a worker."""
        key, content = task
        try:
            if isinstance(content, int):
                assert not isinstance(self.source, Streams)
                content = self.source.load(content)
            return key, treated(content, self.settings, trusted=self.source.trusted)
        except BadImage as error:
            return key, Bad(str(error))

    def _shards(
        self, journal: Journal, keys: Sequence[str] | None, workers: Workers[Task, Result], monitor: Monitor
    ) -> Iterator[FinishedShard]:
        for number, tasks in enumerate(self._portions(keys, monitor)):
            check_stop(monitor)
            done = journal.shard(number)
            if done is None:
                done = journal.write(number, self._accept(workers.map(tasks), monitor))
            elif self.settings.strict and done.bad:
                raise _unreadable(**done.bad[0])
            else:
                monitor.advance(done.count + len(done.bad))
            yield done

    def _portions(self, keys: Sequence[str] | None, monitor: Monitor) -> Iterator[Iterable[Task]]:
        """Cut the source into the tasks of each shard; those of a stream must be used up before the next shard's."""
        size = self.settings.shard_size
        if keys is not None:
            for begin in range(0, len(keys), size):
                yield zip(keys[begin : begin + size], itertools.count(begin), strict=False)
            return
        assert isinstance(self.source, Streams)
        seen: set[str] = set()
        samples = ((self._claim(sample.key, seen), sample) for sample in self.source.read(monitor))
        for first in samples:
            # Whether there is another shard shows with its first sample; the others are read when they are wanted.
            yield itertools.chain([first], itertools.islice(samples, size - 1))

    def _accept(self, samples: Iterable[Result], monitor: Monitor) -> Iterator[Entry]:
        for key, sample in samples:
            if isinstance(sample, Bad) and self.settings.strict:
                raise _unreadable(key, sample.reason)
            check_stop(monitor)
            monitor.advance()
            self._cut["images"] += not isinstance(sample, Bad) and sample.cut
            yield key, sample if isinstance(sample, Bad) else sample.members


def treated(sample: Sample, settings: PackSettings, *, trusted: bool) -> Sample:
    """Resize a sample's image, or decode it to see that it is whole unless it is trusted.

    What shards cannot hold becomes a PNG.

    Raises:
        BadImage: the image cannot be decoded.
    """
    suffix, content = sample.members[sample.image]
    if settings.size is None and trusted and suffix in IMAGE_SUFFIXES:
        return sample
    image, cut = first_frame(content)
    if settings.size is not None:
        image, suffix = resize_image(image, settings.size, settings.crop), settings.format
    elif suffix in IMAGE_SUFFIXES:
        return sample
    else:
        suffix = "png"
    members = with_image(sample.members, sample.image, suffix, encode_image(image, suffix))
    return Sample(sample.key, members, sample.image, cut)


def _unreadable(key: str, reason: str) -> InputError:
    return InputError(f"the image of {key!r} {reason}: mend it, or leave out --strict.")
