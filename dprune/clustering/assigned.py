"""The jobs of `dprune cluster --assign-only` and `--fit-on`: clusters whose samples are assigned span by span."""

from __future__ import annotations

import functools
import logging
import shutil
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.clustering.assigning import Assigner, assign_spans
from dprune.clustering.points import load_points
from dprune.clustering.quality import imbalance
from dprune.clustering.single import ClusterJob, Fitted, torch_pays
from dprune.clustering.spans import LETTERS, Spans, bytes_of
from dprune.collectives import all_sum, from_root, is_root, on_devices
from dprune.errors import DpruneError, InputError, Interrupted
from dprune.formats.beside import progress_folder
from dprune.formats.claims import claim_beside
from dprune.formats.clusters import level_tensors, read_levels
from dprune.formats.features import Features
from dprune.formats.jobs import FileJob
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import (
    FINDINGS_KEY,
    Record,
    difference,
    make_record,
    record_digest,
    variant,
    with_findings,
)
from dprune.formats.publish import Output
from dprune.formats.temporary import sweep
from dprune.formats.tensor_files import StoredTensor, TensorFile, content_of, publish_tensors
from dprune.formats.tensors import read_tensors, write_tensors
from dprune.formats.turns import Turns, is_shared, peeked
from dprune.namespace import HOST, Device, device_type, host, namespace_on
from dprune.runtime import Ahead, Monitor, Ranks, array_task, check_stop, process_group, ranks, take_device

PATIENCE_S = 60.0
"""How long the first rank waits until it sees what the others wrote; network file systems take their time."""
POLL_S = 0.2

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class AssignedJob(FileJob):
    """Clusters whose samples are assigned span by span.

    Attributes:
        k: number of clusters.
        metric: `l2` or `cosine`.
        chosen: sorted ids of the samples that are assigned, int64, or None for all.
    """

    features: Features
    k: int
    metric: str
    output: Output
    chosen: npt.NDArray[np.int64] | None

    @functools.cached_property
    @abstractmethod
    def record(self) -> Record:
        """Provenance of the clusters."""

    @property
    def spans(self) -> Spans:
        """What is assigned, as far as it is."""
        return Spans(progress_folder(self.output.path), self.features.shape[0], record_digest(self.record))

    def tidy(self) -> None:
        """See `Job`; the last worker removes the spans that the clusters were made of."""
        super().tidy()
        path = Path(self.output.path)
        if self.is_made() and not sweep(path.parent, path.name):
            shutil.rmtree(self.spans.folder, ignore_errors=True)

    def is_made(self) -> bool:
        """Tell whether the clusters are there."""
        found = existing_record(self.output.path)
        return found is not None and not difference(found, self.record)

    def place(self, device: Device) -> Device:
        """Return where samples are assigned; on the host it depends on how much there is to do, not on the ranks."""
        if device_type(device) == "cuda":
            return device
        samples, dimension = self.features.shape
        return take_device("cpu") if torch_pays(samples, dimension, self.k) else HOST

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        samples, dimension = self.features.shape
        return {"samples": samples if self.chosen is None else len(self.chosen), "dimension": dimension, "k": self.k}

    def publish(self, fitted: Fitted) -> None:
        """Make the clusters of the spans, without holding more of them than one.

        Raises:
            InputError: a span is damaged, or no sample could be assigned.
        """
        spans, sizes, inertia = self.spans, np.zeros(self.k, dtype=np.int64), 0.0
        for labels, distances in zip(spans.read("assignment"), spans.read("distance"), strict=True):
            inside = labels >= 0
            sizes += np.bincount(labels[inside], minlength=self.k)
            near = distances[inside].astype(np.float64)
            inertia += float((near if self.metric == "cosine" else np.square(near)).sum())
        if not sizes.any():
            raise InputError(f"{self.features.name}: no sample has usable features: all are NaN, infinite or zero.")
        tensors = {name: spans.stored(name) for name in LETTERS}
        tensors |= {"centroids": content_of(fitted.centroids), "sizes": content_of(sizes)}
        tensors |= {name: content_of(above) for name, above in level_tensors(fitted.levels).items()}
        tensors |= _labels(self.features)
        findings = {**fitted.findings, "inertia": inertia}
        publish_tensors(self.output.path, tensors, with_findings(self.record, findings))

    def summary(self) -> dict[str, Any]:
        """See `Job`; the samples themselves are not read."""
        file = TensorFile.open(self.output.path)
        sizes = file.read("sizes")
        found, count, samples = (file.metadata or {}).get(FINDINGS_KEY, {}), self.features.shape[0], int(sizes.sum())
        left_out = 0 if self.chosen is None else count - len(self.chosen)
        return {
            "samples": samples,
            **({} if self.chosen is None else {"left_out": left_out}),
            "without_features": count - samples - left_out,
            "k": self.k,
            "inertia": found.get("inertia"),
            "size_min": int(sizes.min()),
            "size_median": float(np.median(sizes)),
            "size_max": int(sizes.max()),
            "imbalance": imbalance(sizes),
        }


