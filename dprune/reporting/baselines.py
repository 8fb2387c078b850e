"""What the user names as the baseline: training sets that count as unpruned, whatever their provenance says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from dprune.errors import InputError
from dprune.formats.results import KINDS
from dprune.reporting.experiments import Choice, Point
from dprune.reporting.grouping import Cell, Line, cell_title, compare


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
    if given := [point for path, point in files.items() if _is_same(path, name)]:
        return {point.choice for point in given}
    found = [
        (line, cell) for line, cell in _cells(points, folders.values()) if name in (line.label, cell_title(line, cell))
    ]
    titles = {cell_title(line, cell) for line, cell in found}
    if len(titles) > 1:
        raise InputError(
            f"--baseline {name}: is a line of {len(titles)} pruning ratios: name one, as in {min(titles)!r}."
        )
    if not found:
        every = {cell_title(line, cell) for line, cell in _cells(points, folders.values())}
        known = "; ".join(sorted(every))
        raise InputError(f"--baseline {name}: is none of the results, nor one of the lines of the report: {known}.")
    return {point.choice for _, cell in found for point in cell.points}


def _is_same(path: str, name: str) -> bool:
    return path == name or (os.path.exists(path) and os.path.exists(name) and os.path.samefile(path, name))


def _cells(points: Sequence[Point], images: Iterable[Point]) -> list[tuple[Line, Cell]]:
    kinds = [[point for point in points if point.result and point.result.kind == kind] for kind in KINDS]
    return [pair for some in (*kinds, [*images]) for comparison in compare(some) for pair in comparison.cells()]
