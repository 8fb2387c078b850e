"""Scores that need no model: random ones, and the distance to the own centroid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import read_array, write_array
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.features import open_features
from dprune.formats.jobs import FileJob
from dprune.formats.kinds import kind_of
from dprune.formats.provenance import Record, digest, make_record, parent_record, record_digest
from dprune.formats.publish import Output
from dprune.formats.shards import open_dataset
from dprune.formats.stores import Store
from dprune.runtime import Monitor
from dprune.seeds import uniform_ids


@dataclass(frozen=True)
class Population:
    """The samples that are to be scored: how many, of which dataset, and how a record names them."""

    count: int
    fingerprint: str | None
    parents: dict[str, Record]


def open_population(sources: Sequence[str]) -> Population:
    """Count the samples of shards, a store, clusters or a plain array.

    Raises:
        InputError: the source is none of these.
    """
    source = Path(sources[0])
    kind = kind_of(source) if len(sources) == 1 else ""
    if kind == "clusters":
        clusters = read_clusters(source)
        return Population(len(clusters), clusters.fingerprint, {"clusters": clusters.as_parent()})
    if kind == "vector":
        array = read_array(source)
        return Population(len(array.values), array.fingerprint, {"array": array.as_parent()})
    if kind in ("features", "matrix"):
        features = open_features(source)
        return Population(features.shape[0], features.fingerprint, {"features": features.as_parent()})
    if kind == "latents":
        store = Store.open(source, kind)
        content = digest([store.fingerprint, record_digest(store.record)])
        return Population(sum(store.counts), store.fingerprint, {"latents": parent_record(store.record, content)})
    dataset = open_dataset(sources)
    return Population(len(dataset), dataset.fingerprint, dataset.parents())


@dataclass(frozen=True)
class RandomScores(FileJob):
    """Uniform scores in [0, 1) that depend on the seed and the id alone."""

    population: Population
    seed: int
    output: Output

    @property
    def record(self) -> Record:
        """Provenance of the scores."""
        population = self.population
        return make_record(
            "score random",
            {},
            seed=self.seed,
            fingerprint=population.fingerprint,
            parents=population.parents,
            tags=self.output.tags,
        )

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Draw and publish the scores, float32 [N]."""
        values = uniform_ids(self.seed, "score random", np.arange(self.population.count))
        write_array(self.output.path, values, self.record)
        return {"scored": len(values)}


@dataclass(frozen=True)
class DistanceScores(FileJob):
    """Each sample's distance to the centroid of its cluster; NaN for samples in none."""

    clusters: Clusters
    output: Output

    @classmethod
    def open(cls, path: str, output: Output) -> DistanceScores:
        """Read the clusters.

        Raises:
            InputError: the file holds no clusters, or no distances.
        """
        clusters = read_clusters(path)
        if len(clusters) and np.isnan(clusters.distance).all():
            raise InputError(f"{clusters.name}: holds no distances: make it with dprune cluster.")
        return cls(clusters, output)

    @property
    def record(self) -> Record:
        """Provenance of the scores."""
        parents = {"clusters": self.clusters.as_parent()}
        return make_record(
            "score cluster-distance", {}, fingerprint=self.clusters.fingerprint, parents=parents, tags=self.output.tags
        )

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Publish the distances, float32 [N]."""
        values: npt.NDArray[np.float32] = self.clusters.distance
        write_array(self.output.path, values, self.record)
        return {"scored": int(np.isfinite(values).sum()), "not_scored": int(np.isnan(values).sum())}
