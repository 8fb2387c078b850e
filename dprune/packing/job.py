"""The job of `dprune pack`: samples of any origin become numbered shards with a manifest.

Which sample goes into which shard is known before anything is read, so shards are made independently of each
other, and a journal beside them lets a rerun go on where a killed run ended.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dprune.errors import BadImage, InputError
from dprune.formats.class_names import CLASSES, ClassNames
from dprune.formats.images import encode_image, first_frame, resize_image
from dprune.formats.jobs import Job
from dprune.formats.manifests import read_manifest
from dprune.formats.members import IMAGE_SUFFIXES, MemberChoice, split_name, with_image
from dprune.formats.provenance import FINDINGS_KEY, Record, make_record, with_findings
from dprune.formats.publish import Output
from dprune.formats.shard_journal import Bad, Entry, FinishedShard, Journal, complete_shards, existing_shards
from dprune.formats.shards import BAD
from dprune.formats.whole_files import count_lines
from dprune.packing.opening import find_source
from dprune.packing.samples import Sample
from dprune.packing.settings import PackSettings
from dprune.packing.sources import Source
from dprune.packing.streams import Streams
from dprune.runtime import Monitor, check_stop, cpu_count
from dprune.workers import Workers

_log = logging.getLogger("dprune")

CHUNK = 8
"""Samples that travel together: each costs an exchange with a worker, and photos of 10 MB take room."""

# A key with the number or the content of its sample, and what becomes of it.
Task = tuple[str, "int | Sample"]
Result = tuple[str, "Sample | Bad"]


def open_pack(
    locations: Sequence[str], settings: PackSettings, output: Output, members: MemberChoice | None = None
) -> PackJob:
    """Find out what the locations are, and narrow shards to a subset.

    Args:
        locations: any number of sources of any kinds, in the order in which they are packed, or of streams alone.
        settings: what is packed of them, and how.
        output: where the shards go.
        members: which members of shards are images and labels, None for the default.

    Raises:
        InputError: a location does not exist or holds nothing to pack.
        MismatchError: the subset speaks of another dataset.
        UsageError: the locations cannot be packed together, or have no ids that a subset could speak of.
    """
    return PackJob(find_source(locations, settings, members or MemberChoice()), settings, output)


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
        bad = Path(self.output.path) / BAD
        if self.settings.strict and bad.exists():
            first = bad.read_bytes().partition(b"\n")[0]
            raise _unreadable(**json.loads(first.decode("utf-8", "surrogateescape")))
        return True

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Write the shards that are missing, then classes, log of unreadable images and manifest."""
        output = Path(self.output.path)
        if os.path.realpath(output) in self.source.folders:
            raise InputError(f"{self.output.path}: is the folder that is to be packed: give another -o.")
        keys = None
        if not isinstance(self.source, Streams):
            self.source.prepare(monitor)
            keys = self._keys(self.source.keys())
        plan = {} if keys is None else {"shards": -(-len(keys) // self.settings.shard_size), "samples": len(keys)}
        journal = Journal.begin(output, self.record, monitor, plan, resume=keys is not None)
        try:
            with Workers(self._load, self._worker_count(), chunk=CHUNK, monitor=monitor) as workers:
                monitor.start("pack", None if keys is None else len(keys), "samples")
                shards = list(self._shards(journal, keys, workers, monitor))
        except InputError:
            journal.abandon()
            raise
        journal.finish(self.record, shards, ClassNames(tuple(self.source.classes)))
        if cut := self._cut.total():
            _log.warning("images of several frames or pages, of which the first was taken: %s.", f"{cut:,}")
        return self.summary()

    def work(self) -> Mapping[str, Any]:
        """See `Job`; what a stream holds shows when it ends."""
        if isinstance(self.source, Streams):
            return {}
        return {"samples": len(self.source), "shards": -(-len(self.source) // self.settings.shard_size)}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        folder, manifest = Path(self.output.path), read_manifest(self.output.path)
        shards, record = manifest["shards"], manifest["provenance"]
        counts = {
            "samples": sum(shard["count"] for shard in shards),
            "unreadable": count_lines(folder / BAD),
            "shards": len(shards),
            "classes": count_lines(folder / CLASSES),
        }
        said = {
            "split": record["options"].get("split"),
            "left_out": record.get(FINDINGS_KEY, {}).get("left_out"),
        }
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
            return key, treated(content.whole(), self.settings)
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
            assert not isinstance(self.source, Streams)
            for begin in range(0, len(keys), size):
                end = min(begin + size, len(keys))
                yield zip(keys[begin:end], self.source.read(begin, end), strict=True)
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


def treated(sample: Sample, settings: PackSettings) -> Sample:
    """Resize a sample's image, or decode it to see that it is whole unless the sample is trusted.

    What shards cannot hold becomes a PNG.

    Raises:
        BadImage: the image cannot be decoded.
    """
    suffix, content = sample.members[sample.image]
    if settings.size is None and sample.trusted and suffix in IMAGE_SUFFIXES:
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
