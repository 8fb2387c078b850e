"""Names for what sets tables of factors apart, as short as they can be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dprune.reporting.factors import ANY, ASIDE, COMMAND, OWN, SOURCE, Factor, Factors

# Roles that every chain has.
_PLAIN = ("generated", "shards", "subset")
_LONGEST, _DIGITS = 32, 12


class Labeller:
    """Names tables by the factors in which they differ from the others."""

    def __init__(self, tables: Sequence[Factors]) -> None:
        """Find the factors that differ.

        Args:
            tables: everything that is to be told apart.
        """
        every = {factor for table in tables for factor in table}
        differing = sorted(factor for factor in every if _differs(factor, tables))
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

    def _say(self, factor: Factor, value: str) -> str:
        place = " ".join([role for role in factor.path if role not in _PLAIN] or factor.path[-1:])
        if factor.name == OWN:
            aside = next((role for role in factor.path if role in ASIDE), place)
            return f"{aside} of the training subset"
        if factor.name in (SOURCE, COMMAND):
            return f"{place} {value}"
        if factor.name.startswith("tag "):
            return f"{factor.name.removeprefix('tag ')}={value}"
        words = [factor.name]
        if len(self._commands[factor.name]) > 1 or len(factor.name) == 1:
            words.insert(0, factor.command)
        if len(self._paths[factor.command, factor.name]) > 1:
            words.insert(0, place)
        return f"{' '.join(words)}={value if len(value) <= _LONGEST else value[:_DIGITS] + '…'}"


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
