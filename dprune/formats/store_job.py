"""The job of filling a store with a part for each shard: what is missing is made, and the rest is left as it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from dprune.formats.filling import Filling
from dprune.formats.jobs import Job
from dprune.formats.shards import Shard
from dprune.formats.stores import Store
from dprune.runtime import Monitor


class StoreJob(Job):
    """A store that is to be made, as far as it is this worker's to make."""

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
        """Tell whether this worker's parts are all there and no killed run left anything behind."""
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
