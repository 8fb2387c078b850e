"""The journal of a pack: which shards are finished, so that a rerun goes on where a killed run ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError
from dprune.formats.provenance import canonical, difference
from dprune.formats.publish import publish, publish_bytes, publish_json
from dprune.formats.shards import BAD, CLASSES, JOURNAL, MANIFEST, read_manifest
from dprune.formats.tar import END_MARKER, member_bytes
from dprune.packing.sources import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from dprune.formats.provenance import Record

_LEFTOVER = re.compile(r"\.(\d{6}\.tar|manifest\.json|classes\.txt|bad\.jsonl)\.\d+\.tmp")
_JOURNALLED = re.compile(r"\d{6}\.json|\.(manifest|\d{6})\.json\.\d+\.tmp")


@dataclass(frozen=True)
class Bad:
    """A sample whose image cannot be read, and why."""

    reason: str


# A key, and what became of its sample.
Result = tuple[str, Sample | Bad]


@dataclass(frozen=True)
class PackedShard:
    """What one finished shard holds."""

    name: str
    count: int
    digest: str
    bad: list[dict[str, Any]]


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
            journal._remove_leftovers()
            return journal
        journal._check_foreign()
        journal._clear()
        publish_json(journal.path / MANIFEST, {"kind": "journal", "provenance": record})
        return journal

    def _check_foreign(self) -> None:
        """Refuse a folder whose files would be replaced or taken for samples though dprune did not write them."""
        begun = read_manifest(self.path).get("kind") in ("journal", "shards") if self.path.exists() else False
        ours = begun or self.is_remnant() or read_manifest(self.folder).get("kind") == "shards"
        named = {path.name for path in self.folder.glob("*.tar")} - self._own()
        if not ours:
            named |= {name for name in (MANIFEST, CLASSES, BAD, JOURNAL) if (self.folder / name).exists()}
        if named:
            raise InputError(f"{self.folder}: holds {min(named)}, which dprune pack did not write: give another -o.")

    def is_remnant(self) -> bool:
        """Tell whether the folder holds nothing but a journal that a kill cut short while it was begun or removed."""
        if not self.path.is_dir():
            return False
        if any(name != JOURNAL and not name.endswith(".tmp") for name in os.listdir(self.folder)):
            return False
        return all(_JOURNALLED.fullmatch(path.name) for path in self.path.iterdir())

    def _own(self) -> set[str]:
        """Return the names of the shards that dprune wrote here."""
        names = {*listed_shards(self.folder), *listed_shards(self.path)}
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
        self._remove_leftovers()
        shutil.rmtree(self.path, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for path in self.folder.glob(".*.tmp"):
            if _LEFTOVER.fullmatch(path.name):
                path.unlink()

    def abandon(self) -> None:
        """Leave nothing behind of a pack that failed before its first shard was finished."""
        if not any(self.path.glob("[0-9]*.json")):
            self._clear()
            with contextlib.suppress(OSError):
                self.folder.rmdir()

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


def listed_shards(folder: Path) -> list[str]:
    """Return the names of the shards that a folder's manifest lists."""
    manifest = read_manifest(folder)
    return [shard["name"] for shard in manifest["shards"]] if manifest.get("kind") == "shards" else []
