"""Scores over feature stores, inside clusters or not: the job, and what a method is given; no torch is imported here.

A greedy method gives each sample the rank at which it was taken, so that the lowest n scores are its first n, for every
n at once, and subsets are nested.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dprune.clustering.points import load_points
from dprune.clustering.reading import read_rows
from dprune.errors import InputError, Interrupted, MismatchError, UsageError
from dprune.formats.arrays import Array, read_array, write_array
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.features import Features, open_features
from dprune.formats.jobs import FileJob
from dprune.formats.provenance import Record, check_same_dataset, make_record, with_findings
from dprune.formats.publish import Output
from dprune.formats.subsets import narrowed, read_chosen
from dprune.memory import free_memory
from dprune.namespace import HOST, device_type
from dprune.runtime import Monitor, check_stop, explained, pick_device
from dprune.seeds import hash_ids
from dprune.selecting.amount import Amount
from dprune.selecting.quotas import IntArray, proportional

if TYPE_CHECKING:
    import torch

EXACT_RANKS = 1 << 24
"""Whole numbers up to this are exact in float32."""
ROOM = 2
"""How many times their own size rows may take on a device, with all that is computed from them."""


@dataclass(frozen=True)
class OrderOptions:
    """What `dprune score k-center` and its like were told, in the words of their options."""

    clusters: str | None = None
    subset: str | None = None
    metric: str = "cosine"
    up_to: Amount | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Group:
    """The samples that are ordered among themselves.

    Attributes:
        ids: of the samples, ascending, int64 [n].
        ranked: how many of them are ranked, at most n.
        distance: to the centroid of their cluster as its file tells, float32 [n]; None where all are one group.
    """

    ids: IntArray
    ranked: int
    distance: npt.NDArray[np.float32] | None

    def ties(self, seed: int) -> IntArray:
        """Return each sample's place in a seeded order by chance, int64 [n]; the lower goes first among equals."""
        places = np.empty(len(self.ids), dtype=np.int64)
        places[np.argsort(hash_ids(seed, "order ties", self.ids), kind="stable")] = np.arange(len(self.ids))
        return places

    def as_ranks(self, order: IntArray) -> npt.NDArray[np.float32]:
        """Return the rank of each sample, float32 [n]: its place in `order`, and behind it one for all the others."""
        ranks = np.full(len(self.ids), len(order), dtype=np.float32)
        ranks[order] = np.arange(len(order))
        return ranks


class OrderMethod(ABC):
    """A way to score the samples of a group.

    Attributes:
        name: of the subcommand.
        ranks: whether the scores are ranks, of which some may be left out.
        takes_stored: whether for cosine it takes rows on a GPU as they are stored, which are half the bytes.
    """

    name: str
    ranks: bool = True
    takes_stored: bool = False

    def options(self) -> Mapping[str, Any]:
        """Return what of its own options changes the scores."""
        return {}

    @abstractmethod
    def scores(
        self, rows: torch.Tensor, group: Group, device: torch.device, monitor: Monitor
    ) -> tuple[npt.NDArray[np.float32], Mapping[str, float]]:
        """Score the samples of one group.

        Args:
            rows: their features, float32 [n, d], finite; of unit length for cosine, else minus the mean of all. They
                are on the device, or on the host where they do not fit there. float16, of any length, where the
                method takes them as they are stored.
            group: which samples they are.
            device: where to compute.
            monitor: told of each sample that is scored.

        Returns:
            float32 [n], and what was found on the way, of which a record tells the median over the groups.
        """


