"""The job of `dprune cluster -k`: one clustering, from features to clusters.safetensors."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dprune.clustering.engines import warm_up
from dprune.clustering.kernels import nearest_two
from dprune.clustering.kmeans import KMeansSettings, Solution, fit
from dprune.clustering.points import Points, load_points
from dprune.clustering.quality import imbalance, inertia
from dprune.collectives import gather_rows, is_root, on_devices
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.features import Features
from dprune.formats.jobs import FileJob
from dprune.formats.provenance import FINDINGS_KEY, Record, difference, make_record, with_findings
from dprune.formats.publish import Output
from dprune.runtime import Ahead, Monitor, process_group

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class ClusterJob(FileJob):
    """One clustering.

    Attributes:
        parents: inputs besides the features.
        devices: one, or several that share the work in this process.
    """

    features: Features
    parents: Mapping[str, Record]
    settings: KMeansSettings
    seed: int
    devices: tuple[torch.device, ...]
    output: Output
    together = True

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the clusters."""
        parents = {"features": self.features.as_parent(), **self.parents}
        return make_record("cluster", self.settings.options(), seed=self.seed, parents=parents,
                           fingerprint=self.features.fingerprint, tags=self.output.tags)  # fmt: skip

    def with_k(self, k: int, path: Path) -> ClusterJob:
        """Return the same job for another number of clusters, which goes elsewhere."""
        return replace(self, settings=replace(self.settings, k=k), output=replace(self.output, path=str(path)))

    def is_made(self) -> bool:
        """Tell whether the clusters are there."""
        found = self.existing()
        return found is not None and not difference(found, self.record)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Cluster, publish the file on rank 0 and summarise it; the other ranks return nothing."""
        settings, dimension = self.settings, self.features.shape[1]
        warm = Ahead(lambda: warm_up(settings.engine, self.devices, settings.k, dimension))
        return on_devices(self.devices, functools.partial(self._run, warm=warm), monitor)

    def _run(self, device: torch.device, monitor: Monitor, warm: Ahead[None]) -> dict[str, Any]:
        with process_group(device) as here:
            points = load_points(self.features, self.settings.metric, device, monitor)
            warm.wait()
            clusters = self.cluster(points, monitor)
            if here.rank:
                return {}
        return self._summary(clusters) | {"device": self.devices[0].type}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        return self._summary(read_clusters(self.output.path))

    def _summary(self, clusters: Clusters) -> dict[str, Any]:
        sizes, samples = clusters.sizes, int(clusters.sizes.sum())
        found = (clusters.record or {}).get(FINDINGS_KEY, {})
        return {
            "samples": samples,
            "without_features": len(clusters) - samples,
            "k": len(sizes),
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

    def cluster(self, points: Points, monitor: Monitor) -> Clusters:
        """Cluster points that are already loaded, and publish the file; the clusters are complete on rank 0 only."""
        solution = fit(points, self.settings, self.seed, monitor)
        labels, near, far = (part.cpu() for part in nearest_two(points.x, solution.centroids))
        if self.settings.metric == "cosine":
            # Between unit vectors, 1 - cosine is half the squared distance, and does not cancel when so computed.
            near, far = near.square() / 2, far.square() / 2
        kept = gather_rows(torch.from_numpy(points.valid)).numpy()
        assignment = _spread(gather_rows(labels).numpy(), kept, -1)
        clusters = Clusters(
            centroids=(solution.centroids + points.centre).cpu().numpy(),
            assignment=assignment,
            distance=_spread(gather_rows(near).numpy(), kept, np.nan),
            second_distance=_spread(gather_rows(far).numpy(), kept, np.nan),
            sizes=np.bincount(assignment[kept], minlength=self.settings.k),
            label=self.features.labels(),
            record=with_findings(self.record, _found(solution)) if is_root() else None,
        )
        if is_root():
            if empty := int((clusters.sizes == 0).sum()):
                what = f"{empty} of {len(clusters.sizes)} clusters are empty"
                _log.warning("%s: there are fewer distinct points than -k.", what)
            clusters.write(self.output.path)
        return clusters


def _found(solution: Solution) -> dict[str, int]:
    return {"iterations": solution.iterations, "empties_repaired": solution.repaired}


def _spread(values: npt.NDArray[Any], kept: npt.NDArray[np.bool_], missing: float) -> npt.NDArray[Any]:
    # The ranks besides 0 hold only their own part of both, which fits too.
    out = np.full(len(kept), missing, dtype=values.dtype)
    out[kept] = values
    return out