def _labels(features: Features) -> dict[str, StoredTensor]:
    """Return the labels and their names as they are written, nothing where no sample has one."""
    if next(features.labels_in_parts(), None) is None:
        return {}
    label = StoredTensor("I64", features.shape[:1], lambda: map(bytes_of, features.labels_in_parts()))
    names = np.frombuffer(features.class_names.content, dtype=np.uint8) if features.class_names else None
    return {"label": label} | ({} if names is None else {"class_names": content_of(names)})


@dataclass(frozen=True)
class AssignOnlyJob(AssignedJob):
    """Samples assigned to centroids that are given, which any number of workers share.

    Attributes:
        parents: inputs besides the features.
        given: the centroids.
        device: where samples are assigned.
    """

    parents: Mapping[str, Record]
    given: Fitted
    device: Device

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the clusters."""
        options = {"k": self.k, "metric": self.metric, "assign_only": True}
        parents = {"features": self.features.as_parent(), **self.parents}
        return make_record("cluster", options, parents=parents, fingerprint=self.features.fingerprint,
                           tags=self.output.tags)  # fmt: skip

    @property
    def claim(self) -> Path | None:
        """See `Job`; a task of an array claims what it assigns, span by span."""
        return None if array_task() else claim_beside(self.output.path, ranks())

    def is_finished(self) -> bool:
        """Tell whether another worker has written the clusters meanwhile."""
        return is_shared() and self.is_made()

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Assign this worker's spans; whoever finds all of them assigned writes the clusters."""
        spans = self.spans
        # Others see this worker at work until it needs the spans no more.
        with Turns(Path(self.output.path)) as turns:
            assigner = Assigner(self.given.centroids, self.metric, self.place(self.device))
            if not self.is_finished():
                spans.announce(self.record)
            # What was claimed when the last span was taken may be nobody's by now.
            while not self.is_finished() and (batches := peeked(turns.deal(len(spans), spans.missing, spans.claim))):
                for numbers in batches:
                    assign_spans(self.features, spans, numbers, assigner, self.chosen, monitor, monitor.stop_requested)
                    check_stop(monitor)
            return self._completed(turns) | {"device": device_type(self.device)}

    def _completed(self, turns: Turns) -> dict[str, Any]:
        """Write the clusters if all is assigned, and return the summary."""
        if not self.spans.missing(range(len(self.spans))):
            try:
                with turns.alone("clusters") as mine:
                    if mine:
                        self.publish(self.given)
            except InputError:
                # A worker that wrote the clusters may be removing the spans that this one reads.
                if not self.is_finished():
                    raise
        if self.is_made():
            return self.summary()
        _log.info("%s is not complete yet: other workers are still assigning, and the last of them completes it.",
                  self.output.path)  # fmt: skip
        return {"complete": False}

    def summary(self) -> dict[str, Any]:
        """See `AssignedJob`."""
        return {**super().summary(), "device": None, "complete": True}


