"""Filling a store: which parts are this worker's, which of them are missing, and what does not belong there."""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.jobs import Job
from dprune.formats.manifests import read_manifest
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, difference, digest
from dprune.formats.shards import Dataset, Shard, ShardSize, survey
from dprune.formats.stores import Store
from dprune.runtime import Monitor, ranks

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Filling:
    """A store that is to be made from a dataset, as far as it is this worker's to make.

    Attributes:
        dataset: the shards.
        kind: `features` or `latents`.
        record: provenance of the store.
        strict: whether an image that cannot be decoded ends the work.
        extras: files that a store of this kind may hold beside its parts, each with whether this one does.
        blank: what the rows of images that cannot be decoded hold.
    """

    dataset: Dataset
    kind: str
    record: Record
    strict: bool = False
    extras: Mapping[str, bool] = field(default_factory=dict)
    blank: str = "NaN"

    def __post_init__(self) -> None:
        """Refuse shards of one name.

        Raises:
            InputError: there are two.
        """
        places: dict[str, str] = {}
        for shard in self.dataset.shards:
            if shard.name in places:
                raise InputError(
                    f"{places[shard.name]} and {shard.location} share a name, and the parts of a store are named "
                    "after shards: rename one, or dprune pack them together."
                )
            places[shard.name] = shard.location

    @functools.cached_property
    def mine(self) -> tuple[Shard, ...]:
        """The shards whose parts this worker makes."""
        here = ranks()
        return self.dataset.shards[here.rank :: here.world]

    @functools.cached_property
    def sizes(self) -> dict[str, ShardSize]:
        """What each of this worker's shards holds.

        Raises:
            InputError: a shard is damaged, or no shard of the dataset holds an image.
        """
        whole = len(self.mine) == len(self.dataset.shards)
        sizes = self.dataset.sizes if whole else survey(self.dataset.title, self.mine)
        if self.mine and not any(size.count for size in sizes):
            # Others' shards are theirs to walk, unless there may be nothing in them either.
            _ = self.dataset.sizes
        return {shard.name: size for shard, size in zip(self.mine, sizes, strict=True)}

    def store(self, output: str) -> Store:
        """Return the store at `output`, whatever is there now.

        Raises:
            InputError: the part of a shard would have the name of another file of the store.
        """
        names = tuple(shard.name for shard in self.dataset.shards)
        store = Store(Path(output), self.kind, names, self.dataset.origins, self.record)
        taken = {name for name, here in self.extras.items() if here} & {store.path(name).name for name in names}
        if taken:
            stem = Path(min(taken)).stem
            raise InputError(
                f"{self.dataset.title}: a shard is called {stem}, as is a file of the store: rename the shard."
            )
        return store

    def existing(self, output: str) -> Mapping[str, Any] | None:
        """Return the provenance of what stands at `output`, as `Job` asks for it.

        The record names shards and not their members, which are other workers' to walk; so a part that was made
        from a shard of the same name and other members is what tells another dataset's store.

        Raises:
            InputError: something else than such a store is there, which --overwrite must not replace.
        """
        found = existing_record(output, self.kind)
        # To read shards for their digests may take long, and before the work a signal ends that at once.
        sizes = self.sizes
        if not found or difference(found, self.record):
            return found
        store = self.store(output)
        for shard in self.mine:
            part = store.part(shard.name)
            if part is not None and part["members"] != sizes[shard.name].members:
                return {**found, f"members of {shard.name}": "others"}
        return found

    def complete(self, output: str) -> bool:
        """Tell whether this worker's parts are all there."""
        return not self.missing(self.store(output))

    def missing(self, store: Store) -> list[Shard]:
        """Return this worker's shards without a part that was made from their members with these options.

        Raises:
            InputError: with strict, a part has an image that could not be decoded.
            MismatchError: two parts were made by different networks.
        """
        # All shards are walked first: a damaged one had better be known before hours of work.
        found, kept, sizes = [], {}, self.sizes
        for shard in self.mine:
            part = store.part(shard.name)
            if part is None or part["members"] != sizes[shard.name].members:
                found.append(shard)
                continue
            self.forgive(shard, part["bad"])
            kept[shard.name] = part
        store.check_weights(kept)
        return found

    def tidy(self, store: Store) -> None:
        """Remove what belongs to the other options or shards of a store that is overwritten."""
        if ranks().rank > 0 or not read_manifest(store.folder):
            return
        wanted = {store.path(shard) for shard in store.shards}
        wanted |= {store.folder / name for name, here in self.extras.items() if here}
        old = Store.open(store.folder, self.kind)
        for path in {*map(old.path, old.shards), *(store.folder / name for name in self.extras)} - wanted:
            path.unlink(missing_ok=True)

    def forgive(self, shard: Shard, bad: Sequence[Record]) -> None:
        """Refuse images that cannot be decoded, with strict.

        Raises:
            InputError: there is one.
        """
        if self.strict and bad:
            raise InputError(
                f"{shard.location}: {bad[0]['key']} {bad[0]['reason']}: replace it, or leave --strict out to get a row "
                f"of {self.blank}."
            )

    def summary(self, store: Store, made: int) -> dict[str, Any]:
        """Return counts over all of this worker's parts, and warn of images that could not be decoded.

        Args:
            store: the store.
            made: parts that this run made.
        """
        found = {shard.name: store.part(shard.name) for shard in self.mine}
        parts = {name: part for name, part in found.items() if part}
        bad = [(name, entry) for name, part in parts.items() for entry in part["bad"]]
        if bad:
            _log.warning(
                "%d images could not be decoded (first: %s in %s, %s); their rows are %s and the parts list them.",
                len(bad), bad[0][1]["key"], bad[0][0], bad[0][1]["reason"], self.blank,
            )  # fmt: skip
        images = sum(part["count"] for part in parts.values())
        return {"images": images, "undecodable": len(bad), "shards": len(parts), "shards_made": made}


class StoreJob(Job):
    """A store that is to be made, as far as it is this worker's to make: what is there is left as it is."""

    @property
    @abstractmethod
    def filling(self) -> Filling:
        """The store by its dataset, and which of its parts are this worker's."""

    @abstractmethod
    def fill(self, store: Store, shards: Sequence[Shard], monitor: Monitor) -> None:
        """Make and publish what the store's parts share, and the parts of `shards`."""

    def is_shared_whole(self, store: Store) -> bool:
        """Tell whether what the parts share is there."""
        return True

    def existing(self) -> Mapping[str, Any] | None:
        """See `Filling.existing`."""
        return self.filling.existing(self.output.path)

    def complete(self) -> bool:
        """Tell whether this worker's parts are all there."""
        return self.filling.complete(self.output.path) and self.is_shared_whole(self.filling.store(self.output.path))

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make what is missing and return counts over all of this worker's parts."""
        store = self.filling.store(self.output.path)
        missing = self.filling.missing(store)
        self.filling.tidy(store)
        if missing or not self.is_shared_whole(store):
            self.fill(store, missing, monitor)
        else:
            store.publish_manifest()
        return self.filling.summary(store, len(missing))


def parents_by_name(dataset: Dataset) -> dict[str, Record]:
    """Describe a dataset as the parent of a store by its shards' names and provenance.

    A worker walks only the shards that it takes, so the fingerprint has to wait until all parts are there.
    """
    names = [shard.name for shard in dataset.shards]
    return dataset.parents(digest({"shards": names, "provenance": dataset.origins}))
