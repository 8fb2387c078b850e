"""The index of a shard: which samples it holds and at which offsets their members lie.

An index is made by one walk over the tar headers and cached under $DPRUNE_CACHE, a file a shard.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dprune.errors import DpruneError, InputError
from dprune.formats.members import IMAGE_SUFFIXES, LABEL_SUFFIX, split_name
from dprune.formats.provenance import METADATA_KEY
from dprune.formats.publish import publish_bytes
from dprune.formats.ranges import open_blocks, version
from dprune.formats.tar import TarMember, walk

IntArray = npt.NDArray[np.int64]

_LAYOUT = 1
_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class ShardIndex:
    """Samples and members of one shard.

    Attributes:
        digest: SHA-256 over every member's name and size, in tar order.
        names: all members' names joined by zero bytes, uint8.
        name_stop: end of each member's name in `names`, int64 [members].
        offset: where each member's content begins in the tar, int64 [members].
        size: each member's size in bytes, int64 [members].
        start: each sample's first member, int64 [samples].
        stop: one past each sample's last member, int64 [samples].
        image: the member that is each sample's image, int64 [samples].
        label: the member that is each sample's label, -1 for none, int64 [samples].
    """

    digest: str
    names: npt.NDArray[np.uint8]
    name_stop: IntArray
    offset: IntArray
    size: IntArray
    start: IntArray
    stop: IntArray
    image: IntArray
    label: IntArray

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.start)

    def name(self, member: int) -> str:
        """Return a member's name."""
        begin = int(self.name_stop[member - 1]) + 1 if member else 0
        return self.names[begin : int(self.name_stop[member])].tobytes().decode("utf-8", "surrogateescape")

    def key(self, row: int) -> str:
        """Return a sample's key."""
        split = split_name(self.name(int(self.start[row])))
        assert split is not None
        return split[0]

    def suffix(self, member: int) -> str:
        """Return what follows the key in a member's name, lower-case."""
        split = split_name(self.name(member))
        assert split is not None
        return split[1]


def build_index(location: str) -> ShardIndex:
    """Walk a shard's headers.

    Raises:
        InputError: the tar is damaged or cut short, a key occurs twice, or a key's members are not adjacent.
    """
    return _group(location, walk(open_blocks(location)))


def _group(location: str, members: Iterable[TarMember]) -> ShardIndex:
    sha = hashlib.sha256()
    names: list[bytes] = []
    places: list[tuple[int, int]] = []
    samples: list[tuple[int, int, int, int]] = []
    seen: set[str] = set()
    key: str | None = None
    suffixes: dict[str, int] = {}

    def close() -> None:
        images = [suffixes[suffix] for suffix in IMAGE_SUFFIXES if suffix in suffixes]
        if images:
            begin = min(suffixes.values())
            samples.append((begin, begin + len(suffixes), images[0], suffixes.get(LABEL_SUFFIX, -1)))

    for member in members:
        sha.update(f"{member.name}\0{member.size}\n".encode("utf-8", "surrogateescape"))
        split = split_name(member.name)
        if split is None:
            continue
        if split[0] != key:
            close()
            key, suffixes = split[0], {}
            if key in seen:
                raise InputError(
                    f"{location}: the members of {key!r} are not adjacent, or the key occurs twice: "
                    "write the shard again with each sample's members together."
                )
            seen.add(key)
        if split[1] in suffixes:
            raise InputError(f"{location}: holds {member.name!r} twice: write the shard again with unique keys.")
        suffixes[split[1]] = len(names)
        names.append(member.name.encode("utf-8", "surrogateescape"))
        places.append((member.offset, member.size))
    close()
    columns = np.array(samples, dtype=np.int64).reshape(-1, 4).T.copy()
    offset, size = np.array(places, dtype=np.int64).reshape(-1, 2).T.copy()
    lengths = np.array([len(name) + 1 for name in names], dtype=np.int64)
    blob = np.frombuffer(b"".join(name + b"\0" for name in names), dtype=np.uint8)
    return ShardIndex(sha.hexdigest(), blob, np.cumsum(lengths) - 1, offset, size, *columns)


def cached_index(location: str) -> ShardIndex:
    """Return a shard's index from the cache, or build it and try to cache it.

    Raises:
        InputError: as `build_index`.
    """
    place, token = version(location)
    path = cache_folder() / f"{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.index"
    stamp = {"layout": _LAYOUT, "version": token}
    with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError), safe_open(path, framework="np") as file:
        metadata = json.loads((file.metadata() or {})[METADATA_KEY])
        if metadata["stamp"] == stamp:
            return ShardIndex(metadata["digest"], **{name: file.get_tensor(name) for name in _ARRAYS})
    index = build_index(location)
    arrays = {name: np.ascontiguousarray(getattr(index, name)) for name in _ARRAYS}
    try:
        publish_bytes(path, save(arrays, {METADATA_KEY: json.dumps({"stamp": stamp, "digest": index.digest})}))
    except (DpruneError, OSError) as error:
        _log.debug("the index is not cached: %s", error)
    return index


_ARRAYS = ("names", "name_stop", "offset", "size", "start", "stop", "image", "label")


def cache_folder() -> Path:
    """Return $DPRUNE_CACHE, by default `dprune` in the user's cache folder."""
    if os.environ.get("DPRUNE_CACHE"):
        return Path(os.environ["DPRUNE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dprune"
