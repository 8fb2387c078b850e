"""Provenance: what made a file, as one JSON record with a table of all that came before.

A record holds dprune's version, the command, the options that change results, the seed, the fingerprint of the dataset
and `parents`, which names each input by its role, the digest of its content and the key of its record. `ancestors`
holds the record of every ancestor once, under that key, however many steps lead to it. The key is a digest of what the
record says, the keys of its own parents included, so that equal keys stand for equal histories.

A record never holds a time, a host or an absolute path, so the same command on the same inputs gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dprune import __version__
from dprune.errors import InputError, MismatchError

Record = dict[str, Any]

METADATA_KEY = "dprune"
FINDINGS_KEY = "findings"
GENERATOR, BASELINE = "train-dit", "train-baseline"
DRAWING = ("weights", "sigma_min", "curriculum")
"""Roles of what tells a training how often, at which noise and when it draws a sample, whatever that was made from."""
ROWS = "clip:"
"""What the fingerprint of rows of a folder of clip-retrieval begins with, which are in another order than shards."""
_TABLE = "ancestors"
_NO_DIFFERENCE = ("dprune", FINDINGS_KEY)
"""What two records may differ in and still stand for one result."""
_KEY_DIGITS = 32


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
    entries: dict[str, Record] = {}
    table: dict[str, Record] = {}
    for role, parent in (parents or {}).items():
        entries[role] = {name: value for name, value in parent.items() if name != "provenance"}
        if "provenance" in parent:
            entries[role]["record"] = _note(parent["provenance"], table)
    optional = {"seed": seed, "fingerprint": fingerprint, "parents": entries, "tags": dict(tags or {}), _TABLE: table}
    kept = {key: value for key, value in optional.items() if value not in (None, {})}
    return {"dprune": __version__, "command": command, "options": dict(options), **kept}


def _note(record: Record, table: dict[str, Record]) -> str:
    """Enter a record and those of its ancestors that it leads to, and return its key."""
    known, waiting = record.get(_TABLE, {}), deque([_alone(record)])
    while waiting:
        step = waiting.popleft()
        if (key := record_digest(step)) not in table:
            table[key] = step
            waiting += [known[entry["record"]] for entry in step.get("parents", {}).values() if "record" in entry]
    return record_digest(record)


def _alone(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != _TABLE}


def record_digest(record: Mapping[str, Any]) -> str:
    """Return the key of a record: a digest of all that it says but version, findings and the table itself."""
    return digest({k: v for k, v in record.items() if k not in (*_NO_DIFFERENCE, _TABLE)})[:_KEY_DIGITS]


def with_findings(record: Record, findings: Mapping[str, Any]) -> Record:
    """Add to a record what became known when its output was made, such as how reliable that is.

    It follows from all else that the record says, and so makes no difference between two records.
    """
    known = record.get(FINDINGS_KEY, {})
    return {**record, FINDINGS_KEY: {**known, **findings}} if findings else record


def variant(record: Record, **options: Any) -> Record:
    """Return the record of another file that the same run makes: one with further options."""
    return {**record, "options": {**record["options"], **options}}


def checked_record(name: str, content: Any) -> Record | None:
    """Return JSON that was read as a record, None for what dprune did not write.

    Args:
        name: what messages call the file that it is from.
        content: parsed JSON.

    Raises:
        InputError: it is of the form that dprune wrote before it had a table, or the table is damaged.
    """
    if not _is_step(content):
        if isinstance(content, dict) and {"dprune", "command"} <= content.keys():
            raise InputError(f"{name}: its provenance is damaged: make it again.")
        return None
    steps, table = [content], content.get(_TABLE, {})
    if isinstance(table, dict):
        steps += table.values()
    if any("provenance" in entry for step in steps if _is_step(step) for entry in step.get("parents", {}).values()):
        raise InputError(f"{name}: its provenance has a form that is no longer read: make it again with this dprune.")
    # A key is a digest over the keys below it: where all are right, nothing is missing and no record leads to itself.
    whole = isinstance(table, dict) and all(
        _is_step(step) and record_digest(step) == key for key, step in table.items()
    )
    entries = (entry for step in steps if whole for entry in step.get("parents", {}).values())
    if not whole or not {entry["record"] for entry in entries if "record" in entry} <= table.keys():
        raise InputError(f"{name}: its provenance is damaged: make it again.")
    return dict(content)


def _is_step(content: Any) -> bool:
    """Tell whether JSON has the shape of a record, its table aside."""
    if not isinstance(content, dict) or not isinstance(content.get("command"), str):
        return False
    tables = [content.get(name, {}) for name in ("options", "parents", "tags", FINDINGS_KEY)]
    if not all(isinstance(table, dict) for table in tables) or not isinstance(content.get("fingerprint", ""), str):
        return False
    entries = content.get("parents", {}).values()
    return all(isinstance(entry, dict) and isinstance(entry.get("record", ""), str) for entry in entries)


def parent_record(record: Record | None, digest: str) -> Record:
    """Describe an input: its provenance, or that it came from elsewhere, and a digest of its content."""
    return {"digest": digest, "provenance": record} if record else {"digest": digest, "external": True}


def parents_of(record: Record | None) -> dict[str, Record]:
    """Return the inputs of what a record describes by their roles, each as `parent_record` gave it."""
    table = (record or {}).get(_TABLE, {})
    return {role: _opened(entry, table) for role, entry in (record or {}).get("parents", {}).items()}


def _opened(entry: Record, table: dict[str, Record]) -> Record:
    if "record" not in entry:
        return entry
    own = {name: value for name, value in entry.items() if name != "record"}
    return {**own, "provenance": {**table[entry["record"]], _TABLE: table}}


def parent(record: Record | None, role: str) -> Record:
    """Return the provenance of one input, empty where there is no such input or nothing is known of it."""
    found: Record = parents_of(record).get(role, {}).get("provenance", {})
    return found


class Step(NamedTuple):
    """A record on the way from an output to where it comes from.

    Attributes:
        depth: steps from the output.
        role: that it was an input as, empty for the output itself.
        record: a record, or the entry of an input that was made elsewhere.
        repeated: whether it was come across before; its ancestors are not told again.
    """

    depth: int
    role: str
    record: Record
    repeated: bool


def lineage(record: Record | None) -> Iterator[Step]:
    """Yield a record and all its ancestors, depth first, each with its ancestors once."""
    stack: list[tuple[int, str, Record]] = [(0, "", record)] if record else []
    seen: set[str] = set()
    while stack:
        depth, role, current = stack.pop()
        key = record_digest(current) if "command" in current else ""
        yield Step(depth, role, current, bool(key) and key in seen)
        if not key or key in seen:
            continue
        seen.add(key)
        for name, entry in reversed(parents_of(current).items()):
            stack.append((depth + 1, name, entry.get("provenance", entry)))


def nearest_first(record: Record | None, besides: Sequence[str] = ()) -> Iterator[Record]:
    """Yield a record and its ancestors once each, generation by generation.

    Args:
        record: to begin with.
        besides: beginnings of roles whose inputs are left aside.
    """
    waiting, seen = deque([record] if record else []), set[str]()
    while waiting:
        step = waiting.popleft()
        if (key := record_digest(step)) in seen:
            continue
        seen.add(key)
        yield step
        entries = parents_of(step).items()
        waiting += [e["provenance"] for role, e in entries if not role.startswith(tuple(besides)) and "provenance" in e]


def training_subset(record: Record | None) -> Record | None:
    """Find the subset that the model behind generated samples was trained on.

    It may have been given to the training itself, or shards were packed from it before; the training set of the
    autoencoder, or of a model that was trained on or scored the samples, does not count.

    Args:
        record: provenance of generated shards, of features of these, or of the model.

    Returns:
        Its description as an input, `digest` with `provenance` or `external`, or None where none is named.
    """
    return packed_subset(generator_of(record), besides=("vae", "init", *DRAWING))


def generator_of(record: Record | None) -> Record | None:
    """Return the record of the training of the model that made samples, None where none is known."""
    # What draws a part of the way, or is guided away from, is not the model that the samples speak of.
    steps = nearest_first(record, besides=("coarse", "guide"))
    return next((step for step in steps if is_generator(str(step.get("command")))), None)


def is_generator(command: str) -> bool:
    """Tell whether a command trains a model that makes images: a DiT, or a VAE or a GAN that it is held to."""
    return command.partition(" ")[0] in (GENERATOR, BASELINE)


def packed_subset(record: Record | None, besides: Sequence[str] = ()) -> Record | None:
    """Find the nearest subset in the ancestry, such as that which the shards behind features were packed from.

    Args:
        record: provenance of features, latents or shards.
        besides: roles of ancestors that are left aside.
    """
    inputs = (parents_of(step) for step in nearest_first(record, besides))
    return next((roles["subset"] for roles in inputs if "subset" in roles), None)


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


def finite(content: Any) -> Any:
    """Replace numbers that JSON lacks by None, at every depth."""
    if isinstance(content, dict):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def digest(content: Any) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of `content`."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in a few words what sets two records apart, or return an empty string if they give the same result."""
    if not found:
        return "it carries no provenance"
    return _between_records(dict(found), dict(wanted), "")


def _between_records(found: Record, wanted: Record, path: str) -> str:
    if record_digest(found) == record_digest(wanted):
        return ""
    names = [name for name in (*found, *wanted) if name not in (*_NO_DIFFERENCE, _TABLE, "parents")]
    for name in sorted(set(names), key=lambda name: (name != "command", name)):
        if unlike := _between(found.get(name), wanted.get(name), f"{path} {name}"):
            return unlike
    return _between_inputs(found, wanted, f"{path} parents")


def _between_inputs(found: Record, wanted: Record, path: str) -> str:
    ours, theirs = parents_of(found), parents_of(wanted)
    for role in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(role), theirs.get(role)
        if one is None or other is None:
            return _between(one and one["digest"], other and other["digest"], f"{path} {role}")
        own = [{name: value for name, value in entry.items() if name != "provenance"} for entry in (one, other)]
        unlike = _between(own[0], own[1], f"{path} {role}") or _between_records(
            one.get("provenance", {}), other.get("provenance", {}), f"{path} {role}"
        )
        if unlike:
            return unlike
    return ""


def _between(found: Any, wanted: Any, path: str) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        parts = (
            _between(found.get(key), wanted.get(key), f"{path} {key}") for key in sorted(found.keys() | wanted.keys())
        )
        return next((part for part in parts if part), "")
    return "" if found == wanted else f"{path.strip()}: {_short(found)}, not {_short(wanted)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


def check_same_dataset(inputs: Mapping[str, str | None]) -> str | None:
    """Return the fingerprint that all inputs share, None where none has one.

    Args:
        inputs: for each input its name and its fingerprint (None for external ones).

    Raises:
        MismatchError: two inputs come from different datasets.
    """
    known = [(name, fingerprint) for name, fingerprint in inputs.items() if fingerprint]
    for name, fingerprint in known[1:]:
        if fingerprint != known[0][1]:
            remedy = "make both from the same shards"
            if fingerprint.startswith(ROWS) != known[0][1].startswith(ROWS):
                remedy = (
                    "rows of clip-retrieval are in another order than shards, and dprune select --format keys --shards "
                    "FOLDER translates them"
                )
            raise MismatchError(
                f"{known[0][0]} and {name} come from different datasets "
                f"(fingerprints {known[0][1][:12]} and {fingerprint[:12]}): {remedy}."
            )
    return known[0][1] if known else None
