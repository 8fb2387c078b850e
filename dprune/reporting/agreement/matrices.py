"""Each with each: how far scores rank alike, and how much methods keep in common at a pruning ratio."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from dprune.charts.figure import Figure
from dprune.charts.heatmap import HeatCell, heat_map
from dprune.formats.provenance import FINDINGS_KEY
from dprune.formats.readable import presentable
from dprune.metrics.agreement import IdBits, rank_agreements
from dprune.metrics.differences import NORMAL, finite_number
from dprune.reporting.agreement.inputs import StudyScore
from dprune.reporting.agreement.kept_sets import Choosing
from dprune.reporting.study.grouping import ratio_text
from dprune.selecting.amount import Amount
from dprune.selecting.ranking import allot, rank

MINUS = "\N{MINUS SIGN}"
ENDS = ("lowest", "highest")
USUAL_RATIO = 0.75
"""Pruning ratio at which the ends of scores are compared where no result says another."""
_MOST_SAID = 24


@dataclass(frozen=True)
class MatrixCell:
    """A number of two, or of one with itself.

    Attributes:
        value: from -1 to 1.
        weight: from -1 to 1, how far it is from what says nothing, and to which side.
        said: what it is, in words.
        csv: what its row of the CSV holds behind the two names.
        most: what noise allows it to be, None where nothing tells.
    """

    value: float
    weight: float
    said: str
    csv: tuple[object, ...]
    most: float | None = None


@dataclass(frozen=True)
class Matrix:
    """A number of each with each.

    Attributes:
        path: of its files, without their ending.
        title: what it is of.
        names: of its rows and columns.
        cells: by the numbers of row and column, the smaller first, since both orders say the same.
        ratio: share that was pruned, as it is written; empty for scores.
        chance: what two random subsets share, None where nothing tells.
        chance_half: half of the range that they are in 95% of times.
    """

    path: str
    title: str
    names: tuple[str, ...]
    cells: Mapping[tuple[int, int], MatrixCell]
    ratio: str = ""
    chance: float | None = None
    chance_half: float | None = None

    def cell(self, row: int, column: int) -> MatrixCell | None:
        """Return a cell, whichever comes first."""
        return self.cells.get((min(row, column), max(row, column)))

    @property
    def pairs(self) -> dict[tuple[int, int], MatrixCell]:
        """Cells of two that differ."""
        return {place: cell for place, cell in self.cells.items() if place[0] != place[1]}

    @property
    def extremes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The two that have most of it, and the two that have least; there is one pair or more."""
        pairs = self.pairs
        return max(pairs, key=lambda place: pairs[place].value), min(pairs, key=lambda place: pairs[place].value)

    @functools.cached_property
    def figure(self) -> Figure:
        """It as a heat map."""
        cells = {
            (row, column): HeatCell(short_text(cell.value), cell.weight, presentable(cell.said))
            for row in range(len(self.names))
            for column in range(len(self.names))
            if (cell := self.cell(row, column)) is not None
        }
        told = [f"{self.names[a]} and {self.names[b]}: {share_text(cell.value)}" for (a, b), cell in self.pairs.items()]
        said = f"{self.title}. " + ("; ".join(told) if len(told) <= _MOST_SAID else "The table below says the numbers")
        note = "" if self.chance is None else f"two random subsets share {share_text(self.chance)}"
        return heat_map(presentable(self.title), presentable(f"{said}."), [*map(presentable, self.names)], cells, note)

    def csv_rows(self) -> list[tuple[object, ...]]:
        """Return a row for each cell."""
        return [(self.names[row], self.names[column], *cell.csv) for (row, column), cell in sorted(self.cells.items())]


