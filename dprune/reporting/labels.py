"""Names for what sets tables of factors apart, as short as they can be."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from dprune.reporting.factors import ANY, ASIDE, COMMAND, COUNT, OWN, SOURCE, Factor, Factors

ROLES = {"train": "training", "held_out": "held-out"}
"""What people read for a role, where that is not its name."""
# Roles that every chain has.
_PLAIN = ("generated", "shards", "subset")
_LONGEST, _DIGITS, _MOST = 32, 12, 4


class Labeller:
    """Names tables by the factors in which they differ from the others."""

    def __init__(self, tables: Sequence[Factors]) -> None:
        """Find the factors that differ.

        Args:
            tables: everything that is to be told apart.
        """
        every = {factor for table in tables for factor in table}
        differing = sorted(factor for factor in every if _differs(factor, tables))
        self._tables = tables
        self._differing = [factor for factor in differing if not _is_said(factor, differing, tables)]
        self._commands: dict[str, set[str]] = defaultdict(set)
        for factor in every:
            self._commands[factor.name].add(factor.command)
        self._paths: dict[tuple[str, str], set[tuple[str | None, ...]]] = defaultdict(set)
        for factor in self._differing:
            # One step that is reached on two ways is named once.
            self._paths[factor.command, factor.name].add(tuple(table.get(factor) for table in tables))

    def name(self, table: Factors) -> str:
        """Return the differing factors of a table, with commas between them; empty where nothing differs."""
        shown = [self._say(factor, table[factor]) for factor in self._differing if table.get(factor, ANY) != ANY]
        return ", ".join(dict.fromkeys(filter(None, shown)))

    def apart(self, kind: Callable[[Factor], bool] = lambda factor: True) -> list[str]:
        """Return the differing factors of a kind, each with the values that it has."""
        found = []
        for factor in filter(kind, self._differing):
            values = sorted({table.get(factor) for table in self._tables} - {ANY}, key=_by_size)
            shown = ["none" if value is None else _shortened(factor, value) for value in values[:_MOST]]
            more = [f"{len(values) - _MOST:,} more"] if len(values) > _MOST else []
            found.append(f"{self._name(factor)} ({', '.join(shown + more)})")
        return list(dict.fromkeys(found))

    def _say(self, factor: Factor, value: str) -> str:
        if factor.name == OWN:
            return self._name(factor)
        between = " " if factor.name in (COUNT, SOURCE, COMMAND) else "="
        said = f"{self._name(factor)}{between}{_shortened(factor, value)}"
        # What a choice inside clusters has and one among all samples has not.
        return "by cluster" if factor.name == COMMAND and said == "clusters cluster" else said

    def _name(self, factor: Factor) -> str:
        roles = [role for role in factor.path if role not in _PLAIN]
        place = " ".join(roles or factor.path[-1:])
        if factor.name == OWN:
            aside = next((role for role in factor.path if role in ASIDE), place)
            return f"{aside} of the training subset"
        if factor.name == COUNT:
            return " ".join([*(ROLES.get(role, role) for role in roles), COUNT])
        if factor.name in (SOURCE, COMMAND):
            return place
        if factor.name.startswith("tag "):
            return factor.name.removeprefix("tag ")
        words = [factor.name]
        if len(self._commands[factor.name]) > 1 or len(factor.name) == 1:
            words.insert(0, factor.command)
        if len(self._paths[factor.command, factor.name]) > 1:
            words.insert(0, place)
        return " ".join(words)


def _shortened(factor: Factor, value: str) -> str:
    if factor.name == COUNT:
        return f"{int(value):,}" if value.isdecimal() else value
    whole = factor.name in (SOURCE, COMMAND) or factor.name.startswith("tag ")
    return value if whole or len(value) <= _LONGEST else value[:_DIGITS] + "\N{HORIZONTAL ELLIPSIS}"


def _by_size(value: str | None) -> tuple[float, str]:
    """Sort numbers as such, before all else."""
    try:
        return float(value or "inf"), value or ""
    except ValueError:
        return math.inf, value or ""


def _differs(factor: Factor, tables: Sequence[Factors]) -> bool:
    """Tell whether tables contradict each other; what is not known contradicts nothing."""
    return len({table.get(factor) for table in tables} - {ANY}) > 1


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
