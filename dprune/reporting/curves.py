"""Curves of metrics over the pruning ratio: a method and its inverse in one colour, the unpruned as a level."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from dprune.metrics.catalogue import Measure
from dprune.reporting.estimates import SAMPLING, CellMean, samplings_text
from dprune.reporting.grouping import Comparison, Line, ratio_text
from dprune.reporting.svg import (
    DASHES,
    INTERVAL,
    INTERVAL_ALONE,
    MARKERS,
    PALETTE,
    Chart,
    padded,
    sample,
    stroke,
    tick_text,
)

Known = list[tuple[float, CellMean]]

_SHAPES = ("circle", "square", "triangle", "diamond")
# Share of the axis that the name of a ratio takes.
_ROOM = 0.055 * 1.6
# How far, in ratios, the axis goes on beyond the outermost ones, or beyond a single one.
_BESIDE, _BESIDE_SINGLE = 0.06, 0.3
# Shares of the axis that points at one ratio are apart, and take together at most.
_APART, _WIDEST = 0.035, 0.25
# How far the axis follows intervals beyond all means, in spans of these: with two trainings, t is 12.7.
_BEYOND = 1.0


class Colours:
    """One colour for each family of lines, the same all over a report."""

    def __init__(self, comparisons: Iterable[Comparison]) -> None:
        """Give the families their colours in the order of the lines."""
        families = dict.fromkeys(line.family for c in comparisons for line in c.pruned)
        self._numbers = {family: number for number, family in enumerate(families)}

    def of(self, line: Line) -> str:
        """Return the colour's name in the style sheet."""
        return "k" if line.is_unpruned else str(self._numbers[line.family] % PALETTE)

    def shape(self, line: Line) -> str:
        """Return the marker: by the order, and another for families whose colour was used before."""
        turn = self._numbers.get(line.family, 0) // PALETTE
        usual = MARKERS.get(line.order, "circle" if line.order else "diamond")
        return _SHAPES[(_SHAPES.index(usual) + turn) % len(_SHAPES)]

    @staticmethod
    def dash(line: Line) -> str:
        """Return the dashes of a line."""
        return DASHES.get(line.order, "")


def legend(comparison: Comparison, colours: Colours) -> list[tuple[str, str]]:
    """Return a sample of each line with its label."""
    pruned = [(sample(colours.of(x), colours.shape(x), colours.dash(x)), x.label) for x in comparison.pruned]
    return [(stroke(_level_style(n)), line.label) for n, line in enumerate(comparison.unpruned)] + pruned


def interval_legend(comparison: Comparison, measures: Iterable[Measure]) -> list[tuple[str, str]]:
    """Return a sample of each kind of interval that curves of metrics show, with what it is."""
    found = (cell.estimate(measure.key) for measure in measures for _, cell in comparison.cells())
    kinds = {estimate.over for estimate in found if estimate and estimate.half_width}
    over = sorted(kinds - {SAMPLING})
    entries = [(INTERVAL, f"95% interval over {' or '.join(over)}")] if over else []
    return entries + ([(INTERVAL_ALONE, "95% interval of sampling alone")] if SAMPLING in kinds else [])


def _level_style(number: int) -> str:
    """Return the style of the level of an unpruned line by its place among these."""
    return "ref ref2" if number % 2 else "ref"


def curve(comparison: Comparison, measure: Measure, colours: Colours) -> Chart | None:
    """Draw one metric over the pruning ratio, None where no pruned result has it, or nothing to compare with.

    Bands and bars are 95% intervals: bands of lines and levels that have them over trainings, bars of single points.
    Those of sampling alone are dotted, of levels as of points.
    """
    known = [(line, _known(line, measure.key)) for line in comparison.pruned]
    found = ((line, line.cells[0].estimate(measure.key)) for line in comparison.unpruned)
    levels = [(number, line, estimate) for number, (line, estimate) in enumerate(found) if estimate]
    if not any(cells for _, cells in known) or sum(len(cells) for _, cells in known) + len(levels) < 2:
        return None
    ratios = sorted({ratio for _, cells in known for ratio, _ in cells})
    beside = _BESIDE if len(ratios) > 1 else _BESIDE_SINGLE
    x = (ratios[0] - beside, ratios[-1] + beside)
    estimates = [estimate for _, cells in known for _, estimate in cells] + [estimate for *_, estimate in levels]
    chart = Chart(f"{measure.name} {measure.arrow}".strip(), x, padded(_bounds(estimates)), label=_said(measure, known))
    chart.grid(_ratio_ticks(ratios, x), "pruning ratio")
    if measure.baseline is not None and chart.y[0] < measure.baseline < chart.y[1]:
        chart.level(measure.baseline, "base")
    for number, line, estimate in levels:
        _draw_level(chart, line, estimate, _level_style(number))
    for (line, cells), shift in zip(known, _shifts(known, x[1] - x[0]), strict=True):
        if cells:
            _draw_line(chart, line, cells, colours, shift)
    return chart


