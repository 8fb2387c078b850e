"""Provenance: what made a file, as one JSON record that carries its parents' records with it.

A record holds dprune's version, the command, the options that change results, the seed, the fingerprint of the
dataset and a `parents` table. It never holds a time, a host or an absolute path, so the same command on the same
inputs gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from dprune import __version__
from dprune.errors import MismatchError

Record = dict[str, Any]

METADATA_KEY = "dprune"
FINDINGS_KEY = "findings"
_NO_DIFFERENCE = ("dprune", FINDINGS_KEY)


def make_record(
    command: str,
    options: Mapping[str, Any],
    *,
    seed: int | None = None,
    fingerprint: str | None = None,
    parents: Mapping[str, Record] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Record:
    """Compose the provenance of an output.

    Args:
        command: subcommand with its method, such as `score cluster-distance`.
        options: resolved options that change the result.
        seed: seed of the run, where it plays a role.
        fingerprint: fingerprint of the dataset that the output speaks of.
        parents: for each input its role and `parent_record`.
        tags: what the user wants to be remembered.
    """
    optional = {"seed": seed, "fingerprint": fingerprint, "parents": dict(parents or {}), "tags": dict(tags or {})}
    kept = {key: value for key, value in optional.items() if value not in (None, {})}
    return {"dprune": __version__, "command": command, "options": dict(options), **kept}


def with_findings(record: Record, findings: Mapping[str, Any]) -> Record:
    """Add to a record what became known when its output was made, such as how reliable that is.

    It follows from all else that the record says, and so makes no difference between two records.
    """
    return {**record, FINDINGS_KEY: dict(findings)} if findings else record


def is_record(content: Any) -> bool:
    """Tell whether JSON that was read has the shape of a record, down to its oldest ancestor."""
    if not isinstance(content, dict) or not isinstance(content.get("command"), str):
        return False
    tables = [content.get(name, {}) for name in ("options", "parents", "tags")]
    if not all(isinstance(table, dict) for table in tables) or not isinstance(content.get("fingerprint", ""), str):
        return False
    parents = content.get("parents", {}).values()
    return all(isinstance(p, dict) and ("provenance" not in p or is_record(p["provenance"])) for p in parents)


def parent_record(record: Record | None, digest: str) -> Record:
    """Describe an input: its provenance, or that it came from elsewhere, and a digest of its content."""
    return {"digest": digest, "provenance": record} if record else {"digest": digest, "external": True}


def canonical(content: Any) -> str:
    """Write JSON in the one form that digests are taken of."""
    return json_text(content, sort_keys=True, separators=(",", ":"))


def json_text(content: Any, **style: Any) -> str:
    """Write JSON that is valid UTF-8; names of files that are not are escaped, and all else with them."""
    text = json.dumps(content, ensure_ascii=False, **style)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, ensure_ascii=True, **style)
    return text


def digest(content: Any) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of `content`."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def without_version(content: Any) -> Any:
    """Drop versions of dprune and findings, at every depth: they do not make two results different."""
    if isinstance(content, dict):
        is_record = "command" in content and "options" in content
        return {k: without_version(v) for k, v in content.items() if not (is_record and k in _NO_DIFFERENCE)}
    return [without_version(item) for item in content] if isinstance(content, list) else content


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in a few words what sets two records apart, or return an empty string if they give the same result."""
    if not found:
        return "it carries no provenance"
    return _difference(without_version(dict(found)), without_version(dict(wanted)), "")


def _difference(found: Any, wanted: Any, path: str) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys(), key=lambda key: (key != "command", key == "parents", key))
        parts = (_difference(found.get(key), wanted.get(key), f"{path} {key}") for key in keys)
        return next((part for part in parts if part), "")
    if found == wanted:
        return ""
    return f"{path.strip()}: {_short(found)}, not {_short(wanted)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


def lineage(record: Record) -> Iterator[tuple[int, str, Record]]:
    """Yield (depth, role, record) for a record and all its ancestors; the role of the first is empty."""
    stack: list[tuple[int, str, Record]] = [(0, "", record)]
    while stack:
        depth, role, current = stack.pop()
        yield depth, role, current
        for name, parent in reversed(current.get("parents", {}).items()):
            stack.append((depth + 1, name, parent.get("provenance", parent)))


def check_same_dataset(inputs: Mapping[str, str | None]) -> str | None:
    """Return the fingerprint that all inputs share, None where none has one.

    Args:
        inputs: for each input its name and its fingerprint (None for external ones).

    Raises:
        MismatchError: two inputs speak of different datasets.
    """
    known = [(name, fingerprint) for name, fingerprint in inputs.items() if fingerprint]
    for name, fingerprint in known[1:]:
        if fingerprint != known[0][1]:
            raise MismatchError(
                f"{known[0][0]} and {name} speak of different datasets "
                f"(fingerprints {known[0][1][:12]} and {fingerprint[:12]}): make both from the same shards."
            )
    return known[0][1] if known else None
