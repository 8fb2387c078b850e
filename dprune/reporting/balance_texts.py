"""What a report says in words of shares: whether they follow the training set, and how the rarest group fares."""

from __future__ import annotations

from collections.abc import Sequence

from dprune.formats.readable import first_capital
from dprune.reporting.cell_texts import value_text
from dprune.reporting.group_shares import GROUPS
from dprune.reporting.study.estimates import CellMean
from dprune.reporting.tables import Table, TableRow
from dprune.reporting.verdicts import title_of

_FEW = 4
"""Points that are all named."""

_Known = Sequence[tuple[CellMean, TableRow]]


def balance_sentences(table: Table, kind: str) -> tuple[str, ...]:
    """Return sentences on clusters or classes, none where no result knows its training set.

    Args:
        table: of shares.
        kind: `cluster` or `class`.
    """
    columns = {measure.key: number for number, measure in enumerate(table.measures)}

    def known(key: str) -> _Known:
        """The estimates of one of the measures, each with its row."""
        column = columns.get(f"{kind}_{key}")
        rows = table.rows if column is not None else ()
        return [(estimate, row) for row in rows if (estimate := row.estimates[column or 0]) is not None]

    slopes, apart = known("training_slope"), known("training_variation")
    if not apart:
        return ()
    flat = [(estimate, row) for estimate, row in apart if row not in [other for _, other in slopes]]
    found = [*filter(None, (_slopes(slopes, kind), _flat(flat, kind), _rarest(known("smallest_share"), kind)))]
    # The first goes on from its heading.
    return (found[0], *map(first_capital, found[1:]))


def _slopes(known: _Known, kind: str) -> str:
    if not known:
        return ""
    said = f"the slope of generated {kind} shares over those of the training set, 1 where a model follows it, is"
    return f"{said} {_told(known)}."


def _flat(known: _Known, kind: str) -> str:
    if not known:
        return ""
    said = f"of what was trained on as many samples of each {kind}, generated shares differ from equal ones by"
    return f"{said} {_told(known)} (total variation)."


def _rarest(known: _Known, kind: str) -> str:
    """Say in which points the group with the fewest generated samples has most and least."""
    if len(known) < 2:
        return ""
    (low, last), (high, first) = (choose(known, key=lambda pair: pair[0].mean) for choose in (min, max))
    return (
        f"of all {GROUPS[kind]}, the one that is generated least has the largest share for {title_of(first)}, "
        f"{value_text(high)}, and the smallest for {title_of(last)}, {value_text(low)}."
    )


def _told(known: _Known) -> str:
    """Name all of few points with their values, and of many the ends."""
    ordered = sorted(known, key=lambda pair: pair[0].mean)
    shown = ordered if len(ordered) <= _FEW else [ordered[0], ordered[-1]]
    texts = [f"{value_text(estimate)} for {title_of(row)}" for estimate, row in shown]
    return "; ".join(texts) if len(ordered) <= _FEW else f"from {texts[0]} to {texts[1]}"
