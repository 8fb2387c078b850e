"""Stores: folders with a manifest and one safetensors part for each shard.

A part exists only if whole. It says how many samples it holds, which members the shard had and which options made
it, so a rerun does only what is missing and workers can share a store without talking to each other.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError
from dprune.formats.checked_json import ListOf, Object, Text, Whole
from dprune.formats.class_names import NAMELESS, ClassNames, names_in_folders
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.provenance import Record, digest, parent_record, record_digest
from dprune.formats.publish import publish_json
from dprune.formats.shards import fingerprint
from dprune.formats.tensor_files import TensorFile
from dprune.formats.tensors import read_metadata, read_tensors, write_tensors

MISSING, DAMAGED, OTHERWISE = "missing", "damaged", "made with other options"
"""Why the part of a shard is to be made."""
PART_KEYS = ("count", "members", "options", "bad")
"""What the metadata of every part says."""
KEYS = "keys"
"""Tensor of a part: the keys of its samples in UTF-8, a zero byte between two, uint8 [bytes]."""
_BAD = Object({"row": Whole(), "key": Text(), "reason": Text()})
PART = Object({"count": Whole(), "members": Text(), "options": Text(), "bad": ListOf(_BAD)}, {"weights": Text()})
"""Shape of the metadata of a part."""


@dataclass(frozen=True)
class Store:
    """A store by its folder and manifest; the parts may still be missing.

    Attributes:
        folder: where it is.
        kind: `features` or `latents`.
        shards: basenames of the dataset's shards, in order.
        datasets: keys of the records of the folders that the shards come from.
        record: what made the store.
        class_names: what its labels are called.
    """

    folder: Path
    kind: str
    shards: tuple[str, ...]
    datasets: tuple[str, ...]
    record: Record
    class_names: ClassNames = NAMELESS

    @classmethod
    def open(cls, folder: str | Path, kind: str) -> Store:
        """Read a store's manifest.

        Raises:
            InputError: the folder is no such store.
        """
        manifest = read_manifest(folder)
        if manifest.get("kind") != kind:
            raise InputError(f"{folder}: is not a store of {kind}: its {MANIFEST} is missing or of another kind.")
        shards, datasets = tuple(manifest["shards"]), tuple(manifest["datasets"])
        return cls(Path(folder), kind, shards, datasets, manifest["provenance"], names_in_folders([folder]))

    def publish_manifest(self) -> None:
        """Write the manifest and then the names of classes, the same bytes whichever worker does."""
        content = {"kind": self.kind, "shards": self.shards, "datasets": self.datasets, "provenance": self.record}
        publish_json(self.folder / MANIFEST, content)
        self.class_names.publish(self.folder)

    def path(self, shard: str) -> Path:
        """Where the part of a shard is."""
        return self.folder / f"{shard.removesuffix('.tar')}.safetensors"

    @functools.cached_property
    def _options(self) -> str:
        return record_digest(self.record)

    def publish_part(
        self,
        shard: str,
        tensors: Mapping[str, npt.NDArray[Any]],
        members: str,
        count: int,
        bad: Sequence[Record],
        more: Mapping[str, Any] | None = None,
        keys: Sequence[str] | None = None,
    ) -> None:
        """Write the part of a shard.

        Args:
            shard: basename.
            tensors: arrays with one row a sample, and sums over the samples.
            members: digest of the shard's members.
            count: samples.
            bad: samples that cannot be decoded, each with `row`, `key` and `reason`.
            more: further metadata, such as `weights` for `check_weights`.
            keys: of the samples, None where they are not at hand.
        """
        # As a tensor: metadata are read of every part whenever a store is opened.
        named = {} if keys is None else {KEYS: _joined(keys)}
        stated = zip(PART_KEYS, (count, members, self._options, list(bad)), strict=True)
        write_tensors(self.path(shard), {**tensors, **named}, {**(more or {}), **dict(stated)})

    def publish_beside(self, name: str, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write tensors that all parts share to a file beside the manifest, the same bytes whichever worker does."""
        write_tensors(self.folder / name, tensors, {"options": self._options})

    def has_beside(self, name: str) -> bool:
        """Tell whether such a file is there and was made with the store's options."""
        try:
            return (read_metadata(self.folder / name) or {}).get("options") == self._options
        except InputError:
            return False

    def read_beside(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Read such a file.

        Raises:
            InputError: it is missing, damaged, or was made with other options.
        """
        _, tensors, metadata = read_tensors(self.folder / name)
        if (metadata or {}).get("options") != self._options:
            raise InputError(f"{self.folder / name}: was made with other options than the store: {self.remedy}.")
        return tensors

    @property
    def remedy(self) -> str:
        """What messages tell people to do about a part that is not as it should be."""
        return f"run the dprune {self.record.get('command')} that makes it again"

    def look(self, shard: str) -> tuple[TensorFile | None, str]:
        """Open a shard's part; without one that counts, say why: it is missing, damaged, or was made otherwise."""
        path = self.path(shard)
        try:
            file = TensorFile.open(path)
            whole = not PART.misfit(file.metadata)
        except InputError:
            return None, DAMAGED if path.exists() else MISSING
        if not whole:
            return None, DAMAGED
        return (file, "") if (file.metadata or {})["options"] == self._options else (None, OTHERWISE)

    def _file(self, shard: str) -> TensorFile | None:
        """Open a shard's part, None if it is missing, damaged, or was made with other options."""
        return self.look(shard)[0]

    def part(self, shard: str) -> Record | None:
        """Return the metadata of a shard's part, None if it is missing, damaged, or was made with other options.

        It is read again only where the file has changed: whoever fills a store asks often.
        """
        try:
            status = os.stat(self.path(shard))
        except OSError:
            return None
        mark = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if self._read.get(shard, (None, None))[0] != mark:
            file = self._file(shard)
            self._read[shard] = mark, file.metadata if file else None
        return self._read[shard][1]

    @functools.cached_property
    def _read(self) -> dict[str, tuple[tuple[int, ...], Record | None]]:
        """What was read of parts, each with what tells that the file is the same still."""
        return {}

    @functools.cached_property
    def files(self) -> tuple[TensorFile, ...]:
        """Every part, in order.

        Raises:
            InputError: parts are missing.
            MismatchError: parts were made by different networks.
        """
        found = {shard: file for shard in self.shards if (file := self._file(shard)) is not None}
        missing = [shard for shard in self.shards if shard not in found]
        if missing:
            shown = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
            raise InputError(
                f"{self.folder}: lacks the files of {len(missing)} of {len(self.shards)} shards ({shown}): "
                f"{self.remedy}."
            )
        self.check_weights({shard: file.metadata or {} for shard, file in found.items()})
        return tuple(found.values())

    @functools.cached_property
    def parts(self) -> tuple[Record, ...]:
        """Metadata of every part, in order; raises what `files` does."""
        return tuple(file.metadata or {} for file in self.files)

    def check_weights(self, parts: Mapping[str, Record]) -> None:
        """Refuse parts by different networks: the record may say no more than that the weights are the hub's.

        Args:
            parts: metadata by shard; where they hold `weights`, it is the digest of the file that was loaded.

        Raises:
            MismatchError: two of them differ.
        """
        known = [(shard, part["weights"]) for shard, part in parts.items() if "weights" in part]
        for shard, weights in known[1:]:
            if weights != known[0][1]:
                raise MismatchError(
                    f"{self.folder}: {known[0][0]} and {shard} were made with different weights "
                    f"({known[0][1][:12]} and "
                    f"{weights[:12]}): remove the folder and make it again with one file of weights."
                )

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset, from the parts."""
        return fingerprint(zip(self.shards, (part["members"] for part in self.parts), strict=True), self.datasets)

    def as_parent(self) -> Record:
        """Describe the store as the input of another file."""
        return parent_record(self.record, digest([self.fingerprint, record_digest(self.record)]))

    @property
    def counts(self) -> list[int]:
        """Samples of each part."""
        return [part["count"] for part in self.parts]

    def read(self, shard: str, tensor: str, begin: int = 0, end: int | None = None) -> npt.NDArray[Any] | None:
        """Read rows of one tensor of one part, None if the part has no such tensor.

        Raises:
            InputError: the part is not whole, or the tensor is not what was written.
        """
        file = TensorFile.open(self.path(shard))
        return np.array(file.mapped(tensor)[begin:end]) if tensor in file.places else None

    def keys(self, shard: str) -> list[str] | None:
        """Read the keys of the samples of one part, None where none were kept.

        Raises:
            InputError: the part is not whole, or has not as many keys as samples.
        """
        joined, count = self.read(shard, KEYS), (self.part(shard) or {}).get("count", 0)
        if joined is None or not count:
            return None if joined is None else []
        keys = joined.tobytes().decode("utf-8", "surrogateescape").split("\0")
        if len(keys) != count:
            raise InputError(f"{self.path(shard)}: has {len(keys):,} keys for {count:,} samples: {self.remedy}.")
        return keys


def _joined(keys: Sequence[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("\0".join(keys).encode("utf-8", "surrogateescape"), dtype=np.uint8)
