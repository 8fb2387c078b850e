"""From what `dprune cluster` was told to its job: one clustering, or one for each k of a sweep."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.clustering.engines import choose_devices
from dprune.clustering.kmeans import KMeansSettings
from dprune.clustering.single import ClusterJob
from dprune.clustering.sweep import SweepJob
from dprune.errors import InputError, UsageError
from dprune.formats.arrays import read_array
from dprune.formats.clusters import read_clusters
from dprune.formats.features import Features, open_features
from dprune.formats.jobs import Job
from dprune.formats.kinds import TENSOR_FILES, kind_of
from dprune.formats.provenance import Record
from dprune.formats.publish import STDOUT, Output
from dprune.formats.subsets import narrowed, read_chosen
from dprune.runtime import ranks

STARTS = ("kmeans++", "random")


@dataclass(frozen=True)
class ClusterSettings:
    """How to cluster, in the words of `dprune cluster`, which says what each means."""

    k: int | None = None
    sweep: tuple[int, ...] | None = None
    levels: tuple[int, ...] | None = None
    subset: str | None = None
    metric: str = KMeansSettings.metric
    init: str = KMeansSettings.init
    n_init: int = KMeansSettings.n_init
    iterations: int = KMeansSettings.iterations
    tolerance: float = KMeansSettings.tolerance
    engine: str = "auto"
    seed: int = 0
    device: str = "auto"


def open_cluster(path: str, settings: ClusterSettings, output: Output) -> Job:
    """Open the features and resolve what was left open.

    Args:
        path: feature store, .npy or .safetensors.
        settings: how to cluster.

    Raises:
        InputError: the features, the subset or the init file cannot be used, or there are fewer samples than clusters.
        MismatchError: the subset was chosen from another dataset.
        UsageError: the settings contradict each other, or the engine or the device is not available.
    """
    _check(settings, output)
    engine, devices = choose_devices(settings.engine, settings.device)
    features = open_features(path)
    if not ranks().rank:
        features.describe_ahead()
    parents: dict[str, Record] = {}
    k = max(settings.sweep) if settings.sweep else settings.levels[0] if settings.levels else settings.k
    init, centroids = settings.init, None
    if init not in STARTS:
        centroids, parents["init"] = _read_centroids(init, k, features)
        init, k = "file", len(centroids)
    resolved = KMeansSettings(k or KMeansSettings.k, settings.metric, init, settings.n_init, settings.iterations,
                              settings.tolerance, engine, centroids)  # fmt: skip
    chosen = None
    if settings.subset is not None:
        chosen, parents["subset"] = _read_subset(settings.subset, features)
    if resolved.k > (count := features.shape[0] if chosen is None else len(chosen)):
        option = "--levels" if settings.levels else "-k"
        raise InputError(f"{settings.subset or features.name}: has {count:,} samples: give {option} at most that.")
    above = settings.levels[1:] if settings.levels else ()
    job = ClusterJob(features, parents, resolved, settings.seed, devices, output, chosen, above)
    return SweepJob(job, settings.sweep, output) if settings.sweep else job


def _check(settings: ClusterSettings, output: Output) -> None:
    """Refuse settings that contradict each other."""
    from_file = settings.init not in STARTS
    if settings.n_init > 1 and from_file:
        raise UsageError("--n-init is for random starts: from an --init FILE all would be the same.")
    if settings.sweep and (settings.k is not None or from_file):
        raise UsageError("--sweep chooses the numbers of clusters itself: drop -k and --init FILE.")
    if settings.levels and (settings.k is not None or settings.sweep):
        raise UsageError("--levels says the numbers of clusters itself: drop -k and --sweep.")
    if settings.sweep and output.path == STDOUT:
        raise UsageError("--sweep writes a folder: give -o DIR.")


def _read_subset(path: str, features: Features) -> tuple[npt.NDArray[np.int64], Record]:
    """Return the ids of the samples that are clustered, and the subset's description as an input."""
    subset = read_chosen(path, None)
    return narrowed(subset, features.name, features.fingerprint, features.shape[0]), subset.as_parent()


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
    with np.errstate(over="ignore"):
        centroids = np.array(values, dtype=np.float32, order="C")
    if not np.isfinite(centroids).all():
        raise InputError(f"{path}: holds centroids that are NaN or infinite in float32: give another --init.")
    return centroids, parent
