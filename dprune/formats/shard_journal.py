"""Folders of numbered shards in the making: a journal tells which are finished, so that a rerun goes on from there.

Workers with RANK and WORLD_SIZE may fill one folder: only the first of them removes what stood there before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.checked_json import (
    FileName,
    Flag,
    Hex,
    ListOf,
    Maybe,
    Object,
    Shape,
    Text,
    Whole,
    read_json,
    shaped,
)
from dprune.formats.class_names import CLASSES, ClassNames
from dprune.formats.digests import CHECK_KEY, RunningDigest, without_check
from dprune.formats.locations import JOURNAL
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, canonical, difference
from dprune.formats.publish import publish, publish_bytes, publish_json
from dprune.formats.ranges import bytes_digest, version
from dprune.formats.shards import BAD
from dprune.formats.tar import END_MARKER, member_bytes
from dprune.formats.temporary import is_temporary
from dprune.runtime import Monitor, check_stop, ranks

POLL_S = 0.2
MOST = 1_000_000
"""Shards of a folder, whose numbers have six digits."""

_JOURNALLED = re.compile(r"manifest\.json|\d{6}\.json")
_SHARD: dict[str, Shape] = {"name": FileName(), "count": Whole(), "digest": Hex(64), "xxh3": Hex(16)}
_UNREADABLE = ListOf(Object({"key": Text(), "reason": Text()}))
_ENTRY = Object({**_SHARD, "bad": _UNREADABLE, "version": Maybe(Text()), CHECK_KEY: Text()})
_EXPORT = Object({"option": Text(), "path": Text(), "mark": Text()})
PLAN = Object({}, {"shards": Whole(most=MOST), "samples": Whole(), "exports": ListOf(_EXPORT), "resumes": Flag()})
"""What there is to be in the end: how many shards and samples, where that is known before they are there; files beside
the folder, each with the option that names it, its path from the folder and `Beside.mark`; and whether what is
finished stays when the command is run again."""


@dataclass(frozen=True)
class Bad:
    """A sample whose image cannot be read, and why."""

    reason: str


# A key with the suffixes and contents of its sample's members, in the order in which they are written.
Entry = tuple[str, list[tuple[str, bytes]] | Bad]


@dataclass(frozen=True)
class FinishedShard:
    """What one finished shard holds.

    Attributes:
        name: of the file.
        count: samples.
        digest: of its members' names and sizes, see `ShardIndex`.
        xxh3: of the file's bytes, see `dprune.formats.digests`.
        bad: images that cannot be read, each with `key` and `reason`.
    """

    name: str
    count: int
    digest: str
    xxh3: str
    bad: list[dict[str, Any]]


@dataclass(frozen=True)
class Journal:
    """Which shards of a folder are finished; itself a folder in it that is removed at the end."""

    folder: Path

    @property
    def path(self) -> Path:
        """Where the journal is."""
        return self.folder / JOURNAL

    @classmethod
    def begin(
        cls, folder: Path, record: Record, monitor: Monitor, plan: Mapping[str, Any], *, resume: bool = True
    ) -> Journal:
        """Go on with the shards that `record` describes, or clear the folder of what dprune left there and begin.

        Of several workers the first clears and the others wait for it; where nothing stands, none waits.

        Args:
            folder: of the shards.
            record: their provenance.
            monitor: asked to stop.
            plan: what there is to be, see `PLAN`; whoever asks how far the work is finds it in the journal.
            resume: whether shards that are finished stay.

        Raises:
            InputError: the folder holds tar files that dprune did not write.
            Interrupted: the monitor asked to stop while this worker waited.
        """
        journal, stated = cls(folder), {**plan, "resumes": resume}
        while True:
            # Looked at in this order, what another worker begins in between is never taken for something to clear.
            untouched = journal._is_untouched()
            if resume and journal.is_of(record):
                journal._touch()
                return journal
            if untouched or ranks().rank == 0:
                if not untouched:
                    journal._check_foreign()
                    journal._clear()
                publish_json(journal.path / MANIFEST, {"kind": "journal", "provenance": record, "plan": stated})
                return journal
            check_stop(monitor)
            time.sleep(POLL_S)

    def _touch(self) -> None:
        """Note when the last of the workers began, in the time of the manifest, as a store does by writing its own."""
        # The others may have finished since.
        with contextlib.suppress(OSError):
            os.utime(self.path / MANIFEST)

    def is_of(self, record: Record) -> bool:
        """Tell whether the journal was begun for what `record` describes."""
        manifest = self.manifest()
        return manifest.get("kind") == "journal" and not difference(manifest["provenance"], record)

    def manifest(self) -> dict[str, Any]:
        """Return what the journal says of itself, empty if it is not there or cannot be trusted."""
        try:
            return read_manifest(self.path)
        except InputError:
            return {}

    def plan(self) -> dict[str, Any]:
        """Return what there is to be in the end, see `PLAN`; empty where nobody said so."""
        plan = self.manifest().get("plan", {})
        return {} if PLAN.misfit(plan) else dict(plan)

    def _is_untouched(self) -> bool:
        """Tell whether nothing is in the folder that a journal would speak of, or be taken to speak of."""
        begun = os.listdir(self.path) if self.path.is_dir() else [JOURNAL] if self.path.exists() else []
        there = os.listdir(self.folder) if self.folder.is_dir() else []
        spoken_of = [name for name in there if name in (MANIFEST, CLASSES, BAD) or name.endswith(".tar")]
        return not spoken_of and all(map(is_temporary, begun))

    def _check_foreign(self) -> None:
        """Refuse a folder whose files would be replaced or taken for samples though dprune did not write them."""
        ours = self._is_journal() or read_manifest(self.folder).get("kind") == "shards"
        named = {path.name for path in self.folder.glob("*.tar")} - self._own()
        if not ours:
            named |= {name for name in (MANIFEST, CLASSES, BAD, JOURNAL) if (self.folder / name).exists()}
        if named:
            raise InputError(f"{self.folder}: holds {min(named)}, which dprune did not write: give another -o.")

    def is_remnant(self) -> bool:
        """Tell whether the folder holds nothing but a journal that a kill cut short while it was begun or removed."""
        there = os.listdir(self.folder) if self._is_journal() else [MANIFEST]
        return all(name == JOURNAL or is_temporary(name) for name in there)

    def _is_journal(self) -> bool:
        """Tell whether what has the journal's name is one, by the names in it: its manifest may be damaged or gone."""
        if not self.path.is_dir():
            return False
        return all(_JOURNALLED.fullmatch(name) or is_temporary(name) for name in os.listdir(self.path))

    def _own(self) -> set[str]:
        """Return the names of the shards that dprune wrote here."""
        names = {*listed_shards(self.folder), *_listed(self.manifest())}
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
        shutil.rmtree(self.path, ignore_errors=True)

    def abandon(self) -> None:
        """Leave nothing behind of work that failed before its first shard was finished."""
        if not any(self.path.glob("[0-9]*.json")):
            self._clear()

    def _entry(self, number: int) -> Path:
        return self.path / f"{number:06d}.json"

    def shard(self, number: int) -> FinishedShard | None:
        """Return a shard that is finished and whole, None for one that is to be made, or made again.

        It is read only where the file has changed since it was written.
        """
        try:
            entry = _read_entry(self._entry(number))
            path = self.folder / entry["name"]
            known = _version(path)
            if known is None or (known != entry["version"] and bytes_digest(str(path)) != entry["xxh3"]):
                return None
        except (OSError, InputError):
            return None
        return FinishedShard(**{name: entry[name] for name in (*_SHARD, "bad")})

    def noted(self, number: int) -> FinishedShard | None:
        """Return a shard that is finished by what its entry and its own end say; see `shard`, which reads it."""
        try:
            entry = _read_entry(self._entry(number))
        except (OSError, InputError):
            return None
        whole = ends(self.folder / entry["name"])
        return FinishedShard(**{name: entry[name] for name in (*_SHARD, "bad")}) if whole else None

    def write(self, number: int, samples: Iterable[Entry]) -> FinishedShard:
        """Publish one shard and note that it is finished.

        Args:
            number: of the shard.
            samples: what goes into it; drawn one at a time.
        """
        name, sha, running, count = f"{number:06d}.tar", hashlib.sha256(), RunningDigest(), 0
        bad: list[dict[str, Any]] = []
        with publish(self.folder / name) as file:
            for key, members in samples:
                if isinstance(members, Bad):
                    bad.append({"key": key, "reason": members.reason})
                    continue
                count += 1
                for suffix, content in members:
                    member = f"{key}.{suffix}"
                    sha.update(f"{member}\0{len(content)}\n".encode("utf-8", "surrogateescape"))
                    written = member_bytes(member, content)
                    running.update(written)
                    file.write(written)
            running.update(END_MARKER)
            file.write(END_MARKER)
        shard = FinishedShard(name, count, sha.hexdigest(), running.hexdigest(), bad)
        publish_json(self._entry(number), vars(shard) | {"version": _version(self.folder / name)})
        return shard

    def finish(self, record: Record, shards: Sequence[FinishedShard], class_names: ClassNames) -> None:
        """Write classes, log of unreadable images and manifest, and remove the journal.

        Raises:
            InputError: there is nothing in the shards.
        """
        if not any(shard.count for shard in shards):
            self._clear()
            first = next((bad for shard in shards for bad in shard.bad), None)
            reason = (
                f"every image is unreadable, such as {first['key']!r}, which {first['reason']}"
                if first
                else "there is none"
            )
            raise InputError(f"no sample could be packed: {reason}.")
        class_names.publish(self.folder)
        bad = [canonical(entry) for shard in shards for entry in shard.bad]
        if bad:
            publish_bytes(self.folder / BAD, _lines(bad))
        listed = [{name: value for name, value in vars(shard).items() if name != "bad"} for shard in shards]
        publish_json(self.folder / MANIFEST, {"kind": "shards", "shards": listed, "provenance": record})
        # Two workers may both see that nothing is missing any more.
        shutil.rmtree(self.path, ignore_errors=True)


