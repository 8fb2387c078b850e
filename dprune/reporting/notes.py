"""Sentences that stand by tables and curves: what was not averaged, and what else was drawn anew."""

from __future__ import annotations

from collections.abc import Sequence

from dprune.reporting.study.estimates import TRAININGS, units
from dprune.reporting.study.grouping import Cell, Comparison, cell_title
from dprune.reporting.study.trainings import LEVELS, drawn_anew


def of_tables(comparison: Comparison) -> list[str]:
    """Say what sets the tables of a kind apart, if there are several."""
    if not comparison.beside:
        return []
    factors = _listed(comparison.beside)
    return [f"The tables differ in {factors}: what they hold was measured differently, and is not averaged."]


def of_lines(comparison: Comparison) -> list[str]:
    """Say what of a table was sampled or measured differently, and what seeds stand behind its trainings."""
    found = []
    if comparison.apart:
        found.append(
            f"Lines that differ in {_listed(comparison.apart)} were sampled or measured differently: they stand side "
            "by side, and are not averaged."
        )
    return found + _of_seeds(comparison)


def _of_seeds(comparison: Comparison) -> list[str]:
    said: dict[str, list[str]] = {}
    for line in comparison.lines:
        cells = [cell for cell in line.cells if len(cell.nested) > 1]
        alike = len(set(map(seeds_text, cells))) == 1
        for cell in cells[:1] if alike else cells:
            said.setdefault(seeds_text(cell), []).append(line.label if alike else cell_title(line, cell))
    return [f"{'; '.join(titles)}: {text}." for text, titles in said.items() if text]


def seeds_text(cell: Cell) -> str:
    """Say what was drawn anew before the trainings of a cell, empty where nothing was."""
    trainings = tuple(cell.nested)
    counts = drawn_anew(trainings)
    if not counts:
        return ""
    shared = [f"{count:,} {LEVELS[name][1]}" for name, count in counts.items() if count < len(trainings)]
    own = [LEVELS[name][0] for name, count in counts.items() if count == len(trainings)]
    text = f"{len(trainings):,} trainings" + (f" of {_listed(shared)}" if shared else "")
    text += f", each with {_listed(own)} of its own" if own else ""
    over, _ = units(trainings)
    return text + ("" if over == TRAININGS else f"; ± is over the {over}, since trainings that share one are alike")


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
