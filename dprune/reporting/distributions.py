"""Charts of single cells: shares of clusters and classes, nearest distances, precision over recall."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from dprune.errors import InputError
from dprune.reporting.curves import Colours
from dprune.reporting.grouping import Cell, Comparison, Line, cell_title, ratio_text
from dprune.reporting.svg import Chart, tick_text, ticks
from dprune.reporting.tables import csv_text

GROUPS = {"cluster": "clusters", "class": "classes"}
_MOST_BARS = 80
_PRD_POINTS = 120
# In pixels; a chart of precision over recall is about as high as it is wide.
_WIDTH, _HEIGHT, _SQUARE_HEIGHT = 300, 168, 290
# Room above the highest bar.
_ABOVE = 1.08


def _numbers(values: Any, name: str) -> list[float]:
    """Check a list of a result file, which anyone may have written."""
    if not isinstance(values, list) or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise InputError(f"{name}: its details are damaged: measure it again.")
    return [float(value) for value in values]


def _named(cell: Cell) -> str:
    return next((point.result.name for point in cell.points if point.result), "a result")


def share_charts(comparison: Comparison, kind: str, colours: Colours) -> list[Chart]:
    """Draw for each cell what share each cluster or class has, bars for generated and ticks for the reference."""
    found = list(_shares(comparison, kind))
    top = max((max(*ours, *theirs) for _, _, _, ours, theirs in found), default=1.0) * _ABOVE
    charts = []
    for line, cell, names, ours, theirs in found:
        order = list(range(len(ours)))
        if kind == "cluster" or len(order) > _MOST_BARS:
            order.sort(key=lambda group: -theirs[group])
        chart = Chart(cell_title(line, cell), (0.0, float(len(order))), (0.0, top), width=_WIDTH, height=_HEIGHT,
                      label=f"Share of each {kind}, {cell_title(line, cell)}")  # fmt: skip
        named = [(place + 0.5, names[group]) for place, group in enumerate(order)] if len(order) <= 12 else []
        chart.grid(named, "" if named else f"{len(order)} {GROUPS[kind]}, largest first")
        gap = 0.12 if len(order) <= _MOST_BARS else 0.0
        chart.bars([(place + gap, place + 1 - gap, ours[g]) for place, g in enumerate(order)], colours.of(line), "soft")
        chart.ticks_at([(place + gap / 2, place + 1 - gap / 2, theirs[g]) for place, g in enumerate(order)], "sk tick")
        charts.append(chart)
    return charts


def _shares(comparison: Comparison, kind: str) -> Iterator[tuple[Line, Cell, list[str], list[float], list[float]]]:
    for line, cell in comparison.cells():
        shares = cell.details("shares", kind)
        if not isinstance(shares, dict):
            continue
        ours, theirs = (_numbers(shares.get(role), _named(cell)) for role in ("generated", "reference"))
        names = [str(name) for name in shares.get("names") or range(len(ours))]
        if not ours or not len(ours) == len(theirs) == len(names):
            raise InputError(f"{_named(cell)}: its shares are damaged: measure it again.")
        yield line, cell, names, ours, theirs


def shares_csv(comparisons: Sequence[Comparison]) -> str:
    """Write all shares, a row for each cluster or class of each cell; empty where there are none."""
    lines = [
        (comparison.title, line.label, cell.ratio, kind, name, our, their)
        for comparison in comparisons
        for kind in GROUPS
        for line, cell, names, ours, theirs in _shares(comparison, kind)
        for name, our, their in zip(names, ours, theirs, strict=True)
    ]
    heads = ("measurement", "line", "pruned", "of", "group", "generated", "reference")
    return csv_text(heads, lines) if lines else ""


def histogram_charts(comparison: Comparison, colours: Colours) -> list[Chart]:
    """Draw for each cell the nearest distances of generated samples, and those of held-out samples as a step line."""
    found = list(_histograms(comparison))
    top = max((max(max(values) for values in parts.values()) for _, _, _, parts in found), default=1.0) * 1.06
    charts = []
    for line, cell, edges, parts in found:
        title = cell_title(line, cell)
        chart = Chart(title, (edges[0], edges[-1]), (0.0, top), width=_WIDTH, height=_HEIGHT,
                      label=f"Distances to the nearest training sample, {title}", margin=(30, 12, 34, 14))  # fmt: skip
        shown = [(value, tick_text(value)) for value in ticks(edges[0], edges[-1], 4)]
        chart.grid(shown, "distance to nearest training sample", y=False)
        pairs = list(itertools.pairwise(edges))
        chart.bars([(a, b, h) for (a, b), h in zip(pairs, parts["generated"], strict=True)], colours.of(line), "soft")
        for role, css in (("train", "steps thin"), ("held_out", "steps")):
            if role in parts:
                steps = [(x, h) for (a, b), h in zip(pairs, parts[role], strict=True) for x in (a, b)]
                chart.line(steps, "f" if role == "train" else "k", "2 2" if role == "train" else "", css)
        charts.append(chart)
    return charts


def _histograms(comparison: Comparison) -> Iterator[tuple[Line, Cell, list[float], dict[str, list[float]]]]:
    """Yield densities, so that sides of different sizes lie over each other; without the empty bins at the end."""
    for line, cell in comparison.cells():
        table = cell.details("histograms")
        if not isinstance(table, dict):
            continue
        edges = _numbers(table.get("edges"), _named(cell))
        parts = {role: _numbers(table[role], _named(cell)) for role in ("generated", "held_out", "train")
                 if table.get(role) is not None}  # fmt: skip
        whole = len(edges) > 1 and all(len(values) == len(edges) - 1 for values in parts.values())
        if not whole or "generated" not in parts or any(b <= a for a, b in itertools.pairwise(edges)):
            raise InputError(f"{_named(cell)}: its histograms are damaged: measure it again.")
        yield line, cell, edges, {role: _density(values, edges) for role, values in parts.items()}


def _density(counts: Sequence[float], edges: Sequence[float]) -> list[float]:
    total = sum(counts) or 1.0
    return [count / total / (b - a) for count, (a, b) in zip(counts, itertools.pairwise(edges), strict=True)]


def prd_charts(comparison: Comparison, colours: Colours) -> list[Chart]:
    """Draw precision over recall, a chart for each ratio with the curves of all methods."""
    curves = [(line, cell, *_curve(cell)) for line, cell in comparison.cells() if cell.details("prd")]
    unpruned = [entry for entry in curves if entry[0].is_unpruned]
    ratios = sorted({ratio_text(cell.ratio) for line, cell, *_ in curves if not line.is_unpruned})
    charts = []
    for ratio in ratios or ([""] if unpruned else []):
        title = f"pruned {ratio}" if ratio else "unpruned"
        chart = Chart(
            title, (0.0, 1.0), (0.0, 1.0), width=_WIDTH, height=_SQUARE_HEIGHT, label=f"Precision over recall, {title}"
        )
        shown = [(value, tick_text(value)) for value in ticks(0, 1, 4)]
        chart.grid(shown, "recall")
        for _, _, precision, recall in unpruned:
            chart.line(list(zip(recall, precision, strict=True)), "k", "7 4")
        for line, cell, precision, recall in curves:
            if not line.is_unpruned and ratio_text(cell.ratio) == ratio:
                chart.line(list(zip(recall, precision, strict=True)), colours.of(line), colours.dash(line))
        charts.append(chart)
    return charts


def _curve(cell: Cell) -> tuple[list[float], list[float]]:
    prd = cell.details("prd")
    fields = prd if isinstance(prd, dict) else {}
    precision, recall = (_numbers(fields.get(name), _named(cell)) for name in ("precision", "recall"))
    if not precision or len(precision) != len(recall):
        raise InputError(f"{_named(cell)}: its precision-recall curve is damaged: measure it again.")
    step = max(1, len(precision) // _PRD_POINTS)
    kept = [*range(0, len(precision) - 1, step), len(precision) - 1]
    return [precision[n] for n in kept], [recall[n] for n in kept]
