"""`eval --against`: the differences of a result to that of a baseline. Nothing here imports torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dprune.errors import InputError, MismatchError
from dprune.formats.provenance import Record, parent_record, parents_of
from dprune.formats.results import Result, read_result, result_digest
from dprune.formats.statistics import STATISTICS
from dprune.measuring.settings import EvalSettings
from dprune.metrics.catalogue import METRICS
from dprune.metrics.differences import Difference, measured, sampling_difference

_log = logging.getLogger("dprune")

# Options that choose metrics and their errors; what all other options say of a metric changes its value.
_FREE = ("metrics", "jackknife", "fid_infinity", "orders")
_INPUTS = {"clusters": "--clusters", "held_out": "--held-out"}
"""Inputs by role that only some metrics take, and the options that name them."""


@dataclass(frozen=True)
class Against:
    """A result that another is held to."""

    result: Result

    @classmethod
    def open(cls, path: str) -> Against:
        """Read what `dprune eval` wrote.

        Raises:
            InputError: it is missing or none.
        """
        result = read_result(path)
        if result.kind != "metrics":
            raise InputError(f"--against {path}: holds {result.kind}, not metrics: give what dprune eval wrote.")
        return cls(result)

    def as_parent(self) -> Record:
        """Describe the result as the input of another file."""
        return parent_record(self.result.record, result_digest(self.result))

    def check(self, parents: Mapping[str, Record], settings: EvalSettings) -> None:
        """Refuse a result that was measured otherwise.

        Args:
            parents: inputs of this measurement by role.
            settings: of this measurement.

        Raises:
            MismatchError: reference, its subset, inputs or options of a metric differ, or it has other metrics.
        """
        options = settings.options()
        name, theirs = self.result.name, parents_of(self.result.record)
        if reference_of(theirs) != reference_of(parents):
            raise MismatchError(
                f"--against {name}: was measured against another reference, or another subset of it: measure "
                "both against the same."
            )
        for role, option in _INPUTS.items():
            one, other = (some.get(role, {}).get("digest") for some in (theirs, parents))
            # Without clusters there are no shares of them, without held-out samples others take their place.
            if one != other and (role == "held_out" or (one and other)):
                raise MismatchError(
                    f"--against {name}: was measured with another {option}, or none: give both the same."
                )
        known = self.result.record["options"]
        unlike = [key for key in options if key not in _FREE and known.get(key, options[key]) != options[key]]
        if unlike:
            key = unlike[0]
            raise MismatchError(
                f"--against {name}: was measured with --{key.replace('_', '-')} {known[key]}, not {options[key]}: "
                "measure both with the same options."
            )
        keys = [measure.key for metric in settings.names for measure in METRICS[metric].measures]
        if all(self.result.metrics.get(key) is None for key in keys):
            raise MismatchError(
                f"--against {name}: has none of the metrics {','.join(settings.names)}: measure it with the same."
            )

    def check_count(self, count: int | None) -> None:
        """Refuse a result of another number of generated samples, which the value of most metrics depends on.

        Raises:
            MismatchError: the numbers differ.
        """
        theirs = next((side.get("count") for side in self.result.inputs if side["role"] == "generated"), None)
        if theirs != count:
            one, other = ("an unknown number" if known is None else f"{known:,}" for known in (theirs, count))
            raise MismatchError(
                f"--against {self.result.name}: is of {one} generated samples, and these are {other}: metrics "
                "depend on the number, so generate as many."
            )

    def differences(self, metrics: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Difference]:
        """Return how much higher each metric of a measurement is than in the baseline, and say so in one line."""
        found = {}
        for key in (key for key in metrics if not key.endswith("_se")):
            ours, theirs = measured(metrics, details, key), measured(self.result.metrics, self.result.details, key)
            if ours is not None and theirs is not None:
                found[key] = sampling_difference([(1.0, ours)], [(1.0, theirs)])
        said = ", ".join(f"{key.replace('_', ' ')} {_text(one)}" for key, one in found.items() if one.says_something)
        _log.info("difference to %s: %s.", self.result.name, said)
        return found


def tabulated(differences: Mapping[str, Difference]) -> dict[str, Record]:
    """Return differences as results hold them, by the key of the metric."""
    return {
        key: {
            "difference": one.value,
            "error": one.error,
            "half_width": one.half_width,
            "told_apart": None if one.half_width is None else one.told_apart,
            "kind": one.kind or None,
        }
        for key, one in differences.items()
    }


def _text(difference: Difference) -> str:
    if difference.half_width is None:
        return f"{difference.value:+.4g}"
    apart = "told apart" if difference.told_apart else "not told apart"
    return f"{difference.value:+.4g} ± {difference.half_width:.2g} ({apart})"


def reference_of(parents: Mapping[str, Record]) -> list[str | None]:
    """Return the digests of the reference's features and of its subset, which statistics of them stand for.

    Args:
        parents: inputs of a measurement by role.
    """
    reference = parents.get("reference", {})
    made = reference.get("provenance", {})
    known = {"features": reference, "subset": parents.get("subset", {})}
    if made.get("command") == STATISTICS:
        known = parents_of(made)
    return [known.get(role, {}).get("digest") for role in ("features", "subset")]
