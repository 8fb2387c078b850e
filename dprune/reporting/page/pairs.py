"""Pairs as HTML: the table, and below it what the models of each row made of the same noise."""

from __future__ import annotations

from collections.abc import Sequence

from dprune.reporting.image_grid import seeds_text
from dprune.reporting.markup import escape
from dprune.reporting.page.images import html_cells, html_heads
from dprune.reporting.page.word_tables import html_word_table
from dprune.reporting.pairs.findings import Pairs
from dprune.reporting.pairs.grid import PairGrid


def html_pairs(pairs: Pairs, grids: Sequence[PairGrid]) -> str:
    """Write the section."""
    shown = "".join(map(_grid, grids))
    blocks = f'<div class="blocks">{shown}</div>' if shown else ""
    meaning, *counts = (f'<p class="note">{escape(note)}</p>' for note in pairs.notes)
    return f"{meaning}{html_word_table(pairs.table)}{''.join(counts)}{blocks}"


def _grid(grid: PairGrid) -> str:
    title, captioned = escape(grid.title), not grid.heads
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{html_cells(images, grid.seeds, name, captioned=captioned)}</tr>'
        for name, images in zip(grid.names, grid.images, strict=True)
    )
    return (
        f'<div class="scroll images" tabindex="0" role="region" aria-label="Images of {title}"><table>'
        f"<caption>The first seeds: {seeds_text(grid.seeds)}</caption>"
        f"<thead><tr><td></td>{html_heads(grid.heads, grid.seeds)}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
