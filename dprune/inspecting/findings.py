"""What an inspection found of one file, and provenance in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dprune.formats.provenance import FINDINGS_KEY, Record, lineage

DIGITS = 12
NONSENSE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, MemoryError, RecursionError)
"""What readers raise on a manifest or header that is well-formed but says nonsense."""
STORE_FILE = "store file"
"""The kind of what a store holds for one shard."""
_LONGEST_VALUE = 60


@dataclass
class Findings:
    """What one file or folder holds.

    Attributes:
        name: the file as it was given.
        kind: `shards`, `features`, `latents`, `sweep`, `run`, `report`, `scores`, `weights`, `subset`, `labels`,
            `pairs`, `array`, `keys`, `table`, `mask`, `uids`, `clusters`, `statistics`, `store file`, `tensors`,
            `autoencoder` and `transformer` (of others), `metrics`, `memorization`, or `unknown`.
        content: counts, shapes and the like, as JSON can hold them.
        records: its provenance; empty for a file made elsewhere, several for shards of several folders.
        problems: what is wrong with it, a sentence each.
        fingerprint: of the dataset that it speaks of, None where that is not known.
        samples: number of samples of that dataset, None where it does not tell.
        ids: smallest and largest id that it holds, None if it is no subset or an empty one.
        digests: `whole` where all that it is made of carries digests, `some`, `none`; `damaged` where one is wrong,
            None for files of kinds that carry none.
    """

    name: str
    kind: str = "unknown"
    content: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    fingerprint: str | None = None
    samples: int | None = None
    ids: tuple[int, int] | None = None
    digests: str | None = None

    def count_digests(self, carried: bool) -> None:
        """Note whether one more of the files that it is made of carries digests."""
        found = "whole" if carried else "none"
        if self.digests != "damaged":
            self.digests = found if self.digests in (None, found) else "some"

    def fingerprints(self) -> set[str]:
        """Its own fingerprint and those of everything it was made from."""
        found = {self.fingerprint}.union(*map(_fingerprints, self.records))
        return {fingerprint for fingerprint in found if isinstance(fingerprint, str)}

    def as_json(self) -> dict[str, Any]:
        """Return the findings for JSON; the provenance is one record, a list of several, or null."""
        provenance = self.records[0] if len(self.records) == 1 else self.records or None
        return {
            "name": self.name,
            "kind": self.kind,
            "content": self.content,
            "fingerprint": self.fingerprint,
            "digests": self.digests,
            "provenance": provenance,
            "problems": self.problems,
        }


def _fingerprints(record: Record) -> Iterator[Any]:
    for _, _, step, _ in lineage(record):
        yield step.get("fingerprint")
        # What pack calls the digest of shards is their fingerprint, and may be all that links two packs.
        if step.get("command") == "pack":
            yield step.get("parents", {}).get("shards", {}).get("digest")


def describe_chain(record: Record) -> list[tuple[int, str]]:
    """Put a provenance record in words.

    Returns:
        For the record and each of its ancestors, the depth below the record and one line; an ancestor that is
        reached again is only named.
    """
    return [
        (depth, f"{role}: {step['command']}, as above" if repeated else _describe(role, step))
        for depth, role, step, repeated in lineage(record)
    ]


def _describe(role: str, step: Record) -> str:
    begin = f"{role}: " if role else ""
    if "command" not in step:
        return f"{begin}external, digest {str(step.get('digest', 'unknown'))[:DIGITS]}"
    parts = [str(step["command"]), *(f"{name}={_compact(value)}" for name, value in _stated(step.get("options")))]
    known = step.get(FINDINGS_KEY, {})
    parts += [f"predicts={_compact(known['predicts'])}"] if "predicts" in known else []
    parts += [f"seed={step['seed']}"] if "seed" in step else []
    parts += [f"tag:{name}={_compact(value)}" for name, value in _stated(step.get("tags"))]
    parts += [f"fingerprint {str(step['fingerprint'])[:DIGITS]}"] if step.get("fingerprint") else []
    return begin + "  ".join(parts)


def _stated(table: Any) -> list[tuple[str, Any]]:
    """Items that say something: an option that is off or empty does not, one of 0 does."""
    if not isinstance(table, dict):
        return []
    return [(k, v) for k, v in table.items() if not (v is None or v is False or v in ("", [], {}))]


def _compact(value: Any) -> str:
    if isinstance(value, list):
        text = ",".join(_compact(item) for item in value)
    elif isinstance(value, dict):
        text = ",".join(f"{name}:{_compact(item)}" for name, item in _stated(value))
    else:
        text = "yes" if value is True else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:DIGITS]}…"
