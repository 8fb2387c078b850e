"""The job of `dprune cluster`: from features to clusters.safetensors."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dprune.clustering.engines import choose_engine
from dprune.clustering.kernels import nearest_two
from dprune.clustering.kmeans import Settings, Solution, fit
from dprune.clustering.points import Points, load_points
from dprune.collectives import gather_rows, is_root
from dprune.errors import InputError, UsageError
from dprune.formats.arrays import read_array
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.features import Features, open_features
from dprune.formats.jobs import FileJob
from dprune.formats.kinds import TENSOR_FILES, kind_of
from dprune.formats.provenance import Record, make_record
from dprune.formats.publish import Output
from dprune.runtime import Monitor, process_group

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class ClusterJob(FileJob):
    """One clustering, its input opened and its engine chosen.

    Attributes:
        features: what to cluster.
        parents: the inputs, as a record names them.
        settings: how.
        seed: seed of the run.
        device: where.
    """

    features: Features
    parents: Mapping[str, Record]
    settings: Settings
    seed: int
    device: torch.device
    output: Output

    @classmethod
    def open(
        cls, path: str, settings: Settings, *, k: int | None, seed: int, device: str, output: Output
    ) -> ClusterJob:
        """Open the features and resolve what was left open.

        Args:
            path: feature store, .npy or .safetensors.
            settings: as asked for: `init` may name a file and `engine` may be `auto`.
            k: number of clusters, None for the init file's or the settings' own.
            seed: seed of the run.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            output: where the clusters go.

        Raises:
            InputError: the features or the init file cannot be used, or there are fewer samples than clusters.
            UsageError: the engine or the device is not available.
        """
        engine, place = choose_engine(settings.engine, device)
        features = open_features(path)
        parents = {"features": features.as_parent()}
        centroids = None
        if settings.init not in ("kmeans++", "random"):
            centroids, parents["init"] = _read_centroids(settings.init, k, features)
            k = len(centroids)
        init = "file" if centroids is not None else settings.init
        settings = replace(settings, k=k or settings.k, init=init, engine=engine, centroids=centroids)
        if settings.k > features.shape[0]:
            raise InputError(f"{features.name}: has {features.shape[0]:,} samples: give -k at most that.")
        return cls(features, parents, settings, seed, place, output)

    @property
    def record(self) -> Record:
        """Provenance of the clusters."""
        return make_record(
            "cluster",
            self.settings.options(),
            seed=self.seed,
            fingerprint=self.features.fingerprint,
            parents=self.parents,
            tags=self.output.tags,
        )

    def with_k(self, k: int) -> ClusterJob:
        """Return the same job for another number of clusters."""
        return replace(self, settings=replace(self.settings, k=k))

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Cluster, publish the file on rank 0 and summarise it; the other ranks return nothing."""
        with process_group(self.device) as here:
            points = load_points(self.features, self.settings.metric, self.device, monitor)
            clusters, solution = self.cluster(points, monitor)
            if here.rank:
                return {}
            clusters.write(self.output.path)
        return {**self.describe(clusters), "iterations": solution.iterations, "empties_repaired": solution.repaired}

    def cluster(self, points: Points, monitor: Monitor) -> tuple[Clusters, Solution]:
        """Cluster points that are already loaded; the clusters are complete on rank 0 only."""
        solution = fit(points, self.settings, self.seed, monitor)
        labels, near, far = (part.cpu() for part in nearest_two(points.x, solution.centroids))
        if self.settings.metric == "cosine":
            # Between unit vectors, 1 - cosine is half the squared distance, and does not cancel when so computed.
            near, far = near.square() / 2, far.square() / 2
        kept = gather_rows(torch.from_numpy(points.valid)).numpy()
        assignment = _spread(gather_rows(labels).numpy(), kept, -1)
        found = self.features.labels()
        clusters = Clusters(
            centroids=(solution.centroids + points.centre).cpu().numpy(),
            assignment=assignment,
            distance=_spread(gather_rows(near).numpy(), kept, np.nan),
            second_distance=_spread(gather_rows(far).numpy(), kept, np.nan),
            sizes=np.bincount(assignment[kept], minlength=self.settings.k),
            label=found,
            record=self.record,
        )
        if is_root() and (empty := int((clusters.sizes == 0).sum())):
            _log.warning(
                "%d of %d clusters are empty: there are fewer distinct points than -k.", empty, len(clusters.sizes)
            )
        return clusters, solution

    def describe(self, clusters: Clusters) -> dict[str, Any]:
        """Summarise a clustering for people and --json."""
        sizes, samples = clusters.sizes, int(clusters.sizes.sum())
        return {
            "samples": samples,
            "without_features": len(clusters) - samples,
            "k": len(sizes),
            "engine": self.settings.engine,
            "device": self.device.type,
            "inertia": inertia(clusters, self.settings.metric),
            "size_min": int(sizes.min()),
            "size_median": float(np.median(sizes)),
            "size_max": int(sizes.max()),
            "imbalance": imbalance(sizes),
        }


def inertia(clusters: Clusters, metric: str) -> float:
    """Return the sum of squared Euclidean distances, or of 1 - cosine, accumulated in float64."""
    distances = clusters.distance[clusters.assignment >= 0].astype(np.float64)
    return float(distances.sum() if metric == "cosine" else np.square(distances).sum())


def imbalance(sizes: npt.NDArray[np.int64]) -> float:
    """Return faiss's imbalance factor, k·Σn²/(Σn)²: 1 for equal sizes, k when one cluster has everything."""
    shares = sizes / sizes.sum()
    return float(len(sizes) * np.square(shares).sum())


def _spread(values: npt.NDArray[Any], kept: npt.NDArray[np.bool_], missing: float) -> npt.NDArray[Any]:
    # The ranks besides 0 hold only their own part of both, which fits too.
    out = np.full(len(kept), missing, dtype=values.dtype)
    out[kept] = values
    return out


def _read_centroids(path: str, k: int | None, features: Features) -> tuple[npt.NDArray[np.float32], Record]:
    if not os.path.exists(path):
        raise UsageError(f"--init {path}: is neither kmeans++ nor random, and there is no such file.")
    if kind_of(path) in TENSOR_FILES:
        clusters = read_clusters(path)
        values, parent = clusters.centroids, clusters.as_parent()
    else:
        array = read_array(path)
        values, parent = array.values, array.as_parent()
    dimension = features.shape[1]
    if values.ndim != 2 or values.shape[1] != dimension or values.dtype.kind not in "fiu" or not len(values):
        raise InputError(f"{path}: --init takes numbers of shape [k, {dimension}], not {list(values.shape)}.")
    if k not in (None, len(values)):
        raise InputError(f"{path}: holds {len(values)} centroids, but -k is {k}: drop -k or give another --init.")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds centroids that are NaN or infinite: give another --init.")
    return np.array(values, dtype=np.float32, order="C"), parent
