"""A number over another: a mark for each line with its interval, and the level of the baseline across."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from dprune.charts.axes import clipped, extent, framed, intervals, padded
from dprune.charts.figure import Figure, Template
from dprune.charts.lines import Estimated, LineStyle, dashes, encodings, line_parameters, parameter, shapes, telling
from dprune.charts.theme import GROUND

_HEIGHT = 190
_MARGIN = 0.07


def correlation_marks(
    title: str,
    said: str,
    lines: Sequence[LineStyle],
    places: Sequence[tuple[float, Estimated]],
    levels: Sequence[Estimated],
    about: str,
    note: str = "",
) -> Figure:
    """Draw marks of lines.

    Args:
        title: above the chart.
        said: for readers of screens.
        lines: all that the comparison has, in the order of the legend, whether they have marks or not.
        places: where each mark is from left to right, and its number from below with an interval.
        levels: numbers of baselines, drawn across.
        about: what the numbers from left to right are.
        note: in small print in files.
    """
    across = padded([x for x, _ in places], _MARGIN)
    up = extent([*(estimate for _, estimate in places), *levels])
    data = {
        "points": [{"line": e.line, "x": x, "y": e.mean, "said": e.said, **clipped(e, up)} for x, e in places],
        "levels": [{"line": e.line, "x": across[0], "end": across[1], "y": e.mean, "said": e.said} for e in levels],
    }
    words = {"across": list(across), "up": list(up)}
    names = tuple(line.name for line in lines)
    return Figure(title, said, partial(_template, tuple(lines), about), data, words, names, note)


@cache
def _template(lines: tuple[LineStyle, ...], about: str, *, paper: bool) -> Template:
    import altair as alt

    scale = alt.Scale(domain=alt.ExprRef("across"), nice=False, zero=False)
    x = alt.X("x:Q", scale=scale, axis=alt.Axis(tickCount=5), title=about)
    y = alt.Y("y:Q", scale=alt.Scale(domain=alt.ExprRef("up"), nice=False, zero=False), title=None)
    common = encodings(lines, legend=paper)
    says = {"tooltip": alt.Tooltip("told:N"), "description": alt.Description("told:N")}
    level = telling(alt.Chart(alt.NamedData("levels"))).encode(x=x, y=y, **common)
    point = telling(alt.Chart(alt.NamedData("points"))).encode(x=x, y=y, **common)
    layers = [
        level.mark_rule(strokeWidth=1.4, aria=True).encode(x2="end:Q", strokeDash=dashes(lines), **says),
        *intervals(point.encode(y="low:Q", y2="high:Q"), along="y"),
        point.mark_point(filled=True, size=320, fillOpacity=0).encode(tooltip=says["tooltip"]),
        point.mark_point(filled=True, size=58, stroke=GROUND, strokeWidth=1, aria=True).encode(
            shape=shapes(lines, legend=paper), **says
        ),
    ]
    parameters = [parameter("across", [0, 1]), parameter("up", [0, 1]), *line_parameters(lines)]
    return Template(framed(alt.layer(*layers).add_params(*parameters), _HEIGHT, paper=paper))
