"""A map of points in two dimensions: many light ones behind, others framed, coloured by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from dprune.charts.axes import framed, padded
from dprune.charts.figure import Figure, Template
from dprune.charts.lines import parameter
from dprune.charts.theme import FAINT, GROUND, INK, PADDING, PALETTE, WIDTH, colour

Place = tuple[float, float]

_HEIGHT = WIDTH - 20
# Widths of dots in pixels: of those behind, of the others, and of the frames of these.
_BEHIND, _FRONT, _FRAME = 3.0, 4.4, 6.4
_PALE = 0.34
_MARGIN = 0.03
# Vega draws a symbol in a square from -1 to 1, here as high as the chart.
_HALF = _HEIGHT / 2


def scatter(
    title: str,
    said: str,
    behind: Sequence[Place],
    behind_groups: Sequence[int],
    front: Sequence[Place],
    front_groups: Sequence[int],
    bounds: tuple[Place, Place],
    names: Mapping[int, Place] | None = None,
) -> Figure:
    """Draw a map.

    Args:
        title: above the chart.
        said: for readers of screens.
        behind: points that are light.
        behind_groups: their groups, negative for none.
        front: points that are framed.
        front_groups: their groups.
        bounds: the least and the greatest of both axes, over all maps that are to be held against each other.
        names: where the number of each group stands, None for nowhere.
    """
    across, up = (padded([bounds[0][axis], bounds[1][axis]], _MARGIN) for axis in (0, 1))
    layers = [
        *_dots(behind, behind_groups, _BEHIND, _PALE),
        {"outline": "", "colour": INK, "width": _FRAME, "pale": 1.0, "places": list(front)},
        *_dots(front, front_groups, _FRONT, 1.0),
    ]
    for layer in layers:
        layer["outline"] = _outline(layer.pop("places"), across, up)
    centre = (WIDTH - 2 * PADDING) / 2, _HEIGHT / 2
    numbers = [
        {"name": str(group), "x": centre[0] + x, "y": centre[1] + y}
        for group, place in (names or {}).items()
        for x, y in _pixels([place], across, up)
    ]  # fmt: skip
    return Figure(title, said, _template, {"dots": layers, "numbers": numbers}, alive=False)


def _dots(places: Sequence[Place], groups: Sequence[int], width: float, pale: float) -> list[dict[str, Any]]:
    by_group: dict[int, list[Place]] = defaultdict(list)
    for place, group in zip(places, groups, strict=True):
        by_group[group].append(place)
    return [
        {"colour": FAINT if group < 0 else colour(f"c{group % PALETTE}"), "width": width, "pale": pale,
         "places": by_group[group]}
        # Those of few points on top, or nobody would see them.
        for group in sorted(by_group, key=lambda group: (-len(by_group[group]), group))
    ]  # fmt: skip


def _outline(places: Sequence[Place], across: Place, up: Place) -> str:
    """Return many dots as one symbol of strokes without length: each as a mark of its own takes ten times as much."""
    pixels = _pixels(places, across, up)
    return "".join(f"M{round(x, 1) / _HALF:.6g},{round(y, 1) / _HALF:.6g}h0" for x, y in pixels)


def _pixels(places: Sequence[Place], across: Place, up: Place) -> list[Place]:
    """Return how far places are from the middle of the chart, to the right and downwards."""
    x_scale, y_scale = (WIDTH - 2 * PADDING) / (across[1] - across[0]), _HEIGHT / (up[1] - up[0])
    return [((x - sum(across) / 2) * x_scale, (sum(up) / 2 - y) * y_scale) for x, y in places]


@cache
def _template(*, paper: bool) -> Template:
    import altair as alt

    dots = alt.Chart(alt.NamedData("dots")).mark_point(
        filled=False, size=_HEIGHT**2, strokeCap="round", x=alt.ExprRef("width / 2"), y=alt.ExprRef("height / 2")
    ).encode(
        shape=alt.Shape("outline:N", scale=None, legend=None),
        stroke=alt.Stroke("colour:N", scale=None, legend=None),
        strokeWidth=alt.StrokeWidth("width:Q", scale=None, legend=None),
        strokeOpacity=alt.StrokeOpacity("pale:Q", scale=None, legend=None),
        opacity=alt.value(1),
    )  # fmt: skip
    numbers = alt.Chart(alt.NamedData("numbers")).encode(
        x=alt.X("x:Q", scale=None, axis=None), y=alt.Y("y:Q", scale=None, axis=None), text="name:N"
    )
    # A rim in the colour of the ground keeps numbers legible over the dots.
    rim = numbers.mark_text(fontSize=12, fontWeight="bold", stroke=GROUND, strokeWidth=4, strokeJoin="round")
    number = numbers.mark_text(fontSize=12, fontWeight="bold", color=INK)
    return Template(framed(alt.layer(dots, rim, number).add_params(parameter("unused")), _HEIGHT, paper=paper))
