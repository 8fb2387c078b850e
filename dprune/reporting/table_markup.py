"""Tables of a comparison as HTML and Markdown: the metrics, and below them their differences to the unpruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dprune.metrics.catalogue import Measure
from dprune.metrics.differences import PAIRED, TRAININGS, UNPAIRED, Difference
from dprune.reporting import notes
from dprune.reporting.differences import BEST, NOTE
from dprune.reporting.estimates import INTERVALS, CellMean
from dprune.reporting.grouping import MISSING
from dprune.reporting.markup import escape, markdown
from dprune.reporting.tables import Table, number_text

DIFFERENCES = "Differences to the unpruned"
_KINDS = {
    TRAININGS: "t interval over trainings",
    PAIRED: "sampling error alone, noise and reference shared",
    UNPAIRED: "sampling error alone, both errors put together",
}
_APART = '<td class="apart">'
_HEADS = (
    ("Method", ""),
    ("Pruned", ""),
    ("Trainings", ""),
    ("Samplings", "sets of generated samples of each training"),
    ("N", "generated samples"),
)


def html_table(table: Table, caption: str) -> str:
    """Write the metrics as a table that scrolls inside its own frame."""
    rows = [
        [*row.names(), *(_estimate_html(e, best=(number, c) in table.best) for c, e in enumerate(row.estimates))]
        for number, row in enumerate(table.rows)
    ]
    begins = ["unpruned" if row.line.is_unpruned else row.names()[1] for row in table.rows]
    return _framed(caption, [*_HEADS, *map(_head, table.measures)], rows, begins)


def html_differences(table: Table, caption: str) -> str:
    """Write the differences to the unpruned likewise; empty where there are none."""
    if not table.differing:
        return ""
    rows = _held_rows(table, escape, _difference_html)
    return _framed(caption, _held_heads(table), rows, [row.names()[1] for row in table.held])


def _held_heads(table: Table) -> list[tuple[str, str]]:
    held_to = [("Held to", "")] if table.several_baselines else []
    return [*_HEADS[:2], *held_to, *(_head(table.measures[column]) for column in table.differing)]


def _held_rows(table: Table, label: Callable[[str], str], shown: Callable[[Difference | None], str]) -> list[list[str]]:
    """Write the rows of differences, what they are held to among their names where that is not one for all."""
    rows = []
    for row in table.held:
        assert row.baseline is not None
        held_to = [label(row.baseline.label)] if table.several_baselines else []
        rows.append([*row.names()[:2], *held_to, *(shown(row.differences[column]) for column in table.differing)])
    return rows


def _head(measure: Measure) -> tuple[str, str]:
    return f"{measure.name} {measure.arrow}".strip(), measure.note


def _framed(
    caption: str, heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], begins: Sequence[str]
) -> str:
    """Write a table of labels and cells; where `begins` changes, a rule stands above the row."""
    titles = [f' title="{escape(title)}"' if title else "" for _, title in heads]
    top = "".join(f'<th scope="col"{title}>{escape(name)}</th>' for (name, _), title in zip(heads, titles, strict=True))
    lines, previous = [], None
    for (label, *cells), begin in zip(rows, begins, strict=True):
        style = ' class="first"' if previous not in (None, begin) else ""
        previous = begin
        values = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr{style}><th scope="row">{escape(label)}</th>{values}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _missing(reason: str) -> str:
    return f'<td class="missing" title="{reason}">{MISSING}</td>'


def _estimate_html(estimate: CellMean | None, *, best: bool) -> str:
    if estimate is None:
        return _missing("not measured, or not computable from these samples")
    mean = number_text(estimate.mean)
    return f"<td>{f'<strong>{mean}</strong>' if best else mean}{_spread_html(_spread(estimate), estimate.kind)}</td>"


def _difference_html(difference: Difference | None) -> str:
    if difference is None:
        return _missing("one of the two was not measured")
    apart, kind = difference.told_apart, _KINDS.get(difference.kind, "no error is known")
    spread = _spread_html(_difference_spread(difference), f"{'' if apart else 'not '}told apart: {kind}")
    return f"{_APART if apart else '<td>'}{_difference_text(difference)}{spread}</td>"


def _spread_html(spread: str, said: str) -> str:
    return f' <span class="spread" title="{escape(said)}">{spread}</span>' if spread else ""


def _half_text(half: float | None) -> str:
    return "" if not half else f"±{half:.2g}" if half < 1e4 else f"±{half:,.0f}"


def _spread(estimate: CellMean) -> str:
    shown = _half_text(estimate.half_width)
    return shown if estimate.over_trainings or not shown else f"({shown})"


def _difference_spread(difference: Difference) -> str:
    shown = _half_text(difference.half_width)
    if difference.kind == TRAININGS or not shown:
        return shown
    return f"({shown}†)" if difference.kind == UNPAIRED else f"({shown})"


def _difference_text(difference: Difference) -> str:
    sign, star = "+" if difference.value > 0 else "", "*" if difference.told_apart else ""
    return f"{sign}{number_text(difference.value)}{star}"


def markdown_tables(tables: Sequence[Table]) -> str:
    """Write all tables of a kind below what there is to say of them."""
    said = [f"{INTERVALS} {BEST}", *notes.of_tables(tables[0].comparison)]
    return "\n".join([*(markdown(sentence) + "\n" for sentence in said), *map(markdown_table, tables)])


def markdown_table(table: Table) -> str:
    """Write the metrics, and below them their differences to the unpruned, as GitHub's Markdown."""
    title = f"### {markdown(table.comparison.title)}\n\n" if table.comparison.title else ""
    heads = [*(name for name, _ in _HEADS), *(_head(m)[0] for m in table.measures)]
    rows = []
    for number, row in enumerate(table.rows):
        cells = [*row.names()]
        for column, estimate in enumerate(row.estimates):
            mean = MISSING if estimate is None else number_text(estimate.mean)
            shown = f"**{mean}**" if (number, column) in table.best else mean
            cells.append(f"{shown} {_spread(estimate)}".strip() if estimate else shown)
        rows.append(cells)
    said = "".join(f"\n{markdown(sentence)}\n" for sentence in notes.of_lines(table.comparison))
    return f"{title}{_markdown_rows(heads, rows)}{said}{_markdown_differences(table)}"


def _markdown_differences(table: Table) -> str:
    if not table.differing:
        return ""
    heads, rows = [name for name, _ in _held_heads(table)], _held_rows(table, markdown, _difference_markdown)
    return f"\n#### {DIFFERENCES}\n\n{markdown(NOTE)}\n\n{_markdown_rows(heads, rows)}"


def _difference_markdown(difference: Difference | None) -> str:
    if difference is None:
        return MISSING
    return f"{_difference_text(difference)} {_difference_spread(difference)}".replace("*", "\\*").strip()


def _markdown_rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *([markdown(label), *cells] for label, *cells in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
