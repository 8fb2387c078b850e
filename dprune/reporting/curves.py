"""Metrics over the pruning ratio: a method and its inverse in one colour, baselines in grey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dprune.charts.curves import ratio_curves
from dprune.charts.figure import Figure
from dprune.charts.lines import SHAPES, SOLID, Estimated, LineStyle, baseline_style, pruned_style
from dprune.charts.ranking import ranked_dots
from dprune.charts.theme import PALETTE
from dprune.formats.readable import presentable
from dprune.metrics.catalogue import Measure
from dprune.reporting.study.estimates import SAMPLING, CellMean, samplings_text, trained_on_text
from dprune.reporting.study.grouping import Cell, Comparison, Line, ratio_text
from dprune.reporting.tables import csv_text, half_text, number_text

_MARKERS = {
    "lowest": "circle",
    "highest": "square",
    "middle": "triangle-up",
    "interval": "triangle-up",
    "random": "diamond",
}
_DASHES = {"highest": (6, 3), "middle": (2, 3), "interval": (8, 2, 2, 2)}
# Numbers that readers of screens are told of a chart: more are for its table.
_MOST_SAID = 24
_HEADS = ("line", "pruned", "mean", "half_width", "over", "units", "trainings", "samplings")
_ALIKE = 0.01
"""Share by which numbers of training samples may differ that are said as one."""


class Colours:
    """One colour for each family of lines, the same all over a report."""

    def __init__(self, comparisons: Iterable[Comparison]) -> None:
        """Give the families their colours in the order of the lines."""
        families = dict.fromkeys(line.family for c in comparisons for line in c.pruned)
        self._numbers = {family: number for number, family in enumerate(families)}

    def style(self, line: Line, baselines: Sequence[Line] = ()) -> LineStyle:
        """Return how a line is drawn; a baseline by its place among these."""
        name = presentable(line.label)
        if line.is_unpruned:
            return baseline_style(
                name, baselines.index(line) if line in baselines else 0, presentable(line.description)
            )
        turn, number = divmod(self._numbers[line.family], PALETTE)
        # Families whose colour was used before have other markers.
        usual = _MARKERS.get(line.order, "circle" if line.order else "diamond")
        shape = SHAPES[(SHAPES.index(usual) + turn) % len(SHAPES)]
        return pruned_style(name, number, shape, _DASHES.get(line.order, SOLID), presentable(line.description))

    def styles(self, comparison: Comparison) -> tuple[LineStyle, ...]:
        """Return how all lines of a comparison are drawn, baselines first."""
        return tuple(self.style(line, comparison.unpruned) for line in _lines(comparison))


def _lines(comparison: Comparison) -> tuple[Line, ...]:
    return (*comparison.unpruned, *comparison.pruned)


def interval_kinds(comparison: Comparison, measures: Iterable[Measure]) -> dict[bool, str]:
    """Return what the intervals are that charts of metrics show: those drawn as lines, and (true) as dots."""
    found = (cell.estimate(measure.key) for measure in measures for _, cell in comparison.cells())
    kinds = {estimate.over for estimate in found if estimate and estimate.half_width}
    over = sorted(kinds - {SAMPLING})
    known = {False: f"95% interval over {' or '.join(over)}"} if over else {}
    return known | ({True: "95% interval of sampling alone"} if SAMPLING in kinds else {})


def curve(comparison: Comparison, measure: Measure, colours: Colours) -> Figure | None:
    """Draw one metric over the pruning ratio; None where no pruned result has it, or nothing to compare with.

    One ratio makes no curve: a row for each line then, the best on top.
    """
    known = _estimates(comparison, measure)
    pruned = [estimate for line, _, estimate in known if not line.is_unpruned]
    if not pruned or len(known) < 2:
        return None
    styles = colours.styles(comparison)
    title, said = f"{measure.name} {measure.arrow}".strip(), _said(measure, known)
    kinds = interval_kinds(comparison, [measure])
    note = "; ".join(f"{'dotted' if dotted else 'bars'}: {what}" for dotted, what in kinds.items())
    if len({estimate.ratio for estimate in pruned}) == 1:
        baselines = len(comparison.unpruned)
        title = f"{title}, pruned {ratio_text(pruned[0].ratio)}"
        every = [estimate for *_, estimate in known]
        return ranked_dots(title, said, styles, every, baselines, measure.better, measure.baseline, note)
    levels = [estimate for line, _, estimate in known if line.is_unpruned]
    return ratio_curves(title, said, styles, pruned, levels, measure.baseline, note, _training_samples(comparison))


def _training_samples(comparison: Comparison) -> dict[float, str]:
    """Say how many samples were trained on at each ratio, where that is nearly the same for all lines."""
    found: dict[float, set[int]] = {}
    for line in comparison.pruned:
        for cell in line.cells:
            if cell.ratio is not None:
                found.setdefault(cell.ratio, set()).update(cell.trained_on)
    alike = all(counts and max(counts) - min(counts) <= _ALIKE * max(counts) for counts in found.values())
    return {ratio: short_count(max(counts)) for ratio, counts in found.items()} if alike else {}


def short_count(count: int) -> str:
    """Write a count in few letters, with three digits where it is large."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= 10 * unit or (unit > 1_000 and count >= unit):
            return f"{count / unit:.3g}{name}"
    return f"{count:,}"


def _estimates(comparison: Comparison, measure: Measure) -> list[tuple[Line, CellMean, Estimated]]:
    found = []
    for number, line in enumerate(_lines(comparison)):
        for cell in line.cells:
            ratio = 0.0 if line.is_unpruned else cell.ratio
            if ratio is not None and (mean := cell.estimate(measure.key)) is not None:
                half, dotted = mean.half_width, not mean.over_trainings
                drawn = Estimated(number, ratio, mean.mean, half, dotted, _tip(line, cell, mean))
                found.append((line, mean, drawn))
    return found


def curve_csv(comparison: Comparison, measure: Measure) -> str:
    """Write what a chart of a metric shows, a row for each point."""
    rows = [
        (
            line.label,
            drawn.ratio,
            mean.mean,
            mean.half_width,
            mean.over,
            mean.units,
            mean.trainings,
            sum(mean.samplings),
        )
        for line, mean, drawn in _estimates(comparison, measure)
    ]
    return csv_text(_HEADS, rows)


def _said(measure: Measure, known: Sequence[tuple[Line, CellMean, Estimated]]) -> str:
    if len(known) > _MOST_SAID:
        return f"{measure.name} over the pruning ratio; the table above says the numbers."
    lines: dict[str, list[str]] = {}
    for line, mean, drawn in known:
        at = "" if line.is_unpruned else f" at {ratio_text(drawn.ratio)}"
        lines.setdefault(line.label, []).append(f"{_value(mean)}{at}")
    said = "; ".join(f"{name}: {', '.join(numbers)}" for name, numbers in lines.items())
    return presentable(f"{measure.name} over the pruning ratio. {said}.")


def _tip(line: Line, cell: Cell, mean: CellMean) -> str:
    pruned = [] if line.is_unpruned else [f"pruned {ratio_text(cell.ratio)}"]
    said = [", ".join(filter(None, (*pruned, trained_on_text(cell.trained_on))))]
    kind = [mean.kind] if mean.half_width else []
    return "\n".join([*filter(None, said), _value(mean), *kind, samplings_text(mean.samplings)])


def _value(mean: CellMean) -> str:
    spread = f" ± {half_text(mean.half_width)}" if mean.half_width else ""
    return number_text(mean.mean, mean.half_width) + spread
