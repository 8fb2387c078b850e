"""How numbers are spread: the density of one set filled, others as steps over it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache, partial

from dprune.charts.axes import framed
from dprune.charts.figure import Figure, Rows, Template
from dprune.charts.lines import parameter
from dprune.charts.theme import FAINT, INK

_HEIGHT = 120
_ABOVE = 1.06


def density_steps(
    title: str,
    said: str,
    edges: Sequence[float],
    filled: Sequence[float],
    steps: Mapping[str, Sequence[float]],
    *,
    top: float,
    colour: str,
    about: str,
    of: str = "generated",
) -> Figure:
    """Draw densities over each other.

    Args:
        title: above the chart.
        said: for readers of screens.
        edges: of the bins.
        filled: density in each bin, as an area.
        steps: others by what they are, as lines; the first is solid, others dotted.
        top: the highest density of all charts that are to be held against each other.
        colour: of the area, in CSS.
        about: what the numbers are.
        of: what the area is the density of.
    """
    bins = list(itertools.pairwise(edges))
    data = {
        "filled": _outline(bins, filled, 0),
        "steps": [row for number, heights in enumerate(steps.values()) for row in _outline(bins, heights, number)],
    }
    words = {"top": top * _ABOVE, "colour": colour, "across": [edges[0], edges[-1]]}
    note = ", ".join([f"filled: {of}", *(f"{how}: {name}" for how, name in zip(("line", "dotted"), steps))])
    return Figure(title, said, partial(_template, about), data, words, note=note, alive=False)


def _outline(bins: Sequence[tuple[float, float]], heights: Sequence[float], number: int) -> Rows:
    pairs = zip(bins, heights, strict=True)
    return [{"set": number, "x": x, "density": height} for ends, height in pairs for x in ends]


@cache
def _template(about: str, *, paper: bool) -> Template:
    import altair as alt

    scale = alt.Scale(domain=alt.ExprRef("across"), nice=False, zero=False)
    x = alt.Axis(title=about, tickCount=5)
    # Not stacked: where a bin ends and the next begins, areas have two heights at one place.
    y = alt.Y("density:Q", scale=alt.Scale(domain=alt.ExprRef("[0, top]"), nice=False), axis=None, stack=False)
    filled = alt.Chart(alt.NamedData("filled")).mark_area(fillOpacity=0.72, color=alt.ExprRef("colour"))
    filled = filled.encode(x=alt.X("x:Q", scale=scale, axis=x), y=y)
    steps = alt.Chart(alt.NamedData("steps")).mark_line(strokeJoin="round").encode(
        x=alt.X("x:Q", scale=scale, axis=x), y=y, detail="set:N",
        color=alt.Color("set:N", scale=alt.Scale(domain=[0, 1], range=[INK, FAINT]), legend=None),
        strokeDash=alt.StrokeDash("set:N", scale=alt.Scale(domain=[0, 1], range=[[1, 0], [2, 2]]), legend=None),
        strokeWidth=alt.condition("datum.set == 0", alt.value(1.5), alt.value(1.2)),
    )  # fmt: skip
    parameters = [parameter("top", 1), parameter("colour", INK), parameter("across", [0, 1])]
    return Template(framed(alt.layer(filled, steps).add_params(*parameters), _HEIGHT, paper=paper))
