"""What share each cluster or class has: bars of the generated samples, ticks of the reference and the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from dprune.charts.axes import framed
from dprune.charts.figure import Figure, Template
from dprune.charts.lines import parameter
from dprune.charts.theme import FAINT, INK

_HEIGHT, _ROW_HEIGHT = 120, 17
# Bars up to which each has its name, letters up to which these stand below upright bars, and bars that have gaps.
_NAMED, _SHORT, _GAPS = 40, 2, 80
_ABOVE = 1.04


@dataclass(frozen=True)
class GroupBar:
    """A cluster or class.

    Attributes:
        name: of the group.
        generated: its share of the generated samples.
        half: half of the interval of that, None where nothing tells.
        reference: its share of the reference.
        training: its share of the training set, None where that is not known.
        dotted: whether the interval tells of less than it seems to.
    """

    name: str
    generated: float
    half: float | None
    reference: float
    training: float | None = None
    dotted: bool = False

    @property
    def said(self) -> str:
        """All of it in words."""
        ours = f"{self.generated:.2%}" + (f" ± {self.half:.2%}" if self.half else "")
        known = f", training {self.training:.2%}" if self.training is not None else ""
        return f"{self.name}\ngenerated {ours}, reference {self.reference:.2%}{known}"


def share_bars(title: str, said: str, groups: Sequence[GroupBar], *, top: float, colour: str, of: str) -> Figure:
    """Draw the share of each group.

    Args:
        title: above the chart.
        said: for readers of screens.
        groups: in the order of the chart.
        top: the highest share of all charts that are to be held against each other.
        colour: of the bars, in CSS.
        of: what the groups are, in the plural, where they are too many to have names.
    """
    most = top * _ABOVE
    rows = [
        {"place": place, "name": group.name, "ours": group.generated, "theirs": group.reference, "said": group.said,
         "low": max(0.0, group.generated - (group.half or 0)), "high": min(most, group.generated + (group.half or 0)),
         "dotted": group.dotted, "trained": group.training}
        for place, group in enumerate(groups)
    ]  # fmt: skip
    names = [group.name for group in groups]
    lying = len(names) <= _NAMED and max(map(len, names)) > _SHORT
    upright = len(names) <= 12 and not lying
    words = {"top": most, "colour": colour, "group_names": names}
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
        begin=f"datum.place + {gap}", end=f"datum.place + {1 - gap}", middle="datum.place + 0.5", zero="0"
    )
    bars = base.mark_rect(fillOpacity=0.72, color=alt.ExprRef("colour"))
    ticks = base.mark_rule(color=INK, strokeWidth=1.6)
    trained = base.transform_filter("isValid(datum.trained)").mark_rule(color=INK, strokeWidth=1.6, strokeDash=[2, 2])
    dash = alt.condition("datum.dotted", alt.value([2, 2]), alt.value([1, 0]))
    spread = base.transform_filter("datum.high > datum.low").mark_rule(color=FAINT, strokeWidth=1.2)
    across, along = ("y", "x") if lying else ("x", "y")
    begin = _channel(across, "begin:Q", places, named)
    bars = bars.encode(**begin, **{f"{across}2": "end:Q"}, **_channel(along, "zero:Q", heights, shares),
                       **{f"{along}2": "ours:Q"}, tooltip=alt.Tooltip("said:N"))  # fmt: skip
    ticks, trained = (
        marks.encode(**begin, **{f"{across}2": "end:Q"}, **_channel(along, f"{field}:Q", heights, shares))
        for marks, field in ((ticks, "theirs"), (trained, "trained"))
    )
    spread = spread.encode(**_channel(across, "middle:Q", places, named), **_channel(along, "low:Q", heights, shares),
                           **{f"{along}2": "high:Q"}, strokeDash=dash)  # fmt: skip
    parameters = [parameter("top", 1), parameter("colour", INK), parameter("group_names", [])]
    height = _ROW_HEIGHT * count if lying else _HEIGHT
    return Template(framed(alt.layer(bars, spread, ticks, trained).add_params(*parameters), height, paper=paper))


def _channel(name: str, field: str, scale: object, axis: object) -> dict[str, object]:
    import altair as alt

    return {name: (alt.X if name == "x" else alt.Y)(field, scale=scale, axis=axis)}
