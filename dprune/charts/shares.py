"""What share each cluster or class has: bars of the generated samples, ticks of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from dprune.charts.axes import framed
from dprune.charts.figure import Figure, Template
from dprune.charts.lines import parameter
from dprune.charts.theme import INK

_HEIGHT, _ROW_HEIGHT = 120, 17
# Bars up to which each has its name, letters up to which these stand below upright bars, and bars that have gaps.
_NAMED, _SHORT, _GAPS = 40, 2, 80
_ABOVE = 1.04


def share_bars(
    title: str,
    said: str,
    names: Sequence[str],
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    top: float,
    colour: str,
    of: str,
) -> Figure:
    """Draw the share of each group.

    Args:
        title: above the chart.
        said: for readers of screens.
        names: of the groups, in the order of the chart.
        ours: shares of the generated samples.
        theirs: shares of the reference.
        top: the highest share of all charts that are to be held against each other.
        colour: of the bars, in CSS.
        of: what the groups are, in the plural, where they are too many to have names.
    """
    rows = [
        {"place": place, "name": name, "ours": our, "theirs": their,
         "said": f"{name}\ngenerated {our:.2%}, reference {their:.2%}"}
        for place, (name, our, their) in enumerate(zip(names, ours, theirs, strict=True))
    ]  # fmt: skip
    lying = len(names) <= _NAMED and max(map(len, names)) > _SHORT
    upright = len(names) <= 12 and not lying
    words = {"top": top * _ABOVE, "colour": colour, "group_names": list(names)}
    about = "" if lying or upright else f"{len(names)} {of}, largest first"
    return Figure(title, said, partial(_template, len(names), about, lying=lying), {"groups": rows}, words)


@cache
def _template(count: int, about: str, *, lying: bool, paper: bool) -> Template:
    import altair as alt

    named = alt.Axis(values=[place + 0.5 for place in range(count)], labelExpr="group_names[floor(datum.value)]",
                     title=about or None, labels=not about, grid=False, domain=not lying,
                     tickCount=count, labelOverlap=False, labelLimit=150 if lying else 0)  # fmt: skip
    places = alt.Scale(domain=[0, count], nice=False, zero=False, reverse=lying)
    heights = alt.Scale(domain=alt.ExprRef("[0, top]"), nice=False)
    shares = alt.Axis(format=".0%", tickCount=4, title=None, grid=True, domain=False)
    gap = 0.12 if count <= _GAPS else 0.0
    base = alt.Chart(alt.NamedData("groups")).transform_calculate(
        begin=f"datum.place + {gap}", end=f"datum.place + {1 - gap}", zero="0"
    )
    bars, ticks = (
        base.mark_rect(fillOpacity=0.72, color=alt.ExprRef("colour")),
        base.mark_rule(color=INK, strokeWidth=1.6),
    )
    across, along = ("y", "x") if lying else ("x", "y")
    begin = _channel(across, "begin:Q", places, named)
    bars = bars.encode(**begin, **{f"{across}2": "end:Q"}, **_channel(along, "zero:Q", heights, shares),
                       **{f"{along}2": "ours:Q"}, tooltip=alt.Tooltip("said:N"))  # fmt: skip
    ticks = ticks.encode(**begin, **{f"{across}2": "end:Q"}, **_channel(along, "theirs:Q", heights, shares))
    parameters = [parameter("top", 1), parameter("colour", INK), parameter("group_names", [])]
    height = _ROW_HEIGHT * count if lying else _HEIGHT
    return Template(framed(alt.layer(bars, ticks).add_params(*parameters), height, paper=paper))


def _channel(name: str, field: str, scale: object, axis: object) -> dict[str, object]:
    import altair as alt

    return {name: (alt.X if name == "x" else alt.Y)(field, scale=scale, axis=axis)}
