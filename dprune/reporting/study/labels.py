"""Names for what sets tables of factors apart, as short as they can be."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import combinations
from operator import or_

from dprune.formats.provenance import DRAWING
from dprune.reporting.study.factors import ANY, COMMAND, COUNT, OWN, SOURCE, Factor, Factors
from dprune.reporting.study.wording import is_model, is_of_drawing, noun, phrase, shortened

_MOST = 4
# What is said rather than another factor that tells the same apart, the best first.
_PREFERRED = {SOURCE: 4, OWN: 3, COMMAND: 2, COUNT: 1, "network kind": -1, "unconditional": -1}


class Labeller:
    """Names tables by the factors in which they differ from the others.

    Attributes:
        differing: every factor in which any two tables contradict each other.
        needed: as few of these as tell apart all that the differing ones do.
    """

    def __init__(self, tables: Sequence[Factors]) -> None:
        """Find the factors that differ.

        Args:
            tables: everything that is to be told apart.
        """
        every = {factor for table in tables for factor in table}
        apart = {factor: _pairs_apart(factor, tables) for factor in sorted(every)}
        differing = [factor for factor, pairs in apart.items() if pairs]
        self.differing = [factor for factor in differing if not _is_said(factor, differing, tables)]
        self.needed = _fewest({factor: apart[factor] for factor in self.differing})
        self._tables = tables
        self._commands: dict[str, set[str]] = defaultdict(set)
        for factor in every:
            self._commands[factor.name].add(factor.command)
        self._paths: dict[tuple[str, str], set[tuple[str | None, ...]]] = defaultdict(set)
        for factor in self.differing:
            # One step that is reached on two ways is named once.
            self._paths[factor.command, factor.name].add(tuple(table.get(factor) for table in tables))

    def name(self, table: Factors, factors: Iterable[Factor] | None = None) -> str:
        """Return what a table says of the needed factors, or of others, with commas between; empty for nothing."""
        chosen = self.needed if factors is None else factors
        shown = [phrase(factor, table[factor], **self._doubts(factor)) for factor in chosen if table.get(factor, ANY)]
        return ", ".join(dict.fromkeys(filter(None, shown)))

    def apart(self, kind: Callable[[Factor], bool] = lambda factor: True) -> list[str]:
        """Return the differing factors of a kind, each with the values that it has."""
        found = []
        for factor in filter(kind, self.differing):
            values = sorted({table.get(factor) for table in self._tables} - {ANY}, key=_by_size)
            shown = ["none" if value is None else shortened(factor, value) for value in values[:_MOST]]
            more = [f"{len(values) - _MOST:,} more"] if len(values) > _MOST else []
            found.append(_with_values(noun(factor, **self._doubts(factor)), [*shown, *more]))
        return list(dict.fromkeys(found))

    def _doubts(self, factor: Factor) -> dict[str, bool]:
        """Tell what else must be said of a factor, or another could be meant."""
        return {
            "of_command": len(self._commands[factor.name]) > 1,
            "of_place": len(self._paths[factor.command, factor.name]) > 1,
            "of_value": len({table[factor] for table in self._tables if factor in table} - {ANY}) > 1,
        }


def _with_values(name: str, values: Sequence[str]) -> str:
    """Add values in brackets, to those that are there where an option is named in them."""
    said = ", ".join(values)
    return f"{name.removesuffix(')')}: {said})" if name.endswith(")") else f"{name} ({said})"


def _by_size(value: str | None) -> tuple[float, str]:
    """Sort numbers as such, before all else."""
    try:
        return float(value or "inf"), value or ""
    except ValueError:
        return math.inf, value or ""


def _pairs_apart(factor: Factor, tables: Sequence[Factors]) -> int:
    """Return which pairs of tables contradict each other, a bit for each; what is not known contradicts nothing."""
    values = [table.get(factor) for table in tables]
    if len(set(values) - {ANY}) < 2:
        return 0
    apart = (one != other and ANY not in (one, other) for one, other in combinations(values, 2))
    return sum(1 << number for number, is_apart in enumerate(apart) if is_apart)


def _fewest(apart: dict[Factor, int]) -> list[Factor]:
    """Return as few factors as tell the same pairs apart: those that are worst to read are left out first.

    The kind of model is never left out: it says more than any of its options.
    """
    kept = dict(apart)
    for factor in sorted((f for f in apart if not is_model(f)), key=_worst_first, reverse=True):
        others = reduce(or_, (pairs for other, pairs in kept.items() if other != factor), 0)
        if not apart[factor] & ~others:
            del kept[factor]
    return list(kept)


def _worst_first(factor: Factor) -> tuple[bool, bool, int, int, Factor]:
    # Whoever gave a tag meant it to be read. How weights were made says less than that there were any.
    told = factor.path[-1:] in [(role,) for role in DRAWING] and factor.name in (COMMAND, SOURCE)
    first = factor.name.startswith("tag ") or told
    return not first, is_of_drawing(factor), _PREFERRED.get(factor.name, 0), len(factor.path), factor


def _is_said(factor: Factor, differing: Sequence[Factor], tables: Sequence[Factors]) -> bool:
    """Tell whether a factor says no more than that the step which it belongs to, or one after that, was made at all."""
    if len({table[factor] for table in tables if factor in table}) > 1:
        return False
    return any(
        step.name == COMMAND
        and step != factor
        and factor.path[: len(step.path)] == step.path
        and all((step in table) == (factor in table) for table in tables)
        for step in differing
    )
