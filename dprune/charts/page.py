"""Charts in a page: still pictures that a script brings to life, in one file that sends for nothing."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

from dprune.charts.figure import Figure, Rows, Template

_SNIPPET = "window.vegaEmbed = vegaEmbed;"


class PageCharts:
    """The charts of one page: each gives its markup, and all together one script."""

    def __init__(self) -> None:
        """Begin without any."""
        self._templates: list[Template] = []
        self._figures: list[Figure] = []

    def markup(self, figure: Figure) -> str:
        """Return a chart as it stands in the page: a picture that needs no script, with its title."""
        picture = f'<div role="img" aria-label="{html.escape(figure.said)}"{self._mark(figure)}>{figure.picture}</div>'
        return f'<figure class="chart"><figcaption>{html.escape(figure.title)}</figcaption>{picture}</figure>'

    def _mark(self, figure: Figure) -> str:
        if not figure.alive:
            return ""
        # By identity: one that stands in two places is told once.
        number = next((n for n, known in enumerate(self._figures) if known is figure), len(self._figures))
        if number == len(self._figures):
            self._figures.append(figure)
        return f' data-chart="{number}"'

    def _described(self, figure: Figure) -> dict[str, Any]:
        template = figure.template(paper=False)
        if template not in self._templates:
            self._templates.append(template)
        return {
            "template": self._templates.index(template), "words": figure.words, "lines": figure.lines,
            "data": {name: _table(rows) for name, rows in figure.data.items()},
        }  # fmt: skip

    def scripts(self) -> str:
        """Return what goes to the end of the page's body; empty without charts."""
        if not self._figures:
            return ""
        figures = [self._described(figure) for figure in self._figures]
        described = {"templates": [template.vega for template in self._templates], "figures": figures}
        parts = {"charts": json.dumps(described, allow_nan=False, separators=(",", ":")), "vega": _library()}
        packed = (f'<script type="text/plain" id="{name}">{_packed(text)}</script>' for name, text in parts.items())
        return f"{''.join(packed)}<script>{_glue()}</script>"

    def policy(self) -> str:
        """Return the Content-Security-Policy of the page: its own scripts run, nothing is sent for."""
        scripts = " ".join(map(_hash, (_glue(), _library()))) if self._figures else "'none'"
        return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {scripts}"


def _packed(text: str) -> str:
    """Return a text as letters that mean nothing in HTML, half as many or fewer: browsers unpack them again."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _table(rows: Rows) -> dict[str, Any]:
    """Return rows with the names of their columns told once."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {"names": names, "rows": [[_short(row.get(name)) for name in names] for row in rows]}


def _short(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


@functools.cache
def _library() -> str:
    """Return Vega and what embeds it, as one script without the calls that a strict policy forbids."""
    import vl_convert

    # In text, so that the hash in the policy is that of what a browser reads.
    return str(vl_convert.javascript_bundle(_SNIPPET))


@functools.cache
def _glue() -> str:
    return files("dprune.charts").joinpath("page.js").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
