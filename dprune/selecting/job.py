"""The job behind `dprune select`: reads what is given, holds it together, writes keep.npy."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.arrays import Array, read_groups, read_ids, read_scores, write_array
from dprune.formats.beside import Beside
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.features import open_features
from dprune.formats.jobs import FileJob
from dprune.formats.provenance import Record, check_same_dataset, make_record, variant
from dprune.formats.publish import Output
from dprune.runtime import Monitor
from dprune.selecting.amount import Amount
from dprune.selecting.ranking import Ranking, allot, rank, take

IntArray = npt.NDArray[np.int64]


class Picture(Protocol):
    """Draws what a selection keeps, from a dataset of images."""

    @property
    def name(self) -> str:
        """What messages call the images."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of their dataset."""

    @property
    def path(self) -> str:
        """Where the picture goes."""

    def __len__(self) -> int:
        """Return the number of samples in the dataset."""

    def draw(self, ranking: Ranking, kept: IntArray, mark: str) -> None:
        """Publish the picture of ranked candidates and sorted kept ids with a mark, see `Beside`."""


@dataclass(frozen=True)
class Choice:
    """What to keep of the candidates.

    Attributes:
        amount: how much, None for all that quota and cap allow.
        order: `lowest`, `middle`, `highest` or `random`.
        quota: `proportional` or `equal`.
        cap: most that a group may keep.
        only: groups to keep from, None for all.
        seed: breaks ties and draws at random.
    """

    amount: Amount | None = None
    order: str = "lowest"
    quota: str = "proportional"
    cap: int | None = None
    only: tuple[int, ...] | None = None
    seed: int = 0


@dataclass(frozen=True)
class SelectJob(FileJob):
    """One selection, its inputs read and checked.

    Attributes:
        choice: what to keep.
        scores: float [N] or None.
        clusters: clusters to choose inside of, or None.
        groups: int64 [N] to choose inside of, or None.
        within: subsets that candidates must be in.
        without: subsets that candidates must not be in.
        unions: subsets added to the result.
        picture: draws ranking and kept ids, or None.
    """

    choice: Choice
    scores: Array | None
    clusters: Clusters | None
    groups: Array | None
    within: tuple[Array, ...]
    without: tuple[Array, ...]
    unions: tuple[Array, ...]
    picture: Picture | None
    output: Output

    def __post_init__(self) -> None:
        """Hold the inputs together.

        Raises:
            MismatchError: they speak of different datasets or numbers of samples.
            UsageError: they leave open what to choose from.
        """
        self._check_usage()
        counts = {array.name: len(array.values) for array in (self.scores, self.groups) if array}
        counts |= {self.clusters.name: len(self.clusters)} if self.clusters else {}
        counts |= {self.picture.name: len(self.picture)} if self.picture else {}
        for name, count in list(counts.items())[1:]:
            first = next(iter(counts))
            if count != counts[first]:
                raise MismatchError(
                    f"{first} has {counts[first]:,} samples and {name} {count:,}: make both from the same dataset."
                )
        for subset in (*self.within, *self.without, *self.unions):
            if counts and len(subset.values) and subset.values[-1] >= min(counts.values()):
                raise MismatchError(
                    f"{subset.name} holds the id {subset.values[-1]}, but {next(iter(counts))} "
                    f"has {min(counts.values()):,} samples: make both from the same dataset."
                )
        _ = self.fingerprint

    def _check_usage(self) -> None:
        choice, grouped = self.choice, bool(self.clusters or self.groups)
        if self.clusters and self.groups:
            raise UsageError("--clusters and --groups exclude each other.")
        if (choice.quota == "equal" or choice.cap is not None or choice.only is not None) and not grouped:
            raise UsageError("--quota equal, --cap and --only speak of groups: give --clusters or --groups.")
        if not (self.scores or grouped or self.within):
            raise UsageError("there is nothing to choose from: give SCORES, --clusters, --groups or --within.")
        if (
            self.scores is None
            and choice.order != "random"
            and (choice.amount or choice.quota == "equal" or choice.cap)
        ):
            raise UsageError(f"--order {choice.order} needs SCORES: give them, or choose with --order random.")
        narrowed = self.within or self.without or self.unions or choice.only is not None
        if not (choice.amount or choice.quota == "equal" or choice.cap is not None or narrowed):
            raise UsageError("nothing says how much to keep: give --keep or --prune.")

    @functools.cached_property
    def _inputs(self) -> Mapping[str, Array | Clusters]:
        single = {"scores": self.scores, "clusters": self.clusters, "groups": self.groups}
        many = {"within": self.within, "without": self.without, "or": self.unions}
        listed = {f"{role} {i}" if i else role: a for role, arrays in many.items() for i, a in enumerate(arrays)}
        return {role: value for role, value in {**single, **listed}.items() if value is not None}

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset that all inputs share."""
        known = {value.name: value.fingerprint for value in self._inputs.values()}
        shared = check_same_dataset(known)
        if self.picture is not None and shared is not None:
            check_same_dataset({**known, self.picture.name: self.picture.fingerprint})
        return shared

    @property
    def record(self) -> Record:
        """Provenance of the subset."""
        choice = self.choice
        options: dict[str, Any] = {"keep": str(choice.amount) if choice.amount else None, "order": choice.order}
        if self._group_of is not None:
            options |= {"quota": choice.quota, "cap": choice.cap, "only": choice.only and list(choice.only)}
        parents = {role: value.as_parent() for role, value in self._inputs.items()}
        kept = {key: value for key, value in options.items() if value is not None}
        return make_record(
            "select", kept, seed=choice.seed, fingerprint=self.fingerprint, parents=parents, tags=self.output.tags
        )

    @property
    def _group_of(self) -> IntArray | None:
        if self.clusters:
            return self.clusters.assignment.astype(np.int64)
        return self.groups.values if self.groups else None

    def candidates(self) -> IntArray:
        """Return the sorted ids that may be kept: scored, in a group that is asked for, within and not without.

        Raises:
            InputError: a group that is asked for does not exist.
        """
        groups, only = self._group_of, self.choice.only
        if self.scores is None and groups is None:
            ids = self.within[0].values
        else:
            count = len(self.scores.values) if self.scores else len(groups if groups is not None else ())
            mask = np.ones(count, dtype=bool)
            if self.scores is not None and self.scores.values.dtype.kind == "f":
                mask &= ~np.isnan(self.scores.values)
            if groups is not None:
                mask &= groups >= 0
            if groups is not None and only is not None:
                if missing := sorted(set(only) - set(np.unique(groups).tolist())):
                    raise InputError(f"--only {missing[0]}: there is no such group.")
                mask &= np.isin(groups, only)
            ids = np.flatnonzero(mask)
        for subset in self.within:
            ids = np.intersect1d(ids, subset.values, assume_unique=True)
        for subset in self.without:
            ids = np.setdiff1d(ids, subset.values, assume_unique=True)
        return ids

    @property
    def beside(self) -> list[Beside]:
        """The picture."""
        if self.picture is None:
            return []
        drawn = variant(self.record, figure=self.picture.fingerprint)
        return [Beside("--figure", Path(self.picture.path), drawn)]

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Choose, publish the ids (int64, sorted, unique) and count them by cluster and class."""
        choice, candidates, groups = self.choice, self.candidates(), self._group_of
        scores = self.scores.values if self.scores else None
        ranking = rank(candidates, scores, groups, choice.order, choice.seed)
        kept = take(ranking, allot(ranking.sizes, choice.amount, choice.order, choice.quota, choice.cap), choice.order)
        for union in self.unions:
            kept = np.union1d(kept, union.values)
        write_array(self.output.path, kept, self.record)
        if self.picture is not None:
            self.picture.draw(ranking, kept, self.beside[0].mark)
        return self._summary(candidates, kept)

    def _summary(self, candidates: IntArray, kept: IntArray) -> dict[str, Any]:
        summary: dict[str, Any] = {"kept": len(kept), "candidates": len(candidates)}
        groups = self._group_of
        if groups is not None:
            summary["kept_by_cluster" if self.clusters else "kept_by_group"] = _count(groups, kept, candidates)
        if self.clusters and self.clusters.label is not None:
            summary["kept_by_class"] = _count(self.clusters.label, kept, candidates)
        return {**summary, "fingerprint": self.fingerprint}


