"""What the lines of a report are: a row for each, with all that its short name leaves out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dprune.reporting.study.grouping import Comparison, Line, ratio_text
from dprune.reporting.study.naming import USUAL

NAME, RATIOS, RESULTS = "Line", "Pruned", "Results"


@dataclass(frozen=True)
class LineTable:
    """Text that stands below tables and charts.

    Attributes:
        heads: of the columns, the name first.
        rows: of the lines, in the order in which they are shown everywhere.
        shared: headings and texts that are the same for all lines, said once instead.
        usual: what holds of each line that says nothing else.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    shared: tuple[tuple[str, str], ...]
    usual: str = ""


def line_table(comparisons: Iterable[Comparison]) -> LineTable:
    """Describe every line once, whatever was measured of it."""
    lines: dict[str, list[Line]] = {}
    for comparison in comparisons:
        for line in comparison.lines:
            lines.setdefault(line.label, []).append(line)
    about = {label: dict(found[0].about) for label, found in lines.items()}
    usual = next(filter(None, [texts.pop(USUAL, "") for texts in about.values()]), "")
    headings = dict.fromkeys(heading for texts in about.values() for heading in texts)
    shared, told = {}, []
    for heading in headings:
        texts = {texts.get(heading, "") for texts in about.values()}
        if len(texts) > 1 or len(lines) == 1:
            told.append(heading)
        elif text := texts.pop():
            shared[heading] = text
    rows = [(label, *(about[label][heading] for heading in told), *_found(lines[label])) for label in lines]
    return LineTable((NAME, *told, RATIOS, RESULTS), tuple(rows), tuple(shared.items()), usual)


def _found(lines: Iterable[Line]) -> tuple[str, str]:
    """Return the pruning ratios of a line, and how many results it has."""
    cells = [cell for line in lines for cell in line.cells]
    ratios = sorted({(cell.ratio is None, cell.ratio or 0.0) for cell in cells})
    marks = {point.mark for cell in cells for point in cell.points}
    return ", ".join(ratio_text(None if unknown else ratio) for unknown, ratio in ratios), f"{len(marks):,}"