@dataclass(frozen=True)
class OrderJob(FileJob):
    """Scores of a feature store by a method that looks at the features alone.

    Attributes:
        features: what is scored.
        clusters: inside which, None for one group of all.
        subset: ids of the samples that are scored, None for all.
        metric: `cosine` or `l2`.
        method: that scores.
        up_to: how many are ranked, None for all.
        device: as `--device` names it.
    """

    features: Features
    clusters: Clusters | None
    subset: Array | None
    metric: str
    method: OrderMethod
    up_to: Amount | None
    seed: int
    device: str
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the scores."""
        inputs = {"features": self.features, "clusters": self.clusters, "subset": self.subset}
        parents = {role: value.as_parent() for role, value in inputs.items() if value is not None}
        options = {"metric": self.metric, **self.method.options()}
        if self.up_to is not None:
            options["up_to"] = str(self.up_to)
        return make_record(f"score {self.method.name}", options, seed=self.seed, fingerprint=self.fingerprint,
                           parents=parents, tags=self.output.tags)  # fmt: skip

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset that features, clusters and subset share."""
        inputs = (self.features, self.clusters, self.subset)
        return check_same_dataset({value.name: value.fingerprint for value in inputs if value is not None})

    @property
    def chosen(self) -> IntArray | None:
        """Ids of the samples that take part, sorted, None for all."""
        if self.clusters is None and self.subset is None:
            return None
        ids = narrowed(self.subset, self.features.name, self.features.fingerprint, self.features.shape[0])
        return ids if self.clusters is None else ids[self.clusters.assignment[ids] >= 0]

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Score group by group and publish the scores, float32 [N], NaN for samples in none or without features.

        Raises:
            Interrupted: a signal came; ranks of which the last are missing are of no use, and none are kept.
        """
        try:
            with explained(self.device, "--device cpu"):
                scores, findings = self._scores(monitor)
        except Interrupted:
            raise Interrupted("stopped, and nothing is kept: the same command begins anew.") from None
        write_array(self.output.path, scores, with_findings(self.record, findings))
        return _summary(scores)

    def _scores(self, monitor: Monitor) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        import torch

        device = pick_device(self.device)
        x, valid = self._load(device, monitor)
        scores = np.full(self.features.shape[0], np.nan, dtype=np.float32)
        groups, found = list(self.groups(np.flatnonzero(valid))), list[Mapping[str, float]]()
        monitor.start(f"scoring by {self.method.name}", sum(group.ranked for group, _ in groups), "samples")
        for group, where in groups:
            check_stop(monitor)
            rows = x if len(groups) == 1 else x.index_select(0, torch.as_tensor(where, device=x.device))
            if _fits(rows.nbytes, device):
                rows = rows.to(device)
            scores[group.ids], findings = self.method.scores(rows, group, device, monitor)
            found.append(findings)
        known = {name: float(np.median([each[name] for each in found])) for name in found[0]}
        ranked = {"ranked": sum(group.ranked for group, _ in groups)} if self.method.ranks else {}
        return scores, ranked | known

    def _load(self, device: torch.device, monitor: Monitor) -> tuple[torch.Tensor, npt.NDArray[np.bool_]]:
        """Read the rows that take part, and return them and which of all samples they are, bool [N]."""
        import torch

        chosen, dimension = self.chosen, self.features.shape[1]
        samples = self.features.shape[0] if chosen is None else len(chosen)
        stored = self.method.takes_stored and self.metric == "cosine" and self.features.dtype == np.float16
        if stored and _fits(2 * samples * dimension, device):
            return load_stored(self.features, device, monitor, chosen)
        place = device if _fits(4 * samples * dimension, device) else HOST
        points = load_points(self.features, self.metric, place, monitor, chosen)
        return torch.as_tensor(points.x), points.valid

    def groups(self, usable: IntArray) -> Iterator[tuple[Group, IntArray]]:
        """Yield each group with samples, by its number, and where in `usable` its samples are.

        Args:
            usable: ids of the samples that have features, and are in a cluster where there are some; ascending.

        Raises:
            InputError: more are to be ranked than there are, or than ranks can tell apart.
        """
        cluster = np.zeros(len(usable), dtype=np.int64)
        if self.clusters is not None:
            cluster = self.clusters.assignment[usable].astype(np.int64)
        order = np.argsort(cluster, kind="stable")
        _, starts, sizes = np.unique(cluster[order], return_index=True, return_counts=True)
        for where, ranked in zip(np.split(order, starts[1:]), self._ranked(sizes), strict=True):
            ids = usable[where]
            yield Group(ids, int(ranked), None if self.clusters is None else self.clusters.distance[ids]), where

    def _ranked(self, sizes: IntArray) -> IntArray:
        """Return how many samples of each group are ranked, as many as `select` would take of each."""
        available = int(sizes.sum())
        total = available if self.up_to is None else self.up_to.count(available, "lowest")
        if total > available:
            raise InputError(f"--up-to {total:,} is more than the {available:,} samples with features: rank fewer.")
        ranked = proportional(total, sizes)
        if self.method.ranks and ranked.max() > EXACT_RANKS:
            raise InputError(f"ranks beyond {EXACT_RANKS:,} are not exact in float32: give --up-to {EXACT_RANKS}.")
        return ranked

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        samples, dimension = self.features.shape
        return {"samples": samples if self.chosen is None else len(self.chosen), "dimension": dimension}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        return _summary(read_array(self.output.path).values)


def _fits(size: int, device: torch.device) -> bool:
    """Tell whether rows of so many bytes go to a GPU, with all that is computed from them."""
    return device_type(device) != "cpu" and free_memory(device) > (1 + ROOM) * size


def load_stored(
    features: Features, device: torch.device, monitor: Monitor, chosen: IntArray | None
) -> tuple[torch.Tensor, npt.NDArray[np.bool_]]:
    """Read rows as float16, of whatever length.

    Args:
        features: stored as float16.
        device: where the rows go.
        monitor: told of the rows read.
        chosen: sorted ids of the samples that take part, None for all.

    Returns:
        Those rows that have a length and a direction, float16 [n, d], and which samples they are, bool [N].

    Raises:
        InputError: no row has.
    """
    import torch

    samples, valid, filled, read = features.shape[0], np.ones(features.shape[0], dtype=np.bool_), 0, 0
    if chosen is not None:
        valid = np.isin(np.arange(samples), chosen, assume_unique=True)
    x = torch.empty((int(valid.sum()), features.shape[1]), dtype=torch.float16, device=device)
    monitor.start("reading features", samples, "samples")
    for rows in read_rows(features, 0, samples, device):
        here = slice(read, read := read + len(rows))
        norms = torch.linalg.vector_norm(rows, dim=1)
        valid[here] &= (torch.isfinite(norms) & (norms > 0)).cpu().numpy()
        usable = rows[torch.as_tensor(valid[here], device=device)]
        x[filled : filled + len(usable)] = usable
        filled += len(usable)
        monitor.advance(len(rows))
    if not filled:
        raise InputError(f"{features.name}: no sample has usable features: all are NaN, infinite or zero.")
    return x[:filled], valid


def _summary(scores: npt.NDArray[np.float32]) -> dict[str, Any]:
    missing = int(np.isnan(scores).sum())
    return {"scored": len(scores) - missing, "not_scored": missing}


def open_order(path: str, options: OrderOptions, method: OrderMethod, output: Output) -> OrderJob:
    """Open features and clusters for a method.

    Args:
        path: feature store, .npy or .safetensors.
        options: what all such methods are told.
        method: that scores.
        output: where the scores go.

    Raises:
        InputError: a file is missing or not what it should be, or no sample is left to score.
        MismatchError: features, clusters and subset do not belong together.
        UsageError: how much is to be ranked has two meanings.
    """
    if options.up_to is not None and options.up_to.value == 1 and isinstance(options.up_to.value, int):
        raise UsageError("--up-to 1 may mean one sample or all of them: leave it out for all, or rank at least 2.")
    features = open_features(path)
    features.describe_ahead()
    clusters = read_clusters(options.clusters) if options.clusters else None
    if clusters is not None and len(clusters) != features.shape[0]:
        raise MismatchError(f"{features.name} has {features.shape[0]:,} samples and {clusters.name} {len(clusters):,}: "
                            "make both from the same dataset.")  # fmt: skip
    subset = read_chosen(options.subset, None) if options.subset is not None else None
    job = OrderJob(features, clusters, subset, options.metric, method, options.up_to, options.seed, options.device,
                   output)  # fmt: skip
    _ = job.fingerprint
    if job.chosen is not None and not len(job.chosen):
        narrow = " and ".join(given.name for given in (clusters, subset) if given is not None)
        raise InputError(f"{narrow}: no sample is left to score.")
    return job
