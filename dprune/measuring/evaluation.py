"""An evaluation from opened inputs to the content of metrics.json."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dprune.errors import InputError, MismatchError
from dprune.formats.features import Features
from dprune.formats.provenance import Record
from dprune.formats.statistics import Statistics
from dprune.measuring.eval_metrics import Comparison, measure, obstacle
from dprune.measuring.moments import Jackknife, Measured, given, held, streamed
from dprune.measuring.settings import KEYS, TITLES
from dprune.measuring.sides import chosen_ids, describe
from dprune.metrics.jackknife import Estimate
from dprune.metrics.rows import check_dimensions
from dprune.runtime import Monitor, check_stop, explained, take_device

if TYPE_CHECKING:
    from dprune.measuring.eval_job import EvalJob

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: numbers by key, None for what could not be computed.
        details: curves, shares and the like.
        inputs: descriptions of both sides.
        statistics: of the reference, None where they are not to be saved.
    """

    metrics: dict[str, float | None]
    details: dict[str, Any]
    inputs: list[Record]
    statistics: Statistics | None

    def summary(self) -> dict[str, Any]:
        """Return the counts of samples and the headline numbers."""
        headline = {k: v for k, v in self.metrics.items() if not k.endswith("_se") and v is not None}
        return {side["role"]: side["count"] for side in self.inputs if side["count"] is not None} | headline


def evaluate(job: EvalJob, monitor: Monitor) -> Evaluation:
    """Open both sides, making what features are missing, and compute the metrics.

    Raises:
        InputError: features cannot be used, or a metric that was asked for cannot be computed from them.
        MismatchError: the features have different dimensions.
        UsageError: the device is impossible.
        Interrupted: the monitor asks to stop.
        DpruneError: out of memory.
    """
    device = take_device(job.device)
    features = _open_features(job, monitor)
    with explained(device, "--device cpu, or fewer --metrics"):
        it = _comparison(job, features, device, monitor)
        names = _possible(job, it)
        metrics, details = _measure_all(job, it, names, monitor)
        roles = {"generated": (job.generated, it.generated), "reference": (job.reference, it.reference)}
        inputs = [
            describe(role, source, side.count, side.dropped, side.dimension) for role, (source, side) in roles.items()
        ]
        return Evaluation(metrics, details, inputs, _statistics(job, it.reference))


def _open_features(job: EvalJob, monitor: Monitor) -> dict[str, Features]:
    """Open the sides that are no statistics, and hold all dimensions together."""
    sides = {"generated": job.generated, "reference": job.reference}
    opened = {role: side.open(monitor) for role, side in sides.items() if not isinstance(side, Statistics)}
    given_mean = {role: side.mean for role, side in sides.items() if isinstance(side, Statistics)}
    widths = {role: len(given_mean[role]) if role in given_mean else opened[role].shape[1] for role in sides}
    check_dimensions(widths["generated"], widths["reference"])
    if job.clusters is not None and job.clusters.centroids.shape[1] != widths["generated"]:
        raise MismatchError(
            f"{job.clusters.name} has centroids of {job.clusters.centroids.shape[1]} dimensions, and the features have "
            f"{widths['generated']}: take the shares by an eval of their own, with --metrics shares."
        )
    return opened


def _comparison(job: EvalJob, features: dict[str, Features], device: torch.device, monitor: Monitor) -> Comparison:
    settings = job.settings
    jackknife = Jackknife(settings.jackknife, job.seed)
    # Where there are statistics, nothing but the Fréchet distance is possible.
    moments_do = settings.metrics == ("fid",) or len(features) < 2
    sides: dict[str, Measured] = {}
    for role, source in (("generated", job.generated), ("reference", job.reference)):
        if isinstance(source, Statistics):
            sides[role] = given(source, device)
            continue
        ids = chosen_ids(features[role], job.subset if role == "reference" else None)
        _check_count(features[role], len(ids), role)
        errors = jackknife if role == "generated" else None
        if moments_do and not (role == "generated" and settings.infinity):
            sides[role] = streamed(features[role], ids, role, device, monitor, errors)
        else:
            sides[role] = held(features[role], ids, role, device, errors)
        _check_count(features[role], sides[role].count or 0, role)
    logits = _logits(job, sides["generated"], device) if not moments_do else None
    return Comparison(sides["generated"], sides["reference"], settings, job.seed, monitor, job.clusters, logits)


def _check_count(features: Features, count: int, role: str) -> None:
    if count < 2:
        raise InputError(f"{features.name}: {count} usable {role} samples are too few: a comparison takes two or more.")


def _logits(job: EvalJob, generated: Measured, device: torch.device) -> Tensor | None:
    """Return the logits of the generated samples that take part, from --logits or with their features."""
    if "is" not in job.settings.metrics:
        return None
    assert generated.features is not None
    assert generated.side is not None
    values = generated.features.logits() if job.logits is None else job.logits.values
    if values is None:
        return None
    count = generated.features.shape[0]
    if job.logits is not None and len(values) != count:
        raise MismatchError(
            f"{job.logits.name} has {len(values):,} rows, and {generated.features.name} has {count:,} samples: give "
            "the logits of these."
        )
    kept = values[generated.side.ids]
    if bad := int((~np.isfinite(kept).all(1)).sum()):
        name = generated.features.name if job.logits is None else job.logits.name
        raise InputError(f"{name}: holds logits of {bad} samples that are NaN or infinite: make them again.")
    return torch.from_numpy(kept.astype(np.float64 if kept.dtype == np.float64 else np.float32)).to(device)


def _possible(job: EvalJob, it: Comparison) -> tuple[str, ...]:
    """Return the metrics that can be computed, and say why the others cannot.

    Raises:
        InputError: one of the others was asked for.
    """
    names = job.settings.metrics
    if it.generated.side is None or it.reference.side is None:
        if names != ("fid",):
            _log.info("statistics allow the Fréchet distance alone: the other metrics are left out.")
        return ("fid",)
    reasons = {name: reason for name in names if (reason := obstacle(name, it))}
    for name, reason in reasons.items():
        if job.settings.stated:
            raise InputError(f"--metrics {name}: {reason}.")
        _log.info("no %s: %s.", TITLES[name], reason)
    return tuple(name for name in names if name not in reasons)


def _measure_all(
    job: EvalJob, it: Comparison, names: tuple[str, ...], monitor: Monitor
) -> tuple[dict[str, float | None], dict[str, Any]]:
    metrics: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    monitor.start("measuring", len(names), "metrics")
    for name in job.settings.metrics:
        if name not in names:
            metrics |= {f"{key}{suffix}": None for key in KEYS[name] for suffix in ("", "_se")}
            continue
        check_stop(monitor)
        found = measure(name, it)
        for key, estimate in found.metrics.items():
            metrics |= _numbers(key, estimate)
        details |= found.details
        monitor.advance()
    return metrics, details


def _numbers(key: str, estimate: Estimate) -> dict[str, float | None]:
    both = {key: estimate.value, f"{key}_se": estimate.error}
    return {name: value if math.isfinite(value) else None for name, value in both.items()}


def _statistics(job: EvalJob, reference: Measured) -> Statistics | None:
    if job.statistics is None:
        return None
    moments = reference.spread.moments
    mean, covariance = moments.mean.cpu().numpy(), moments.covariance().cpu().numpy()
    return Statistics(str(job.statistics.path), moments.count, mean, covariance, job.statistics.record)
