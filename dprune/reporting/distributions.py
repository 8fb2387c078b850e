"""Charts of single cells: shares of clusters and classes, nearest distances, precision over recall."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from dprune.charts.densities import density_steps
from dprune.charts.figure import Figure
from dprune.charts.shares import GroupBar, share_bars
from dprune.charts.tradeoff import precision_recall
from dprune.formats.readable import presentable
from dprune.formats.results import checked_numbers, damaged
from dprune.reporting.curves import Colours
from dprune.reporting.group_shares import GROUPS, ShareColumn, ShareTable, share_tables
from dprune.reporting.study.grouping import Cell, Comparison, Line, cell_title, ratio_text
from dprune.reporting.tables import csv_text

_SETS = {"held_out": "held-out", "train": "training"}
_HISTOGRAMS = "histograms"
_PRD_POINTS = 60


def _named(cell: Cell) -> str:
    return next((point.result.name for point in cell.points if point.result), "a result")


def share_charts(comparison: Comparison, kind: str, colours: Colours) -> list[Figure]:
    """Draw for each cell what share each cluster or class has: bars for generated, ticks for reference and training."""
    tables = share_tables(comparison, kind)
    top = max((max(_drawn(column)) for table in tables for column in table.columns), default=1.0)
    return [_share_chart(table, column, colours, top) for table in tables for column in table.columns]


def _drawn(column: ShareColumn) -> list[float]:
    return [*(mean.mean for mean in column.generated), *column.reference, *(column.training or ())]


def _share_chart(table: ShareTable, column: ShareColumn, colours: Colours, top: float) -> Figure:
    title = _title(column.line, column.cell)
    groups = [
        GroupBar(
            presentable(table.names[place]), column.generated[place].mean, column.generated[place].half_width,
            column.reference[place], column.training[place] if column.training else None,
            dotted=not column.generated[place].over_trainings,
        )
        for place in table.order
    ]  # fmt: skip
    said = presentable(f"Share of each {table.kind}, {cell_title(column.line, column.cell)}")
    return share_bars(title, said, groups, top=top, colour=colours.style(column.line).colour, of=GROUPS[table.kind])


def _title(line: Line, cell: Cell) -> str:
    return presentable(cell_title(line, cell))


def histogram_charts(comparison: Comparison, colours: Colours) -> list[Figure]:
    """Draw for each cell the nearest distances of generated samples, and those of held-out samples as a step line."""
    found = list(_histograms(comparison))
    top = max((max(max(values) for values in parts.values()) for _, _, _, parts in found), default=1.0)
    charts = []
    for line, cell, edges, parts in found:
        said = presentable(f"Distances to the nearest training sample, {cell_title(line, cell)}")
        others = {name: parts[role] for role, name in _SETS.items() if role in parts}
        colour, about = colours.style(line).colour, "distance to nearest training sample"
        title, ours = _title(line, cell), parts["generated"]
        charts.append(density_steps(title, said, edges, ours, others, top=top, colour=colour, about=about))
    return charts


def histograms_csv(comparison: Comparison) -> str:
    """Write the densities of all cells, a row for each bin."""
    rows = [
        (
            line.label,
            cell.ratio,
            begin,
            end,
            *(parts[role][n] if role in parts else None for role in ("generated", *_SETS)),
        )
        for line, cell, edges, parts in _histograms(comparison)
        for n, (begin, end) in enumerate(itertools.pairwise(edges))
    ]
    return csv_text(("line", "pruned", "begin", "end", "generated", *_SETS), rows)


def _histograms(comparison: Comparison) -> Iterator[tuple[Line, Cell, list[float], dict[str, list[float]]]]:
    """Yield densities, so that sides of different sizes lie over each other; without the empty bins at the end."""
    for line, cell in comparison.cells():
        table = cell.details("histograms")
        if not isinstance(table, dict):
            continue
        edges = checked_numbers(table.get("edges"), _named(cell), _HISTOGRAMS)
        parts = {
            role: checked_numbers(table[role], _named(cell), _HISTOGRAMS)
            for role in ("generated", *_SETS)
            if table.get(role) is not None
        }
        whole = len(edges) > 1 and all(len(values) == len(edges) - 1 for values in parts.values())
        if not whole or "generated" not in parts or any(b <= a for a, b in itertools.pairwise(edges)):
            raise damaged(_named(cell), _HISTOGRAMS)
        yield line, cell, edges, {role: _density(values, edges) for role, values in parts.items()}


def _density(counts: Sequence[float], edges: Sequence[float]) -> list[float]:
    total = sum(counts) or 1.0
    return [count / total / (b - a) for count, (a, b) in zip(counts, itertools.pairwise(edges), strict=True)]


def prd_charts(comparison: Comparison, colours: Colours) -> list[Figure]:
    """Draw precision over recall, a chart for each ratio with the curves of all methods."""
    styles, lines = colours.styles(comparison), [*comparison.unpruned, *comparison.pruned]
    curves = [(line, cell, _curve(cell)) for line, cell in comparison.cells() if cell.details("prd")]
    unpruned = {lines.index(line): curve for line, _, curve in curves if line.is_unpruned}
    ratios = sorted({ratio_text(cell.ratio) for line, cell, _ in curves if not line.is_unpruned})
    charts = []
    for ratio in ratios or ([""] if unpruned else []):
        title = f"pruned {ratio}" if ratio else "unpruned"
        pruned = {
            lines.index(line): curve
            for line, cell, curve in curves
            if not line.is_unpruned and ratio_text(cell.ratio) == ratio
        }
        charts.append(precision_recall(title, f"Precision over recall, {title}", styles, unpruned | pruned))
    return charts


def prd_csv(comparison: Comparison) -> str:
    """Write the curves of precision over recall, a row for each point."""
    rows = [
        (line.label, 0.0 if line.is_unpruned else cell.ratio, recall, precision)
        for line, cell in comparison.cells()
        if cell.details("prd")
        for precision, recall in zip(*_curve(cell), strict=True)
    ]
    return csv_text(("line", "pruned", "recall", "precision"), rows)


def _curve(cell: Cell) -> tuple[list[float], list[float]]:
    prd = cell.details("prd")
    fields = prd if isinstance(prd, dict) else {}
    precision, recall = (checked_numbers(fields.get(name), _named(cell), "curves") for name in ("precision", "recall"))
    if not precision or len(precision) != len(recall):
        raise damaged(_named(cell), "curves")
    step = max(1, len(precision) // _PRD_POINTS)
    kept = [*range(0, len(precision) - 1, step), len(precision) - 1]
    return [precision[n] for n in kept], [recall[n] for n in kept]