def _count(groups: IntArray, kept: IntArray, candidates: IntArray) -> dict[str, int]:
    names = np.unique(groups[candidates])
    found, counts = np.unique(groups[kept], return_counts=True)
    by_name = dict(zip(found.tolist(), counts.tolist(), strict=True))
    return {str(name): by_name.get(name, 0) for name in sorted({*names.tolist(), *by_name})}


def open_selection(
    choice: Choice,
    scores: str | None,
    clusters: str | None,
    groups: str | None,
    within: Sequence[str] = (),
    without: Sequence[str] = (),
    unions: Sequence[str] = (),
    picture: Picture | None = None,
    *,
    output: Output,
) -> SelectJob:
    """Read the files of a selection; the arguments are those of `SelectJob`, as paths or `-`.

    Raises:
        InputError: a file is missing or not what it should be.
        MismatchError: the files do not belong together.
        UsageError: the choice contradicts itself.
    """
    return SelectJob(
        choice,
        read_scores(scores) if scores else None,
        read_clusters(clusters) if clusters else None,
        _read_groups(groups) if groups else None,
        tuple(read_ids(path) for path in within),
        tuple(read_ids(path) for path in without),
        tuple(read_ids(path) for path in unions),
        picture=picture,
        output=output,
    )


def _read_groups(path: str) -> Array:
    """Read groups from a .npy, or the labels from a feature store."""
    if not Path(path).is_dir():
        return read_groups(path)
    features = open_features(path)
    labels = features.labels()
    if labels is None:
        raise InputError(f"{path}: no sample of it has a label to group by: name a .npy of groups.")
    return Array(path, labels, features.record and {**features.record, "fingerprint": features.fingerprint})
