"""A number over the pruning ratio: a curve a line, intervals at its points, the baselines as levels across."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from dprune.charts.axes import clipped, extent, framed, intervals
from dprune.charts.figure import Figure, Rows, Template
from dprune.charts.lines import Estimated, LineStyle, dashes, encodings, line_parameters, parameter, shapes, telling
from dprune.charts.theme import FAINT, GROUND

_HEIGHT = 190
# Share of the axis that the name of a ratio takes.
_ROOM = 0.09
_RATIO_LETTERS = 4
"""Of the longest ratio that this room is for."""
# How far, in ratios, the axis goes on beyond the outermost ones, or beyond a single one.
_BESIDE, _BESIDE_SINGLE = 0.06, 0.3
# Shares of the axis that points at one ratio are apart at most, and of the way to the next ratio that they may take.
_APART, _TAKEN = 0.022, 0.7
# Areas of marks in square pixels, smaller where there are more lines than so many.
_MARK, _SMALL_MARK, _CROWD = 52, 30, 10


def ratio_curves(
    title: str,
    said: str,
    lines: Sequence[LineStyle],
    points: Sequence[Estimated],
    levels: Sequence[Estimated],
    reference: float | None = None,
    note: str = "",
    below: Mapping[float, str] | None = None,
    over: str = "",
) -> Figure:
    """Draw curves over the pruning ratio, or over another number.

    Args:
        title: above the chart.
        said: for readers of screens.
        lines: all that the comparison has, in the order of the legend, whether they have points or not.
        points: of pruned lines, in any order.
        levels: of baselines, whose ratio plays no part.
        reference: value that means that nothing happened.
        note: in small print in files.
        below: numbers of training samples, which stand below the ratios.
        over: what the numbers are that stand in the place of pruning ratios, empty for these.
    """
    ratios = sorted({point.ratio for point in points})
    beside = _BESIDE if len(ratios) > 1 else _BESIDE_SINGLE
    across = ratios[0] - beside, ratios[-1] + beside
    up = extent([*points, *levels])
    shifts = offsets(points, across[1] - across[0], 2 * beside)
    rows = [_row(point, up, point.ratio + shifts[point.line, point.ratio]) for point in points]
    data = {
        "points": rows,
        "paths": _paths(rows, points, ratios),
        "levels": [_row(level, up, across[0]) | {"end": across[1]} for level in levels],
        "references": [{"y": reference}] if reference is not None and up[0] < reference < up[1] else [],
    }
    named = _named(ratios, across, below or {})
    words = {"across": list(across), "up": list(up), "ratios": list(named), "ratio_names": list(named.values())}
    names = tuple(line.name for line in lines)
    across_title = over or ("pruning ratio, training samples" if below else "pruning ratio")
    return Figure(title, said, partial(_template, tuple(lines), across_title), data, words, names, note)


def offsets(points: Sequence[Estimated], width: float, room: float) -> dict[tuple[int, float], float]:
    """Move points of one ratio apart, in the order of their lines, or they would hide each other.

    Args:
        points: of all lines.
        width: of the axis, in ratios.
        room: of the axis around an outermost ratio.

    Returns:
        By line and ratio, by how much to move it: the more points there are and the nearer the next ratio is, the less.
    """
    crowds = defaultdict(set)
    for point in points:
        crowds[point.ratio].add(point.line)
    ratios = sorted(crowds)
    between = min((b - a for a, b in itertools.pairwise(ratios)), default=room)
    found = {}
    for ratio, crowd in crowds.items():
        step = min(_APART * width, _TAKEN * min(between, room) / len(crowd))
        for place, line in enumerate(sorted(crowd)):
            found[line, ratio] = step * (place - (len(crowd) - 1) / 2)
    return found


def _row(estimate: Estimated, up: tuple[float, float], x: float) -> dict[str, Any]:
    return {"line": estimate.line, "x": x, "y": estimate.mean, "said": estimate.said, **clipped(estimate, up)}


def _paths(rows: Rows, points: Sequence[Estimated], ratios: Sequence[float]) -> list[dict[str, Any]]:
    """Return the points of each line in order, and none where it lacks a ratio that others have: a gap."""
    at = {(point.line, point.ratio): row for point, row in zip(points, rows, strict=True)}
    found = []
    for line in sorted({point.line for point in points}):
        for ratio in ratios:
            row = at.get((line, ratio), {"x": ratio, "y": None})
            found.append({"line": line, "x": row["x"], "y": row["y"]})
    return found


def _named(ratios: Sequence[float], across: tuple[float, float], below: Mapping[float, str]) -> dict[float, list[str]]:
    """Name every ratio that there is room for, in lines."""
    room = _ROOM * max(1, *(len(below.get(ratio, "")) / _RATIO_LETTERS for ratio in ratios), 0)
    shown: list[float] = []
    for ratio in ratios:
        if not shown or (ratio - shown[-1]) / (across[1] - across[0]) > room:
            shown.append(ratio)
    return {ratio: [f"{ratio:.4g}", *([below[ratio]] if ratio in below else [])] for ratio in shown}


@cache
def _template(lines: tuple[LineStyle, ...], across: str, *, paper: bool) -> Template:
    import altair as alt

    axis = alt.Axis(values=alt.ExprRef("ratios"), labelExpr="ratio_names[indexof(ratios, datum.value)]")
    scale = alt.Scale(domain=alt.ExprRef("across"), nice=False, zero=False)
    x = alt.X("x:Q", scale=scale, axis=axis, title=across)
    y = alt.Y("y:Q", scale=alt.Scale(domain=alt.ExprRef("up"), nice=False, zero=False), title=None)
    common = encodings(lines, legend=paper)
    says = {"tooltip": alt.Tooltip("told:N"), "description": alt.Description("told:N")}
    level = telling(alt.Chart(alt.NamedData("levels"))).encode(x=x, **common)
    path = alt.Chart(alt.NamedData("paths")).encode(x=x, y=y, detail="line:N", strokeDash=dashes(lines), **common)
    point = telling(alt.Chart(alt.NamedData("points"))).encode(x=x, y=y, **common)
    layers = [
        alt.Chart(alt.NamedData("references")).mark_rule(color=FAINT, strokeWidth=1).encode(y=y),
        level.transform_filter("!datum.dotted").mark_rect(fillOpacity=0.16).encode(x2="end:Q", y="low:Q", y2="high:Q"),
        level.transform_filter("datum.dotted").mark_rule(strokeDash=[2, 2]).encode(x2="end:Q", y="low:Q"),
        level.transform_filter("datum.dotted").mark_rule(strokeDash=[2, 2]).encode(x2="end:Q", y="high:Q"),
        level.mark_rule(strokeWidth=1.6, aria=True).encode(x2="end:Q", y=y, strokeDash=dashes(lines), **says),
        *intervals(point.encode(y="low:Q", y2="high:Q"), along="y"),
        path.mark_line(
            strokeWidth=1.8 if len(lines) <= _CROWD else 1.3, strokeJoin="round", invalid="break-paths-filter-domains"
        ),
        point.mark_point(filled=True, size=320, fillOpacity=0).encode(tooltip=says["tooltip"]),
        point.mark_point(
            filled=True, size=_MARK if len(lines) <= _CROWD else _SMALL_MARK, stroke=GROUND, strokeWidth=1, aria=True
        ).encode(shape=shapes(lines, legend=paper), **says),
    ]
    parameters = [parameter("across", [0, 1]), parameter("up", [0, 1]), parameter("ratios", []),
                  parameter("ratio_names", []), *line_parameters(lines)]  # fmt: skip
    return Template(framed(alt.layer(*layers).add_params(*parameters), _HEIGHT, paper=paper))
