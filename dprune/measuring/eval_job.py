"""The job of `dprune eval`: its inputs opened and held together, its output recognised or made.

Nothing here imports torch, so that a result that is up to date is recognised at once.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.arrays import Array, read_array
from dprune.formats.beside import Beside
from dprune.formats.clusters import Clusters, read_clusters
from dprune.formats.jobs import FileJob
from dprune.formats.provenance import Record, check_same_dataset, finite, make_record, parent
from dprune.formats.publish import Output
from dprune.formats.results import read_result, summarized
from dprune.formats.statistics import STATISTICS, Statistics, read_statistics
from dprune.formats.subsets import read_chosen
from dprune.measuring.against import Against
from dprune.measuring.making import Embedding
from dprune.measuring.settings import EvalSettings
from dprune.measuring.side_paths import SidePath
from dprune.measuring.sources import FeatureSource, check_held_out, check_space, open_with_held_out
from dprune.measuring.trained_samples import TrainedSamples, trained_samples
from dprune.runtime import Monitor

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class EvalJob(FileJob):
    """One evaluation.

    Attributes:
        sources: by role, `generated`, `reference` and perhaps `held_out`: features, or statistics of such.
        settings: what to compute.
        device: name of the device.
        clusters: whose shares are compared, or None.
        trained: what the model was trained on, as somebody says, or None.
        subset: ids of the reference that take part, None for all.
        logits: of the generated samples [n, classes], None for those that their features came with.
        statistics: where those of the reference go, or None.
        held_ids: ids of the held-out samples, where these are of the dataset of the reference.
        against: result that the differences are to, or None.
    """

    sources: Mapping[str, FeatureSource | Statistics]
    settings: EvalSettings
    device: str
    clusters: Clusters | None
    trained: Array | None
    subset: Array | None
    logits: Array | None
    statistics: Beside | None
    held_ids: Array | None
    against: Against | None
    output: Output

    def __post_init__(self) -> None:
        """Refuse what cannot be computed whatever the features hold; raises what `open_eval` does."""
        self._check_statistics()
        self._check_logits()
        reference = self.sources["reference"]
        if self.subset is not None and isinstance(reference, FeatureSource):
            check_same_dataset({self.subset.name: self.subset.fingerprint, reference.name: reference.fingerprint})
        self._check_trained()
        check_held_out(self.sources, self.held_ids, "reference")
        if self.clusters is not None:
            self._check_clusters(self.clusters)
        if self.against is not None:
            self.against.check(self.parents, self.settings)

    def _check_statistics(self) -> None:
        given = {role: side.name for role, side in self.sources.items() if isinstance(side, Statistics)}
        if not given:
            return
        name = next(iter(given.values()))
        others = [metric for metric in self.settings.names if metric != "fid"] if self.settings.stated else []
        if others:
            raise InputError(f"--metrics {others[0]}: {name} holds statistics, which allow only fid: give features.")
        no_reference = "reference" in given
        options = {
            "--clusters": self.clusters is not None,
            "--trained-on": self.trained is not None,
            "--logits": self.logits is not None,
            "--subset": no_reference and self.subset is not None,
            "--save-stats": no_reference and self.statistics is not None,
            "--fid-infinity": "generated" in given and self.settings.infinity,
            "--held-out": "generated" in given and self.settings.held_out is not None,
            "--held-out by ids": no_reference and self.held_ids is not None,
        }
        if useless := [option for option, is_given in options.items() if is_given]:
            raise UsageError(f"{useless[0]} takes features, and {name} holds statistics: leave it out.")

    def _check_logits(self) -> None:
        asked = self.settings.stated and "is" in self.settings.names
        model = self.sources["generated"].model
        if asked and self.logits is None and model not in (None, "inception"):
            raise InputError(
                f"--metrics is: features of {model} come without class logits: give --logits, or "
                "features of --model inception."
            )

    def _check_trained(self) -> None:
        _ = self.trained_samples
        if self.trained is None or self.trained.fingerprint is None:
            return
        sides = self.sources["reference"], self.clusters
        others = [side for side in sides if isinstance(side, FeatureSource | Clusters)]
        if not any(other.fingerprint in (None, self.trained.fingerprint) for other in others):
            check_same_dataset({some.name: some.fingerprint for some in (self.trained, others[-1])})

    def _check_clusters(self, clusters: Clusters) -> None:
        if not len(clusters.centroids):
            raise InputError(
                f"{clusters.name}: holds no centroids, which give generated samples their "
                "clusters: give what dprune cluster wrote."
            )
        made_of = parent(clusters.record, "features")
        if not made_of:
            return
        made_of = {**made_of, "fingerprint": clusters.fingerprint}
        for side in self.sources.values():
            assert isinstance(side, FeatureSource)
            try:
                check_space({side.name: side.record, clusters.name: made_of})
            except MismatchError as error:
                raise MismatchError(
                    f"{clusters.name} was made from features of another space than {side.name}: compute the "
                    f"shares in a separate eval, with features of {made_of['options'].get('model')} and "
                    "--metrics shares."
                ) from error

    @functools.cached_property
    def trained_samples(self) -> TrainedSamples | None:
        """What the model was trained on, as far as anything tells."""
        return trained_samples(self.sources["generated"].record, self.trained, self.subset)

    @functools.cached_property
    def parents(self) -> dict[str, Record]:
        """The inputs by role, as a record describes them."""
        parents = {role: source.parent for role, source in self.sources.items()}
        given = {"clusters": self.clusters, "trained_on": self.trained, "subset": self.subset, "logits": self.logits,
                 "against": self.against}  # fmt: skip
        return parents | {role: value.as_parent() for role, value in given.items() if value is not None}

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the result."""
        options, seed = self.settings.options(), self.settings.seed
        return make_record("eval", options, seed=seed, parents=self.parents, tags=self.output.tags)

    @property
    def beside(self) -> list[Beside]:
        """The statistics of the reference."""
        return [] if self.statistics is None else [self.statistics]

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """See `Job`."""
        from dprune.measuring.evaluation import evaluate

        found = evaluate(
            self.sources, self.settings, self.device, monitor,
            subset=self.subset, clusters=self.clusters, trained=self.trained_samples, logits=self.logits,
            saved=self.statistics, held_ids=self.held_ids,
            against=self.against, parents=self.parents,
        )  # fmt: skip
        summary = found.publish(self.output.path, "metrics", self.record)
        return summary | self._differences(found.details)

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        found = read_result(self.output.path)
        return summarized(found.metrics, found.inputs) | self._differences(found.details)

    def _differences(self, details: Mapping[str, Any]) -> Record:
        return {"against": finite(details["against"])} if self.against is not None else {}


