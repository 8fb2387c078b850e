"""The job behind `dprune pack`: samples of any origin become numbered shards with a manifest.

Which sample goes into which shard is known before anything is read, so shards are made independently of each
other, and a journal beside them lets a rerun go on where a killed run ended.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError
from dprune.formats.images import BadImage, decode_image, encode_image, resize_image
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import canonical, difference, make_record
from dprune.formats.publish import publish, publish_bytes, publish_json
from dprune.formats.shards import JOURNAL, MANIFEST, read_manifest
from dprune.formats.tar import END_MARKER, member_bytes
from dprune.packing.pool import Workers
from dprune.packing.sources import CLASSES, Sample, Source
from dprune.packing.streams import Streams
from dprune.runtime import check_stop, cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dprune.formats.provenance import Record
    from dprune.runtime import Monitor

BAD = "bad.jsonl"

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
class Bad:
    """A sample whose image cannot be read, and why."""

    reason: str


@dataclass(frozen=True)
class PackedShard:
    """What one finished shard holds."""

    name: str
    count: int
    digest: str
    bad: list[dict[str, Any]]


@dataclass(frozen=True)
class Pack:
    """One pack.

    Attributes:
        source: samples by number, or streams.
        treatment: what happens to each image.
        shard_size: most samples in a shard.
        unique_keys: whether repeated keys get a number instead of being refused.
        strict: whether an unreadable image ends the work.
        workers: processes that decode, None for one a core.
        tags: what the user wants to be remembered.
    """

    source: Source | Streams
    treatment: Treatment = field(default_factory=Treatment)
    shard_size: int = 10_000
    unique_keys: bool = False
    strict: bool = False
    workers: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def record(self) -> Record:
        """Provenance of the shards."""
        # What a stream holds is known when it has ended, so an unfinished pack has no digest of it.
        streamed = isinstance(self.source, Streams)
        parents = {"stream": {"external": True}} if isinstance(self.source, Streams) else self.source.parents
        options = {**self.treatment.options, "shard_size": self.shard_size}
        options |= {"keys": "unique"} if self.unique_keys else {}
        options |= {"streamed": True} if streamed else {}
        return make_record("pack", options, parents=parents, tags=self.tags)

    def existing(self, output: str) -> Record | None:
        """Return the record of a finished or an interrupted pack at `output`."""
        found = existing_record(output, folder_of="shards")
        if found == {} and (Path(output) / JOURNAL / MANIFEST).exists():
            journal: Record = read_manifest(Path(output) / JOURNAL).get("provenance", {})
            return journal
        return found

    def complete(self, output: str) -> bool:
        """Tell whether the pack at `output` was finished and has all its shards.

        Raises:
            InputError: it lacks unreadable images, with `strict`.
        """
        folder = Path(output)
        names = _listed(folder)
        if not names or not all((folder / name).is_file() for name in names):
            return False
        if self.strict and (folder / BAD).exists():
            first = (folder / BAD).read_bytes().partition(b"\n")[0]
            raise _unreadable(**json.loads(first.decode("utf-8", "surrogateescape")))
        # The manifest is published last: a journal beside it is what a kill left while it was being removed.
        shutil.rmtree(folder / JOURNAL, ignore_errors=True)
        return True

    def run(self, output: str, monitor: Monitor) -> dict[str, Any]:
        """Write the shards that are missing, then classes, ledger and manifest.

        Raises:
            InputError: a key occurs twice, an image is unreadable with `strict`, or the folder holds other shards
                or the source itself.
            Interrupted: the monitor asked to stop; finished shards stay.
        """
        if os.path.realpath(output) in self.source.folders:
            raise InputError(f"{output}: is the folder that is to be packed: give another -o.")
        keys = None if isinstance(self.source, Streams) else self._keys(self.source.keys())
        journal = Journal.begin(Path(output), self.record, resume=keys is not None)
        with Workers(self._load, self._worker_count()) as workers:
            monitor.start("pack", None if keys is None else len(keys), "samples")
            shards = list(self._shards(journal, keys, workers, monitor))
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
    ) -> Iterator[PackedShard]:
        for number, tasks in enumerate(self._portions(keys)):
            check_stop(monitor)
            done = journal.shard(number)
            if done is None:
                done = journal.write(number, self._accept(workers.map(tasks), monitor))
            elif self.strict and done.bad:
                raise _unreadable(**done.bad[0])
            else:
                monitor.advance(done.count + len(done.bad))
            yield done

    def _portions(self, keys: Sequence[str] | None) -> Iterator[Iterable[Task]]:
        """Cut the source into the tasks of each shard; those of a stream must be used up before the next shard's."""
        if keys is not None:
            for begin in range(0, len(keys), self.shard_size):
                names = keys[begin : begin + self.shard_size]
                yield zip(names, itertools.count(begin), strict=False)
            return
        assert isinstance(self.source, Streams)
        seen: set[str] = set()
        samples = ((self._claim(sample.key, seen), sample) for sample in self.source)
        for first in samples:
            # Whether there is another shard shows with its first sample; the others are read when they are wanted.
            yield itertools.chain([first], itertools.islice(samples, self.shard_size - 1))

    def _accept(self, samples: Iterable[Result], monitor: Monitor) -> Iterator[Result]:
        for key, sample in samples:
            if isinstance(sample, Bad) and self.strict:
                raise _unreadable(key, sample.reason)
            check_stop(monitor)
            monitor.advance()
            yield key, sample


