"""From what `dprune cluster` was told to its job: one clustering, or one for each k of a sweep."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.clustering.assigned import AssignOnlyJob, FitOnJob
from dprune.clustering.engines import choose_devices
from dprune.clustering.kmeans import KMeansSettings
from dprune.clustering.single import ClusterJob, Fitted
from dprune.clustering.sweep import SweepJob
from dprune.errors import InputError, UsageError
from dprune.formats.arrays import digest_array, read_array
from dprune.formats.clusters import read_clusters, read_levels
from dprune.formats.features import Features, open_features
from dprune.formats.jobs import Job
from dprune.formats.kinds import TENSOR_FILES, kind_of
from dprune.formats.provenance import Record, checked_record, digest, parent, parent_record
from dprune.formats.publish import STDOUT, Output
from dprune.formats.subsets import narrowed, read_chosen
from dprune.formats.tensor_files import TensorFile
from dprune.namespace import HOST
from dprune.runtime import is_gpu, ranks, take_device
from dprune.seeds import generator
from dprune.selecting.amount import Amount

_log = logging.getLogger("dprune")

STARTS = ("kmeans++", "random")
FITS = ("k", "sweep", "levels", "fit_on", "init", "n_init", "iterations", "tolerance", "engine")
"""Settings that only a fit has a use for."""
NO_MATTER = ("dtype", "precision", "decode", "strict")
"""Options of a network in which features that are compared may differ."""


@dataclass(frozen=True)
class ClusterSettings:
    """How to cluster, in the words of `dprune cluster`, which says what each means."""

    k: int | None = None
    sweep: tuple[int, ...] | None = None
    levels: tuple[int, ...] | None = None
    fit_on: Amount | None = None
    centroids: str | None = None
    assign_only: bool = False
    subset: str | None = None
    metric: str | None = None
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
        InputError: the features, the subset or the centroids cannot be used, or there are fewer samples than clusters.
        MismatchError: the subset was chosen from another dataset.
        UsageError: the settings contradict each other, or the engine or the device is not available.
    """
    _check(settings, output)
    if settings.assign_only:
        return _open_assignment(path, settings, output)
    engine, devices = choose_devices(settings.engine, settings.device)
    features = open_features(path)
    if not ranks().rank:
        features.describe_ahead()
    parents: dict[str, Record] = {}
    k = max(settings.sweep) if settings.sweep else settings.levels[0] if settings.levels else settings.k
    init, centroids = settings.init, None
    if init not in STARTS:
        centroids, parents["init"] = _read_init(init, k, features)
        init, k = "file", len(centroids)
    resolved = KMeansSettings(
        k or KMeansSettings.k, settings.metric or KMeansSettings.metric, init, settings.n_init, settings.iterations,
        settings.tolerance, engine, centroids,
    )  # fmt: skip
    chosen = None
    if settings.subset is not None:
        chosen, parents["subset"] = _read_subset(settings.subset, features)
    count, source = features.shape[0] if chosen is None else len(chosen), settings.subset or features.name
    sample = chosen if settings.fit_on is None else _drawn(settings.fit_on, count, chosen, settings.seed, source)
    if resolved.k > (some := count if sample is None else len(sample)):
        option = "--levels" if settings.levels else "-k"
        if settings.fit_on is not None:
            raise InputError(
                f"{source}: --fit-on takes {some:,} samples for {resolved.k:,} clusters: raise it or lower {option}."
            )
        raise InputError(f"{source}: has {some:,} samples: give {option} at most that.")
    above = settings.levels[1:] if settings.levels else ()
    job = ClusterJob(features, parents, resolved, settings.seed, devices, output, sample, above)
    if settings.fit_on is not None:
        return FitOnJob(features, resolved.k, resolved.metric, output, chosen, job, str(settings.fit_on))
    return SweepJob(job, settings.sweep, output) if settings.sweep else job


def _open_assignment(path: str, settings: ClusterSettings, output: Output) -> AssignOnlyJob:
    """Open the features and the centroids that they are assigned to; see `open_cluster`."""
    if "," in settings.device:
        raise UsageError(f"--device {settings.device}: with --assign-only start a process for each GPU.")
    device = take_device(settings.device) if is_gpu(settings.device) else HOST
    features = open_features(path)
    features.describe_ahead()
    assert settings.centroids is not None
    given, parent = _read_given(settings.centroids, features)
    parents, chosen = {"centroids": parent}, None
    if settings.subset is not None:
        chosen, parents["subset"] = _read_subset(settings.subset, features)
    record = parent.get("provenance", {})
    metric = settings.metric or record.get("options", {}).get("metric", KMeansSettings.metric)
    _warn_of_another_network(settings.centroids, record, features)
    return AssignOnlyJob(features, len(given.centroids), metric, output, chosen, parents, given, device)


def _drawn(
    fit_on: Amount, count: int, chosen: npt.NDArray[np.int64] | None, seed: int, source: str
) -> npt.NDArray[np.int64]:
    """Draw the samples that are fitted on, out of all or of those that were chosen."""
    some = fit_on.count(count, "lowest")
    if some > count:
        raise InputError(f"{source}: has {count:,} samples, and --fit-on asks for {some:,}: give at most that.")
    drawn = np.sort(generator(seed, "cluster fit-on").choice(count, some, replace=False, shuffle=False))
    return drawn if chosen is None else chosen[drawn]


