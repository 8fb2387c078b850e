"""Scores that need no model: random ones, and the distance to the own centroid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dprune.errors import InputError
from dprune.formats.arrays import write_array
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.jobs import FileJob
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, make_record
from dprune.formats.publish import Output
from dprune.runtime import Monitor
from dprune.scoring.population import Population, open_population
from dprune.seeds import uniform_ids


@dataclass(frozen=True)
class RandomJob(FileJob):
    """Uniform scores in [0, 1) that depend on the seed and the id alone."""

    population: Population
    seed: int
    output: Output

    @property
    def record(self) -> Record:
        """Provenance of the scores."""
        population = self.population
        about: dict[str, Any] = {"fingerprint": population.fingerprint, "parents": population.parents}
        return make_record("score random", {}, seed=self.seed, tags=self.output.tags, **about)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Draw and publish the scores, float32 [N]."""
        values = uniform_ids(self.seed, "score random", np.arange(self.population.count))
        write_array(self.output.path, values, self.record)
        return self.summary()

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        return {"samples": self.population.count}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        return {"scored": self.population.count}


def open_random(sources: Sequence[str], seed: int, output: Output, members: MemberChoice | None = None) -> RandomJob:
    """Open what `dprune score random` was given; see `open_population`."""
    return RandomJob(open_population(sources, members), seed, output)


@dataclass(frozen=True)
class ClusterDistanceJob(FileJob):
    """Each sample's distance to the centroid of its cluster; NaN for samples in none."""

    clusters: Clusters
    output: Output

    @property
    def record(self) -> Record:
        """Provenance of the scores."""
        parents = {"clusters": self.clusters.as_parent()}
        return make_record(
            "score cluster-distance", {}, fingerprint=self.clusters.fingerprint, parents=parents, tags=self.output.tags
        )

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Publish the distances, float32 [N]."""
        write_array(self.output.path, self.clusters.distance, self.record)
        return self.summary()

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        return {"samples": len(self.clusters)}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        values = self.clusters.distance
        return {"scored": int(np.isfinite(values).sum()), "not_scored": int(np.isnan(values).sum())}


def open_cluster_distance(path: str, output: Output) -> ClusterDistanceJob:
    """Read the clusters that `dprune score cluster-distance` was given.

    Raises:
        InputError: the file holds no clusters, or no distances.
    """
    clusters = read_clusters(path)
    if len(clusters) and np.isnan(clusters.distance).all():
        raise InputError(f"{clusters.name}: holds no distances: make it with dprune cluster.")
    return ClusterDistanceJob(clusters, output)
