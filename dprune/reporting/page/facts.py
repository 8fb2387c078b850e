"""What was measured: counts, models and all that the results have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from dprune.reporting.markup import escape
from dprune.reporting.study.estimates import count_range
from dprune.reporting.study.experiments import Point
from dprune.reporting.study.factors import COMMAND, OWN, SOURCE
from dprune.reporting.study.grouping import Comparison
from dprune.reporting.study.wording import role_name

_KINDS = {"metrics": "Quality", "memorization": "Memorization"}


def describe(comparisons: Mapping[str, Sequence[Comparison]]) -> str:
    """Write the section."""
    parts = []
    for kind, found in comparisons.items():
        for comparison in found:
            points = list({p.mark: p for _, cell in comparison.cells() for p in cell.points}.values())
            title = f": {escape(comparison.title)}" if comparison.title else ""
            parts.append(f"<h3>{_KINDS[kind]}{title}</h3>{_list(_facts(points))}{_shared(comparison)}")
    return "".join(parts)


def _facts(points: Sequence[Point]) -> list[tuple[str, str]]:
    results = [point.result for point in points if point.result is not None]
    counts: dict[str, set[int]] = defaultdict(set)
    dropped: dict[str, int] = defaultdict(int)
    models: set[str] = set()
    for result in results:
        for side in result.inputs:
            if isinstance(side.get("count"), int):
                counts[side["role"]].add(side["count"])
            dropped[side["role"]] += side["dropped"] if isinstance(side.get("dropped"), int) else 0
            models |= {str(side["model"])} if side.get("model") else set()
    facts = [("results", f"{len(results):,}")]
    for role, known in counts.items():
        left_out = f" ({dropped[role]:,} left out in all)" if dropped[role] else ""
        facts.append((f"{role_name(role)} samples", count_range(known) + left_out))
    facts.append(("features", ", ".join(sorted(models)) or "made elsewhere"))
    versions = {str(result.record.get("dprune", "unknown")) for result in results}
    return [*facts, ("dprune", ", ".join(sorted(versions)))]


def _list(facts: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts)}</dl>"


def _shared(comparison: Comparison) -> str:
    """List the choices that all results share, by the step that made them."""
    steps: dict[tuple[str, ...], list[str]] = defaultdict(list)
    names: dict[tuple[str, ...], str] = {}
    for factor, value in comparison.common.items():
        if factor.name == COMMAND:
            names[factor.path] = value
        elif factor.name == SOURCE:
            steps[factor.path].append(f"made elsewhere, digest {value}")
        elif factor.name == OWN:
            steps[factor.path].append("the training subset")
        else:
            steps[factor.path].append(f"{factor.name}={value}")
    facts = [
        (" / ".join(path) or "measurement", " ".join(filter(None, (names.get(path), ", ".join(steps.get(path, []))))))
        for path in sorted({*names, *steps}, key=lambda path: (len(path), path))
    ]
    if not facts:
        return ""
    return f"<details><summary>Options that all of these results share</summary>{_list(facts)}</details>"
