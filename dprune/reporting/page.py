"""The report as one HTML page: no outside requests, whole without scripts, legible in light and dark and on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from dprune.charts.figure import Figure
from dprune.charts.lines import SAMPLES, legend_markup
from dprune.charts.page import PageCharts
from dprune.charts.theme import style_sheet
from dprune.formats.images import drawn_png
from dprune.metrics.catalogue import Measure
from dprune.reporting import notes
from dprune.reporting.content import Content
from dprune.reporting.curves import interval_kinds
from dprune.reporting.differences import BEST, NOTE
from dprune.reporting.estimates import INTERVALS
from dprune.reporting.facts import describe
from dprune.reporting.grouping import Comparison
from dprune.reporting.image_grid import ImageGrid, seeds_text
from dprune.reporting.markup import escape
from dprune.reporting.table_markup import DIFFERENCES, html_differences, html_table

if TYPE_CHECKING:
    from PIL.Image import Image

_HEADINGS = {
    "quality": "Quality",
    "shares": "Balance",
    "memorization": "Memorization",
}
_CAPTIONS = {
    "quality": "Quality of generated samples by method and pruning ratio",
    "shares": "Shares of clusters and classes by method and pruning ratio",
    "memorization": "Distance of generated samples to the training set by method and pruning ratio",
}
_NOTES = {
    "quality": "Arrows point to the better end. Where real samples were measured in the same way, at the same count, "
    "their Fréchet distance is the yardstick, and the ratio says how far off one is.",
    "shares": "How generated samples spread over the clusters and classes, beside the reference. Where classes were "
    "asked for, a sample is of the class that most of its nearest reference samples have.",
    "memorization": "A generated sample that repeats a training sample is nearer to it than unseen samples are. "
    "Compare with the held-out yardstick of the same row: pruning alone moves all distances, and how many samples are "
    "authentic or flagged as copies where nothing is copied hangs on the features.",
}
_FOLDED = 12
# Charts in <details> are not needed to read the page.
_OF_CELLS = {
    "cluster": ("shares", "Share of each cluster"),
    "class": ("shares", "Share of each class"),
    "prd": ("quality", "Precision over recall"),
    "distances": ("memorization", "Distances to the nearest training sample"),
}


def render(content: Content) -> str:
    """Write the page."""
    drawn = PageCharts()
    sections = [
        (name, heading, _measures(content, name, drawn)) for name, heading in _HEADINGS.items() if content.tables(name)
    ]
    if content.grid is not None:
        sections.append(("images", "Images", _images(content.grid)))
    if content.maps:
        sections.append(("map", "Map of features", _maps(content, drawn)))
    sections.append(("measured", "What was measured", describe(content.comparisons)))
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{heading}</h2>{html}</section>' for name, heading, html in sections)
    style = files("dprune.reporting").joinpath("page.css").read_text(encoding="utf-8")
    policy = escape(drawn.policy())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(content.title)}</title>'
        f"<style>\n{style}{style_sheet()}\n</style></head>\n"
        f"<body><header><h1>{escape(content.title)}</h1>{_lead(content)}<nav><ul>{links}</ul></nav></header>\n"
        f"<main>{body}</main>\n<footer>Made by dprune report from the provenance that the results carry. The tables "
        f"and curves are beside this page as Markdown, CSV and SVG.</footer>\n{drawn.scripts()}</body></html>\n"
    )


def _lead(content: Content) -> str:
    every = [comparison for found in content.comparisons.values() for comparison in found]
    methods = len({line.label for comparison in every for line in comparison.pruned})
    ratios = len({cell.ratio for comparison in every for line in comparison.pruned for cell in line.cells})
    trainings = max((len(cell.nested) for comparison in every for _, cell in comparison.cells()), default=1)
    parts = [_count(len(content.points), "result"), _count(methods, "pruned line"), _count(ratios, "pruning ratio")]
    parts.append(f"up to {trainings} trainings each" if trainings > 1 else "one training each")
    parts += [] if content.has_unpruned else ["none of them unpruned"]
    return f'<p class="lead">{", ".join(parts)}.</p><p class="note">{INTERVALS} {BEST}</p>'


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _measures(content: Content, name: str, drawn: PageCharts) -> str:
    tables = content.tables(name)
    parts = [_note(_NOTES[name]), *map(_note, notes.of_tables(tables[0].comparison))]
    for table in tables:
        comparison = table.comparison
        if comparison.title:
            parts.append(f"<h3>Measured with {escape(comparison.title)}</h3>")
        parts += [html_table(table, _CAPTIONS[name]), *map(_note, notes.of_lines(comparison))]
        if differences := html_differences(table, f"{DIFFERENCES}: {_CAPTIONS[name]}"):
            parts += [f'<h3>{DIFFERENCES}</h3><p class="note">{NOTE}</p>', differences]
        curves = content.curves(comparison, name)
        if curves:
            parts += [_legend(comparison, content, table.measures), _charts(list(curves.values()), drawn)]
        elif all(cell.ratio is None for _, cell in comparison.cells()):
            parts.append('<p class="note">No curves: the results do not say how much was pruned.</p>')
        parts += [
            _cell_charts(_OF_CELLS[kind][1], kind, charts, comparison, content, drawn)
            for kind, charts in content.distributions(comparison).items()
            if _OF_CELLS[kind][0] == name
        ]
    return "".join(parts)


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _legend(comparison: Comparison, content: Content, measures: Sequence[Measure] = ()) -> str:
    kinds = interval_kinds(comparison, measures)
    intervals = _key(*((what, SAMPLES["dotted interval" if dotted else "interval"]) for dotted, what in kinds.items()))
    return legend_markup(content.colours.styles(comparison)) + (intervals if kinds else "")


def _charts(charts: Sequence[Figure], drawn: PageCharts, css: str = "") -> str:
    return f'<div class="charts{f" {css}" if css else ""}">{"".join(map(drawn.markup, charts))}</div>'


def _cell_charts(heading: str, kind: str, charts: Sequence[Figure], comparison: Comparison, content: Content,
                 drawn: PageCharts) -> str:  # fmt: skip
    generated = ("generated", '<span class="swatch"></span>')
    keys = {
        "prd": _legend(comparison, content),
        "distances": _key(generated, ("held-out", SAMPLES["line"]), ("training, to the rest", SAMPLES["dotted line"])),
    }
    inside = keys.get(kind, _key(generated, ("reference", SAMPLES["line"]))) + _charts(charts, drawn, "small")
    if any(sum(cell.samplings) > 1 for _, cell in comparison.cells()):
        inside = _note("Where a method has several trainings or samplings, its chart is of one of them.") + inside
    if len(charts) <= _FOLDED:
        return f"<h3>{heading}</h3>{inside}"
    return f"<details><summary>{heading} ({len(charts)} charts)</summary>{inside}</details>"


def _key(*entries: tuple[str, str]) -> str:
    return f'<ul class="legend">{"".join(f"<li>{swatch}{name}</li>" for name, swatch in entries)}</ul>'


def _picture(image: Image, said: str) -> str:
    data = base64.b64encode(drawn_png(image)).decode()
    return (
        f'<img src="data:image/png;base64,{data}" width="{image.width}" height="{image.height}" alt="{escape(said)}">'
    )


def _images(grid: ImageGrid) -> str:
    references = grid.unpruned()
    heads = [
        "<th></th>",
        *(["<th>unpruned</th>"] if references else []),
        *(f"<th>pruned {r}</th>" for r in grid.ratios),
    ]
    width, height = grid.side
    absent = f'<div class="absent" style="width:{width}px;height:{height}px">no images</div>'
    unpruned = "".join(_picture(image, line.label) + _caption(line.label, references) for line, image in references)
    rows = []
    for number, line in enumerate(grid.comparison.pruned):
        shown = ((f"{line.label}, pruned {ratio}", grid.picture(line, ratio)) for ratio in grid.ratios)
        cells = [f"<td>{_picture(image, said) if image else absent}</td>" for said, image in shown]
        if references and number == 0:
            cells.insert(0, f'<td rowspan="{len(grid.comparison.pruned)}">{unpruned}</td>')
        rows.append(f'<tr><th scope="row">{escape(line.label)}</th>{"".join(cells)}</tr>')
    rows = rows or [f"<tr><th></th><td>{unpruned}</td></tr>"]
    return (
        f'<p class="note">Every cell shows the images of the seeds {seeds_text(grid.seeds)}: what differs is the '
        f'training set.</p><div class="scroll images" tabindex="0"><table><caption>Generated images by method and '
        f"pruning ratio</caption><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _caption(label: str, references: Sequence[object]) -> str:
    return f'<p class="note">{escape(label)}</p>' if len(references) > 1 else ""


def _maps(content: Content, drawn: PageCharts) -> str:
    assert content.map_inputs is not None
    pca, clusters = content.map_inputs.projection == "pca", content.map_inputs.clusters
    how = "the first two principal components of the training features" if pca else "t-SNE"
    colours = "Colours are clusters, of generated samples that of the nearest centroid." if clusters else ""
    return f'<p class="note">By {how}. Training samples are light, generated ones framed. {colours}</p>' + _charts(
        [some.figure() for some in content.maps], drawn
    )
