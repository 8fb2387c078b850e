"""The job behind `dprune pack`: samples of any origin become numbered shards with a manifest.

Which sample goes into which shard is known before anything is read, so shards are made independently of each
other, and a journal beside them lets a rerun go on where a killed run ended.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.images import BadImage, decode_image, encode_image, resize_image
from dprune.formats.jobs import Job
from dprune.formats.provenance import Record, make_record
from dprune.formats.publish import Output
from dprune.formats.shard_index import split_name
from dprune.formats.shard_journal import (
    Bad,
    Entry,
    FinishedShard,
    Journal,
    complete_shards,
    existing_shards,
)
from dprune.formats.shards import BAD
from dprune.packing.pool import Workers
from dprune.packing.sources import Sample, Source
from dprune.packing.streams import Streams
from dprune.runtime import Monitor, check_stop, cpu_count

# A key with the number or the content of its sample, and what becomes of it.
Task = tuple[str, "int | Sample"]
Result = tuple[str, "Sample | Bad"]


@dataclass(frozen=True)
class Treatment:
    """What happens to each image.

    Attributes:
        size: pixels of the shorter side, None to copy the bytes.
        crop: `center` or `none`, see `resize_image`.
        format: suffix of the format that resized images are written in.
    """

    size: int | None = None
    crop: str = "center"
    format: str = "png"

    def apply(self, sample: Sample, *, trusted: bool) -> Sample:
        """Resize a sample's image, or decode it to see that it is whole unless it is trusted.

        Raises:
            BadImage: the image cannot be decoded.
        """
        if self.size is None and trusted:
            return sample
        image = decode_image(sample.members[sample.image][1])
        if self.size is None:
            return sample
        members = list(sample.members)
        members[sample.image] = (self.format, encode_image(resize_image(image, self.size, self.crop), self.format))
        return Sample(sample.key, members, sample.image)

    @property
    def options(self) -> dict[str, Any]:
        """What a record says of it."""
        return {} if self.size is None else {"size": self.size, "crop": self.crop, "format": self.format}


@dataclass(frozen=True)
class PackJob(Job):
    """One pack.

    Attributes:
        source: samples by number, or streams.
        treatment: what happens to each image.
        shard_size: most samples in a shard.
        unique_keys: whether repeated keys get a number instead of being refused.
        strict: whether an unreadable image ends the work.
        workers: processes that decode, None for one a core.
    """

    source: Source | Streams
    treatment: Treatment
    shard_size: int
    unique_keys: bool
    strict: bool
    workers: int | None
    output: Output

    @property
    def record(self) -> Record:
        """Provenance of the shards."""
        # What a stream holds is known when it has ended, so an unfinished pack has no digest of it.
        streamed = isinstance(self.source, Streams)
        unread = {"stream": {"external": True, "digest": "unread"}}
        parents = unread if isinstance(self.source, Streams) else self.source.parents
        options = {**self.treatment.options, "shard_size": self.shard_size}
        options |= {"keys": "unique"} if self.unique_keys else {}
        options |= {"streamed": True} if streamed else {}
        return make_record("pack", options, parents=parents, tags=self.output.tags)

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
        if self.strict and ledger.exists():
            first = ledger.read_bytes().partition(b"\n")[0]
            raise _unreadable(**json.loads(first.decode("utf-8", "surrogateescape")))
        return True

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Write the shards that are missing, then classes, ledger and manifest.

        Raises:
            InputError: a key occurs twice, an image is unreadable with `strict`, or the folder holds other shards
                or the source itself.
            Interrupted: the monitor asked to stop; finished shards stay.
        """
        output = self.output.path
        if os.path.realpath(output) in self.source.folders:
            raise InputError(f"{output}: is the folder that is to be packed: give another -o.")
        keys = None if isinstance(self.source, Streams) else self._keys(self.source.keys())
        journal = Journal.begin(Path(output), self.record, monitor, resume=keys is not None)
        try:
            with Workers(self._load, self._worker_count()) as workers:
                monitor.start("pack", None if keys is None else len(keys), "samples")
                shards = list(self._shards(journal, keys, workers, monitor))
        except InputError:
            journal.abandon()
            raise
        record = self.record
        if isinstance(self.source, Streams):
            record["parents"]["stream"]["digest"] = self.source.digest
        classes = [] if isinstance(self.source, Streams) else self.source.classes
        journal.finish(record, shards, classes)
        samples, bad = sum(shard.count for shard in shards), sum(len(shard.bad) for shard in shards)
        return {"samples": samples, "unreadable": bad, "shards": len(shards), "classes": len(classes)}

    def _worker_count(self) -> int:
        if self.treatment.size is None and self.source.trusted:
            # Bytes that are only copied would cost more on their way through a worker than they cost here.
            return 0
        count = cpu_count() if self.workers is None else self.workers
        return 0 if count < 2 and self.workers is None else count

    def _keys(self, keys: Iterable[str]) -> list[str]:
        seen: set[str] = set()
        return [self._claim(key, seen) for key in keys]

    def _claim(self, key: str, seen: set[str]) -> str:
        """Tell a key apart from those that were seen, or refuse it, and add it to them."""
        if split_name(f"{key}.png") != (key, "png"):
            raise InputError(f"the key {key!r} would be ignored by loaders, as names __like_this__ are: rename it.")
        if key in seen and not self.unique_keys:
            raise InputError(f"the key {key!r} occurs twice: rename one, or give --keys unique.")
        key = next(name for name in _variants(key) if name not in seen)
        seen.add(key)
        return key

    def _load(self, task: Task) -> Result:
        """Read and treat one sample; runs in a worker."""
        key, content = task
        try:
            if isinstance(content, int):
                assert not isinstance(self.source, Streams)
                content = self.source.load(content)
            return key, self.treatment.apply(content, trusted=self.source.trusted)
        except BadImage as error:
            return key, Bad(str(error))

    def _shards(
        self,
        journal: Journal,
        keys: Sequence[str] | None,
        workers: Workers[Task, Result],
        monitor: Monitor,
    ) -> Iterator[FinishedShard]:
        for number, tasks in enumerate(self._portions(keys, monitor)):
            check_stop(monitor)
            done = journal.shard(number)
            if done is None:
                done = journal.write(number, self._accept(workers.map(tasks), monitor))
            elif self.strict and done.bad:
                raise _unreadable(**done.bad[0])
            else:
                monitor.advance(done.count + len(done.bad))
            yield done

    def _portions(self, keys: Sequence[str] | None, monitor: Monitor) -> Iterator[Iterable[Task]]:
        """Cut the source into the tasks of each shard; those of a stream must be used up before the next shard's."""
        if keys is not None:
            for begin in range(0, len(keys), self.shard_size):
                names = keys[begin : begin + self.shard_size]
                yield zip(names, itertools.count(begin), strict=False)
            return
        assert isinstance(self.source, Streams)
        seen: set[str] = set()
        samples = ((self._claim(sample.key, seen), sample) for sample in self.source.read(monitor))
        for first in samples:
            # Whether there is another shard shows with its first sample; the others are read when they are wanted.
            yield itertools.chain([first], itertools.islice(samples, self.shard_size - 1))

    def _accept(self, samples: Iterable[Result], monitor: Monitor) -> Iterator[Entry]:
        for key, sample in samples:
            if isinstance(sample, Bad) and self.strict:
                raise _unreadable(key, sample.reason)
            check_stop(monitor)
            monitor.advance()
            yield key, sample if isinstance(sample, Bad) else sample.members


def _unreadable(key: str, reason: str) -> InputError:
    return InputError(f"the image of {key!r} {reason}: mend it, or leave out --strict.")


def _variants(key: str) -> Iterator[str]:
    yield key
    yield from (f"{key}-{number}" for number in itertools.count(2))
