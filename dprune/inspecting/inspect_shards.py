"""What shards hold, and whether they are what their manifests say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.checked_json import MOST_BYTES, parse_json
from dprune.formats.class_names import NAMELESS, names_in_folders
from dprune.formats.img2dataset import STATS, lost_shards, read_downloads
from dprune.formats.index_cache import check_bytes
from dprune.formats.manifests import MANIFEST, checked_manifest, read_manifest
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import FINDINGS_KEY, Record, record_digest
from dprune.formats.ranges import is_url
from dprune.formats.remote import RemoteBlocks
from dprune.formats.shard_index import MOST_SUFFIXES, LeftOut, ShardIndex, build_index
from dprune.formats.shards import BAD, Shard, ShardReader, fingerprint, open_dataset
from dprune.inspecting.findings import Findings
from dprune.inspecting.inspect_files import MOST_EXAMPLES


@dataclass(frozen=True)
class Look:
    """How to look at shards.

    Attributes:
        members: which of them are images and labels.
        deep: whether to read shards whole, for the digests that their manifests list.
    """

    members: MemberChoice = field(default_factory=MemberChoice)
    deep: bool = False


def inspect_shards(name: str, sources: Sequence[str], look: Look) -> Findings:
    """Inspect shards by path, glob, brace range, list or URL as one dataset.

    Raises:
        InputError: the sources name nothing.
    """
    locations = [shard.location for shard in open_dataset(sources).shards]
    return inspect_tars(name, locations, list(dict.fromkeys(map(_folder, locations))), look)


def inspect_tars(name: str, locations: Sequence[str], folders: Sequence[str], look: Look) -> Findings:
    """Walk tars, and hold them to the manifests of their folders."""
    findings = Findings(name, "shards")
    listed = _listed(findings, folders, deep=look.deep)
    summary = _Summary()
    for location in locations:
        shard = Shard(location, look.members)
        try:
            index = build_index(location, look.members)
            summary.add(shard, index)
            summary.checked += _hold_to_manifest(name, shard, index, listed, deep=look.deep)
            summary.add_labels(shard, index)
        except InputError as error:
            findings.problems.append(str(error))
    places = set(map(_place, locations))
    findings.problems += [
        f"{name}: {os.path.basename(place)} is missing, which its {MANIFEST} lists: make the set again."
        for place in sorted(entry for entries in listed.values() for entry in entries if entry not in places)
        if os.path.isdir(name)
    ]
    if locations and not findings.problems and not sum(summary.counts):
        why = summary.left.words() or "the shards are empty"
        findings.problems.append(f"{name}: holds no image that can be used: {why}.")
    beside = (
        _beside(folders)
        | summary.classes(folders, look.members)
        | _downloads(findings, locations, summary, look.members)
    )
    findings.content = summary.content(len(locations)) | beside | _left_out(findings.records)
    findings.content |= {"digests_checked": summary.checked} if look.deep else {}
    if not findings.problems:
        findings.samples = sum(summary.counts)
        findings.fingerprint = fingerprint(summary.digests, list(map(record_digest, findings.records)))
    return findings


def _folder(location: str) -> str:
    return os.path.dirname(location) or "."


def _place(location: str) -> str:
    return os.path.join(_folder(location), os.path.basename(location))


def _listed(findings: Findings, folders: Sequence[str], *, deep: bool) -> dict[str, dict[str, Record]]:
    """Return what each folder's manifest says of its shards, by their places, and note the provenance."""
    listed = {}
    for folder in folders:
        remote = is_url(folder)
        manifest = read_manifest(folder) if not remote else _remote_manifest(folder) if deep else {}
        if manifest.get("kind") == "shards":
            listed[folder] = {os.path.join(folder, entry["name"]): entry for entry in manifest["shards"]}
            # The fingerprint of shards behind URLs does not depend on what else is there.
            findings.records += [] if remote else [manifest["provenance"]]
    return listed


def _remote_manifest(folder: str) -> dict[str, Any]:
    try:
        file = RemoteBlocks(f"{folder}/{MANIFEST}")
        data = file.read(0, MOST_BYTES + 1)
    except InputError:
        # Most who keep shards behind URLs have none there.
        return {}
    return checked_manifest(file.name, parse_json(file.name, data))


def _hold_to_manifest(
    name: str, shard: Shard, index: ShardIndex, listed: Mapping[str, Mapping[str, Record]], *, deep: bool
) -> bool:
    """Hold a shard to what its folder's manifest says of it, and tell whether its bytes have the digest.

    Raises:
        InputError: they have not, or it is another.
    """
    entries = listed.get(_folder(shard.location))
    if entries is None:
        return False
    entry = entries.get(_place(shard.location))
    if entry is None:
        raise InputError(f"{name}: {shard.name} is not in its {MANIFEST}: move the file elsewhere.")
    if index.digest != entry["digest"]:
        count, stated = len(index), entry["count"]
        if count != stated:
            raise InputError(
                f"{name}: {shard.name} holds {count:,} samples, its {MANIFEST} says {stated:,}: make it again."
            )
        raise InputError(
            f"{name}: {shard.name} does not hold the members that its {MANIFEST} lists: make the set again."
        )
    if not deep or "xxh3" not in entry:
        return False
    check_bytes(shard.location, entry["xxh3"])
    return True


