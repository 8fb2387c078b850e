"""A matrix as squares with numbers in them: two colours for the two directions, paler the less it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

from dprune.charts.axes import framed
from dprune.charts.figure import Figure, Rows, Template
from dprune.charts.lines import parameter
from dprune.charts.theme import FAINT, INK, RULE, colour

# Of a row in pixels: at most, at least, and of all rows together where there is room.
_TALLEST, _LOWEST, _ALL = 30, 13, 230
# Letters in pixels, and how many of them a number such as -.58 takes.
_LARGEST, _SMALLEST, _WIDE = 11.5, 6.5, 2.2
_LONGEST_NAME, _SMALLEST_NAME = 130, 8.5
# Of the strongest colour, so that the numbers on it stay legible.
_DEEPEST = 0.55
_GAP = 0.03


@dataclass(frozen=True)
class HeatCell:
    """One square.

    Attributes:
        text: its number.
        weight: from -1 to 1: sign and depth of its colour.
        said: what it says when pointed at.
    """

    text: str
    weight: float
    said: str


def heat_map(
    title: str,
    said: str,
    names: Sequence[str],
    cells: Mapping[tuple[int, int], HeatCell],
    note: str = "",
) -> Figure:
    """Draw a matrix of as many rows as columns.

    Args:
        title: above the chart.
        said: for readers of screens.
        names: of the rows, and of the columns.
        cells: by the numbers of their row and column; what is missing is left empty, in a frame of dashes.
        note: in small print in files.
    """
    every = [(row, column) for row in range(len(names)) for column in range(len(names))]
    data: dict[str, Rows] = {
        "cells": [
            {"row": row, "column": column, "text": cell.text, "said": cell.said, "depth": _DEEPEST * abs(cell.weight),
             "below": cell.weight < 0}
            for (row, column), cell in sorted(cells.items())
        ],
        "empty": [{"row": row, "column": column} for row, column in every if (row, column) not in cells],
    }  # fmt: skip
    return Figure(title, said, partial(_template, len(names)), data, {"row_names": list(names)}, note=note)


@cache
def _template(count: int, *, paper: bool) -> Template:
    import altair as alt

    height = max(_LOWEST, min(_TALLEST, _ALL / count))
    letters = max(_SMALLEST, min(_LARGEST, _ALL / count / _WIDE))
    scale = alt.Scale(domain=[0, count], nice=False, zero=False)
    named = {"values": [place + 0.5 for place in range(count)], "labelExpr": "row_names[floor(datum.value)]",
             "tickCount": count, "grid": False, "domain": False, "labelOverlap": False, "labelLimit": _LONGEST_NAME,
             "labelColor": INK, "labelFontSize": max(letters, _SMALLEST_NAME), "title": None}  # fmt: skip
    x = alt.X("left:Q", scale=scale, axis=alt.Axis(orient="top", labelAngle=-90, **named))
    y = alt.Y("top:Q", scale=alt.Scale(domain=[0, count], reverse=True, nice=False, zero=False), axis=alt.Axis(**named))

    def squares(name: str) -> alt.Chart:
        """A chart of these data, with the corners and the middle of each square."""
        return (
            alt.Chart(alt.NamedData(name))
            .transform_calculate(
                left=f"datum.column + {_GAP}", right=f"datum.column + {1 - _GAP}", top=f"datum.row + {_GAP}",
                bottom=f"datum.row + {1 - _GAP}", across="datum.column + 0.5", along="datum.row + 0.5",
            )
            .encode(x=x, x2="right:Q", y=y, y2="bottom:Q")
        )  # fmt: skip

    known = squares("cells")
    depth = alt.FillOpacity("depth:Q", scale=None, legend=None)
    number = known.encode(x=alt.X("across:Q", scale=scale), y=alt.Y("along:Q"), x2=alt.Undefined, y2=alt.Undefined)
    layers = [
        squares("empty").mark_rect(filled=False, stroke=FAINT, strokeWidth=0.7, strokeDash=[2, 2]),
        known.mark_rect(filled=False, stroke=RULE, strokeWidth=0.7),
        *(
            known.transform_filter("datum.below" if below else "!datum.below")
            .mark_rect(color=colour(ink), aria=True)
            .encode(fillOpacity=depth, tooltip=alt.Tooltip("said:N"), description=alt.Description("said:N"))
            for below, ink in ((False, "c0"), (True, "c1"))
        ),
        number.mark_text(fontSize=letters, color=INK).encode(text="text:N"),
    ]
    chart = alt.layer(*layers).add_params(parameter("row_names", []))
    return Template(framed(chart, height * count, paper=paper))