def open_eval(generated: str, reference: str, settings: EvalSettings, embedding: Embedding, output: Output) -> EvalJob:
    """Open what `dprune eval` was given.

    Args:
        generated: features, shards or statistics of generated samples.
        reference: the same of what they are compared with.
        settings: what to compute.
        embedding: how features of shards are made.

    Raises:
        InputError: a file is missing or not what it should be, or a metric that was asked for is impossible.
        MismatchError: the inputs do not belong together.
        UsageError: options have nothing to work on.
    """
    paths = {"generated": SidePath.of(generated).as_images(), "reference": _reference(reference, settings)}
    statistics = {role: read_statistics(side.path) for role, side in paths.items() if side.holds == "statistics"}
    features = {role: side for role, side in paths.items() if role not in statistics}
    given = list(statistics.values())
    opened, held_ids = open_with_held_out(features, settings.held_out, "reference", embedding, given)
    _warn_of_foreign(given, opened)
    sources = {role: (statistics | opened)[role] for role in (*paths, "held_out") if role in statistics | opened}
    named = opened["reference"].named if "reference" in opened else None
    subset = read_chosen(settings.subset, named) if settings.subset else None
    clusters = read_clusters(settings.clusters) if settings.clusters else None
    trained = read_chosen(settings.trained_on, named) if settings.trained_on else None
    logits = _read_logits(settings.logits) if settings.logits else None
    saved = _statistics_file(settings.save_stats, sources["reference"], subset) if settings.save_stats else None
    against = _baseline(settings.against, output) if settings.against else None
    return EvalJob(
        sources, settings, embedding.device, clusters, trained, subset, logits, saved, held_ids, against, output
    )


def _reference(path: str, settings: EvalSettings) -> SidePath:
    """Look at the reference; of a file with statistics and images those are taken that the options have work for."""
    side = SidePath.of(path)
    if not side.has_both:
        return side
    if settings.takes_samples:
        _log.info("%s: its images are used, not its statistics, which allow only the Fréchet distance.", path)
        return side.as_images()
    _log.info("%s: its statistics are used; --metrics with more than fid uses its images.", path)
    return side


def _warn_of_foreign(statistics: Sequence[Statistics], sources: Mapping[str, FeatureSource]) -> None:
    """Say of statistics that carry no provenance what they must have in common with the other side."""
    made: Record = next((source.record["options"] for source in sources.values() if source.record), {})
    space = " and ".join(filter(None, (made.get("model"), f"the resize {made['resize']}" if "resize" in made else "")))
    for some in statistics:
        if some.record is None:
            _log.warning(
                "%s does not say which network and which resize made it: unless those were %s, the distance means "
                "nothing%s: man dprune-eval lists which statistics go with what.", some.name,
                space or "the ones of the other side",
                " (it looks like guided-diffusion's, which go with --resize tensorflow)" if some.spatial else "",
            )  # fmt: skip


def _baseline(path: str, output: Output) -> Against:
    if os.path.realpath(path) == os.path.realpath(output.path):
        raise UsageError(f"--against and -o name the same file, {Path(path).name}: give each its own.")
    return Against.open(path)


def _read_logits(path: str) -> Array:
    array = read_array(path)
    if array.values.ndim != 2 or array.values.dtype.kind != "f" or not array.values.size:
        raise InputError(
            f"{array.name}: logits are floats of shape [n, classes], not {array.values.dtype} of "
            f"{list(array.values.shape)}."
        )
    return array


def _statistics_file(path: str, reference: FeatureSource | Statistics, subset: Array | None) -> Beside:
    fingerprint = reference.fingerprint if isinstance(reference, FeatureSource) else None
    parents = {"features": reference.parent} | ({"subset": subset.as_parent()} if subset else {})
    record = make_record(STATISTICS, {}, fingerprint=fingerprint, parents=parents)
    return Beside("--save-stats", Path(path), record)
