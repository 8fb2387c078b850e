"""The job of `dprune memorization`: opens what is given, holds it together, writes memorization.json."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.arrays import Array, write_array
from dprune.formats.beside import Beside
from dprune.formats.jobs import FileJob
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, check_same_dataset, make_record, packed_subset, training_subset
from dprune.formats.publish import Output
from dprune.formats.results import read_result, summarized
from dprune.formats.subsets import read_chosen
from dprune.measuring.loss_gap_job import LossGapJob, open_loss_gap
from dprune.measuring.making import Embedding
from dprune.measuring.pairs import COMMAND
from dprune.measuring.settings import MemorizationSettings
from dprune.measuring.side_paths import SidePath, open_sides_images
from dprune.measuring.sources import FeatureSource, check_held_out, open_with_held_out
from dprune.runtime import Monitor

if TYPE_CHECKING:
    from dprune.measuring.pair_sheet import PairSheet


@dataclass(frozen=True)
class MemorizationJob(FileJob):
    """One measurement, its inputs opened and held together.

    Attributes:
        sources: by role: `generated`, `train` and perhaps `held_out`.
        subset: ids of the training samples, None for all.
        held_ids: ids of the held-out samples, where these are of the dataset of the training samples.
        settings: what changes the numbers, and what is made beside the result.
        device: name of the device.
        sheet: draws the closest pairs, or None.
    """

    sources: Mapping[str, FeatureSource]
    subset: Array | None
    held_ids: Array | None
    settings: MemorizationSettings
    device: str
    sheet: PairSheet | None
    output: Output

    def __post_init__(self) -> None:
        """Hold the inputs together; raises what `open_memorization` does."""
        train = self.sources["train"]
        if not self.settings.full:
            _check_subset(self.sources["generated"], train, self.subset)
        if self.subset is not None:
            check_same_dataset({self.subset.name: self.subset.fingerprint, train.name: train.fingerprint})
        self._check_held_out()
        if self.sheet is not None:
            self.sheet.check(self.sources)

    def _check_held_out(self) -> None:
        check_held_out(self.sources, self.held_ids, "train")
        if self.held_ids is not None:
            trained = self.held_ids.values
            if self.subset is not None:
                trained = np.intersect1d(trained, self.subset.values, assume_unique=True)
            if len(trained):
                raise MismatchError(
                    f"{self.held_ids.name}: {len(trained):,} of its ids are training samples too (the first is "
                    f"{trained[0]}): hold out ids that are not in the --subset that the model was trained on."
                )

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the result, and of the pairs."""
        parents = {role: source.parent for role, source in self.sources.items()}
        if self.subset is not None:
            parents["subset"] = self.subset.as_parent()
        options, seed = self.settings.options(), self.settings.seed
        return make_record(COMMAND, options, seed=seed, parents=parents, tags=self.output.tags)

    @property
    def beside(self) -> list[Beside]:
        """The pairs and the picture."""
        pairs = self.settings.pairs
        found = [Beside("--pairs", Path(pairs), self.record)] if pairs is not None else []
        return found + ([self.sheet.beside(self.record)] if self.sheet is not None else [])

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """See `Job`."""
        from dprune.measuring.memorization import find_copies

        found, pairs = find_copies(
            self.sources, self.settings, self.device, monitor, subset=self.subset, held_ids=self.held_ids
        )
        if self.settings.pairs is not None:
            write_array(self.settings.pairs, pairs, self.record)
        if self.sheet is not None:
            self.sheet.draw(pairs, self.sources["generated"].model, self.record)
        return found.publish(self.output.path, COMMAND, self.record)

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        found = read_result(self.output.path)
        return summarized(found.metrics, found.inputs)


def open_memorization(
    generated: str | None, train: str | None, settings: MemorizationSettings, embedding: Embedding, output: Output
) -> MemorizationJob | LossGapJob:
    """Open the samples of a measurement.

    Args:
        generated: features or shards of generated samples; None for losses.
        train: features or shards of the dataset that the model was trained on; None for losses.
        settings: what else was given.
        embedding: how features of shards are made.

    Raises:
        InputError: a file is missing or not what it should be.
        MismatchError: the samples do not belong together.
        UsageError: options have nothing to work on.
    """
    if settings.losses is not None:
        if generated is not None or embedding.stated:
            what = "GENERATED and TRAIN" if generated is not None else "options of their features"
            raise UsageError(f"--losses takes no {what}: measure generated samples in a command of their own.")
        return open_loss_gap(settings, output)
    if generated is None or train is None:
        missing = "GENERATED" if generated is None else "TRAIN"
        raise UsageError(f"{missing} is missing: give generated and training samples, or --losses.")
    paths = {"generated": SidePath.of(generated).as_images(), "train": SidePath.of(train).as_images()}
    sheet = _open_sheet(settings, paths, embedding.members)
    sources, held_ids = open_with_held_out(paths, settings.held_out, "train", embedding)
    subset = read_chosen(settings.subset, sources["train"].named) if settings.subset is not None else None
    return MemorizationJob(sources, subset, held_ids, settings, embedding.device, sheet, output)


def _open_sheet(
    settings: MemorizationSettings, sides: Mapping[str, SidePath], members: MemberChoice
) -> PairSheet | None:
    """Find the images of the picture: those that were stated, or of sides that are shards."""
    if settings.figure is None:
        return None
    from dprune.measuring.pair_sheet import PairSheet

    images: dict[str, tuple[str, ...]] = {"generated": settings.generated_shards, "train": settings.train_shards}
    for role, stated in images.items():
        images[role] = stated or ((sides[role].path,) if sides[role].holds in ("shards", "images") else ())
        if not images[role]:
            raise UsageError(f"--figure shows images, and {role} is features: give --{role}-shards.")
    datasets = {role: open_sides_images(paths, members) for role, paths in images.items()}
    return PairSheet(datasets, settings.figure, settings.figure_count)


def _check_subset(generated: FeatureSource, train: FeatureSource, subset: Array | None) -> None:
    """Hold the subset that is given to the one that the provenance of the generated samples names."""
    named, inherent = training_subset(generated.record), packed_subset(train.record)
    if named is None:
        return
    if inherent is not None and inherent["digest"] == named["digest"]:
        if subset is not None:
            raise MismatchError(f"{train.name} holds nothing but the model's training samples: leave --subset out.")
        return
    if subset is None:
        raise InputError(
            f"{generated.name} comes from a model that was trained on a subset with the digest {named['digest']}: "
            f"give that file with --subset, or --full to compare with all of {train.name}."
        )
    if (given := subset.as_parent()["digest"]) != named["digest"]:
        raise MismatchError(
            f"{subset.name} has the digest {given[:12]}, and the model behind {generated.name} was trained on the "
            f"subset with the digest {named['digest'][:12]}: give that one with --subset."
        )
