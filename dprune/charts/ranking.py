"""A number at one pruning ratio: a row for each line, the best on top, with its interval, and the baselines across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

from dprune.charts.axes import clipped, extent, framed, intervals
from dprune.charts.figure import Figure, Template
from dprune.charts.lines import SHAPES, Estimated, LineStyle, encodings, line_parameters, parameter, shapes, telling
from dprune.charts.theme import FAINT, GROUND, INK

_ROW_HEIGHT = 32
# Where in a row, from its top, the name and the mark stand; names stand above marks, so that none is cut.
_NAME, _MARK = 0.3, 0.68


def ranked_dots(
    title: str,
    said: str,
    lines: Sequence[LineStyle],
    estimates: Sequence[Estimated],
    baselines: int,
    better: str,
    reference: float | None = None,
    note: str = "",
) -> Figure:
    """Draw a dot for each line, and below them the names of those that lack the number.

    Args:
        title: above the chart.
        said: for readers of screens.
        lines: all that the comparison has, those of the baselines first.
        estimates: one for each line that has the number.
        baselines: how many of the lines are baselines.
        better: `lower`, `higher`, or empty where neither is, and the order is that of the lines.
        reference: value that means that nothing happened.
        note: in small print in files.
    """
    sign = {"lower": 1, "higher": -1}.get(better, 0)
    ranked = sorted(estimates, key=lambda estimate: (sign * estimate.mean, estimate.line))
    up = extent(estimates)
    rows = [_row(place, estimate, up, lines) for place, estimate in enumerate(ranked)]
    lacking = [line.name for number, line in enumerate(lines) if number not in {row["line"] for row in rows}]
    data = {
        "points": rows,
        "lacking": [{"name": f"{name}: not measured", "top": len(rows) + n} for n, name in enumerate(lacking)],
        "levels": [row for row in rows if row["line"] < baselines],
        "references": [{"x": reference}] if reference is not None and up[0] < reference < up[1] else [],
    }
    names = tuple(line.name for line in lines)
    return Figure(title, said, partial(_template, tuple(lines), len(lines)), data, {"across": list(up)}, names, note)


def _row(place: int, estimate: Estimated, up: tuple[float, float], lines: Sequence[LineStyle]) -> dict[str, Any]:
    return {
        "line": estimate.line, "x": estimate.mean, "top": place, "name": lines[estimate.line].name,
        "said": estimate.said, **clipped(estimate, up),
    }  # fmt: skip


@cache
def _template(lines: tuple[LineStyle, ...], count: int, *, paper: bool) -> Template:
    import altair as alt

    x = alt.X("x:Q", scale=alt.Scale(domain=alt.ExprRef("across"), nice=False, zero=False), title=None,
              axis=alt.Axis(grid=True, tickCount=5))  # fmt: skip
    rows = alt.Scale(domain=[0, count], reverse=True, nice=False, zero=False)
    y = alt.Y("y:Q", scale=rows, axis=None)
    common = encodings(lines, legend=False)
    # Baselines have dots here, where they have a row like others.
    marks = [line if line.shape in SHAPES else replace(line, shape=SHAPES[0]) for line in lines]
    points = telling(alt.Chart(alt.NamedData("points"))).transform_calculate(
        y=f"datum.top + {_MARK}", head=f"datum.top + {_NAME}"
    )
    heads = {"y": alt.Y("head:Q", scale=rows, axis=None), "text": alt.Text("name:N")}
    named = points.encode(**heads, opacity=common["opacity"])
    lacking = alt.Chart(alt.NamedData("lacking")).transform_calculate(head=f"datum.top + {_NAME}").encode(**heads)
    level = alt.Chart(alt.NamedData("levels"))
    dot = points.encode(x=x, y=y, tooltip=alt.Tooltip("told:N"), **common)
    layers = [
        alt.Chart(alt.NamedData("references")).mark_rule(color=FAINT, strokeWidth=1).encode(x=x),
        level.transform_filter("!datum.dotted").mark_rect(fillOpacity=0.16).encode(x="low:Q", x2="high:Q", **common),
        level.mark_rule(strokeWidth=1.2, strokeDash=[7, 3]).encode(x=x, **common),
        *intervals(dot.encode(x="low:Q", x2="high:Q"), along="x"),
        dot.mark_point(filled=True, size=320, fillOpacity=0),
        dot.mark_point(filled=True, size=62, stroke=GROUND, strokeWidth=1, aria=True).encode(
            shape=shapes(marks, legend=False), description=alt.Description("told:N")
        ),
        # A rim in the colour of the ground keeps names legible over the levels.
        named.mark_text(align="left", fontSize=11, x=2, stroke=GROUND, strokeWidth=4, strokeJoin="round"),
        named.mark_text(align="left", fontSize=11, x=2, color=INK),
        lacking.mark_text(align="left", fontSize=11, x=2, color=FAINT),
    ]
    chart = alt.layer(*layers).add_params(parameter("across", [0, 1]), *line_parameters(lines))
    return Template(framed(chart, _ROW_HEIGHT * count, paper=paper))