def _bounds(estimates: Sequence[CellMean]) -> tuple[float, float]:
    """Return what the axis covers: all means, and of intervals as much as leaves the means apart."""
    means = [e.mean for e in estimates]
    low, high = min(means), max(means)
    beyond = _BEYOND * ((high - low) or math.inf)
    ends = [e.mean + sign * (e.half_width or 0) for e in estimates for sign in (-1, 1)]
    return max(min(ends), low - beyond), min(max(ends), high + beyond)


def _shifts(known: Sequence[tuple[Line, Known]], width: float) -> list[float]:
    """Move lines of one point apart where they have one ratio, or their error bars would hide each other."""
    alone = defaultdict(list)
    for number, (_, cells) in enumerate(known):
        if len(cells) == 1:
            alone[cells[0][0]].append(number)
    shifts = [0.0] * len(known)
    for numbers in alone.values():
        step = width * min(_APART, _WIDEST / len(numbers))
        for place, number in enumerate(numbers):
            shifts[number] = step * (place - (len(numbers) - 1) / 2)
    return shifts


def _known(line: Line, key: str) -> Known:
    return [(c.ratio, e) for c in line.cells if c.ratio is not None and (e := c.estimate(key)) is not None]


def _said(measure: Measure, known: Sequence[tuple[Line, Known]]) -> str:
    lines = [
        f"{line.label}: {', '.join(f'{tick_text(e.mean)}{_spread(e)} at {ratio_text(ratio)}' for ratio, e in cells)}"
        for line, cells in known
        if cells
    ]
    return f"{measure.name} over the pruning ratio. {'; '.join(lines)}."


def _ratio_ticks(ratios: Sequence[float], x: tuple[float, float]) -> list[tuple[float, str]]:
    """Name every ratio that there is room for."""
    shown: list[float] = []
    for ratio in ratios:
        if not shown or (ratio - shown[-1]) / (x[1] - x[0]) > _ROOM:
            shown.append(ratio)
    return [(ratio, ratio_text(ratio)) for ratio in shown]


def _draw_level(chart: Chart, line: Line, estimate: CellMean, css: str) -> None:
    if half := estimate.half_width:
        ends = estimate.mean - half, estimate.mean + half
        if estimate.over_trainings:
            lower, upper = ([(end, value) for end in chart.x] for value in ends)
            chart.band(upper, lower, "k")
        else:
            for value in ends:
                chart.level(value, "edge alone")
    chart.level(estimate.mean, css, f"{line.label}: {_value(estimate)}")


def _draw_line(chart: Chart, line: Line, cells: Known, colours: Colours, shift: float) -> None:
    colour = colours.of(line)
    banded = len(cells) > 1 and any(e.over_trainings for _, e in cells)
    if banded:
        halves = [e.half_width or 0.0 if e.over_trainings else 0.0 for _, e in cells]
        upper, lower = (
            [(ratio, e.mean + sign * half) for (ratio, e), half in zip(cells, halves, strict=True)] for sign in (1, -1)
        )
        chart.band(upper, lower, colour)
    chart.line([(ratio, e.mean) for ratio, e in cells], colour, colours.dash(line))
    for ratio, estimate in cells:
        half = None if banded and estimate.over_trainings else estimate.half_width
        if half:
            css = "" if estimate.over_trainings else "alone"
            chart.error(ratio + shift, estimate.mean - half, estimate.mean + half, colour, css)
        chart.mark(ratio + shift, estimate.mean, colour, colours.shape(line), _tip(line, ratio, estimate))


def _tip(line: Line, ratio: float, estimate: CellMean) -> str:
    return f"{line.label}, pruned {ratio_text(ratio)}: {_value(estimate)}"


def _value(estimate: CellMean) -> str:
    kind = f" ({estimate.kind})" if estimate.half_width else ""
    return f"{estimate.mean:.5g}{_spread(estimate)}{kind}, {samplings_text(estimate.samplings)}"


def _spread(estimate: CellMean) -> str:
    return f" ± {estimate.half_width:.2g}" if estimate.half_width else ""
