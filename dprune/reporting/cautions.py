"""What a reader should know before believing a report: unequal counts, missing points, noise that passes for ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from dprune.formats.provenance import FINDINGS_KEY, nearest_first, training_subset
from dprune.reporting.coverage import Coverage
from dprune.reporting.headlines import HEADLINES
from dprune.reporting.study.estimates import t_quantile
from dprune.reporting.study.factors import COUNT
from dprune.reporting.study.grouping import Comparison, Line
from dprune.reporting.study.wording import method_name
from dprune.reporting.tables import Table, TableRow, number_text
from dprune.reporting.verdicts import ratio_of, title_of

_NAMED = 4
# Total variation to the reference's classes from which it is worth a word, if it is also twice what chance makes.
_FAR, _CHANCES = 0.1, 2.0


def cautions_of(tables: Mapping[str, Sequence[Table]], coverage: Coverage) -> list[str]:
    """Return sentences, none twice.

    Args:
        tables: by their names in the report.
        coverage: which points there are.
    """
    every = [table for some in tables.values() for table in some]
    found = [_without_baseline(every), _trained_once(every), _unlike_the_list(coverage)]
    found += [_counts(table.comparison) for table in every]
    # Where a list says what should be there, nothing is to be guessed from other lines.
    found += [] if coverage.is_listed else [_missing_points(every), *_fewer_trainings(every)]
    found += [sentence for table in every for sentence in _missing_metrics(table)]
    found.append(_few_trainings(every))
    # Classes are told by the nearest reference samples: where several backbones do, by that of the first table.
    found += [_class_shares(table) for table in tables.get("shares", ()) if not table.comparison.is_beside]
    found += _noisy_rankings([line for table in every for line in table.comparison.pruned])
    return [*dict.fromkeys(filter(None, found))]


def _without_baseline(tables: Sequence[Table]) -> str:
    if not tables or any(table.comparison.unpruned for table in tables):
        return ""
    return "No result is of the unpruned training set, so nothing says what pruning cost."


def _trained_once(tables: Sequence[Table]) -> str:
    """Tell of cells whose errors are of sampling alone."""
    trainings = {title_of(row): len(row.cell.nested) for table in tables for row in table.rows}
    once = sum(count == 1 for count in trainings.values())
    if not once:
        return ""
    if once < len(trainings):
        were = "was" if once == 1 else "were"
        return f"{once} of {len(trainings)} points {were} trained once: an error in brackets is of sampling alone."
    models = "The model was" if once == 1 else "Every model was"
    return f"{models} trained once: errors are of sampling alone, and another training could turn out differently."


def _few_trainings(tables: Sequence[Table]) -> str:
    """Tell that two trainings hardly tell anything apart."""
    units = [e.units for table in tables for row in table.rows for e in row.estimates if e and e.over_trainings]
    if not units or 2 * units.count(2) < len(units):
        return ""
    return (
        f"With two trainings, half of a 95% interval is {t_quantile(1):.1f} standard errors; with three it is "
        f"{t_quantile(2):.1f}, with five {t_quantile(4):.1f}: more trainings tell more apart."
    )


def _counts(comparison: Comparison) -> str:
    counts = {value for line in comparison.lines for f, value in line.conditions if f.name == COUNT}
    numbers = sorted(int(count) for count in counts if count.isdecimal())
    if len(numbers) < 2:
        return ""
    shown = " or ".join(filter(None, (", ".join(f"{n:,}" for n in numbers[:-1]), f"{numbers[-1]:,}")))
    return (
        f"Points have {shown} generated samples: metrics depend on how many there are, so compare equal counts alone."
    )


def _unlike_the_list(coverage: Coverage) -> str:
    """Tell which of the trainings that are expected have no result."""
    gaps = [f"{title} ({point.text})" if point.found else title for title, point in coverage.gaps()]
    return f"{coverage.sentence}: {_listed(gaps)}." if coverage.is_listed and gaps else ""


def _missing_points(tables: Sequence[Table]) -> str:
    """Tell of pruning ratios that most lines of a table have and one has not, unless it has none of them."""
    found = dict.fromkeys(title for table in tables for title in _absent(table))
    return f"Missing: no result of {_listed([*found])}." if found else ""


def _absent(table: Table) -> Iterator[str]:
    lines = table.comparison.pruned
    ratios = {line.label: {ratio_of(row) for row in table.rows if row.line is line} for line in lines}
    common = [ratio for ratio, count in Counter(r for some in ratios.values() for r in some).items()
              if len(lines) > 1 and 2 * count >= len(lines)]  # fmt: skip
    usual = {label: some for label, some in ratios.items() if not some.isdisjoint(common)}
    yield from (f"{label}, pruned {r}" for label, some in usual.items() for r in sorted(common) if r not in some)


def _missing_metrics(table: Table) -> Iterator[str]:
    """Tell of metrics that most points have and some have not."""
    for column, measure in enumerate(table.measures):
        without = [title_of(row) for row in table.rows if row.estimates[column] is None]
        if measure.key in HEADLINES and 0 < len(without) < len(table.rows):
            yield f"Missing: no {measure.name} of {_listed(without)}."


def _fewer_trainings(tables: Sequence[Table]) -> Iterator[str]:
    """Tell of points with fewer trainings than most of their table, once for all tables that agree in these."""
    found: dict[int, dict[str, int]] = {}
    for table in tables:
        counts = {title_of(row): len(row.cell.nested) for row in table.rows}
        most, times = Counter(counts.values()).most_common(1)[0]
        fewer = {title: count for title, count in counts.items() if count < most and 2 * times > len(counts)}
        known = found.setdefault(most, {})
        known |= {title: min(count, known.get(title, count)) for title, count in fewer.items()}
    for most, fewer in found.items():
        if fewer:
            said = [f"{title} ({count})" for title, count in fewer.items()]
            yield f"Most points have {most} trainings. Fewer: {_listed(said)}."


def _class_shares(table: Table) -> str:
    """Tell where classes of generated samples are not those of the reference, beyond chance."""
    column = next((n for n, measure in enumerate(table.measures) if measure.key == "class_total_variation"), None)
    known = [(e.mean, row) for row in table.rows if column is not None and (e := row.estimates[column]) is not None]
    far = [(mean, row) for mean, row in known if mean > max(_FAR, _CHANCES * _of_chance(row))]
    if not far:
        return ""
    worst, row = max(far, key=lambda pair: pair[0])
    where = f"{len(far)} of {len(known)} points, most for {title_of(row)}" if len(known) > 1 else title_of(row)
    return (
        f"Class shares differ from the reference's for {where} (total variation {number_text(worst)}): part of "
        "the Fréchet distance comes from that."
    )


def _of_chance(row: TableRow) -> float:
    """Return the total variation that as many samples of the reference's shares would have on average."""
    shares, count = row.cell.details("shares", "class", "reference"), row.count("generated")
    if not isinstance(shares, list) or not count:
        return 0.0
    known = [share for share in shares if isinstance(share, int | float) and 0 <= share <= 1]
    return sum(math.sqrt(share * (1 - share) / (2 * math.pi * count)) for share in known)


def _noisy_rankings(lines: Sequence[Line]) -> Iterator[str]:
    from dprune.scoring.reliability import NOISY

    halves: dict[str, float] = {}
    for line in lines:
        for method, half in _split_halves(line):
            halves[method] = min(half, halves.get(method, half))
    for method, half in halves.items():
        if half < NOISY:
            yield f"The ranking by {method_name(method)} is mostly noise: its halves correlate by {half:.2f} only."


def _split_halves(line: Line) -> Iterator[tuple[str, float]]:
    """Yield the method of a line's scores and how well their halves agree, of each of its subsets."""
    method = line.cells[0].points[0].subset.method
    for point in (point for cell in line.cells for point in cell.points if point.result is not None):
        assert point.result is not None
        chosen = training_subset(point.result.record) or {}
        for step in nearest_first(chosen.get("provenance")):
            half = step.get(FINDINGS_KEY, {}).get("split_half")
            if step.get("command") == f"score {method.split(' ')[0]}" and isinstance(half, int | float):
                yield method, float(half)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return "; ".join([*names[:_NAMED], *([f"{more} more"] if more > 0 else [])])
