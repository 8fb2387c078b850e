"""What axes cover, intervals along them, and the frame around: the same for all charts of numbers with errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dprune.charts.lines import Estimated, parameter
from dprune.charts.theme import WIDTH

if TYPE_CHECKING:
    import altair as alt

# How far an axis follows intervals beyond all means, in spans of these: with two trainings, t is 12.7.
_BEYOND = 1.0
_MARGIN = 0.07


def extent(estimates: Sequence[Estimated]) -> tuple[float, float]:
    """Return what an axis covers: all means, and of intervals as much as leaves the means apart."""
    means = [estimate.mean for estimate in estimates]
    low, high = min(means), max(means)
    beyond = _BEYOND * ((high - low) or math.inf)
    ends = [e.mean + sign * (e.half or 0) for e in estimates for sign in (-1, 1)]
    return padded([max(min(ends), low - beyond), min(max(ends), high + beyond)], _MARGIN)


def padded(values: Sequence[float], share: float) -> tuple[float, float]:
    """Return bounds a little beyond all values."""
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        margin = (high - low) * share
    elif abs(high) > 1e-9:
        # What differs by rounding alone is a constant.
        margin = abs(high) * 0.1
    else:
        return -0.05, 1.0
    return low - margin, high + margin


def clipped(estimate: Estimated, bounds: tuple[float, float]) -> dict[str, Any]:
    """Return the interval of a number as far as an axis goes, and on which sides it goes on beyond that."""
    half = estimate.half or 0.0
    low, high = estimate.mean - half, estimate.mean + half
    return {
        "low": max(low, bounds[0]), "high": min(high, bounds[1]), "below": low < bounds[0], "above": high > bounds[1],
        "dotted": estimate.dotted,
    }  # fmt: skip


def intervals(chart: alt.Chart, *, along: str) -> list[alt.Chart]:
    """Return the layers of intervals, with points like arrows where they go on beyond the axis."""
    import altair as alt

    dash = alt.condition("datum.dotted", alt.value([2, 2]), alt.value([1, 0]))
    vertical = along == "y"
    ends = (("above", "high", "triangle-up" if vertical else "triangle-right"),
            ("below", "low", "triangle-down" if vertical else "triangle-left"))  # fmt: skip
    arrows = [
        chart.transform_filter(f"datum.{beyond}")
        .mark_point(filled=True, size=22, shape=shape)
        .encode(**{along: f"{end}:Q", f"{along}2": alt.Undefined})
        for beyond, end, shape in ends
    ]
    return [chart.mark_rule(strokeWidth=1.3).encode(strokeDash=dash), *arrows]


def framed(chart: alt.LayerChart, height: float, *, paper: bool) -> alt.LayerChart:
    """Return a chart that is as wide as all are; on paper with its title."""
    import altair as alt

    sized = chart.properties(width=WIDTH, height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    if not paper:
        return sized
    words = alt.Title(alt.ExprRef("heading"), subtitle="")
    return sized.add_params(parameter("heading", ""), parameter("note", "")).properties(title=words)
