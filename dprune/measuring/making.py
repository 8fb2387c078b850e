"""Features that a measurement makes for itself: by which network, and where they are kept.

They go to a store in the cache, named after the dataset and the options, so that no image is embedded twice; an
interrupted one goes on. Nothing here imports torch before features are made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dprune.embedding.job import EmbedJob, open_embed
from dprune.embedding.settings import EmbedOptions
from dprune.errors import InputError, MismatchError
from dprune.formats.cache import cache_folder, writable
from dprune.formats.claims import claim_in, claimed
from dprune.formats.features import StoreFeatures, open_features
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, digest, parent_record, record_digest
from dprune.formats.publish import Output
from dprune.formats.shards import Dataset, open_dataset
from dprune.measuring.side_paths import SidePath
from dprune.packing.sources import Source, classes_of
from dprune.packing.unpacked import as_dataset, open_images
from dprune.precision import PRECISIONS
from dprune.runtime import Monitor, Ranks, acting_as

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Embedding:
    """How the features of shards are made, as it was asked for.

    Attributes:
        model: None for that of the other side, or else `default`.
        default: model where no side names one.
        weights: as all that follow, see `dprune embed`.
    """

    model: str | None
    default: str
    weights: str | None = None
    image_size: int | None = None
    resize: str | None = None
    color: str | None = None
    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 256
    workers: int | None = 0
    image_member: str | None = None
    label_member: str | None = None

    @property
    def members(self) -> MemberChoice:
        """Which members of shards are images and labels."""
        return MemberChoice(self.image_member, self.label_member)

    @property
    def stated(self) -> bool:
        """Whether any option says how features are to be made."""
        given = (self.model, self.weights, self.image_size, self.resize, self.color)
        return any(value is not None for value in given) or self.precision != "auto"

    def options(self, like: Record | None) -> EmbedOptions:
        """Return the options as `embed` takes them.

        Args:
            like: record of the features to be compared with, whose options hold where none is stated.

        Raises:
            UsageError: the options contradict each other.
            MismatchError: features like those cannot be made.
        """
        own = EmbedOptions(
            self.model or self.default, self.weights, self.image_size, resize=self.resize, color=self.color,
            precision=self.precision, device=self.device, batch_size=self.batch_size, workers=self.workers,
        )  # fmt: skip
        if like is None or self.model is not None:
            return own
        known = like["options"]
        if "pca" in known:
            raise MismatchError(
                "features made with --pca have a space of their own, in which no other images can be embedded: "
                "embed both sides without --pca."
            )
        precision = {dtype: name for name, dtype in PRECISIONS.items()}[known["precision"]]
        options = replace(
            own, model=known["model"], image_size=self.image_size or known.get("image_size"),
            crop_pct=known.get("crop_pct"), resize=self.resize or known.get("resize"),
            color=self.color or known.get("color"), normalize=known["normalize"],
            dtype=known["dtype"], precision=precision if self.precision == "auto" else self.precision,
        )  # fmt: skip
        if options.settings.options().get("weights") != known.get("weights"):
            raise MismatchError(
                f"the other side was embedded with {known['model']} and weights of SHA-256 "
                f"{str(known.get('weights'))[:12]}: give that file with --weights."
            )
        return options


@dataclass(frozen=True)
class SideImages:
    """Images of a side, whose features are to be made.

    Attributes:
        dataset: the images.
        source: what they are read from, None for shards.
    """

    dataset: Dataset
    source: Source | None = None

    @classmethod
    def open(cls, side: SidePath, members: MemberChoice) -> SideImages:
        """Open shards, or images that were not packed.

        Raises:
            InputError: there are none.
            UsageError: they are of several splits.
        """
        if side.holds == "shards":
            return cls(open_dataset([side.path], members))
        source = open_images(side.path)
        return cls(as_dataset(side.path, source), source)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the labels, empty where they are numbers, or there are none; a table may be read for them."""
        return classes_of(self.dataset) if self.source is None else self.source.classes

    def prepare(self, monitor: Monitor) -> None:
        """Read what is wanted before the images, once and not in each worker."""
        if self.source is not None:
            self.source.prepare(monitor)

    def tell(self) -> None:
        """Say what was taken and what was not, as `pack` does."""
        if self.source is None:
            return
        left = ", ".join(f"{count:,} {kind}" for kind, count in self.source.left_out.items())
        told = [f"split {self.source.options['split']}"] if "split" in self.source.options else []
        told += [f"left out: {left}"] if left else []
        if told:
            _log.info("%s: %s.", self.dataset.title, "; ".join(told))


@dataclass(frozen=True)
class Making:
    """Features that are made when they are wanted, if the cache does not hold them.

    Attributes:
        job: makes them.
        images: of which it makes them.
    """

    job: EmbedJob
    images: SideImages

    @classmethod
    def plan(cls, images: SideImages, options: EmbedOptions) -> Making:
        """Find the place in the cache.

        Raises:
            InputError: there are no images.
        """
        job = open_embed(images.dataset, options, Output(""))
        if not len(job.dataset):
            raise InputError(f"{job.dataset.title}: holds no samples: give shards with images.")
        return cls(replace(job, output=Output(str(cache_folder() / "features" / _content(job)[:32]))), images)

    @property
    def parent(self) -> Record:
        """How a record describes the features as an input."""
        return parent_record(self.job.record, _content(self.job))

    def open(self, monitor: Monitor) -> StoreFeatures:
        """Make what is missing, and open the features."""
        self.images.tell()
        # Nobody shares this work, be this process a task of an array or not.
        with acting_as(Ranks()):
            made = self.job if self.job.complete() else self._made(monitor)
        features = open_features(made.output.path)
        assert isinstance(features, StoreFeatures)
        # Messages name what was given, and not a folder of the cache.
        features.name = self.job.dataset.title
        return features

    def _made(self, monitor: Monitor) -> EmbedJob:
        """Make features in the cache, unless another process does so meanwhile, and return the job that made them."""
        folder = writable(Path(self.job.output.path))
        job = replace(self.job, output=Output(str(folder)))
        with claimed(claim_in(folder, Ranks()), str(folder), monitor, patience=math.inf):
            if not job.complete():
                _log.info("embedding %s with %s.", job.dataset.title, job.settings.network)
                self.images.prepare(monitor)
                made: dict[str, Any] = job.run(monitor)
                _log.debug("made %s of %s shards in %s.", made["shards_made"], made["shards"], folder)
        job.tidy()
        return job


def _content(job: EmbedJob) -> str:
    return digest([job.dataset.fingerprint, record_digest(job.record)])