class _Summary:
    """Counts over the indexes of shards, which together are too large to keep."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.count_of: dict[str, int] = {}
        self.digests: list[tuple[str, str]] = []
        self.left = LeftOut()
        self.checked = 0
        self._suffixes: Counter[str] = Counter()
        self._keys: list[str] = []
        self._bytes = self._labelled = 0
        self._labels: list[npt.NDArray[np.int64]] = []

    def add(self, shard: Shard, index: ShardIndex) -> None:
        """Take in the next shard."""
        self.counts.append(len(index))
        self.count_of[shard.location] = len(index)
        self.digests.append((shard.name, shard.members_digest(index)))
        self.left += index.left
        self._bytes += int(index.size.sum())
        self._labelled += int((index.label >= 0).sum())
        self._suffixes.update(index.suffix(int(member)) for member in index.image)
        self._keys += [index.key(row) for row in range(min(len(index), MOST_EXAMPLES - len(self._keys)))]

    def add_labels(self, shard: Shard, index: ShardIndex) -> None:
        """Read the labels of the shard; behind a URL each would cost a request.

        Raises:
            InputError: a label is not a whole number.
        """
        if not is_url(shard.location):
            reader = ShardReader(shard, index)
            self._labels.append(np.array([reader.label(row) for row in range(len(index))], dtype=np.int64))

    def classes(self, folders: Sequence[str], members: MemberChoice) -> dict[str, Any]:
        """Return how many samples each class has."""
        names = NAMELESS if members.label_member else names_in_folders(folders)
        counts = names.counts(np.concatenate([np.empty(0, np.int64), *self._labels]))
        return {"classes": counts} if counts else {}

    def content(self, shards: int) -> dict[str, Any]:
        """Return what all shards hold together."""
        counts = self.counts
        without = {"keys_without_an_image": self.left.keys, "their_suffixes": dict(self.left.suffixes)}
        links = {"links_out_of_the_tar": self.left.links}
        return {
            "shards": shards,
            "samples": sum(counts),
            "samples_a_shard": {"smallest": min(counts), "largest": max(counts)} if counts else None,
            "images": dict(self._suffixes.most_common()),
            "labelled": self._labelled,
            "bytes": self._bytes,
            "keys": self._keys,
            **(without if self.left.keys else {}),
            **(links if self.left.links else {}),
        }


def _left_out(records: Sequence[Record]) -> dict[str, Any]:
    """Add up what the packs of several folders left out."""
    counts: Counter[str] = Counter()
    for record in records:
        found = record.get(FINDINGS_KEY, {}).get("left_out")
        # Nothing else reads it, so nothing else holds it to a shape.
        counts.update({kind: n for kind, n in found.items() if isinstance(n, int)} if isinstance(found, dict) else {})
    return {"left_out": dict(counts)} if counts else {}


def _beside(folders: Sequence[str]) -> dict[str, Any]:
    """Read what lies beside the shards: the log of unreadable images."""
    found: dict[str, Any] = {"unreadable": 0}
    for folder in map(Path, folders):
        if (folder / BAD).is_file():
            found["unreadable"] += len(_lines(folder / BAD))
    return found


def _downloads(
    findings: Findings, locations: Sequence[str], summary: _Summary, members: MemberChoice
) -> dict[str, Any]:
    """Tell what img2dataset says of its download, and hold the shards to it."""
    try:
        said = read_downloads(locations)
    except InputError as error:
        findings.problems.append(str(error))
        return {}
    for location, stated in said.successes.items():
        count = summary.count_of.get(location, stated)
        # Of members that were chosen otherwise there may be more or fewer.
        if count != stated and not members.options():
            findings.problems.append(
                f"{location}: holds {count:,} samples, its {STATS} says {stated:,}: download it again."
            )
    if os.path.isdir(findings.name) and (lost := lost_shards(findings.name, locations)):
        findings.problems.append(
            f"{findings.name}: {lost[0]} is missing, whose {STATS} is there: copy it again, or ids shift."
        )
    reasons = dict(said.reasons.most_common(MOST_SUFFIXES))
    return {name: found for name, found in (("download", dict(said.counts)), ("failures", reasons)) if found}


def _lines(path: Path) -> list[str]:
    """Lines of a text file; names may hold what str.splitlines takes for the end of one."""
    return path.read_text(encoding="utf-8", errors="backslashreplace").rstrip("\n").split("\n")