def share_text(value: float) -> str:
    """Write a correlation or a share, with a true minus."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", MINUS)


def short_text(value: float) -> str:
    """Write it without the zero before the point, for small squares."""
    return share_text(value).replace("0.", ".", 1)


def correlation_matrix(scores: Sequence[StudyScore]) -> Matrix | None:
    """Correlate the ranks of each two scores; beside them stands what each would be with itself scored anew.

    Returns:
        A matrix, its diagonal the reliability that scoring found; None for a single score without any.
    """
    names = tuple(score.name for score in scores)
    cells = {(number, number): cell for number, score in enumerate(scores) if (cell := _reliability(score)) is not None}
    for (one, other), found in rank_agreements([score.array.values for score in scores]).items():
        most = _most(cells.get((one, one)), cells.get((other, other)))
        allowed = "" if most is None else f"\ntheir noise allows {share_text(most)}"
        said = (
            f"{names[one]} and {names[other]}\nrank correlation {share_text(found.value)}, 95% interval "
            f"{share_text(found.low)} to {share_text(found.high)}{allowed}\n{found.count:,} samples that both scored"
        )
        csv = (found.value, found.error, found.low, found.high, found.count, most)
        cells[one, other] = MatrixCell(found.value, found.value, said, csv, most)
    return Matrix("correlations", "Rank correlation of scores", names, cells) if cells else None


def _reliability(score: StudyScore) -> MatrixCell | None:
    findings = (score.array.record or {}).get(FINDINGS_KEY, {})
    whole, half = (_number(findings.get(name)) for name in ("reliability", "split_half"))
    if whole is None or half is None:
        return None
    said = (
        f"{score.name} and itself, scored anew\nexpected rank correlation {share_text(whole)}\n"
        f"{share_text(half)} between halves of its draws"
    )
    count = int((~np.isnan(score.array.values)).sum())
    return MatrixCell(whole, whole, said, (whole, None, None, None, count, None))


def _most(one: MatrixCell | None, other: MatrixCell | None) -> float | None:
    """Return the most that two scores correlate whose noise is independent (Spearman 1904), by their reliabilities."""
    if one is None or other is None:
        return None
    return math.sqrt(max(one.value, 0) * max(other.value, 0))


def _number(value: object) -> float | None:
    """Findings are held to no shape."""
    number = finite_number(value)
    return number if number is not None and abs(number) <= 1 else None


def overlap_matrices(by_ratio: Mapping[str, Sequence[Choosing]]) -> list[Matrix]:
    """Return what each two lines keep in common at each ratio that several lines have, or one with several seeds."""
    found = []
    for ratio, choosings in by_ratio.items():
        rows = [(choosing.line.label, [kept.bits for kept in choosing.sets]) for choosing in choosings]
        if any(sets for _, sets in rows) and len(rows) > 1:
            found.append(_overlaps(ratio, choosings[0].ratio, rows))
    return found


def end_matrices(scores: Sequence[StudyScore], ratios: Sequence[float]) -> list[Matrix]:
    """Return what the lowest and the highest by each score have in common, among samples that all of them scored."""
    scored = ~np.any([np.isnan(score.array.values) for score in scores], axis=0)
    candidates = np.flatnonzero(scored)
    if len(scores) < 2 or not len(candidates):
        return []
    ranked = [rank(candidates, score.array.values, None, "lowest", 0) for score in scores]
    found = []
    for ratio in sorted({ratio_text(ratio): ratio for ratio in ratios}.values()) or [USUAL_RATIO]:
        amount, rows = Amount.parse(f"{1 - ratio:.6f}"), []
        for score, ranking in zip(scores, ranked, strict=True):
            for end in ENDS:
                kept = ranking.keep(allot(ranking.sizes, amount, end, "proportional", None), end)
                rows.append((f"{score.name}, {end}", [IdBits.of(kept)]))
        found.append(_overlaps(ratio_text(ratio), ratio, rows))
    return found


def _overlaps(ratio: str, pruned: float | None, rows: Sequence[tuple[str, Sequence[IdBits]]]) -> Matrix:
    """Compare every set of one row with every set of another; of one row, each two sets, or its single one."""
    chance = None if pruned is None else 1 - pruned
    least = min((kept.count for _, sets in rows for kept in sets), default=0)
    half = None if chance is None or not least else NORMAL * (1 - chance) * math.sqrt(chance / least)
    cells = {}
    for one, (name, ours) in enumerate(rows):
        for other, (their_name, theirs) in enumerate(rows[one:], one):
            shares = _shares(ours, theirs, alone=one == other)
            if shares:
                cells[one, other] = _overlap(fmean(shares), chance, (name, len(ours)), (their_name, len(theirs)))
    title = f"Kept in common, {'pruning ratio not known' if pruned is None else f'pruned {ratio}'}"
    path = f"overlap-{'unknown' if pruned is None else ratio}"
    return Matrix(path, title, tuple(name for name, _ in rows), cells, ratio, chance, half)


def _shares(ours: Sequence[IdBits], theirs: Sequence[IdBits], *, alone: bool) -> list[float]:
    if alone and len(ours) > 1:
        pairs = [(a, b) for number, a in enumerate(ours) for b in ours[:number]]
    else:
        pairs = [(a, b) for a in ours for b in theirs]
    return [share for a, b in pairs if (share := a.overlap(b)) is not None]


def _overlap(share: float, chance: float | None, ours: tuple[str, int], theirs: tuple[str, int]) -> MatrixCell:
    beside = "" if chance is None else f", where chance gives {share_text(chance)}"
    weight = share if chance is None else share - chance
    if chance is not None and 0 < chance < 1:
        weight /= (1 - chance) if weight > 0 else chance
    names = f"{ours[0]} and {theirs[0]}" if ours[0] != theirs[0] else f"{ours[0]}, between seeds"
    sets = "" if ours[1] * theirs[1] == 1 else f"\nmean over sets of different seeds: {ours[1]} and {theirs[1]}"
    said = f"{names}\n{share_text(share)} of what is kept{beside}{sets}"
    return MatrixCell(share, weight, said, (share, chance, ours[1], theirs[1]))
