"""Indexes of shards under $DPRUNE_CACHE, a file a shard, so that no shard is walked twice.

A cached index is taken only if it is what was written, by a digest of its own; else it is made again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dprune.errors import DpruneError, InputError
from dprune.formats.cache import cache_folder, sweep_once
from dprune.formats.digests import RunningDigest, changed
from dprune.formats.manifests import MANIFEST
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, canonical
from dprune.formats.ranges import bytes_digest, is_url, version
from dprune.formats.shard_index import LeftOut, ShardIndex, build_index
from dprune.formats.tensors import read_tensors, write_tensors

_LAYOUT = 2
_ARRAYS = ("names", "name_stop", "offset", "size", "header", "start", "stop", "image", "label")
_CHECK = "content"

_log = logging.getLogger("dprune")


def cached_index(
    location: str, choice: MemberChoice | None = None, listed: Mapping[str, Any] | None = None
) -> ShardIndex:
    """Return a shard's index from the cache, or build it and try to cache it.

    Args:
        location: path or URL.
        choice: which members are images and labels, None for the default.
        listed: what a manifest says of the shard. Its bytes are read for their digest once, and again when the file
            has changed; those behind a URL are not, since that would be to download the shard.

    Raises:
        InputError: as `build_index`, or the shard is another than the one that is listed.
    """
    entry, listed = _Entry.of(location, choice or MemberChoice()), listed or {}
    known = entry.read()
    index, verified = known or (build_index(location, choice), None)
    _check_members(location, index, listed)
    wanted = None if is_url(location) else listed.get("xxh3")
    if wanted not in (None, verified):
        check_bytes(location, wanted)
    if known is None or wanted not in (None, verified):
        entry.write(index, wanted)
    return index


def _check_members(location: str, index: ShardIndex, listed: Mapping[str, Any]) -> None:
    if listed.get("digest", index.digest) == index.digest:
        return
    stated, found = listed["count"], len(index)
    counts = f" ({found:,} samples for {stated:,})" if stated != found else ""
    raise InputError(f"{location}: does not hold the members that its {MANIFEST} lists{counts}: make the set again.")


def check_bytes(location: str, xxh3: str) -> None:
    """Read a shard whole, and hold it to its digest.

    Raises:
        InputError: it has another.
    """
    if bytes_digest(location) != xxh3:
        raise changed(location, "the file")


@dataclass(frozen=True)
class _Entry:
    """Where the index of a shard is cached, and what tells it from those of other states of the shard."""

    path: Path
    stamp: Record

    @classmethod
    def of(cls, location: str, choice: MemberChoice) -> _Entry:
        """Return the entry of a shard as it is now."""
        place, token = version(location)
        options = choice.options()
        # As it is without a choice, that nothing is indexed again when the first choice is made.
        name = place if not options else f"{place}\0{canonical(options)}"
        path = cache_folder() / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.index"
        return cls(path, {"layout": _LAYOUT, "version": token})

    def read(self) -> tuple[ShardIndex, str | None] | None:
        """Return the index and the digest that the shard's bytes were found to have, None if there is none of use."""
        try:
            _, arrays, metadata = read_tensors(self.path)
            if metadata is None or metadata["stamp"] != self.stamp or metadata.pop(_CHECK) != _check(metadata, arrays):
                return None
            arrays = {name: arrays[name] for name in _ARRAYS}
            return ShardIndex(metadata["digest"], LeftOut(**metadata["left"]), **arrays), metadata["xxh3"]
        except (DpruneError, OSError, LookupError, TypeError, ValueError, RecursionError) as error:
            # Whatever is wrong with it, the shard is still there to be walked.
            _log.debug("no index is cached in %s: %s", self.path, error)
            return None

    def write(self, index: ShardIndex, xxh3: str | None) -> None:
        """Cache an index, and the digest that the shard's bytes were found to have, where the cache can be written."""
        arrays = {name: np.ascontiguousarray(getattr(index, name)) for name in _ARRAYS}
        metadata = {"stamp": self.stamp, "digest": index.digest, "left": vars(index.left), "xxh3": xxh3}
        sweep_once(self.path.parent)
        try:
            write_tensors(self.path, arrays, {**metadata, _CHECK: _check(metadata, arrays)})
        except (DpruneError, OSError) as error:
            _log.debug("the index is not cached: %s", error)


def _check(metadata: Record, arrays: dict[str, np.ndarray[Any, np.dtype[Any]]]) -> str:
    running = RunningDigest(canonical(metadata).encode())
    for name in _ARRAYS:
        running.update(f"{arrays[name].dtype}{arrays[name].shape}".encode())
        running.update(arrays[name].tobytes())
    return running.hexdigest()
