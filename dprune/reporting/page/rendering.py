"""The report as one HTML page: no outside requests, legible without scripts, light and dark, on a phone and on paper.

What most readers want stands on top: what the numbers say in words, a few metrics as curves and as one table. All else
is folded below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from dprune.charts.page import PageCharts
from dprune.charts.theme import style_sheet
from dprune.reporting import notes
from dprune.reporting.cell_texts import differences_title
from dprune.reporting.conclusions_markup import html_conclusions
from dprune.reporting.content import Content
from dprune.reporting.headlines import headline_tables
from dprune.reporting.markup import escape
from dprune.reporting.page.agreement import html_agreement
from dprune.reporting.page.charts import html_cell_charts, html_charts, html_curves
from dprune.reporting.page.facts import describe
from dprune.reporting.page.images import html_images, html_pictures
from dprune.reporting.page.loss_gaps import html_loss_gaps
from dprune.reporting.page.pairs import html_pairs
from dprune.reporting.page.shares import html_shares
from dprune.reporting.page.tables import html_coverage, html_differences, html_lines, html_table
from dprune.reporting.study.differences import BEST, NOTE
from dprune.reporting.study.estimates import INTERVALS
from dprune.reporting.tables import Table

_HEADINGS = {"quality": "Quality", "shares": "Balance", "memorization": "Memorization"}
_LINKS = _HEADINGS | {"lines": "Lines", "map": "Map", "agreement": "Agreement", "pairs": "Pairs",
                      "loss-gap": "Loss gap"}  # fmt: skip
_OPEN = ("results", "trainings", "agreement", "images", "pairs", "loss-gap", "pictures", "map")
"""Sections that are not folded."""
_CAPTIONS = {
    "quality": "Quality of generated samples by method and pruning ratio",
    "shares": "Shares of clusters and classes by method and pruning ratio",
    "memorization": "Distance of generated samples to the training set by method and pruning ratio",
}
_RESULTS = "The main metrics by method and pruning ratio"
_NOTES = {
    "quality": "Arrows point to the better end. Where real samples were measured in the same way, at the same count, "
    "their Fréchet distance is the baseline, and the ratio says how far off one is.",
    "shares": "How generated samples spread over the clusters and classes, beside the reference. Where classes were "
    "asked for, a sample is of the class that most of its nearest reference samples have.",
    "memorization": "A generated sample that repeats a training sample is nearer to it than unseen samples are. "
    "Compare with the held-out samples of the same row: pruning alone moves all distances, and how many samples are "
    "authentic or flagged as copies where nothing is copied depends on the features.",
}


def render(content: Content) -> str:
    """Write the page."""
    drawn = PageCharts()
    sections = [("results", "Results", _results(content, drawn))] if content.points else []
    if content.coverage.is_shown:
        sections.append(("trainings", "Trainings", html_coverage(content.coverage)))
    if content.points:
        sections.append(("lines", "What the lines are", html_lines(content.lines)))
    measured = [name for name in _HEADINGS if content.tables(name)]
    sections += [(name, f"{_HEADINGS[name]}: all metrics", _measures(content, name, drawn)) for name in measured]
    if content.agreement is not None:
        sections.append(("agreement", "Agreement of scores", html_agreement(content.agreement, drawn)))
    if content.grid is not None:
        sections.append(("images", "Images", html_images(content.grid)))
    if content.pairs is not None:
        sections.append(("pairs", "Pairs of the same seeds", html_pairs(content.pairs, content.pair_grids)))
    if content.loss_gaps is not None:
        html = html_loss_gaps(content.loss_gaps, content.colours, drawn)
        sections.append(("loss-gap", "Loss gap by noise level", html))
    if content.pictures:
        sections.append(("pictures", "Pictures", html_pictures(content.pictures)))
    if content.maps:
        sections.append(("map", "Map of features", _maps(content, drawn)))
    if content.points:
        sections.append(("measured", "How it was made", describe(content.comparisons)))
    links = "".join(f'<li><a href="#{name}">{_LINKS.get(name, head)}</a></li>' for name, head, _ in sections)
    body = html_conclusions(content.conclusions) + "".join(_section(*section) for section in sections)
    style = files("dprune.reporting.page").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(drawn.policy())}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(content.title)}</title>'
        f"<style>\n{style}{style_sheet()}\n</style></head>\n"
        f"<body><header><h1>{escape(content.title)}</h1>{_lead(content)}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main>{body}</main>\n'
        "<footer>Made by dprune report from the provenance that the results carry. The tables are beside this page "
        'as Markdown and CSV, and the numbers of the charts as CSV; with <span class="option">--format</span>, the '
        "charts are, too.</footer>\n"
        f"{drawn.scripts()}</body></html>\n"
    )


def _section(name: str, heading: str, html: str) -> str:
    """Write a section; a link to what is inside a folded one unfolds it."""
    if name in _OPEN:
        return f'<section id="{name}"><h2>{heading}</h2>{html}</section>'
    return (
        f'<section><details class="more"><summary><h2>{heading}</h2></summary><div id="{name}">{html}</div>'
        "</details></section>"
    )


def _lead(content: Content) -> str:
    pairs = [f"{_count(len(content.pairs.rows), 'pair')} of models"] if content.pairs else []
    gaps = [f"{_count(len(content.loss_gaps.results), 'result')} of losses"] if content.loss_gaps else []
    if not content.points:
        return f'<p class="lead">{", ".join([*pairs, *gaps])}.</p>'
    every = [comparison for found in content.comparisons.values() for comparison in found]
    methods = len({line.label for comparison in every for line in comparison.pruned})
    ratios = len({cell.ratio for comparison in every for line in comparison.pruned for cell in line.cells})
    trainings = max((len(cell.nested) for comparison in every for _, cell in comparison.cells()), default=1)
    parts = [_count(len(content.points), "result"), _count(methods, "pruned line"), _count(ratios, "pruning ratio")]
    parts.append(f"up to {trainings} trainings each" if trainings > 1 else "one training each")
    parts += [] if content.has_unpruned else ["none of them unpruned"]
    parts += [*pairs, *gaps]
    return f'<p class="lead">{", ".join(parts)}.</p>'


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _results(content: Content, drawn: PageCharts) -> str:
    """Write what stands on top: curves and tables of a few metrics."""
    parts = []
    for tables in headline_tables(content.comparisons):
        html = html_curves(content, tables, drawn) + html_table(tables, _RESULTS) + _differences(tables, _RESULTS)
        if tables[0].comparison.is_beside:
            title = f"Measured with {escape(tables[0].comparison.title)}"
            parts.append(f"<details><summary>{title}</summary>{html}</details>")
        else:
            parts.append(_measured_with(tables[0]) + html)
    how = f'<details><summary>What ± and bold mean</summary><p class="note">{INTERVALS} {BEST}</p></details>'
    return "".join(parts) + how


def _measures(content: Content, name: str, drawn: PageCharts) -> str:
    """Write all there is of one kind of metrics."""
    tables = content.tables(name)
    parts = [_note(_NOTES[name]), *map(_note, notes.of_tables(tables[0].comparison))]
    for table in tables:
        comparison = table.comparison
        parts += [_measured_with(table), html_table([table], _CAPTIONS[name]), *map(_note, notes.of_lines(comparison))]
        parts.append(_differences([table], _CAPTIONS[name]))
        curves = html_curves(content, [table], drawn)
        if not curves and all(cell.ratio is None for _, cell in comparison.cells()):
            curves = _note("No curves: the results do not say how much was pruned.")
        parts.append(curves)
        parts += [html_shares(comparison)] if name == "shares" else []
        parts.append(html_cell_charts(content, comparison, name, drawn))
    return "".join(parts)


def _measured_with(table: Table) -> str:
    return f"<h3>Measured with {escape(table.comparison.title)}</h3>" if table.comparison.title else ""


def _differences(tables: Sequence[Table], caption: str) -> str:
    title = differences_title(tables)
    table = html_differences(tables, f"{title}: {caption}")
    return f'<details><summary>{title}</summary><p class="note">{NOTE}</p>{table}</details>' if table else ""


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _maps(content: Content, drawn: PageCharts) -> str:
    assert content.map_inputs is not None
    pca, clusters = content.map_inputs.projection == "pca", content.map_inputs.clusters
    how = "the first two principal components of the training features" if pca else "t-SNE"
    colours = (
        "Colours are clusters; a generated sample has that of the nearest centroid. Rare clusters lie on top, and the "
        "number of each stands in the middle of its training samples, unless there are too many."
    )
    said = f"The map shows {how}. Training samples are light, generated ones framed. {colours if clusters else ''}"
    return f'<p class="note">{said}</p>{html_charts([some.figure() for some in content.maps], drawn)}'