def _read_entry(path: Path) -> dict[str, Any]:
    """Read what the journal says of a shard.

    Raises:
        FileNotFoundError: it says nothing.
        InputError: it cannot be trusted.
    """
    content = shaped(str(path), read_json(path), _ENTRY)
    if content["name"] != f"{path.stem}.tar":
        raise InputError(f"{path}: belongs to another shard.")
    return without_check(str(path), content)


def _version(path: Path) -> str | None:
    try:
        return version(str(path))[1]
    except InputError:
        # It has vanished, which the last check of the job notices.
        return None


def ends(path: Path) -> bool:
    """Tell whether a file is there and ends as a tar does: one that a copy cut short does not."""
    try:
        with path.open("rb") as file:
            file.seek(-len(END_MARKER), os.SEEK_END)
            return file.read() == END_MARKER
    except OSError:
        return False


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode("utf-8", "surrogateescape")


def listed_shards(folder: Path) -> list[str]:
    """Return the names of the shards that a folder's manifest lists."""
    return _listed(read_manifest(folder))


def _listed(manifest: Mapping[str, Any]) -> list[str]:
    return [shard["name"] for shard in manifest["shards"]] if manifest.get("kind") == "shards" else []


def existing_shards(output: str) -> Record | None:
    """Return the record of finished or interrupted shards at `output`, as `delivery.Job` asks for it."""
    found = existing_record(output, folder_of="shards")
    if found != {}:
        return found
    journal: Record | None = Journal(Path(output)).manifest().get("provenance")
    if journal is not None:
        return journal
    # Another worker may have published the manifest and removed the journal since the first look.
    return None if Journal(Path(output)).is_remnant() else read_manifest(output).get("provenance", {})


def complete_shards(output: str) -> bool:
    """Tell whether the shards at `output` were finished, are all there, and none has been cut."""
    folder = Path(output)
    names = listed_shards(folder)
    if not names or not all(ends(folder / name) for name in names):
        return False
    # The manifest is published last: a journal beside it is what a kill left while it was being removed.
    shutil.rmtree(folder / JOURNAL, ignore_errors=True)
    return True
