"""The job of `dprune cluster --sweep`: one clustering for each k, and how good each is."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dprune.clustering.job import ClusterJob, imbalance, inertia
from dprune.clustering.points import Points, load_points
from dprune.collectives import from_root, is_root
from dprune.errors import Interrupted
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.jobs import Job
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, difference, variant
from dprune.formats.publish import Output, publish_bytes, publish_json
from dprune.runtime import Monitor, process_group

SILHOUETTE_SAMPLES = 5000
TABLE, PLOT = "sweep.csv", "sweep.png"


@dataclass(frozen=True)
class Quality:
    """How good one clustering is.

    Attributes:
        k: number of clusters.
        inertia: sum of squared distances, or of 1 - cosine, to the own centroid.
        silhouette: mean silhouette of sampled points (Rousseeuw, 1987), NaN for a single cluster.
        imbalance: faiss's imbalance factor.
    """

    k: int
    inertia: float
    silhouette: float
    imbalance: float


@dataclass(frozen=True)
class SweepJob(Job):
    """Clusterings of the same points for several k, in a folder.

    Attributes:
        jobs: one job for each k, ascending.
    """

    jobs: tuple[ClusterJob, ...]
    output: Output

    @classmethod
    def open(cls, largest: ClusterJob, ks: Sequence[int]) -> SweepJob:
        """Plan a sweep from the job for its largest k."""
        return cls(tuple(largest.with_k(k) for k in ks), largest.output)

    @property
    def record(self) -> Record:
        """Provenance of the folder."""
        return variant(self.jobs[0].record, k=[job.settings.k for job in self.jobs])

    def existing(self) -> Record | None:
        """Return the provenance of the folder."""
        return existing_record(self.output.path, folder_of="sweep")

    def complete(self) -> bool:
        """Tell whether every clustering, the table and the plot are there."""
        folder = Path(self.output.path)
        made = all(_is_made(job, _path(folder, job)) for job in self.jobs)
        return made and (folder / TABLE).is_file() and (folder / PLOT).is_file()

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make the clusterings that are missing, then the table and the plot; the ranks besides 0 return nothing."""
        first, folder = self.jobs[0], Path(self.output.path)
        with process_group(first.device) as here:
            if not here.rank:
                self._publish_manifest(folder)
            points = load_points(first.features, first.settings.metric, first.device, monitor)
            rows, positions = points.sample(SILHOUETTE_SAMPLES, first.seed, "silhouette")
            qualities = []
            for job in self.jobs:
                clusters = _clusters(job, _path(folder, job), points, monitor)
                if clusters is not None:
                    qualities.append(_quality(job, clusters, rows, positions))
            if here.rank:
                return {}
        return self._finish(folder, qualities, points.total)

    def _publish_manifest(self, folder: Path) -> None:
        kept = {_path(folder, job).name for job in self.jobs}
        for name in read_manifest(folder).get("files", []) if folder.is_dir() else []:
            # What an earlier sweep that is being replaced left would pass for a part of this one.
            if name not in kept and Path(name).name == name:
                (folder / name).unlink(missing_ok=True)
        (folder / TABLE).unlink(missing_ok=True)
        (folder / PLOT).unlink(missing_ok=True)
        content = {"kind": "sweep", "files": sorted(kept), "provenance": self.record}
        publish_json(folder / MANIFEST, content)

    def _finish(self, folder: Path, qualities: list[Quality], samples: int) -> dict[str, Any]:
        from dprune.clustering.sweep_plot import draw_sweep

        knee = find_knee([quality.k for quality in qualities], [quality.inertia for quality in qualities])
        publish_bytes(folder / TABLE, _table(qualities))
        draw_sweep(folder / PLOT, qualities, knee, self.jobs[0].settings.metric)
        scored = [quality for quality in qualities if not np.isnan(quality.silhouette)]
        best = max(scored, key=lambda quality: quality.silhouette).k if scored else None
        return {
            "samples": samples,
            "engine": self.jobs[0].settings.engine,
            "device": self.jobs[0].device.type,
            "knee": knee,
            "highest_silhouette": best,
            "inertia": {str(quality.k): quality.inertia for quality in qualities},
        }


def find_knee(ks: Sequence[float], inertias: Sequence[float]) -> int | None:
    """Return the k whose inertia is furthest below the straight line between the ends, both axes scaled to [0, 1].

    This is the offline form of Kneedle (Satopää, Albrecht, Irwin and Raghavan, 2011) for a convex falling curve.

    Returns:
        None if there are fewer than three points or the inertia does not fall.
    """
    if len(ks) < 3 or inertias[-1] >= inertias[0]:
        return None
    x = (np.asarray(ks, dtype=np.float64) - ks[0]) / (ks[-1] - ks[0])
    y = (np.asarray(inertias, dtype=np.float64) - inertias[-1]) / (inertias[0] - inertias[-1])
    below = 1 - x - y
    return int(ks[int(below.argmax())]) if below.max() > 0 else None


def _path(folder: Path, job: ClusterJob) -> Path:
    return folder / f"clusters-{job.settings.k}.safetensors"


def _is_made(job: ClusterJob, path: Path) -> bool:
    found = existing_record(path)
    return found is not None and not difference(found, job.record)


def _clusters(job: ClusterJob, path: Path, points: Points, monitor: Monitor) -> Clusters | None:
    """Return the clustering of one k, made or found, on rank 0; None on the others."""
    # Rank 0 decides, because another might look after it has written.
    made = is_root() and _is_made(job, path)
    made, stop = from_root(torch.tensor([made, monitor.stop_requested()])).tolist()
    if stop:
        raise Interrupted("stopped; run the same command again to go on with the sweep.")
    if made:
        return read_clusters(path) if is_root() else None
    clusters, _ = job.cluster(points, monitor)
    if not is_root():
        return None
    clusters.write(path)
    return clusters


def _quality(job: ClusterJob, clusters: Clusters, rows: torch.Tensor, positions: npt.NDArray[np.int64]) -> Quality:
    labels = clusters.assignment[clusters.assignment >= 0][positions]
    return Quality(
        k=job.settings.k,
        inertia=inertia(clusters, job.settings.metric),
        silhouette=_silhouette(rows.cpu().numpy(), labels, job.settings.metric),
        imbalance=imbalance(clusters.sizes),
    )


def _silhouette(rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], metric: str) -> float:
    from sklearn.metrics import silhouette_score

    if not 1 < len(np.unique(labels)) < len(labels):
        return float("nan")
    return float(silhouette_score(rows, labels, metric="cosine" if metric == "cosine" else "euclidean"))


def _table(qualities: list[Quality]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Quality.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(quality) for quality in qualities)
    return text.getvalue().encode()
