"""Colours and sizes of all charts: one palette in CSS for pages, light and dark, and in plain colours for papers."""

from __future__ import annotations

import re
from typing import Any

WIDTH = 340
"""Of a chart in CSS pixels, which a PDF takes for 3.5 inches: a column of a paper, and the screen of a phone."""

PADDING = 2
"""Around a chart, in the same pixels."""

PALETTE = 8
"""Colours c0 to c7."""

# Those of Okabe and Ito, which the colour-blind can tell apart, darker or lighter for the ground that they are on.
_LIGHT = {
    "ink": "#1d2530", "faint": "#667080", "rule": "#dfe3e8", "ground": "#ffffff", "c0": "#0072b2", "c1": "#c4500a",
    "c2": "#00835c", "c3": "#b8578f", "c4": "#a87800", "c5": "#6a4fb3", "c6": "#2f8fc4", "c7": "#7a6a58",
}  # fmt: skip
_DARK = {
    "ink": "#e8ebef", "faint": "#9aa5b3", "rule": "#333c47", "ground": "#14181d", "c0": "#4ba3e3", "c1": "#f0803c",
    "c2": "#2cc194", "c3": "#e08fbd", "c4": "#e3b341", "c5": "#a994ea", "c6": "#86c8ee", "c7": "#b9a58f",
}  # fmt: skip


def colour(name: str) -> str:
    """Return a colour by its name here, as charts hold it: the style sheet of a page gives it its value."""
    return f"var(--chart-{name})"


INK, FAINT, RULE, GROUND = (colour(name) for name in ("ink", "faint", "rule", "ground"))


def style_sheet() -> str:
    """Return the colours for a page."""
    light, dark = (
        "".join(f"--chart-{name}:{value};" for name, value in colours.items()).rstrip(";")
        for colours in (_LIGHT, _DARK)
    )
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def on_paper(svg: str) -> str:
    """Return a chart with the light colours themselves, for files that no style sheet reaches."""
    return re.sub(r"var\(--chart-(\w+)\)", lambda found: _LIGHT[found[1]], svg)


def config() -> dict[str, Any]:
    """Return what Vega-Lite takes as the configuration of a chart."""
    return {
        # What a chart says to readers of screens stands beside it, once; only marks with numbers say their own.
        "mark": {"aria": False},
        "background": GROUND,
        "padding": PADDING,
        "font": "Arial, Helvetica, Liberation Sans, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "aria": False,
            "labelColor": FAINT, "titleColor": FAINT, "labelFontSize": 11, "titleFontSize": 11, "labelLimit": 0,
            "titleFontWeight": "normal", "gridColor": RULE, "domain": False, "ticks": False, "labelPadding": 5,
        },
        "axisX": {"grid": False, "domain": True, "domainColor": FAINT},
        "axisY": {"tickCount": 4},
        "title": {
            "aria": False,
            "anchor": "start", "frame": "bounds", "color": INK, "fontSize": 12.5, "fontWeight": "bold", "offset": 8,
            "subtitleColor": FAINT, "subtitleFontSize": 11, "limit": 0,
        },
        "legend": {
            "aria": False,
            "labelColor": INK, "labelFontSize": 11, "labelLimit": 0, "title": None, "orient": "bottom", "columns": 1,
            "symbolSize": 60, "rowPadding": 4, "symbolDash": [1, 0],
        },
    }  # fmt: skip