def _check(settings: ClusterSettings, output: Output) -> None:
    """Refuse settings that contradict each other."""
    from_file = settings.init not in STARTS
    if settings.n_init > 1 and from_file:
        raise UsageError("--n-init is for random starts: from an --init FILE all would be the same.")
    if settings.sweep and (settings.k is not None or from_file):
        raise UsageError("--sweep chooses the numbers of clusters itself: drop -k and --init FILE.")
    if settings.assign_only != (settings.centroids is not None):
        if settings.assign_only:
            raise UsageError("--assign-only: say to which clusters: give --centroids FILE.")
        raise UsageError("--centroids: add --assign-only to assign to them, or give --init FILE to start from them.")
    fits = [name.replace("_", "-") for name in FITS if getattr(settings, name) != getattr(ClusterSettings, name)]
    if settings.assign_only and fits:
        raise UsageError(f"--assign-only fits nothing: drop {'-' if len(fits[0]) == 1 else '--'}{fits[0]}.")
    if settings.fit_on is not None and settings.sweep:
        raise UsageError("--fit-on and --sweep exclude each other: sweep over a --subset.")
    if (settings.fit_on is not None or settings.assign_only) and output.path == STDOUT:
        raise UsageError("--output -: what is assigned is kept beside the output: give -o FILE.")
    if settings.levels and (settings.k is not None or settings.sweep):
        raise UsageError("--levels says the numbers of clusters itself: drop -k and --sweep.")
    if settings.sweep and output.path == STDOUT:
        raise UsageError("--sweep writes a folder: give -o DIR.")


def _read_subset(path: str, features: Features) -> tuple[npt.NDArray[np.int64], Record]:
    """Return the ids of the samples that are clustered, and the subset's description as an input."""
    subset = read_chosen(path, None)
    return narrowed(subset, features.name, features.fingerprint, features.shape[0]), subset.as_parent()


def _read_init(path: str, k: int | None, features: Features) -> tuple[npt.NDArray[np.float32], Record]:
    if not os.path.exists(path):
        raise UsageError(f"--init {path}: is neither kmeans++ nor random, and there is no such file.")
    if kind_of(path) in TENSOR_FILES:
        clusters = read_clusters(path)
        values, parent = clusters.centroids, clusters.as_parent()
    else:
        array = read_array(path)
        values, parent = array.values, array.as_parent()
    centroids = _checked(path, "--init", values, features)
    if k not in (None, len(values)):
        raise InputError(f"{path}: holds {len(values)} centroids, but -k is {k}: drop -k or give another --init.")
    return centroids, parent


def _read_given(path: str, features: Features) -> tuple[Fitted, Record]:
    """Return centroids of a file, and its description as an input; of its samples, maybe a billion, none is read."""
    if kind_of(path) not in TENSOR_FILES:
        array = read_array(path)
        return Fitted(_checked(path, "--centroids", array.values, features)), array.as_parent()
    file = TensorFile.open(path)
    if "centroids" not in file.places:
        raise InputError(f"{path}: holds no tensor called 'centroids'.")
    values = file.read("centroids")
    levels = tuple(read_levels(path, {name: file.read(name) for name in file.places if name.startswith("level_")}))
    if levels and len(levels[0]) != len(values):
        raise InputError(f"{path}: its levels are of {len(levels[0]):,} clusters, and it holds {len(values):,}.")
    content = digest([digest_array(each) for each in (values, *levels)])
    given = Fitted(_checked(path, "--centroids", values, features), levels)
    return given, parent_record(checked_record(path, file.metadata), content)


def _checked(path: str, option: str, values: npt.NDArray[Any], features: Features) -> npt.NDArray[np.float32]:
    """Return centroids as they are used.

    Raises:
        InputError: they are none of these features.
    """
    dimension = features.shape[1]
    if values.ndim != 2 or values.shape[1] != dimension or values.dtype.kind not in "fiu" or not len(values):
        raise InputError(f"{path}: {option} takes numbers of shape [k, {dimension}], not {list(values.shape)}.")
    with np.errstate(over="ignore"):
        centroids = np.array(values, dtype=np.float32, order="C")
    if not np.isfinite(centroids).all():
        raise InputError(f"{path}: holds centroids that are NaN or infinite in float32: give another {option}.")
    return centroids


def _warn_of_another_network(path: str, record: Record, features: Features) -> None:
    """Warn where the centroids are known to be of features that another network made."""
    theirs, ours = parent(record, "features"), features.record or {}
    if not theirs.get("command") == ours.get("command") == "embed":
        return
    for name in sorted({*theirs["options"], *ours["options"]} - {*NO_MATTER}):
        one, other = theirs["options"].get(name), ours["options"].get(name)
        if one != other:
            _log.warning("%s: its centroids are of features made with %s %s, and %s with %s: distances between them "
                         "may mean nothing.", path, name, one, features.name, other)  # fmt: skip
            return
