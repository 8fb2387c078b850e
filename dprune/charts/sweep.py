"""A sweep over the number of clusters: inertia with its knee, and silhouette below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dprune.charts.figure import Figure, Template
from dprune.charts.theme import FAINT, INK, colour

if TYPE_CHECKING:
    import altair as alt

# Of a chart that stands alone, larger than those of a page.
_WIDTH, _UPPER, _LOWER = 560, 260, 150
# Ks up to which each has its number on the axis.
_NAMED = 16


def sweep_curves(
    ks: Sequence[int], inertia: Sequence[float], silhouette: Sequence[float | None], knee: int | None, unit: str
) -> Figure:
    """Draw a sweep.

    Args:
        ks: numbers of clusters, ascending.
        inertia: of each.
        silhouette: of each, None where there is none.
        knee: the k to mark, None for none.
        unit: what the inertia is, for its axis.
    """
    rows = [{"k": k, "inertia": a, "silhouette": b} for k, a, b in zip(ks, inertia, silhouette, strict=True)]
    said, measured = "k-means over the number of clusters", any(value is not None for value in silhouette)
    return Figure(said, said, lambda *, paper: _template(ks, knee, unit, measured), {"sweep": rows})


def _template(ks: Sequence[int], knee: int | None, unit: str, measured: bool) -> Template:
    import altair as alt

    axis = alt.Axis(values=list(ks)) if len(ks) <= _NAMED else alt.Axis(tickCount=12, tickMinStep=1, format="d")
    x = alt.X(
        "k:Q", scale=alt.Scale(domain=[ks[0], ks[-1]], nice=False, padding=14), axis=axis, title="number of clusters k"
    )
    sweep = alt.Chart(alt.NamedData("sweep")).encode(x=x)
    upper = _panel(sweep, "inertia", unit, colour("c0"), "~s")
    lower = _panel(sweep, "silhouette", "silhouette (sampled)", colour("c1"), "~g")
    if knee is not None:
        upper = [_chord(sweep, ks), *_mark(sweep, knee), *upper, _ring(sweep, knee), _said(sweep, ks, knee)]
        lower = [*_mark(sweep, knee), *lower]
    panels = [(upper, _UPPER), (lower, _LOWER)] if measured else [(upper, _UPPER)]
    drawn = [alt.layer(*layers).properties(width=_WIDTH, height=height) for layers, height in panels]
    words = alt.Title(alt.ExprRef("heading"), subtitle="")
    parameters = [alt.param(name="heading", value=""), alt.param(name="note", value="")]
    return Template(alt.vconcat(*drawn, title=words, spacing=16).add_params(*parameters))


def _panel(sweep: alt.Chart, field: str, title: str, ink: str, form: str) -> list[alt.Chart]:
    import altair as alt

    y = alt.Y(
        f"{field}:Q", scale=alt.Scale(zero=False, padding=10, nice=False), axis=alt.Axis(format=form), title=title
    )
    known = sweep.transform_filter(f"isValid(datum.{field})")
    line, points = (
        known.mark_line(color=ink, strokeWidth=1.8),
        known.mark_point(color=ink, filled=True, size=55, opacity=1),
    )
    return [line.encode(y=y), points.encode(y=y)]


def _chord(sweep: alt.Chart, ks: Sequence[int]) -> alt.Chart:
    """The straight line that the knee is the furthest below."""
    ends = sweep.transform_filter(f"datum.k == {ks[0]} || datum.k == {ks[-1]}")
    return ends.mark_line(color=FAINT, strokeWidth=1, strokeDash=[4, 3]).encode(y="inertia:Q")


def _mark(sweep: alt.Chart, knee: int) -> list[alt.Chart]:
    return [sweep.transform_filter(f"datum.k == {knee}").mark_rule(color=INK, strokeWidth=1, strokeDash=[1, 2])]


def _ring(sweep: alt.Chart, knee: int) -> alt.Chart:
    at = sweep.transform_filter(f"datum.k == {knee}")
    return at.mark_point(color=INK, size=170, strokeWidth=1.4, opacity=1).encode(y="inertia:Q")


def _said(sweep: alt.Chart, ks: Sequence[int], knee: int) -> alt.Chart:
    # Above the falling curve there is room on the right, and on the left once the knee is far from it.
    left = knee - ks[0] > 0.65 * (ks[-1] - ks[0])
    at = sweep.transform_filter(f"datum.k == {knee}")
    return at.mark_text(
        text=f"knee at k = {knee}", y=8, dx=-8 if left else 8, align="right" if left else "left", color=INK,
        fontWeight="bold", fontSize=12, stroke=None,
    )  # fmt: skip
