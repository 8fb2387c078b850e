"""The job of `dprune embed`: what its store is made of, and what is said when it is made.

Nothing here imports torch, so that a store that is up to date is recognised at once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from dprune.embedding.settings import PCA_FILE, Settings
from dprune.formats.filling import Filling, parents_by_name
from dprune.formats.provenance import Record, make_record
from dprune.formats.publish import Output
from dprune.formats.shards import Dataset, Shard
from dprune.formats.store_job import StoreJob
from dprune.formats.stores import Store
from dprune.runtime import Monitor


@dataclass(frozen=True)
class EmbedJob(StoreJob):
    """Features of a dataset, as far as they are this worker's to make.

    Attributes:
        dataset: the shards.
        settings: what changes the features.
        seed: chooses the images that principal components are fitted to.
        strict: whether an image that cannot be decoded ends the work.
        device: name of the device.
        batch_size: images in one forward pass.
        workers: processes that decode.
    """

    dataset: Dataset
    settings: Settings
    seed: int
    strict: bool
    device: str
    batch_size: int
    workers: int
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the store.

        Principal components depend on every image, so with them it holds the fingerprint.
        """
        fitted = self.settings.pca is not None
        return make_record(
            "embed",
            self.settings.options(),
            seed=self.seed if fitted else None,
            fingerprint=self.dataset.fingerprint if fitted else None,
            parents=parents_by_name(self.dataset),
            tags=self.output.tags,
        )

    @functools.cached_property
    def filling(self) -> Filling:
        """The store, as far as it is this worker's to make."""
        return Filling(self.dataset, "features", self.record, self.strict, {PCA_FILE: self.settings.pca is not None})

    def fill(self, store: Store, shards: Sequence[Shard], monitor: Monitor) -> None:
        """See `StoreJob`."""
        from dprune.embedding.extraction import extract

        extract(self, store, shards, monitor)
