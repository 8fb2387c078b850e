"""Lines of charts: how each is drawn, what its points say, and what all charts with lines have in common."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dprune.charts.theme import FAINT, INK, colour

if TYPE_CHECKING:
    import altair as alt

# What is looked at where a line was picked from a legend: `shown` holds the numbers of lines, null for all.
_SHOWN = "!isValid(shown) || indexof(shown, datum.line) >= 0"
_PALE = 0.1
_LEVEL_DASHES = ((7, 3), (2, 3), (7, 3, 2, 3))
SHAPES = ("circle", "square", "triangle-up", "diamond")
SOLID = (1, 0)
# Lines up to which a legend in a file has one column, and letters that half the width of a file holds.
_ONE_COLUMN, _HALF_LETTERS = 6, 27


@dataclass(frozen=True)
class LineStyle:
    """How a line is drawn.

    Attributes:
        name: of the line, by which legends call it, and by which it is the same in all charts of a page.
        colour: in CSS.
        shape: of its marks.
        dash: lengths of dashes and gaps.
        description: the whole of what it is.
    """

    name: str
    colour: str
    shape: str = "circle"
    dash: tuple[int, ...] = SOLID
    description: str = ""


@dataclass(frozen=True)
class Estimated:
    """A number with its error.

    Attributes:
        line: number of the line that it is of.
        ratio: share that was pruned.
        mean: the number.
        half: half of its interval, None where nothing tells.
        dotted: whether the interval tells of less than it seems to, and is drawn as dots.
        said: number and error in words.
    """

    line: int
    ratio: float
    mean: float
    half: float | None
    dotted: bool
    said: str


def baseline_style(name: str, number: int, description: str = "") -> LineStyle:
    """Return the style of a baseline, by its place among these: grey, so that colours are of what is compared."""
    return LineStyle(name, FAINT, "stroke", _LEVEL_DASHES[number % len(_LEVEL_DASHES)], description)


def pruned_style(name: str, number: int, shape: str, dash: tuple[int, ...], description: str = "") -> LineStyle:
    """Return the style of a line by the number of its colour."""
    return LineStyle(name, colour(f"c{number}"), shape, dash, description)


def parameter(name: str, value: Any = None) -> alt.Parameter:
    """Return a parameter that each chart of a template fills in."""
    import altair as alt

    return alt.param(name=name, value=value)


def encodings(lines: Sequence[LineStyle], *, legend: bool) -> dict[str, Any]:
    """Return colour and opacity of lines by the field `line`, which numbers them."""
    import altair as alt

    numbers = list(range(len(lines)))
    shown = _legend(lines) if legend else None
    scale = alt.Scale(domain=numbers, range=[line.colour for line in lines])
    return {
        "color": alt.Color("line:N", scale=scale, legend=shown),
        "opacity": alt.condition(_SHOWN, alt.value(1), alt.value(_PALE)),
    }


def shapes(lines: Sequence[LineStyle], *, legend: bool) -> alt.Shape:
    """Return the shapes of marks by line."""
    import altair as alt

    scale = alt.Scale(domain=list(range(len(lines))), range=[line.shape for line in lines])
    return alt.Shape("line:N", scale=scale, legend=_legend(lines) if legend else None)


def _legend(lines: Sequence[LineStyle]) -> alt.Legend:
    import altair as alt

    narrow = len(lines) > _ONE_COLUMN and max(len(line.name) for line in lines) <= _HALF_LETTERS
    return alt.Legend(labelExpr="names[datum.value]", columns=2 if narrow else 1)


def dashes(lines: Sequence[LineStyle]) -> alt.StrokeDash:
    """Return the dashes of lines."""
    import altair as alt

    scale = alt.Scale(domain=list(range(len(lines))), range=[list(line.dash) for line in lines])
    return alt.StrokeDash("line:N", scale=scale, legend=None)


def telling(chart: alt.Chart) -> alt.Chart:
    """Return a chart with `told`, what a point says when pointed at: its line, then the field `said`."""
    return chart.transform_calculate(told="names[datum.line] + '\\n' + datum.said")


def line_parameters(lines: Sequence[LineStyle]) -> list[alt.Parameter]:
    """Return what legends and selections take."""
    return [parameter("names", [line.name for line in lines]), parameter("shown")]


# Outlines of the marks in a box of 34 by 12 pixels.
_OUTLINES = {
    "circle": "M13 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "square": "M13.4 2.4h7.2v7.2h-7.2Z",
    "triangle-up": "M17 1.2l4.6 8h-9.2Z",
    "diamond": "M17 1l5 5l-5 5l-5 -5Z",
}


def _box(inside: str) -> str:
    return f'<svg viewBox="0 0 34 12" aria-hidden="true">{inside}</svg>'


SAMPLES = {
    "line": _box(f'<path stroke="{INK}" stroke-width="1.6" d="M0 6H34"/>'),
    "dotted line": _box(f'<path stroke="{FAINT}" stroke-width="1.2" stroke-dasharray="2 2" d="M0 6H34"/>'),
    "interval": _box(f'<path stroke="{FAINT}" stroke-width="1.3" d="M2 6H32M17 2v8"/>'),
    "dotted interval": _box(f'<path stroke="{FAINT}" stroke-width="1.3" stroke-dasharray="2 2" d="M2 6H32M17 2v8"/>'),
}
"""Pictures for legends, by what they are of."""


def legend_markup(lines: Sequence[LineStyle]) -> str:
    """Return the legend of a page: one for all the charts below it, and each entry a button where scripts run."""
    entries = "".join(
        f'<li data-line="{html.escape(line.name)}" title="{html.escape(line.description or line.name)}">'
        f"{_sample(line)}<span>{html.escape(line.name)}</span></li>"
        for line in lines
    )
    return f'<ul class="legend lines">{entries}</ul>'


def _sample(line: LineStyle) -> str:
    dash = "" if line.dash == SOLID else f' stroke-dasharray="{" ".join(map(str, line.dash))}"'
    mark = f'<path fill="{line.colour}" d="{_OUTLINES[line.shape]}"/>' if line.shape in _OUTLINES else ""
    stroke = f'<path stroke="{line.colour}" stroke-width="1.8" fill="none"{dash} d="M0 6H34"/>'
    return _box(stroke + mark)
