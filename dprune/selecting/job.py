"""The job of `dprune select`: reads what is given, holds it together, writes keep.npy."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.arrays import Array, write_array
from dprune.formats.beside import Beside
from dprune.formats.class_names import MOST_LISTED
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.jobs import FileJob
from dprune.formats.members import MemberChoice
from dprune.formats.named import NamedSamples
from dprune.formats.named_sources import NamedShards, open_named
from dprune.formats.provenance import Record, check_same_dataset, make_record, variant, with_findings
from dprune.formats.publish import Output
from dprune.formats.sample_labels import find_sample_labels
from dprune.formats.subsets import narrowed, read_chosen
from dprune.formats.values import read_values, whole
from dprune.runtime import Monitor
from dprune.selecting.amount import Amount
from dprune.selecting.candidates import between, scored, warn_of_unranked
from dprune.selecting.composition import compose, read_counts, tail_counts
from dprune.selecting.partition import CLASS, Grouping, Partition
from dprune.selecting.quotas import IntArray
from dprune.selecting.ranking import Chosen, Ranking, allot, allot_draws, division, rank
from dprune.selecting.settings import SelectSettings
from dprune.selecting.writing import NAMING, Known, write_subset

_log = logging.getLogger("dprune")


def open_select(
    scores: str | None, settings: SelectSettings, output: Output, members: MemberChoice | None = None
) -> SelectJob:
    """Read the files of a selection and hold them together.

    Args:
        scores: one score a sample, as `read_values` takes them, or None.
        settings: what to keep, and the other files.
        output: where the subset goes.
        members: which members of the shards are images, None for the default.

    Raises:
        InputError: a file is missing or not what it should be.
        MismatchError: the files do not belong together.
        UsageError: the settings contradict each other.
    """
    needing = "--figure" if settings.figure else f"--format {settings.format}" if settings.format in NAMING else ""
    labels = find_sample_labels(settings.groups, members) if settings.groups else None
    shards = settings.shards
    if needing and not shards and settings.groups and labels is not None:
        # What the classes are of is the dataset.
        shards = (settings.groups,)
    if needing and not shards:
        raise UsageError(f"{needing} and --shards go together: name the dataset that the ids are of.")
    named = open_named(shards, members) if shards else None
    if settings.figure and not isinstance(named, NamedShards):
        raise InputError(f"{shards[0]}: holds no images to draw with --figure: name their shards with --shards.")
    clusters = read_clusters(settings.clusters) if settings.clusters else None
    ranked = read_values(scores, "scores", named) if scores else None
    groups = labels or (read_values(settings.groups, "groups", named) if settings.groups else None)
    ranked, groups = whole(ranked, groups, named, clusters)
    within, without, unions = (
        tuple(read_chosen(path, named) for path in paths)
        for paths in (settings.within, settings.without, settings.unions)
    )
    example = read_chosen(settings.as_many_as, named) if settings.as_many_as else None
    return SelectJob(settings, ranked, clusters, groups, within, without, unions, example, named, output)


@dataclass(frozen=True)
class SelectJob(FileJob):
    """One selection, and what was read from the files that its settings name."""

    settings: SelectSettings
    scores: Array | None
    clusters: Clusters | None
    groups: Array | None
    within: tuple[Array, ...]
    without: tuple[Array, ...]
    unions: tuple[Array, ...]
    example: Array | None
    named: NamedSamples | None
    output: Output

    def __post_init__(self) -> None:
        """Hold the inputs together."""
        self._check_usage()
        counts = {value.name: len(value.values) for value in (self.scores, self.groups) if value is not None}
        counts |= {} if self.clusters is None else {self.clusters.name: len(self.clusters)}
        counts |= {} if self.named is None else {self.named.title: len(self.named)}
        first, count = next(iter(counts.items()), ("", 0))
        for name, other in counts.items():
            if other != count:
                raise MismatchError(
                    f"{first} has {count:,} samples and {name} {other:,}: make both from the same dataset."
                )
        for subset in filter(None, (*self.within, *self.without, *self.unions, self.example)):
            if counts:
                narrowed(subset, first, None, count)
        # What is said of one dataset has one fingerprint.
        _ = self.fingerprint

    @property
    def amount(self) -> Amount | None:
        """How much to keep, None for all that groups, quota and cap allow."""
        if self.example is not None:
            return Amount(len(self.example.values))
        return self.settings.keep or self.settings.prune

    @property
    def order(self) -> str:
        """Which scores to keep; what bounds groups alone is by chance where there are none: nobody forgot them."""
        settings = self.settings
        capped = settings.cap is not None and self.amount is None and settings.quota != "equal"
        by_chance = self.scores is None and (capped or settings.composed or settings.repeat)
        return settings.order or ("random" if by_chance else "lowest")

    def _check_usage(self) -> None:
        settings, grouped = self.settings, self.partition is not None
        by_group = settings.quota == "equal" or settings.composed or settings.repeat
        bounded = self.amount is not None or by_group or settings.cap is not None
        if self.clusters is not None and not len(self.clusters):
            raise InputError(f"{self.clusters.name}: holds no samples to choose from: cluster features of some.")
        if (by_group or settings.cap is not None or settings.only is not None) and not grouped:
            raise UsageError(
                "--quota equal, --repeat, --cap, --counts, --tail and --only need groups: give --clusters or --groups."
            )
        if self.scores is None and not (grouped or self.within):
            raise UsageError("there is nothing to choose from: give SCORES, --clusters, --groups or --within.")
        if self.scores is None and self.order != "random" and bounded:
            raise UsageError(f"--order {self.order} needs SCORES: give them, or choose with --order random.")
        if self.scores is None and settings.by_value:
            raise UsageError("--below and --above need SCORES: give them.")
        narrowed = self.within or self.without or self.unions or settings.only is not None
        if not (bounded or narrowed or settings.by_value):
            raise UsageError("nothing says how much to keep: give --keep or --prune.")

    @functools.cached_property
    def _inputs(self) -> Mapping[str, Array | Clusters]:
        single = {"scores": self.scores, "clusters": self.clusters, "groups": self.groups, "as_many_as": self.example}
        many = {"within": self.within, "without": self.without, "or": self.unions}
        listed = {f"{role} {i}" if i else role: a for role, arrays in many.items() for i, a in enumerate(arrays)}
        return {role: value for role, value in {**single, **listed}.items() if value is not None}

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset that all inputs share, or that --shards names."""
        known = {value.name: value.fingerprint for value in self._inputs.values()}
        return check_same_dataset(known if self.named is None else {**known, self.named.title: self.named.fingerprint})

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the subset."""
        settings, amount = self.settings, self.settings.keep or self.settings.prune
        options: dict[str, Any] = {"keep": str(amount) if amount else None, "order": self.order}
        options |= {"below": settings.below, "above": settings.above, "repeat": settings.repeat or None}
        if self.partition is not None:
            quota = "equal" if settings.repeat else settings.quota
            options |= {"quota": quota, "cap": settings.cap, "only": self.only and list(self.only)}
            options["counts"] = ",".join(f"{group}:{count}" for group, count in self.counts.items()) or None
            options["tail"] = None if settings.tail is None else str(Amount(settings.tail))
        parents = {role: value.as_parent() for role, value in self._inputs.items()}
        if settings.format != SelectSettings.format:
            options["format"] = settings.format
        kept = {key: value for key, value in options.items() if value is not None}
        return make_record(
            "select", kept, seed=settings.seed, fingerprint=self.fingerprint, parents=parents, tags=self.output.tags
        )

    @functools.cached_property
    def partition(self) -> Partition | None:
        """The groups that are chosen inside of, None to choose among all samples."""
        return Partition.of(self.clusters, self.groups)

    @functools.cached_property
    def only(self) -> tuple[int, ...] | None:
        """The groups that samples are kept from, None for all.

        Raises:
            InputError: one does not exist.
            UsageError: none is named, or something is no group.
        """
        if self.partition is None or self.settings.only is None:
            return None
        return self.partition.chosen(self.settings.only)

    @functools.cached_property
    def counts(self) -> Mapping[int, int]:
        """How many samples each group gives, by its number, where that was asked for.

        Raises:
            InputError: a group does not exist.
            UsageError: what was asked for cannot be read.
        """
        if self.partition is None or self.settings.counts is None:
            return {}
        return read_counts(self.settings.counts, self.partition)

    def candidates(self, *, every_group: bool = False) -> IntArray:
        """Return the sorted ids that may be kept: scored, in a group that is asked for, within and not without.

        Scores that --below and --above refuse are those of no candidate.

        Args:
            every_group: whether to return those of all groups, whichever are asked for.

        Raises:
            InputError: a group that is asked for does not exist, no sample is in a group, or none of those has a score
                that will do.
        """
        ids, settings = self._scored(every_group=every_group), self.settings
        return ids if self.scores is None else between(ids, self.scores, settings.below, settings.above)

    def _scored(self, *, every_group: bool) -> IntArray:
        """Return the candidates, and those whose scores are not within bounds."""
        ids = self._grouped(None if every_group else self.only)
        for subset in self.within:
            ids = np.intersect1d(ids, subset.values, assume_unique=True)
        for subset in self.without:
            ids = np.setdiff1d(ids, subset.values, assume_unique=True)
        return ids if self.scores is None else scored(ids, self.scores)

    def _grouped(self, only: tuple[int, ...] | None) -> IntArray:
        """Return the ids of all samples, where there are groups of those in one of `only`."""
        if self.partition is None:
            return self.within[0].values if self.scores is None else np.arange(len(self.scores.values))
        groups = self.partition.values
        if len(groups) and groups.max() < 0:
            raise InputError(f"{self.partition.title}: puts no sample in a group, and nothing would be kept.")
        return self.partition.among(only)

    @property
    def beside(self) -> list[Beside]:
        """The picture."""
        if self.named is None or self.settings.figure is None:
            return []
        return [Beside("--figure", Path(self.settings.figure), variant(self.record, figure=self.named.fingerprint))]

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Choose, publish the ids (int64, sorted, unique), keys or uids, and count them by cluster and class.

        What repeats samples is published as weights, float32 [N].
        """
        choice = self._choose()
        candidates, chosen = choice.candidates, choice.kept
        findings: dict[str, Any] = {"candidates": len(candidates), "kept": len(chosen)}
        if self.settings.by_value:
            findings["scored"] = len(self._scored(every_group=False))
        if self.partition is not None and self.only is not None:
            findings["every_group"] = len(self.candidates(every_group=True))
            names = self.partition.last.names
            findings |= {"only": [names.name(number) for number in self.only[:MOST_LISTED]]} if names else {}
        kept = self._united(chosen)
        if not len(kept):
            _log.warning("nothing is kept of %d candidates.", len(candidates))
        if self.scores is not None and self.order == "lowest":
            warn_of_unranked(len(chosen), self.scores)
        if choice.weights is not None:
            drawn = int(choice.weights.sum(dtype=np.float64))
            write_array(self.output.path, choice.weights, with_findings(self.record, {**findings, "drawn": drawn}))
        else:
            known = Known(self.named, self.clusters, self.groups, self.scores)
            write_subset(self.output.path, kept, self.settings.format, known, with_findings(self.record, findings))
        for picture in self.beside:
            from dprune.selecting.contact_sheet import draw_sheet

            assert isinstance(self.named, NamedShards)
            # What a bound leaves out is shown without a frame.
            shown = self._ranking(self._scored(every_group=False)) if self.settings.by_value else choice.ranking
            draw_sheet(self.named.dataset, shown, kept, self.partition, picture)
        return self._summary(choice, kept)

    def work(self) -> Mapping[str, Any]:
        """See `Job`: what would be kept."""
        found = self.summary()
        return {name: found[name] for name in ("kept", "candidates", "drawn") if name in found}

    def summary(self) -> dict[str, Any]:
        """See `Job`; to choose again is quicker than to find the ids of keys and uids."""
        choice = self._choose()
        return self._summary(choice, self._united(choice.kept))

    def _choose(self) -> Chosen:
        settings, candidates = self.settings, self.candidates()
        ranking = self._ranking(candidates)
        if self.partition is not None and settings.repeat:
            draws = allot_draws(ranking.sizes, self.amount, self.order, self.partition.above(ranking.names))
            weights = ranking.repeat(draws, self.order, len(self.partition.values))
            return Chosen(ranking, candidates, np.flatnonzero(weights), weights)
        if self.partition is not None and settings.composed:
            counts = self._composed(ranking, self.partition)
        else:
            above = () if self.partition is None else self.partition.above(ranking.names)
            counts = allot(ranking.sizes, self.amount, self.order, settings.quota, settings.cap, above)
        return Chosen(ranking, candidates, ranking.keep(counts, self.order))

    def _ranking(self, ids: IntArray) -> Ranking:
        scores = None if self.scores is None else self.scores.values
        groups = None if self.partition is None else self.partition.values
        return rank(ids, scores, groups, self.order, self.settings.seed)

    def _composed(self, ranking: Ranking, partition: Partition) -> IntArray:
        """Return how many candidates each group gives; raises `InputError` where one has fewer."""
        groups, wanted = partition.of_last(ranking.names), self.counts
        if self.settings.tail is not None:
            names, places = np.unique(groups, return_inverse=True)
            sizes = np.bincount(places, weights=ranking.sizes).astype(np.int64)
            counts = tail_counts(self.settings.tail, sizes)
            if len(lost := names[counts == 0]):
                _log.warning("--tail leaves nothing of %s: give a larger share.", partition.last.names.listed(lost))
            wanted = dict(zip(names.tolist(), counts.tolist(), strict=True))
        return compose(wanted, groups, ranking.sizes, division(self.settings.quota, self.order), partition)

    def _united(self, ids: IntArray) -> IntArray:
        for union in self.unions:
            ids = np.union1d(ids, union.values)
        return ids

    def _summary(self, choice: Chosen, kept: IntArray) -> dict[str, Any]:
        candidates = choice.candidates
        summary: dict[str, Any] = {"kept": len(kept), "candidates": len(candidates)}
        if choice.weights is not None:
            summary["drawn"] = int(choice.weights.sum(dtype=np.float64))
        found = {} if self.partition is None else self.partition.counts(kept, candidates)
        if self.clusters is not None and self.clusters.label is not None and CLASS not in found:
            grouping = Grouping(self.clusters.name, CLASS, self.clusters.label, self.clusters.class_names)
            found[CLASS] = grouping.counts(kept, candidates)
        summary |= {f"kept_by_{kind}": counts for kind, counts in found.items()}
        return {**summary, "fingerprint": self.fingerprint}
