"""An evaluation from opened inputs to the content of metrics.json."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import Array
from dprune.formats.beside import Beside
from dprune.formats.clusters import Clusters
from dprune.formats.features import Features
from dprune.formats.provenance import Record
from dprune.formats.statistics import Statistics
from dprune.measuring.against import Against, reference_of, tabulated
from dprune.measuring.balance import strata_of, warn_of_shares
from dprune.measuring.eval_metrics import FUNCTIONS, ReadyPair, obstacle
from dprune.measuring.moments import Measured, given, held, streamed
from dprune.measuring.real_baseline import HeldOut
from dprune.measuring.replicates import kept_replicates, pairing_digest
from dprune.measuring.settings import EvalSettings
from dprune.measuring.sides import Measurement, chosen_ids, describe_side, load_side
from dprune.measuring.sources import FeatureSource
from dprune.measuring.trained_samples import TrainedSamples
from dprune.metrics.catalogue import METRICS
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.metrics.rows import check_dimensions
from dprune.namespace import HOST, Device, host, namespace_on
from dprune.namespace import Array as AnyArray
from dprune.runtime import Monitor, check_stop, explained, is_gpu, take_device

_log = logging.getLogger("dprune")


def evaluate(
    sources: Mapping[str, FeatureSource | Statistics],
    settings: EvalSettings,
    device: str,
    monitor: Monitor,
    *,
    subset: Array | None,
    clusters: Clusters | None,
    trained: TrainedSamples | None,
    logits: Array | None,
    saved: Beside | None,
    held_ids: Array | None,
    against: Against | None,
    parents: Mapping[str, Record],
) -> Measurement:
    """Open both sides, making what features are missing, compute the metrics, and save the reference's statistics.

    The arguments are what `EvalJob` holds.

    Raises:
        MismatchError: the sides do not belong together, or what they are held to was measured otherwise.
    """
    moments_do = _moments_do(sources, settings)
    numpy_does = moments_do or set(settings.names) <= {"fid", "paired"}
    place = HOST if numpy_does and device in ("auto", "cpu") and not is_gpu(device) else take_device(device)
    features = {role: source.open(monitor) for role, source in sources.items() if isinstance(source, FeatureSource)}
    dimension = _common_dimension(sources, features, clusters)
    if {"generated", "reference"} <= features.keys():
        warn_of_shares(features["generated"], features["reference"], chosen_ids(features["reference"], subset))
    # As torch has it, what numpy computes of infinity is told of by the metrics.
    with explained(place, "--device cpu, or fewer --metrics"), np.errstate(over="ignore", invalid="ignore"):
        sides = _ready(sources, features, settings, subset, place, monitor, moments_do)
        if against is not None:
            against.check_count(sides["generated"].count)
        taken = _logits(sides["generated"], logits, place) if "is" in settings.names else None
        held_out = _held_out(features, held_ids, place) if "held_out" in features else None
        named = [source.named if isinstance(source := sources[role], FeatureSource) else None for role in sides]
        beside = clusters, taken, held_out, trained, named
        pair = ReadyPair(sides["generated"], sides["reference"], settings, monitor, *beside)
        estimates, details = _compute_all(pair)
        details |= _jackknife(estimates, pair.generated, parents, settings)
        metrics = _numbers(estimates)
        if against is not None:
            details["against"] = tabulated(against.differences(metrics, details))
        inputs = [describe_side(role, sources[role], s.count, s.dropped, dimension) for role, s in sides.items()]
        if held_out is not None:
            counts = len(held_out.side.ids), held_out.side.dropped
            inputs.append(describe_side("held_out", sources["held_out"], *counts, dimension))
        if saved is not None:
            _save_statistics(sides["reference"], saved)
        return Measurement(metrics, details, inputs)


def _common_dimension(
    sources: Mapping[str, FeatureSource | Statistics], features: Mapping[str, Features], clusters: Clusters | None
) -> int:
    """Hold all dimensions together."""
    widths = {role: side.shape[1] for role, side in features.items()}
    widths |= {role: len(side.mean) for role, side in sources.items() if isinstance(side, Statistics)}
    check_dimensions(widths["generated"], widths["reference"])
    if widths.get("held_out", widths["generated"]) != widths["generated"]:
        raise MismatchError(
            f"{features['held_out'].name} has features of {widths['held_out']} dimensions, and the generated ones have "
            f"{widths['generated']}: make both with the same model."
        )
    if clusters is not None and clusters.centroids.shape[1] != widths["generated"]:
        raise MismatchError(
            f"{clusters.name} has centroids of {clusters.centroids.shape[1]} dimensions, and the features have "
            f"{widths['generated']}: compute the shares in a separate eval, with --metrics shares."
        )
    return widths["generated"]


def _moments_do(sources: Mapping[str, FeatureSource | Statistics], settings: EvalSettings) -> bool:
    """Tell whether nothing but Fréchet distances is computed, as is all that statistics allow."""
    return settings.names == ("fid",) or any(isinstance(source, Statistics) for source in sources.values())


def _ready(
    sources: Mapping[str, FeatureSource | Statistics],
    features: Mapping[str, Features],
    settings: EvalSettings,
    subset: Array | None,
    device: Device,
    monitor: Monitor,
    moments_do: bool,
) -> dict[str, Measured]:
    """Read both sides, as little of them as the metrics take."""
    strata = strata_of(features["generated"].labels()) if "generated" in features else None

    def draw(ids: npt.NDArray[np.int64]) -> Blocks:
        evenly = None if strata is None else strata[ids]
        return Blocks.draw(len(ids), settings.seed, settings.jackknife, evenly)

    sides: dict[str, Measured] = {}
    for role in ("generated", "reference"):
        source = sources[role]
        if isinstance(source, Statistics):
            sides[role] = given(source, device)
            continue
        is_generated, own = role == "generated", features[role]
        ids = chosen_ids(own, None if is_generated else subset)
        _check_count(own, len(ids), role)
        errors = draw if is_generated and settings.jackknife else None
        if moments_do and not settings.infinity:
            sides[role] = streamed(own, ids, role, device, monitor, errors)
        else:
            sides[role] = held(own, ids, role, device, errors)
        _check_count(own, sides[role].count or 0, role)
    return sides


def _held_out(features: Mapping[str, Features], ids: Array | None, device: Device) -> HeldOut:
    own = features["held_out"]
    side = load_side(own, chosen_ids(own, ids), "held-out", device)
    name = own.name if ids is None else ids.name
    if len(side.ids) < 2:
        raise InputError(f"{name}: {len(side.ids)} usable held-out samples are too few: give two or more.")
    return HeldOut(side, name, ids is not None)


def _check_count(features: Features, count: int, role: str) -> None:
    if count < 2:
        raise InputError(f"{features.name}: {count} usable {role} samples are too few: a comparison takes two or more.")


def _logits(generated: Measured, stated: Array | None, device: Device) -> AnyArray | None:
    """Return the logits of the generated samples that take part, those that were stated or came with the features."""
    if generated.features is None or generated.side is None:
        return None
    values = generated.features.logits() if stated is None else stated.values
    if values is None:
        return None
    count = generated.features.shape[0]
    if stated is not None and len(values) != count:
        raise MismatchError(
            f"{stated.name} has {len(values):,} rows, and {generated.features.name} has {count:,} samples: give "
            "the logits of these."
        )
    kept = values[generated.side.ids]
    if bad := int((~np.isfinite(kept).all(1)).sum()):
        name = generated.features.name if stated is None else stated.name
        raise InputError(f"{name}: holds logits of {bad} samples that are NaN or infinite: make them again.")
    kept = kept.astype(np.float64 if kept.dtype == np.float64 else np.float32)
    return namespace_on(device).asarray(kept, device=device)


def _compute_all(pair: ReadyPair) -> tuple[dict[str, Estimate | None], dict[str, Any]]:
    estimates: dict[str, Estimate | None] = {}
    details: dict[str, Any] = {}
    possible = _possible(pair)
    pair.monitor.start("measuring", len(possible), "metrics")
    for name in pair.settings.names:
        if name not in possible:
            estimates |= dict.fromkeys(METRICS[name].keys)
            continue
        check_stop(pair.monitor)
        found, more = FUNCTIONS[name](pair)
        estimates |= found
        details |= more
        pair.monitor.advance()
    return estimates, details


def _jackknife(
    estimates: Mapping[str, Estimate | None], side: Measured, parents: Mapping[str, Record], settings: EvalSettings
) -> dict[str, Any]:
    """Return what the errors of differences to other results are made of.

    Clusters are left aside, since results with and without them share all other metrics: whoever compares shares of
    clusters holds these to each other.
    """
    if side.features is None or side.ids is None or side.blocks is None:
        return {}
    alike = [reference_of(parents), settings.seed, settings.splits, settings.k, settings.density_k]
    pairing = pairing_digest(side.features, side.ids, side.blocks, alike)
    return {"jackknife": kept_replicates(estimates, side.blocks, pairing)}


def _numbers(estimates: Mapping[str, Estimate | None]) -> dict[str, float | None]:
    """Return each number with its standard error, None for what cannot be computed."""
    found: dict[str, float | None] = {}
    for key, estimate in estimates.items():
        value, error = (estimate.value, estimate.error) if estimate is not None else (None, None)
        found |= {key: value, f"{key}_se": error}
    return found


def _possible(pair: ReadyPair) -> tuple[str, ...]:
    """Return the metrics that can be computed, and say why the others cannot.

    Raises:
        InputError: one of the others was asked for.
    """
    names = pair.settings.names
    if pair.generated.side is None or pair.reference.side is None:
        if names != ("fid",):
            _log.info("statistics allow only the Fréchet distance: the other metrics are left out.")
        return ("fid",)
    reasons = {name: reason for name in names if (reason := obstacle(name, pair))}
    for name, reason in reasons.items():
        if pair.settings.stated:
            raise InputError(f"--metrics {name}: {reason}.")
        _log.info("no %s: %s.", METRICS[name].title, reason)
    return tuple(name for name in names if name not in reasons)


def _save_statistics(reference: Measured, saved: Beside) -> None:
    moments, _ = reference.moments
    mean, covariance = host(moments.mean), host(moments.covariance())
    Statistics(str(saved.path), moments.count, mean, covariance, saved.record).write(saved.path)
