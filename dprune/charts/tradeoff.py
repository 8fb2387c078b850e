"""Precision over recall: one curve for each line, from nothing to all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial

from dprune.charts.axes import framed
from dprune.charts.figure import Figure, Template
from dprune.charts.lines import LineStyle, dashes, encodings, line_parameters
from dprune.charts.theme import WIDTH

_HEIGHT = WIDTH - 60
_DIGITS = 4


def precision_recall(
    title: str, said: str, lines: Sequence[LineStyle], curves: Mapping[int, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """Draw curves of precision over recall.

    Args:
        title: above the chart.
        said: for readers of screens.
        lines: all that the comparison has.
        curves: precision and recall, from 0 to 1, by the number of their line.
    """
    rows = [
        {"line": line, "place": place, "recall": round(recall, _DIGITS), "precision": round(precision, _DIGITS)}
        for line, both in curves.items()
        for place, (precision, recall) in enumerate(zip(*both, strict=True))
    ]
    names = tuple(line.name for line in lines)
    return Figure(title, said, partial(_template, tuple(lines)), {"curves": rows}, lines=names)


@cache
def _template(lines: tuple[LineStyle, ...], *, paper: bool) -> Template:
    import altair as alt

    scale = alt.Scale(domain=[0, 1])
    chart = (
        alt.Chart(alt.NamedData("curves"))
        .transform_calculate(said="names[datum.line]")
        .mark_line(strokeWidth=1.8, strokeJoin="round")
        .encode(
            x=alt.X("recall:Q", scale=scale, axis=alt.Axis(tickCount=5), title="recall"),
            y=alt.Y("precision:Q", scale=scale, title="precision"),
            order="place:Q", detail="line:N", strokeDash=dashes(lines), tooltip=alt.Tooltip("said:N"),
            **encodings(lines, legend=paper),
        )
    )  # fmt: skip
    return Template(framed(alt.layer(chart).add_params(*line_parameters(lines)), _HEIGHT, paper=paper))
