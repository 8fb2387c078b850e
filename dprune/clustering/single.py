"""The job of `dprune cluster -k`: one clustering, from features to clusters.safetensors."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dprune.clustering.kernels import nearest_two
from dprune.clustering.kmeans import KMeansSettings, Solution, fit
from dprune.clustering.levels import upper_levels
from dprune.clustering.points import Points, load_points
from dprune.clustering.quality import imbalance, inertia
from dprune.collectives import is_root, on_devices
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.features import Features
from dprune.formats.jobs import FileJob
from dprune.formats.provenance import FINDINGS_KEY, Record, difference, make_record, with_findings
from dprune.formats.publish import Output
from dprune.namespace import HOST, Device, device_type, host
from dprune.runtime import Ahead, Monitor, process_group, take_device

_log = logging.getLogger("dprune")

# Numbers times clusters from which on torch's products on a CPU, which are faster than numpy's where one side has few
# rows, save more time than its import takes.
WORTH_TORCH = 1 << 31


class Fitted(NamedTuple):
    """Clusters without their samples.

    Attributes:
        centroids: float32 [k, d], in the features' space, the same on every rank.
        levels: as of `Clusters`; complete on rank 0 only.
        findings: what the provenance says of the fit.
    """

    centroids: npt.NDArray[np.float32]
    levels: tuple[npt.NDArray[np.int32], ...] = ()
    findings: Mapping[str, Any] = {}


def torch_pays(samples: int, dimension: int, clusters: int) -> bool:
    """Tell whether work on the host is large enough for torch."""
    return samples * dimension * clusters > WORTH_TORCH


@dataclass(frozen=True)
class ClusterJob(FileJob):
    """One clustering.

    Attributes:
        parents: inputs besides the features.
        chosen: sorted ids of the samples that are clustered, int64, or None for all.
        levels: numbers of clusters of the levels above, the lowest first.
        devices: one, or several that share the work in this process; `HOST` where torch is not needed.
    """

    features: Features
    parents: Mapping[str, Record]
    settings: KMeansSettings
    seed: int
    devices: tuple[Device, ...]
    output: Output
    chosen: npt.NDArray[np.int64] | None = None
    levels: tuple[int, ...] = ()
    together = True

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the clusters."""
        parents = {"features": self.features.as_parent(), **self.parents}
        levels = {"levels": [self.settings.k, *self.levels]} if self.levels else {}
        return make_record("cluster", self.settings.options() | levels, seed=self.seed, parents=parents,
                           fingerprint=self.features.fingerprint, tags=self.output.tags)  # fmt: skip

    @property
    def places(self) -> tuple[Device, ...]:
        """The devices, with torch's CPU for large work on the host."""
        samples, dimension = self.features.shape
        large = torch_pays(samples, dimension, self.settings.k * self.settings.n_init)
        return (take_device("cpu"),) if large and self.devices == (HOST,) else self.devices

    def with_k(self, k: int, path: Path) -> ClusterJob:
        """Return the same job for another number of clusters, which goes elsewhere."""
        return replace(self, settings=replace(self.settings, k=k), output=replace(self.output, path=str(path)))

    def is_made(self) -> bool:
        """Tell whether the clusters are there."""
        found = self.existing()
        return found is not None and not difference(found, self.record)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Cluster, publish the file on rank 0 and summarise it; the other ranks return nothing."""
        warm = Ahead(self.warm_up)
        return on_devices(self.places, functools.partial(self._run, warm=warm), monitor)

    def warm_up(self) -> None:
        """Have the kernels loaded that a GPU needs."""
        if self.settings.engine == "torch":
            from dprune.clustering.torch_engines import warm_up

            warm_up(self.devices, self.settings.k, self.features.shape[1])

    def _run(self, device: Device, monitor: Monitor, warm: Ahead[None]) -> dict[str, Any]:
        with process_group(device) as here:
            points = load_points(self.features, self.settings.metric, device, monitor, self.chosen)
            warm.wait()
            clusters = self.cluster(points, monitor)
            if here.rank:
                return {}
        return self._summary(clusters) | {"device": device_type(self.devices[0])}

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        samples, dimension = self.features.shape
        some = samples if self.chosen is None else len(self.chosen)
        return {"samples": some, "dimension": dimension, "k": self.settings.k}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        return self._summary(read_clusters(self.output.path))

    def _summary(self, clusters: Clusters) -> dict[str, Any]:
        sizes, samples = clusters.sizes, int(clusters.sizes.sum())
        found = (clusters.record or {}).get(FINDINGS_KEY, {})
        left_out = 0 if self.chosen is None else len(clusters) - len(self.chosen)
        return {
            "samples": samples,
            **({} if self.chosen is None else {"left_out": left_out}),
            "without_features": len(clusters) - samples - left_out,
            "k": len(sizes),
            **({"levels": [len(sizes), *self.levels]} if self.levels else {}),
            "engine": self.settings.engine,
            "device": None,
            "inertia": inertia(clusters, self.settings.metric),
            "size_min": int(sizes.min()),
            "size_median": float(np.median(sizes)),
            "size_max": int(sizes.max()),
            "imbalance": imbalance(sizes),
            "iterations": found.get("iterations"),
            "empties_repaired": found.get("empties_repaired"),
        }

    def fitted(self, points: Points, monitor: Monitor) -> Fitted:
        """Fit centroids to points that are already loaded, and those of the levels above."""
        return self._described(fit(points, self.settings, self.seed, monitor), points, monitor)

    def _described(self, solution: Solution, points: Points, monitor: Monitor) -> Fitted:
        centroids = host(solution.centroids + points.centre)
        levels = upper_levels(centroids, self.levels, self.settings, self.seed, points.x.device, monitor)
        findings = {"iterations": solution.iterations, "empties_repaired": solution.repaired}
        return Fitted(centroids, levels, findings)

    def cluster(self, points: Points, monitor: Monitor) -> Clusters:
        """Cluster points that are already loaded, and publish the file; the clusters are complete on rank 0 only."""
        solution = fit(points, self.settings, self.seed, monitor)
        fitted = self._described(solution, points, monitor)
        labels, near, far = nearest_two(points.x, solution.centroids)
        if self.settings.metric == "cosine":
            # Between unit vectors, 1 - cosine is half the squared distance, and does not cancel when so computed.
            near, far = near * near / 2, far * far / 2
        assignment = points.over_samples(labels, -1)
        clusters = Clusters(
            centroids=fitted.centroids,
            assignment=assignment,
            distance=points.over_samples(near, np.nan),
            second_distance=points.over_samples(far, np.nan),
            sizes=np.bincount(assignment[assignment >= 0], minlength=self.settings.k),
            label=self.features.labels(),
            record=with_findings(self.record, fitted.findings) if is_root() else None,
            class_names=self.features.class_names,
            levels=fitted.levels,
        )
        if is_root():
            if empty := int((clusters.sizes == 0).sum()):
                what = f"{empty} of {len(clusters.sizes)} clusters are empty"
                _log.warning("%s: there are fewer distinct points than -k.", what)
            clusters.write(self.output.path)
        return clusters