@dataclass(frozen=True)
class FitOnJob(AssignedJob):
    """Clusters fitted on some of the samples, and all samples assigned to them.

    Attributes:
        fit: the clustering of those samples, which is not written.
        fit_on: how many they are, as it was asked for.
    """

    fit: ClusterJob
    fit_on: str
    together = True

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the clusters."""
        return variant(self.fit.record, fit_on=self.fit_on)

    @property
    def claim(self) -> Path | None:
        """See `Job`."""
        return None if ranks().rank else claim_beside(self.output.path, Ranks())

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Fit, assign and publish; the ranks besides 0 return nothing."""
        work = functools.partial(self._run, warm=Ahead(self.fit.warm_up), stop=monitor.stop_requested)
        return on_devices(self.fit.places, work, monitor)

    def _run(self, device: Device, monitor: Monitor, warm: Ahead[None], stop: Callable[[], bool]) -> dict[str, Any]:
        spans = self.spans
        with process_group(device) as here:
            fitted = self._fitted(device, monitor, warm)
            if is_root():
                spans.announce(self.record)
            mine = spans.missing(range(here.rank, len(spans), here.world))
            assigner = Assigner(fitted.centroids, self.metric, self.place(device))
            assign_spans(self.features, spans, mine, assigner, self.chosen, monitor, stop)
            # Rank 0 has to know that the others are through, and none may stop alone.
            if all_sum(namespace_on(device).asarray([int(stop())])).item():
                raise Interrupted("stopped; run the same command again to go on.")
            if here.rank:
                return {}
        self._wait_for_spans()
        self.publish(fitted)
        return self.summary() | {"device": device_type(self.fit.devices[0])}

    def _fitted(self, device: Device, monitor: Monitor, warm: Ahead[None]) -> Fitted:
        """Return the centroids, found from an earlier run or fitted; the same on every rank."""
        xp = namespace_on(device)
        found = self._found() if is_root() else None
        if from_root(xp.asarray([int(found is not None)])).item():
            blank = np.empty((self.k, self.features.shape[1]), dtype=np.float32)
            centroids = from_root(xp.asarray(blank if found is None else found.centroids))
            return found or Fitted(host(centroids))
        points = load_points(self.features, self.metric, device, monitor, self.fit.chosen)
        warm.wait()
        fitted = self.fit.fitted(points, monitor)
        if is_root():
            self._keep(fitted)
        return fitted

    @property
    def _kept(self) -> Path:
        return self.spans.folder / "fit.safetensors"

    def _keep(self, fitted: Fitted) -> None:
        tensors = {"centroids": fitted.centroids, **level_tensors(fitted.levels)}
        write_tensors(self._kept, tensors, {"mark": self.spans.mark, "findings": dict(fitted.findings)})

    def _found(self) -> Fitted | None:
        try:
            name, tensors, metadata = read_tensors(self._kept)
        except InputError:
            return None
        if metadata is None or metadata.get("mark") != self.spans.mark:
            return None
        return Fitted(tensors["centroids"], tuple(read_levels(name, tensors)), metadata["findings"])

    def _wait_for_spans(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while missing := self.spans.missing(range(len(self.spans))):
            if time.monotonic() > end:
                raise DpruneError(f"{self.spans.path(missing[0])}: was not written, or cannot be seen here: run the "
                                  "same command again.")  # fmt: skip
            time.sleep(POLL_S)

    def summary(self) -> dict[str, Any]:
        """See `AssignedJob`."""
        found = (existing_record(self.output.path) or {}).get(FINDINGS_KEY, {})
        assert self.fit.chosen is not None
        return {
            **super().summary(),
            **({"levels": [self.k, *self.fit.levels]} if self.fit.levels else {}),
            "fitted_on": len(self.fit.chosen),
            "engine": self.fit.settings.engine,
            "device": None,
            "iterations": found.get("iterations"),
            "empties_repaired": found.get("empties_repaired"),
        }
