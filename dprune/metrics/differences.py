"""Differences of a metric between two sets of samples, with their errors; nothing here imports torch.

Two sets that were drawn with the same noise, and held to the same reference, go wrong together. So the error of their
difference is that of the difference itself, taken with the same block left out of both, and not what both errors say.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
NORMAL = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Standard errors of a known size that make half a 95% interval."""
TRAININGS, PAIRED, UNPAIRED = "trainings", "paired", "unpaired"
"""What the error of a difference is: over trainings; of sampling alone, the noise shared; the same, not shared."""


@dataclass(frozen=True)
class Sampling:
    """A metric of one set of generated samples.

    Attributes:
        value: the metric.
        error: its standard error, None where nothing tells.
        replicates: the metric without each block of samples.
        sizes: samples in each block.
        pairing: equal for sets whose replicates are paired; None where nothing tells.
    """

    value: float
    error: float | None
    replicates: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    pairing: str | None = None

    @property
    def pairs(self) -> bool:
        """Whether there is anything to be paired with another."""
        return self.pairing is not None and len(self.sizes) > 1 and len(self.replicates) == len(self.sizes)


@dataclass(frozen=True)
class Difference:
    """How much higher a metric is on one side than on the other.

    Attributes:
        value: the difference.
        error: its standard error, None where nothing tells.
        half_width: of its 95% interval.
        kind: what the error is, `trainings`, `paired` or `unpaired`; empty without one.
    """

    value: float
    error: float | None = None
    half_width: float | None = None
    kind: str = ""

    @property
    def says_something(self) -> bool:
        """Whether there is a difference, or an error of none; a real baseline that both sides share has neither."""
        return bool(self.value) or self.error is not None

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.half_width is not None and abs(self.value) > self.half_width


def measured(metrics: Mapping[str, Any], details: Mapping[str, Any], key: str) -> Sampling | None:
    """Read a metric out of the metrics and details of a result, None where it has no such number."""
    value, error = (finite_number(metrics.get(name)) for name in (key, f"{key}_se"))
    kept = details.get("jackknife", {})
    replicates, sizes = kept.get("replicates", {}).get(key, ()), kept.get("sizes", ())
    return None if value is None else Sampling(value, error, tuple(replicates), tuple(sizes), kept.get("pairing"))


def finite_number(value: Any) -> float | None:
    """Return a number of a result or a record, which anyone may have written; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def sampling_difference(ours: Sequence[tuple[float, Sampling]], theirs: Sequence[tuple[float, Sampling]]) -> Difference:
    """Subtract weighted means of sets of samples, with the error of sampling alone: another training may differ more.

    Of all sets that share a pairing the weighted sum itself is jackknifed, which takes account of how they vary
    together. Sets that share none are independent, and squares of errors are added. The difference is paired where
    each set shares its pairing with one of the other side.

    Args:
        ours: sets of samples with their weights, which add up to 1.
        theirs: the same of what is subtracted.
    """
    value = _mean(ours) - _mean(theirs)
    terms = [*ours, *((-weight, sampling) for weight, sampling in theirs)]
    known = {(sampling.value, sampling.error) for _, sampling in terms}
    # What is the same to the last digit, and its error too, though nothing pairs it, is a real baseline of both sides.
    shared = len(known) == 1 and not any(sampling.pairs or not sampling.error for _, sampling in terms)
    if shared or any(sampling.error is None for _, sampling in terms):
        return Difference(value)
    groups: dict[object, list[tuple[float, Sampling]]] = defaultdict(list)
    for number, (weight, sampling) in enumerate(terms):
        groups[(sampling.pairing, sampling.sizes) if sampling.pairs else number].append((weight, sampling))
    error = math.hypot(*(_error(group) for group in groups.values()))
    paired = all(len({weight > 0 for weight, _ in group}) == 2 for group in groups.values())
    return Difference(value, error, NORMAL * error, PAIRED if paired else UNPAIRED)


def _mean(terms: Sequence[tuple[float, Sampling]]) -> float:
    # Exact, so that sides that are equal differ by nothing in whatever order they come.
    return math.fsum(weight * sampling.value for weight, sampling in terms)


def _error(group: Sequence[tuple[float, Sampling]]) -> float:
    if len(group) == 1:
        weight, sampling = group[0]
        assert sampling.error is not None
        return abs(weight * sampling.error)
    weights = np.array([weight for weight, _ in group])
    table = np.array([[sampling.value, *sampling.replicates] for _, sampling in group])
    with np.errstate(over="ignore", invalid="ignore"):
        value, *replicates = weights @ table
    return jackknife_error(value, np.array(replicates), group[0][1].sizes)


def jackknife_error(value: float, replicates: npt.NDArray[np.float64], sizes: Sequence[int]) -> float:
    """Return a standard error by the jackknife for blocks of unequal size (Busing et al., 1999).

    Args:
        value: a statistic of all samples, which may be a difference of two.
        replicates: the statistic without each block, float64 [blocks], two or more.
        sizes: samples in each block.
    """
    times = sum(sizes) / np.asarray(sizes, dtype=np.float64)
    # Of values and sizes beyond all reason the error is infinite, or NaN.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        # Pseudo-values minus their centre, in which the value itself cancels: no error is left where none differs.
        change = replicates - value
        deviations = ((1 - 1 / times) * change).sum() - (times - 1) * change
        return math.sqrt(float(np.mean(deviations**2 / (times - 1))))
