"""What the user names as the baseline: training sets that count as unpruned, whatever their provenance says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dprune.errors import InputError
from dprune.reporting.study.experiments import Choice, Point
from dprune.reporting.study.given_names import is_same
from dprune.reporting.study.grouping import Cell, Line, called_alike, cell_title, compare, compare_results, ratio_text


def named_choices(names: Sequence[str], points: Sequence[Point], folders: dict[str, Point]) -> frozenset[Choice]:
    """Find how the training sets of baselines were chosen, so that every result of such a training set can be one.

    Args:
        names: files among the results, folders of images, or labels of lines.
        points: of all results.
        folders: points of images by their path.

    Raises:
        InputError: a name is none of these, or a line with more than one pruning ratio.
    """
    return frozenset(choice for name in names for choice in _choices(name, points, folders))


def _choices(name: str, points: Sequence[Point], folders: dict[str, Point]) -> set[Choice]:
    files = {point.result.name: point for point in points if point.result} | folders
    if given := [point for path, point in files.items() if is_same(path, name)]:
        return {point.choice for point in given}
    found = [(line, cell) for line, cell in _cells(points, folders.values()) if _is_called(line, cell, name)]
    titles = {cell_title(line, cell) for line, cell in found}
    if len(titles) > 1:
        raise InputError(
            f"--baseline {name}: the line has {len(titles)} pruning ratios: name one, as in {min(titles)!r}."
        )
    if not found:
        every = {cell_title(line, cell) for line, cell in _cells(points, folders.values())}
        known = "; ".join(sorted(every))
        raise InputError(f"--baseline {name}: is neither a result nor a line of the report: {known}.")
    return {point.choice for _, cell in found for point in cell.points}


def _cells(points: Sequence[Point], images: Iterable[Point]) -> list[tuple[Line, Cell]]:
    found = [comparison for some in compare_results(points).values() for comparison in some]
    found += [called_alike(comparison, found) for comparison in compare(images)]
    return [pair for comparison in found for pair in comparison.cells()]


def _is_called(line: Line, cell: Cell, name: str) -> bool:
    # Without the word, as reports said once.
    return name in (line.label, cell_title(line, cell), f"{line.label}, {ratio_text(cell.ratio)}")
