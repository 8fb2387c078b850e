"""Filling a store: which parts are this worker's, which of them are missing, and what does not belong there."""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.claims import TASK, claim_of
from dprune.formats.class_names import CLASSES
from dprune.formats.jobs import Job
from dprune.formats.manifests import read_manifest
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, difference, digest
from dprune.formats.shards import Dataset, Shard, ShardSize, survey
from dprune.formats.stores import Store
from dprune.formats.turns import Turns, due_pieces, own_pieces, peeked
from dprune.runtime import Monitor, array_task, ranks

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Filling:
    """A store that is to be made from a dataset, as far as it is this worker's to make.

    Attributes:
        dataset: the shards.
        kind: `features` or `latents`.
        record: provenance of the store.
        output: its folder.
        strict: whether an image that cannot be decoded ends the work.
        extras: files that a store of this kind may hold beside its parts, each with whether this one does.
        blank: what the rows of images that cannot be decoded hold.
    """

    dataset: Dataset
    kind: str
    record: Record
    output: str
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
                    f"{places[shard.name]} and {shard.location} have the same name, and the files of a store "
                    "are named after the shards: rename one, or pack them together with dprune pack."
                )
            places[shard.name] = shard.location

    @functools.cached_property
    def walked(self) -> tuple[Shard, ...]:
        """The shards that are walked before the work: this worker's share.

        In an array that may make this output alone also those whose parts are there when it begins: whether they were
        made from the same members nobody else may look. Parts that come later are by tasks that walked their shards.
        """
        shards, mine = self.dataset.shards, own_pieces(len(self.dataset.shards))
        return tuple(
            shards[number]
            for number in due_pieces(len(shards))
            if number in mine or self.store.part(shards[number].name) is not None
        )

    @functools.cached_property
    def sizes(self) -> dict[str, ShardSize]:
        """What each shard holds that was walked.

        Raises:
            InputError: a shard is damaged, or no shard of the dataset holds an image.
        """
        whole = len(self.walked) == len(self.dataset.shards)
        sizes = self.dataset.sizes if whole else survey(self.dataset.title, self.walked)
        if self.walked and not any(size.count for size in sizes):
            # Others' shards are theirs to walk, unless there may be nothing in them either.
            _ = self.dataset.sizes
        return {shard.name: size for shard, size in zip(self.walked, sizes, strict=True)}

    def count(self, number: int) -> int:
        """Return the samples of a shard that was walked, by number."""
        return self.sizes[self.dataset.shards[number].name].count

    def _walk(self, numbers: Iterable[int]) -> None:
        """Add what shards hold to `sizes`.

        Raises:
            InputError: a shard is damaged.
        """
        shards = [shard for number in numbers if (shard := self.dataset.shards[number]).name not in self.sizes]
        if shards:
            self.sizes.update(zip([shard.name for shard in shards], survey(self.dataset.title, shards), strict=True))

    @functools.cached_property
    def store(self) -> Store:
        """The store, whatever is there now.

        Raises:
            InputError: the part of a shard would have the name of another file of the store.
        """
        names = tuple(shard.name for shard in self.dataset.shards)
        folder, origins = Path(self.output), self.dataset.origins
        store = Store(folder, self.kind, names, origins, self.record, self.dataset.class_names)
        taken = {name for name, here in self.extras.items() if here} & {store.path(name).name for name in names}
        if taken:
            stem = Path(min(taken)).stem
            raise InputError(
                f"{self.dataset.title}: a shard is called {stem}, which is the name of another file in the "
                "store: rename the shard."
            )
        return store

    def part(self, shard: Shard) -> Record | None:
        """Return the metadata of a shard's part, None if it is missing or was made with other options or members."""
        part, size = self.store.part(shard.name), self.sizes.get(shard.name)
        return None if part is None or (size is not None and part["members"] != size.members) else part

    def parts(self) -> dict[str, Record]:
        """Return the metadata of the parts that are there of those without which this worker's work is not done."""
        shards = [self.dataset.shards[number] for number in due_pieces(len(self.dataset.shards))]
        return {shard.name: part for shard in shards if (part := self.part(shard)) is not None}

    def existing(self) -> Mapping[str, Any] | None:
        """Return the provenance of what stands there, as `Job` asks for it.

        The record names shards and not their members, which are other workers' to walk; so a part that was made
        from a shard of the same name and other members is what tells another dataset's store.

        Raises:
            InputError: something else than such a store is there, which --overwrite must not replace.
        """
        found = existing_record(self.output, self.kind)
        # To read shards for their digests may take long, and before the work a signal ends that at once.
        _ = self.sizes
        if not found or difference(found, self.record):
            return found
        for shard in self.walked:
            if self.store.part(shard.name) is not None and self.part(shard) is None:
                return {**found, f"members of {shard.name}": "others"}
        return found

    def complete(self) -> bool:
        """Tell whether the parts are all there without which this worker's work is not done."""
        return not self.missing(due_pieces(len(self.dataset.shards)))

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Return those of some shards, by number, without a part that was made from their members with these options.

        Raises:
            InputError: with strict, a part has an image that could not be decoded.
            MismatchError: two parts were made by different networks.
        """
        # All shards are walked first: a damaged one had better be known before hours of work.
        _ = self.sizes
        found, kept = [], {}
        for number in numbers:
            shard = self.dataset.shards[number]
            if (part := self.part(shard)) is None:
                found.append(number)
                continue
            self.forgive(shard, part["bad"])
            kept[shard.name] = part
        self.store.check_weights(kept)
        return found

    def deal(self, turns: Turns) -> Iterable[int]:
        """Return the numbers of the shards whose parts this worker makes: a list, but in an array as they come."""
        numbers = self._dealt(turns)
        return peeked(numbers) or [] if array_task() else list(numbers)

    def _dealt(self, turns: Turns) -> Iterator[int]:
        count = len(self.dataset.shards)
        for numbers in turns.deal(count, self.missing, lambda number: claim_of(self.output, number, count)):
            self._walk(numbers)
            yield from numbers

    def tidy(self) -> None:
        """Remove what belongs to the other options or shards of a store that is overwritten."""
        if ranks().rank > 0 or not read_manifest(self.output):
            return
        store = self.store
        wanted = {store.path(shard) for shard in store.shards}
        wanted |= {store.folder / name for name, here in self.extras.items() if here}
        old = Store.open(store.folder, self.kind)
        for path in {*map(old.path, old.shards), *(store.folder / name for name in self.extras)} - wanted:
            path.unlink(missing_ok=True)
        if difference(old.record, self.record) and not store.class_names:
            # Those of another dataset; a list that somebody laid there since stays.
            (store.folder / CLASSES).unlink(missing_ok=True)

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

    def summary(self, made: int) -> dict[str, Any]:
        """Return counts over all parts that are there of `parts`, and warn of images that could not be decoded.

        Args:
            made: parts that this run made.
        """
        parts = self.parts()
        bad = [(name, entry) for name, part in parts.items() for entry in part["bad"]]
        if bad:
            _log.warning(
                "%d images could not be decoded (first: %s in %s, %s); their rows are %s, and the files of the "
                "store list them.",
                len(bad), bad[0][1]["key"], bad[0][0], bad[0][1]["reason"], self.blank,
            )  # fmt: skip
        images = sum(part["count"] for part in parts.values())
        return {"images": images, "undecodable": len(bad), "shards": len(parts), "shards_made": made}

    def is_others(self, made: Collection[int]) -> bool:
        """Tell whether parts are missing that other tasks make, and say so.

        Args:
            made: numbers of the shards whose parts this task made, one of which would have vanished.
        """
        left = self.missing(due_pieces(len(self.dataset.shards)))
        if not left or not set(left).isdisjoint(made):
            return False
        _log.info("other tasks are still making %d of %d files of %s, and the last of them completes it.",
                  len(left), len(self.dataset.shards), self.output)  # fmt: skip
        return True


class StoreJob(Job):
    """A store that is to be made, as far as it is this worker's to make: what is there is left as it is."""

    @property
    @abstractmethod
    def filling(self) -> Filling:
        """The store by its dataset, and which of its parts are this worker's."""

    @abstractmethod
    def fill(self, numbers: Iterable[int], monitor: Monitor) -> None:
        """Make and publish what the store's parts share, and the parts of shards, by number."""

    def is_shared_whole(self) -> bool:
        """Tell whether what the parts share is there."""
        return True

    @property
    def claim(self) -> Path | None:
        """See `Job`; a task of an array claims part by part."""
        return None if array_task() else super().claim

    def existing(self) -> Mapping[str, Any] | None:
        """See `Filling.existing`."""
        return self.filling.existing()

    def complete(self) -> bool:
        """Tell whether the parts are all there without which this worker's work is not done."""
        return self.filling.complete() and self.is_shared_whole()

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make what is missing and return counts over all of this worker's parts."""
        filling, others = self.filling, False
        with Turns(filling.store.folder / TASK) as turns:
            numbers = filling.deal(turns)
            filling.tidy()
            if numbers or not self.is_shared_whole():
                self.fill(numbers, monitor)
            else:
                filling.store.publish_manifest()
            # What was claimed when the last piece was taken may be nobody's by now.
            while numbers := filling.deal(turns):
                self.fill(numbers, monitor)
        if array_task():
            others = filling.is_others(turns.dealt)
        return self._summary(len(turns.dealt), complete=not others)

    def work(self) -> Mapping[str, Any]:
        """See `Job`: the missing parts."""
        missing = self.filling.missing(due_pieces(len(self.filling.dataset.shards)))
        return {"images": sum(map(self.filling.count, missing)), "shards": len(missing)}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        return self._summary(0, complete=True)

    def _summary(self, made: int, *, complete: bool) -> dict[str, Any]:
        return self.filling.summary(made) | ({"complete": complete} if array_task() else {})


def parents_by_name(dataset: Dataset) -> dict[str, Record]:
    """Describe a dataset as the parent of a store by its shards' names and provenance.

    A worker walks only the shards that it takes, so the fingerprint has to wait until all parts are there.
    """
    names = [shard.name for shard in dataset.shards]
    return dataset.parents(digest({"shards": names, "provenance": dataset.origins}))
