"""Texts of other people in HTML, SVG, Markdown and CSV: they are shown, and never do anything."""

from __future__ import annotations

import html
import re

from dprune.formats.readable import presentable


def escape(text: str) -> str:
    """Return a text for HTML and SVG, inside elements and quoted attributes."""
    return html.escape(presentable(text))


def markdown(text: str) -> str:
    """Return a text that Markdown, and the HTML in it, take for no marks."""
    return html.escape(re.sub(r"([\\`*_|\[\]])", r"\\\1", presentable(" ".join(text.split()))), quote=False)


def spreadsheet(text: str) -> str:
    """Return a text that no spreadsheet runs, whatever somebody named a method."""
    shown = presentable(text)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown
