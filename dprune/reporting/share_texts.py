"""Shares of clusters and classes in tables of words: generated beside training, a column for each line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dprune.reporting.cell_texts import estimate_spread
from dprune.reporting.group_shares import GROUPS, ShareColumn, ShareTable, share_tables
from dprune.reporting.study.estimates import CellMean
from dprune.reporting.study.grouping import Comparison, cell_title, ratio_text
from dprune.reporting.tables import number_text
from dprune.reporting.word_tables import WordTable, markdown_word_table

HEADING = "Shares of each group"
NOTE = (
    "In percent, what each line generated, beside what it was trained on where that is known, and the reference. A "
    "model that forgets rare groups gives less of them than its training set holds."
)
_MOST_COLUMNS = 6
"""Lines that stand in one table at all ratios; where there are more, each ratio has a table."""
_MOST_ROWS = 40


def share_word_tables(comparison: Comparison) -> list[WordTable]:
    """Return the tables of a comparison, none where its results hold no shares."""
    found = [table for kind in GROUPS for table in share_tables(comparison, kind)]
    # Of several clusterings each has groups of its own.
    kinds = [table.kind for table in found]
    many = [kinds.count(kind) > 1 for kind in kinds]
    return [
        _word_table(table, columns, _caption(table, ratio, kinds[: place + 1].count(table.kind) if many[place] else 0))
        for place, table in enumerate(found)
        for ratio, columns in _blocks(table)
    ]


def markdown_shares(comparisons: Sequence[Comparison]) -> str:
    """Write the tables of all comparisons as Markdown, empty where there are none."""
    tables = [table for comparison in comparisons for table in share_word_tables(comparison)]
    return f"## {HEADING}\n\n{NOTE}\n\n" + "\n".join(map(markdown_word_table, tables)) if tables else ""


def _blocks(table: ShareTable) -> Iterator[tuple[str, list[ShareColumn]]]:
    """Yield the columns that stand side by side: all of few, else those of one ratio with the unpruned."""
    unpruned = [column for column in table.columns if column.line.is_unpruned]
    pruned = [column for column in table.columns if not column.line.is_unpruned]
    if len(table.columns) <= _MOST_COLUMNS or not pruned:
        ratios = _ratios(table.columns)
        yield ratios[0] if len(ratios) == 1 else "", [*table.columns]
        return
    for ratio in sorted(_ratios(pruned), key=lambda text: (not text[0].isdecimal(), text)):
        yield ratio, [*unpruned, *(column for column in pruned if ratio_text(column.cell.ratio) == ratio)]


def _ratios(columns: Sequence[ShareColumn]) -> list[str]:
    """Return the pruning ratios of what was pruned, each once."""
    return list(dict.fromkeys(ratio_text(some.cell.ratio) for some in columns if not some.line.is_unpruned))


def _caption(table: ShareTable, ratio: str, number: int) -> str:
    clustering = f", clustering {number}" if number else ""
    pruned = f", pruned {ratio}" if ratio else ""
    title = f", measured with {table.comparison.title}" if table.comparison.title else ""
    return f"Share of each {table.kind} in %{clustering}{pruned}{title}"


def _word_table(table: ShareTable, columns: Sequence[ShareColumn], caption: str) -> WordTable:
    heads = [table.kind.capitalize(), *(["Reference"] if table.reference else [])]
    single = len(_ratios(columns)) < 2
    for column in columns:
        # What all have in common stands in the caption.
        title = column.line.label if single else cell_title(column.line, column.cell)
        heads += [f"{title}: trained on"] if column.training else []
        heads.append(f"{title}: generated" if column.training else title)
    order, cut = table.order, len(table.order) > _MOST_ROWS
    shown = [*order[: _MOST_ROWS // 2], *order[-_MOST_ROWS // 2 :]] if cut else order
    rows = [("", _row(table, columns, place)) for place in shown]
    if cut:
        more = f"{len(order) - _MOST_ROWS:,} more in shares-by-group.csv"
        rows.insert(_MOST_ROWS // 2, ("", (more, *[""] * (len(heads) - 1))))
    return WordTable(caption, tuple(heads), tuple(rows))


def _row(table: ShareTable, columns: Sequence[ShareColumn], place: int) -> tuple[str, ...]:
    cells = [table.names[place]]
    if table.reference:
        cells.append(_percent(table.reference[place]))
    for column in columns:
        mean = column.generated[place]
        cells += [_percent(column.training[place])] if column.training else []
        shown = number_text(100 * mean.mean, 100 * mean.half_width) if mean.half_width else _percent(mean.mean)
        cells.append(" ".join(filter(None, (shown, estimate_spread(_scaled(mean))))))
    return tuple(cells)


def _percent(share: float) -> str:
    """Write a share that has no error of its own: with one decimal, below one percent with two digits that count."""
    return f"{100 * share:.1f}" if share >= 0.01 or not share else f"{100 * share:.2g}"


def _scaled(mean: CellMean) -> CellMean:
    half = None if mean.half_width is None else 100 * mean.half_width
    return CellMean(100 * mean.mean, mean.error, half, mean.over, mean.units, mean.samplings)
