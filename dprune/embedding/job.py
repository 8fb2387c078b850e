"""The job of `dprune embed`: what its store is made of, and what is said when it is made.

Nothing here imports torch, so that a store that is up to date is recognised at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dprune.embedding.settings import PCA_FILE, EmbedOptions, EmbedSettings
from dprune.formats.filling import Filling, StoreJob, parents_by_name
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, make_record
from dprune.formats.publish import Output
from dprune.formats.shards import Dataset, open_dataset
from dprune.runtime import Monitor


@dataclass(frozen=True)
class EmbedJob(StoreJob):
    """Features of a dataset, as far as they are this worker's to make."""

    dataset: Dataset
    settings: EmbedSettings
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the store.

        Principal components depend on every image, so with them it holds the fingerprint.
        """
        fitted = self.settings.given.pca is not None
        seed, fingerprint = (self.settings.given.seed, self.dataset.fingerprint) if fitted else (None, None)
        options = self.settings.options() | self.dataset.choice.options()
        return make_record("embed", options, seed=seed, fingerprint=fingerprint,
                           parents=parents_by_name(self.dataset), tags=self.output.tags)  # fmt: skip

    @functools.cached_property
    def filling(self) -> Filling:
        """See `StoreJob`."""
        given = self.settings.given
        return Filling(self.dataset, "features", self.record, self.output.path, given.strict,
                       {PCA_FILE: given.pca is not None})  # fmt: skip

    def fill(self, numbers: Iterable[int], monitor: Monitor) -> None:
        """See `StoreJob`."""
        from dprune.embedding.extraction import extract

        extract(self.settings, self.filling, numbers, monitor)


def open_embed(
    shards: Sequence[str] | Dataset, options: EmbedOptions, output: Output, members: MemberChoice | None = None
) -> EmbedJob:
    """Open what `dprune embed` was given.

    Args:
        shards: as `open_dataset` takes them, or what was opened.
        options: how features are to be made.
        output: where the store goes.
        members: which members of shards that are not opened are images and labels, None for the default.

    Raises:
        UsageError: the network does not take one of the options.
        InputError: the weights' file or the shards are not there.
    """
    settings = options.settings
    dataset = shards if isinstance(shards, Dataset) else open_dataset(shards, members)
    return EmbedJob(dataset, settings, output)
