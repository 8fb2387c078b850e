"""The job of `dprune embed`: what its store is made of, and what is said when it is made.

Nothing here imports torch, so that a store that is up to date is recognised at once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dprune.embedding.settings import PCA_FILE, Settings
from dprune.formats.filling import Filling, parents_by_name
from dprune.formats.provenance import Record, make_record
from dprune.formats.shards import Dataset
from dprune.runtime import Monitor


@dataclass(frozen=True)
class EmbedJob:
    """Features of a dataset, as far as they are this worker's to make.

    Attributes:
        dataset: the shards.
        settings: what changes the features.
        seed: chooses the images that principal components are fitted to.
        strict: whether an image that cannot be decoded ends the work.
        device: name of the device.
        batch_size: images in one forward pass.
        workers: processes that decode.
        tags: what the user wants to be remembered.
    """

    dataset: Dataset
    settings: Settings
    seed: int
    strict: bool
    device: str
    batch_size: int
    workers: int
    tags: Mapping[str, str]

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
            tags=self.tags,
        )

    @functools.cached_property
    def filling(self) -> Filling:
        """The store, as far as it is this worker's to make."""
        return Filling(self.dataset, "features", self.record, self.strict, {PCA_FILE: self.settings.pca is not None})

    def existing(self, output: str) -> Mapping[str, Any] | None:
        """Return the provenance of what stands at `output`; see `Filling.existing`."""
        return self.filling.existing(output)

    def complete(self, output: str) -> bool:
        """Tell whether this worker's parts are all there and no killed run left anything behind."""
        return self.filling.complete(output)

    def run(self, output: str, monitor: Monitor) -> dict[str, Any]:
        """Make the missing parts and return counts over all of this worker's parts."""
        store = self.filling.store(output)
        missing = self.filling.missing(store)
        self.filling.tidy(store)
        if missing:
            from dprune.embedding.extraction import extract

            extract(self, store, missing, monitor)
        else:
            store.publish_manifest()
        return self.filling.summary(store, len(missing))
