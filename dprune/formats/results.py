"""metrics.json and memorization.json: what a measurement found, of what, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.checked_json import ListOf, Maybe, Object, OneOf, Real, Text, Whole, parse_json
from dprune.formats.digests import CHECK_KEY, with_check, without_check
from dprune.formats.provenance import Record, checked_record, digest, finite, json_text, record_digest
from dprune.formats.publish import publish_bytes
from dprune.formats.whole_files import read_file

KINDS = ("metrics", "memorization")
REMEDY = "give what dprune eval or dprune memorization wrote"
_SIDE = Object({"role": Text()}, {"count": Maybe(Whole()), "dropped": Whole(), "dimension": Maybe(Whole()),
                                  "model": Maybe(Text()), "digest": Text()})  # fmt: skip
_JACKKNIFE = Object({"sizes": ListOf(Whole(1)), "pairing": Maybe(Text()),
                     "replicates": Object(others=ListOf(Real()))})  # fmt: skip
_SHAPE = Object({"kind": OneOf(KINDS), "metrics": Object(), "details": Object({}, {"jackknife": _JACKKNIFE}),
                 "inputs": ListOf(_SIDE), "provenance": Object()})  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes:
        name: what messages call it.
        kind: `metrics` or `memorization`.
        metrics: numbers by key, None for what could not be computed; the standard error of KEY is under KEY_se.
        details: curves, histograms and the like.
        inputs: for each side `role`, `count` of samples, `dimension`, `model` (None if unknown) and `digest`.
        record: provenance of the measurement.
        guarded: whether the file carries a digest.
    """

    name: str
    kind: str
    metrics: dict[str, Any]
    details: dict[str, Any]
    inputs: list[Record]
    record: Record
    guarded: bool = False


def write_result(
    path: str | Path,
    kind: str,
    metrics: Mapping[str, Any],
    details: Mapping[str, Any],
    inputs: Sequence[Record],
    record: Record,
) -> None:
    """Publish a measurement, or write it to stdout when `path` is a dash; what is not finite becomes null."""
    content = {"kind": kind, "metrics": metrics, "details": details, "inputs": list(inputs), "provenance": record}
    publish_bytes(path, _laid_out(with_check(finite(content))).encode() + b"\n")


def checked_numbers(values: Any, name: str, what: str) -> list[float]:
    """Check a list in the details of a result, which anyone may have written.

    Args:
        values: the list.
        name: of the result.
        what: the details, in the plural.

    Raises:
        InputError: it is no list of finite numbers.
    """
    if not isinstance(values, list) or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise damaged(name, what)
    return [float(value) for value in values]


def damaged(name: str, what: str) -> InputError:
    """Return an error that says that details of a result are not what they should be."""
    return InputError(f"{name}: its {what} are damaged: measure it again.")


def result_digest(result: Result) -> str:
    """Return a digest of what a result says, whatever file it is in."""
    return digest([result.kind, result.metrics, result.details, result.inputs, record_digest(result.record)])


def summarized(metrics: Mapping[str, Any], inputs: Sequence[Record]) -> Record:
    """Return the counts of samples and the numbers that are worth a line: no errors, tables or what is not finite."""
    counts = {side["role"]: side["count"] for side in inputs if side["count"] is not None}
    numbers = {key: value for key, value in finite(metrics).items() if isinstance(value, int | float)}
    return counts | {key: value for key, value in numbers.items() if not key.endswith("_se")}


def _laid_out(content: Any, depth: int = 0) -> str:
    """Write JSON with a line for each entry of its tables; a curve of a thousand numbers stays on one."""
    if depth == 2 or not content or not isinstance(content, dict | list):
        return json_text(content, allow_nan=False)
    entries = [f"{json_text(key)}: " for key in content] if isinstance(content, dict) else [""] * len(content)
    values = content.values() if isinstance(content, dict) else content
    indent = "  " * depth
    lines = (f"{indent}  {entry}{_laid_out(value, depth + 1)}" for entry, value in zip(entries, values, strict=True))
    opening, closing = "{}" if isinstance(content, dict) else "[]"
    body = ",\n".join(lines)
    return f"{opening}\n{body}\n{indent}{closing}"


def read_result(path: str | Path) -> Result:
    """Read a measurement.

    Raises:
        InputError: the file does not exist, or is none.
    """
    content = parse_json(str(path), read_file(path), REMEDY)
    guarded = isinstance(content, dict) and CHECK_KEY in content
    content = without_check(str(path), content) if guarded else content
    if problem := _SHAPE.misfit(content):
        raise InputError(f"{path}: is not a result ({problem}): {REMEDY}.")
    record = checked_record(str(path), content["provenance"])
    if record is None:
        raise InputError(f"{path}: is not a result (its provenance is not valid): {REMEDY}.")
    kind, metrics, details, inputs = (content[name] for name in ("kind", "metrics", "details", "inputs"))
    return Result(str(path), kind, metrics, details, inputs, record, guarded)
