"""The job of `dprune cluster --sweep`: one clustering for each k, and how good each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.clustering.points import Points, load_points
from dprune.clustering.quality import (
    Quality,
    find_knee,
    imbalance,
    inertia,
    quality_table,
    read_quality_table,
    silhouette,
)
from dprune.clustering.single import ClusterJob
from dprune.clustering.sweep_plot import PLOT, TABLE, draw_sweep
from dprune.collectives import from_root, is_root, on_devices
from dprune.errors import Interrupted
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.jobs import Job
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, variant
from dprune.formats.publish import Output, publish_bytes, publish_json
from dprune.formats.whole_files import read_file
from dprune.namespace import Array, Device, device_type, host, namespace
from dprune.runtime import Monitor, process_group

SILHOUETTE_SAMPLES = 5000


@dataclass(frozen=True)
class SweepJob(Job):
    """Clusterings of the same points for several k, in a folder.

    Attributes:
        largest: the job for the largest k, whose features, settings and devices all share.
        ks: numbers of clusters, ascending.
    """

    largest: ClusterJob
    ks: Sequence[int]
    output: Output
    together = True

    @property
    def jobs(self) -> list[ClusterJob]:
        """One job for each k."""
        return [self.largest.with_k(k, Path(self.output.path) / f"clusters-{k}.safetensors") for k in self.ks]

    @property
    def record(self) -> Record:
        """Provenance of the folder."""
        return variant(self.largest.record, k=list(self.ks))

    def existing(self) -> Record | None:
        """Return the provenance of the folder."""
        return existing_record(self.output.path, folder_of="sweep")

    def complete(self) -> bool:
        """Tell whether every clustering, the table and the plot are there."""
        folder = Path(self.output.path)
        return all(job.is_made() for job in self.jobs) and all((folder / name).is_file() for name in (TABLE, PLOT))

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make the clusterings that are missing, then the table and the plot; the ranks besides 0 return nothing."""
        return on_devices(self.largest.places, self._run, monitor)

    def _run(self, device: Device, monitor: Monitor) -> dict[str, Any]:
        common, folder = self.largest, Path(self.output.path)
        with process_group(device) as here:
            if not here.rank:
                self._publish_manifest(folder)
            points = load_points(common.features, common.settings.metric, device, monitor, common.chosen)
            rows, positions = points.sample(SILHOUETTE_SAMPLES, common.seed, "silhouette")
            qualities = []
            for job in self.jobs:
                clusters = _clusters(job, points, monitor)
                if clusters is not None:
                    qualities.append(_quality(clusters, rows, positions, common.settings.metric))
            if here.rank:
                return {}
        return self._finish(folder, qualities, points.total)

    def _publish_manifest(self, folder: Path) -> None:
        kept = {Path(job.output.path).name for job in self.jobs}
        for name in read_manifest(folder).get("files", []) if folder.is_dir() else []:
            # What an earlier sweep that is being replaced left would pass for a part of this one.
            if name not in kept and Path(name).name == name:
                (folder / name).unlink(missing_ok=True)
        for name in (TABLE, PLOT):
            (folder / name).unlink(missing_ok=True)
        publish_json(folder / MANIFEST, {"kind": "sweep", "files": sorted(kept), "provenance": self.record})

    def _finish(self, folder: Path, qualities: Sequence[Quality], samples: int) -> dict[str, Any]:
        publish_bytes(folder / TABLE, quality_table(qualities))
        draw_sweep(folder / PLOT, qualities, _knee(qualities), self.largest.settings.metric)
        return self._summary(qualities, samples) | {"device": device_type(self.largest.devices[0])}

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        ks = ", ".join(str(job.settings.k) for job in self.jobs if not job.is_made())
        return {**self.largest.work(), "k": ks}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        table = Path(self.output.path) / TABLE
        samples = int(read_clusters(self.jobs[0].output.path).sizes.sum())
        return self._summary(read_quality_table(str(table), read_file(table)), samples)

    def _summary(self, qualities: Sequence[Quality], samples: int) -> dict[str, Any]:
        scored = [quality for quality in qualities if not np.isnan(quality.silhouette)]
        best = max(scored, key=lambda quality: quality.silhouette).k if scored else None
        return {
            "samples": samples,
            "engine": self.largest.settings.engine,
            "device": None,
            "knee": _knee(qualities),
            "highest_silhouette": best,
            "inertia": {str(quality.k): quality.inertia for quality in qualities},
        }


def _knee(qualities: Sequence[Quality]) -> int | None:
    return find_knee([quality.k for quality in qualities], [quality.inertia for quality in qualities])


def _clusters(job: ClusterJob, points: Points, monitor: Monitor) -> Clusters | None:
    """Return the clustering of one k, made or found, on rank 0; None on the others."""
    # Rank 0 decides, because another might look after it has written.
    made = is_root() and job.is_made()
    made, stop = from_root(namespace(points.x).asarray([made, monitor.stop_requested()])).tolist()
    if stop:
        raise Interrupted("stopped; run the same command again to go on with the sweep.")
    if made:
        return read_clusters(job.output.path) if is_root() else None
    clusters = job.cluster(points, monitor)
    return clusters if is_root() else None


def _quality(clusters: Clusters, rows: Array, positions: npt.NDArray[np.int64], metric: str) -> Quality:
    labels = clusters.assignment[clusters.assignment >= 0][positions]
    score = silhouette(host(rows), labels, metric)
    return Quality(len(clusters.sizes), inertia(clusters, metric), score, imbalance(clusters.sizes))
