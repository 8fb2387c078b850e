"""metrics.json and memorization.json: what a measurement found, of what, and how it was made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.arrays import read_file
from dprune.formats.provenance import Record, is_record, json_text
from dprune.formats.publish import publish_bytes

KINDS = ("metrics", "memorization")


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes:
        name: what messages call it.
        kind: `metrics` or `memorization`.
        metrics: numbers by key, None for what could not be computed; the standard error of KEY is under KEY_se.
        details: curves, histograms and the like.
        inputs: for each side `role`, `count` of samples, `model` (None if unknown) and `provenance` (or None).
        record: provenance of the measurement.
    """

    name: str
    kind: str
    metrics: dict[str, Any]
    details: dict[str, Any]
    inputs: list[Record]
    record: Record


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
    publish_bytes(path, json_text(_plain(content), indent=2, allow_nan=False).encode() + b"\n")


def read_result(path: str | Path) -> Result:
    """Read a measurement.

    Raises:
        InputError: the file does not exist, or is none.
    """
    data = read_file(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON: give what dprune eval or dprune memorization wrote.") from error
    if not isinstance(content, dict) or content.get("kind") not in KINDS or not _is_whole(content):
        raise InputError(f"{path}: is no result: give what dprune eval or dprune memorization wrote.")
    fields = (content[name] for name in ("kind", "metrics", "details", "inputs", "provenance"))
    return Result(str(path), *fields)


def _is_whole(content: Record) -> bool:
    tables = all(isinstance(content.get(name), dict) for name in ("metrics", "details"))
    inputs = content.get("inputs")
    return (
        tables
        and isinstance(inputs, list)
        and all(isinstance(side, dict) and isinstance(side.get("role"), str) for side in inputs)
        and is_record(content.get("provenance"))
    )


def _plain(content: Any) -> Any:
    """Replace numbers that JSON lacks, at every depth."""
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