def _unreadable(key: str, reason: str) -> InputError:
    return InputError(f"the image of {key!r} {reason}: mend it, or leave out --strict.")


def _listed(folder: Path) -> list[str]:
    """Return the names of the shards that a folder's manifest lists."""
    manifest = read_manifest(folder)
    return [shard["name"] for shard in manifest["shards"]] if manifest.get("kind") == "shards" else []


def _variants(key: str) -> Iterator[str]:
    yield key
    yield from (f"{key}-{number}" for number in itertools.count(2))


@dataclass(frozen=True)
class Journal:
    """A pack in the making: which of its shards are finished, in a folder that is removed at the end."""

    folder: Path

    @property
    def path(self) -> Path:
        """Where the journal is."""
        return self.folder / JOURNAL

    @classmethod
    def begin(cls, folder: Path, record: Record, *, resume: bool) -> Journal:
        """Go on with the pack that `record` describes, or clear the folder of what dprune left there and begin.

        Raises:
            InputError: the folder holds tar files that dprune did not write.
        """
        journal = cls(folder)
        if (
            journal.path.exists()
            and resume
            and not difference(read_manifest(journal.path).get("provenance", {}), record)
        ):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()
            return journal
        if {path.name for path in folder.glob("*.tar")} - journal._own():
            raise InputError(f"{folder}: holds .tar files that dprune pack did not write: give another -o.")
        journal._clear()
        publish_json(journal.path / MANIFEST, {"kind": "journal", "provenance": record})
        return journal

    def _own(self) -> set[str]:
        """Return the names of the shards that dprune wrote here."""
        names = {*_listed(self.folder), *_listed(self.path)}
        # The journal's entry of a shard comes after the shard, which may thus be the only trace of itself.
        if self.path.exists():
            names |= {path.name for path in self.folder.glob("[0-9]" * 6 + ".tar")}
        return names

    def _clear(self) -> None:
        names = self._own()
        if (self.folder / MANIFEST).exists():
            # It must not outlive a shard. As the journal's it still tells, after a kill, what is to be removed.
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir()
            (self.folder / MANIFEST).replace(self.path / MANIFEST)
        for name in (*names, CLASSES, BAD):
            (self.folder / name).unlink(missing_ok=True)
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink()
        shutil.rmtree(self.path, ignore_errors=True)

    def _entry(self, number: int) -> Path:
        return self.path / f"{number:06d}.json"

    def shard(self, number: int) -> PackedShard | None:
        """Return a shard that is finished, None for one that is not or that was removed since."""
        try:
            shard = PackedShard(**json.loads(self._entry(number).read_text()))
        except FileNotFoundError:
            return None
        return shard if (self.folder / shard.name).is_file() else None

    def write(self, number: int, samples: Iterable[Result]) -> PackedShard:
        """Publish one shard and note that it is finished."""
        name, sha, count = f"{number:06d}.tar", hashlib.sha256(), 0
        bad: list[dict[str, Any]] = []
        with publish(self.folder / name) as file:
            for key, sample in samples:
                if isinstance(sample, Bad):
                    bad.append({"key": key, "reason": sample.reason})
                    continue
                count += 1
                for suffix, content in sample.members:
                    member = f"{key}.{suffix}"
                    sha.update(f"{member}\0{len(content)}\n".encode("utf-8", "surrogateescape"))
                    file.write(member_bytes(member, content))
            file.write(END_MARKER)
        shard = PackedShard(name, count, sha.hexdigest(), bad)
        publish_json(self._entry(number), vars(shard))
        return shard

    def finish(self, record: Record, shards: Sequence[PackedShard], classes: Sequence[str]) -> None:
        """Write classes, ledger and manifest, and remove the journal.

        Raises:
            InputError: there is nothing in the pack.
        """
        if not any(shard.count for shard in shards):
            self._clear()
            raise InputError("no sample could be packed: every image is unreadable, or there is none.")
        if classes:
            publish_bytes(self.folder / CLASSES, _lines(classes))
        ledger = [canonical(entry) for shard in shards for entry in shard.bad]
        if ledger:
            publish_bytes(self.folder / BAD, _lines(ledger))
        listed = [{"name": shard.name, "count": shard.count, "digest": shard.digest} for shard in shards]
        publish_json(self.folder / MANIFEST, {"kind": "shards", "shards": listed, "provenance": record})
        shutil.rmtree(self.path)


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode("utf-8", "surrogateescape")
