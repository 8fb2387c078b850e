"""A chart: a template that Vega has compiled, with the data and the words of one case; and its files."""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dprune.charts.still import still_picture
from dprune.charts.theme import config, on_paper

if TYPE_CHECKING:
    import altair as alt

Rows = Sequence[Mapping[str, Any]]

FORMATS = ("svg", "png", "pdf")
"""Of files for papers."""
# Pixels of a PNG for each of a chart's: 3.5 inches come to 1,360, about 390 an inch.
_SCALE = 4.0
# Letters of the title that a line of the width of a chart holds.
_TITLE_LETTERS = 46
_RESOURCES = re.compile(rb"(?:^ +/(?:gs|xo|fo|cs|sh|pt)\d+ \d+ 0 R\n){2,}", re.MULTILINE)


class Template:
    """What all charts of one kind share: Vega compiles it once, and each of them fills in its data and its words."""

    def __init__(self, chart: alt.LayerChart | alt.Chart | alt.VConcatChart) -> None:
        """Compile a chart whose data sets have names, and whose parameters have values that stand for none."""
        import vl_convert

        self.vega: dict[str, Any] = vl_convert.vegalite_to_vega(chart.to_dict() | {"config": config()})
        if "subtitle" in (title := self.vega.get("title", {})):
            # Altair takes no expression here, but Vega does.
            title["subtitle"] = {"signal": "note"}
        for legend in self.vega.get("legends", []):
            if "shape" in legend:
                # Dashes would be drawn around the marks.
                legend.pop("strokeDash", None)

    def filled(self, words: Mapping[str, Any], data: Mapping[str, Rows]) -> dict[str, Any]:
        """Return the Vega description of one chart."""
        signals = [{**s, "value": words[s["name"]]} if s["name"] in words else s for s in self.vega["signals"]]
        filled = [{**d, "values": list(data[d["name"]])} if d["name"] in data else d for d in self.vega["data"]]
        return {**self.vega, "signals": signals, "data": filled}


@dataclass(frozen=True)
class Figure:
    """One chart.

    Attributes:
        title: above it.
        said: what readers of screens are told.
        template: makes the one for pages, where title and legend stand beside it in HTML, or `paper=True` that for
            files, with both in it.
        data: rows by the name of their data set.
        words: values of parameters, by name.
        lines: names of the lines that it shows, in the order of their numbers; empty where it has no lines.
        note: in small print below the title of a file.
        alive: whether it says more when pointed at.
    """

    title: str
    said: str
    template: Callable[..., Template]
    data: Mapping[str, Rows]
    words: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    note: str = ""
    alive: bool = True

    @functools.cached_property
    def picture(self) -> str:
        """It as SVG with the colours of the page around it."""
        return still_picture(self.template(paper=False).filled(self.words, self.data))

    def on_paper(self, kind: str) -> bytes:
        """Return it as a file: `svg`, `png` or `pdf`."""
        import vl_convert

        heading = {"heading": textwrap.wrap(self.title, _TITLE_LETTERS) or "", "note": self.note}
        drawn = on_paper(still_picture(self.template(paper=True).filled({**self.words, **heading}, self.data)))
        if kind == "png":
            return bytes(vl_convert.svg_to_png(drawn, scale=_SCALE))
        if kind == "pdf":
            # One face of one font: of two, the order in the file changes from run to run.
            return _sorted_names(vl_convert.svg_to_pdf(drawn.replace(' font-weight="bold"', "")))
        return (drawn + "\n").encode()


def _sorted_names(pdf: bytes) -> bytes:
    """Put the lines of each dictionary of resources in order, which is another from run to run; no offset changes."""
    return _RESOURCES.sub(lambda found: b"".join(sorted(found[0].splitlines(keepends=True))), pdf)
