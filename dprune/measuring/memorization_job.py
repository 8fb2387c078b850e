"""The job of `dprune memorization`: opens what is given, holds it together, writes memorization.json."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import Array, read_ids, write_array
from dprune.formats.beside import Beside
from dprune.formats.features import Features
from dprune.formats.jobs import FileJob
from dprune.formats.kinds import kind_of
from dprune.formats.provenance import Record, check_same_dataset, make_record, packed_subset, training_subset
from dprune.formats.publish import Output
from dprune.formats.results import write_result
from dprune.measuring.pairs import COMMAND, nearest_pairs
from dprune.measuring.sources import Embedding, Source, open_sources
from dprune.reporting.pair_sheet import PairSheet
from dprune.runtime import Monitor

if TYPE_CHECKING:
    import torch

    from dprune.measuring.memorization import Memorization

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Settings:
    """What changes the numbers besides the samples.

    Attributes:
        neighbours: training samples that the calibrated ratio looks at; fewer where there are fewer.
        alpha: its factor.
        cells: cells of the copying test, None for one a 50 samples of the smallest set.
        jackknife: blocks of the standard error; below 2 there is none.
        seed: of the yardstick, the cells and the blocks.
    """

    neighbours: int = 50
    alpha: float = 0.5
    cells: int | None = None
    jackknife: int = 20
    seed: int = 0

    def options(self) -> Record:
        """Return what provenance records."""
        names = ("neighbours", "alpha", "cells", "jackknife")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class MemorizationJob(FileJob):
    """One measurement, its inputs opened and held together.

    Attributes:
        sources: by role: `generated`, `train` and perhaps `held_out`.
        subset: ids of the training samples, None for all.
        held_ids: ids of the held-out samples, where these are of the dataset of the training samples.
        full: whether all training samples were asked for, whatever the model was trained on.
        settings: what changes the numbers.
        device: name of the device.
        pairs: where the pairs go, or None.
        sheet: draws the closest pairs, or None.
    """

    sources: Mapping[str, Source]
    subset: Array | None
    held_ids: Array | None
    full: bool
    settings: Settings
    device: str
    pairs: str | None
    sheet: PairSheet | None
    output: Output

    def __post_init__(self) -> None:
        """Hold the inputs together.

        Raises:
            InputError: the model's training subset is not given.
            MismatchError: another one is, or the images are of another dataset.
        """
        train = self.sources["train"]
        if not self.full:
            _check_subset(self.sources["generated"], train, self.subset)
        for ids in (self.subset, self.held_ids):
            if ids is not None:
                check_same_dataset({ids.name: ids.fingerprint, train.name: train.fingerprint})
        self._check_held_out()
        if self.sheet is not None:
            for role in ("generated", "train"):
                self.sheet.check(role, self.sources[role])

    def _check_held_out(self) -> None:
        train, held_out = self.sources["train"], self.sources.get("held_out")
        if self.held_ids is not None:
            trained = self.held_ids.values
            if self.subset is not None:
                trained = np.intersect1d(trained, self.subset.values, assume_unique=True)
            if len(trained):
                raise MismatchError(
                    f"{self.held_ids.name}: {len(trained):,} of its ids are training samples too (the first is "
                    f"{trained[0]}): hold out ids that are not in the --subset that the model was trained on."
                )
        elif held_out is not None and held_out.fingerprint and held_out.fingerprint == train.fingerprint:
            raise MismatchError(
                f"{held_out.name} and {train.name} are one dataset: give --held-out the .npy of the ids in it that "
                "the model was not trained on."
            )

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the result, and of the pairs."""
        options = {**self.settings.options(), **({"full": True} if self.full else {})}
        parents = {role: source.parent for role, source in self.sources.items()}
        if self.subset is not None:
            parents["subset"] = self.subset.as_parent()
        return make_record(COMMAND, options, seed=self.settings.seed, parents=parents, tags=self.output.tags)

    @property
    def beside(self) -> list[Beside]:
        """The pairs and the picture."""
        pairs = [Beside("--pairs", Path(self.pairs), self.record)] if self.pairs is not None else []
        return pairs + ([self.sheet.beside(self.record)] if self.sheet is not None else [])

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Measure, publish the pairs, the picture and the result, and summarise it.

        Raises:
            InputError: features cannot be used, or another file stands where the pairs are to go.
            MismatchError: the features have different dimensions.
            UsageError: the device is impossible.
            DpruneError: the device is out of memory.
            Interrupted: a signal or --stop-after ended the work; features that were made stay in the cache.
        """
        from dprune.runtime import explained, take_device

        device = take_device(self.device)
        with explained(device, "--device cpu"):
            work = self._open(device, monitor)
            result = work.measure()
        pairs = nearest_pairs(result.found, work.generated.ids, work.train.ids)
        if self.pairs is not None:
            write_array(self.pairs, pairs, self.record)
        if self.sheet is not None:
            self.sheet.draw(pairs, self.sources["generated"].model, self.record)
        inputs = self._inputs(work)
        write_result(self.output.path, COMMAND, result.metrics, result.details, inputs, self.record)
        return {side["role"]: side["count"] for side in inputs} | _headline(result.metrics)

    def _open(self, device: torch.device, monitor: Monitor) -> Memorization:
        from dprune.measuring.memorization import Memorization
        from dprune.measuring.sides import SubsetRows, chosen_ids, load_side
        from dprune.measuring.training_rows import TrainingRows

        # First, because wrong ids should be told before images are embedded.
        features = {role: self.sources[role].open(monitor) for role in ("train", "held_out", "generated")
                    if role in self.sources}  # fmt: skip
        _check_dimensions(features)
        ids = chosen_ids(features["train"], self.subset)
        held_ids = chosen_ids(features["held_out"], self.held_ids) if "held_out" in features else None
        held_out = None
        if held_ids is not None:
            held_out = load_side(features["held_out"], held_ids, "held-out", device)
        else:
            _log.info("without --held-out there is no copying test, and no yardstick of samples that were not seen.")
        every = chosen_ids(features["generated"], None)
        generated = load_side(features["generated"], every, "generated", device)
        train = TrainingRows(SubsetRows(features["train"], ids), monitor)
        return Memorization(generated, train, held_out, self.settings, monitor)

    def _inputs(self, work: Memorization) -> list[Record]:
        from dprune.measuring.sides import describe

        train, dimension = work.train, work.train.shape[1]
        counts = {
            "generated": (len(work.generated.ids), work.generated.dropped),
            "train": (train.finite, train.dropped),
        }
        if work.held_out is not None:
            counts["held_out"] = (len(work.held_out.ids), work.held_out.dropped)
        return [describe(role, self.sources[role], *counts[role], dimension) for role in counts]


def open_memorization(
    generated: str,
    train: str,
    held_out: str | None,
    subset: str | None,
    *,
    full: bool,
    settings: Settings,
    embedding: Embedding,
    pairs: str | None = None,
    sheet: PairSheet | None = None,
    output: Output,
) -> MemorizationJob:
    """Open the samples of a measurement.

    Args:
        generated: features or shards of generated samples.
        train: features or shards of the dataset that the model was trained on.
        held_out: features or shards of samples that it was not trained on, or a .npy of ids in `train`.
        subset: a .npy of ids in `train`, or `-`.
        full: whether all of `train` is meant, whatever the model was trained on.
        settings: what changes the numbers.
        embedding: how features of shards are made.
        pairs: where the pairs are to go.
        sheet: draws the closest pairs.

    Raises:
        InputError: a file is missing or not what it should be.
        MismatchError: the samples do not belong together.
        UsageError: options about making features that make none.
    """
    paths = {"generated": generated, "train": train}
    held_ids = read_ids(held_out) if held_out is not None and kind_of(held_out) in ("vector", "stdin") else None
    if held_out is not None and held_ids is None:
        paths["held_out"] = held_out
    sources = open_sources(paths, embedding)
    if held_ids is not None:
        origin = sources["train"]
        sources["held_out"] = Source(held_ids.name, origin.record, held_ids.as_parent(), origin.open)
    return MemorizationJob(
        sources, read_ids(subset) if subset is not None else None, held_ids, full, settings, embedding.device,
        pairs, sheet, output,
    )  # fmt: skip


def _headline(metrics: Record) -> Record:
    """Return the numbers that are worth a line."""
    kept = {key: value for key, value in metrics.items() if not key.endswith("_se")}
    return {key: value for key, value in kept.items() if isinstance(value, int | float)}


def _check_subset(generated: Source, train: Source, subset: Array | None) -> None:
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
            f"give that file by --subset, or --full to compare with all of {train.name}."
        )
    if (given := subset.as_parent()["digest"]) != named["digest"]:
        raise MismatchError(
            f"{subset.name} has the digest {given[:12]}, and the model behind {generated.name} was trained on the "
            f"subset with the digest {named['digest'][:12]}: give that one by --subset."
        )


def _check_dimensions(features: Mapping[str, Features]) -> None:
    train = features["train"]
    for other in features.values():
        if other.shape[1] != train.shape[1]:
            raise MismatchError(
                f"{train.name} has features of {train.shape[1]:,} dimensions and {other.name} of {other.shape[1]:,}: "
                "make both with the same model."
            )
