"""The first paragraph of a report: what its numbers say, in sentences that follow from the tables."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dprune.metrics.differences import TRAININGS, Difference
from dprune.reporting.balance_texts import balance_sentences
from dprune.reporting.cautions import cautions_of
from dprune.reporting.cell_texts import spread_text, value_text
from dprune.reporting.coverage import Coverage
from dprune.reporting.group_shares import GROUPS
from dprune.reporting.study.estimates import CellMean
from dprune.reporting.study.grouping import Line
from dprune.reporting.study.training_sets import UNPRUNED
from dprune.reporting.tables import Table, TableRow, number_text
from dprune.reporting.verdicts import Verdict, ratio_of, title_of, verdicts

_NAMED = 3
# Standard errors at which a normal distribution would tell two numbers apart: if Student's t does not, trainings lack.
_OF_MANY = 2
# Ways of sampling and measuring that the paragraph speaks of, those with most points: others are only in the tables.
_MOST = 3

_Where = tuple[str, str]
"""Title of the measurement, and what sets the points that were sampled alike apart from others."""


class Statement(NamedTuple):
    """What is said of one metric.

    Attributes:
        heading: the metric's name, with what sets the measurement apart where there are several.
        sentences: the first goes on from the heading, and is enough where there is little room.
    """

    heading: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """All sentences."""
        return " ".join(self.sentences)


@dataclass(frozen=True)
class Conclusions:
    """What the tables of a report say.

    Attributes:
        tables: by their names in the report, `quality`, `shares` and `memorization`.
        coverage: which points there are.
        more: what is said beside them.
        more_cautions: what to know of that.
    """

    tables: Mapping[str, Sequence[Table]]
    coverage: Coverage
    more: tuple[Statement, ...] = ()
    more_cautions: tuple[str, ...] = ()

    @functools.cached_property
    def verdicts(self) -> list[tuple[Table, Verdict]]:
        """Every verdict with the table that it follows from."""
        return [(table, verdict) for table in self.tables.get("quality", ()) for verdict in verdicts(table)]

    @functools.cached_property
    def statements(self) -> tuple[Statement, ...]:
        """What leads in each headline metric, how far it is from the baseline, and what cannot be told apart."""
        return (*self._of_quality(), *self._of_shares(), *self._of_memorization(), *self.more)

    @functools.cached_property
    def cautions(self) -> tuple[str, ...]:
        """What a reader should know before believing it."""
        most = max((len(verdict.differences) for _, verdict in self.verdicts), default=0)
        chance = (
            f"Each metric was compared with the baseline up to {most} times: chance alone makes about {most / 20:.2g} "
            "of these seem different."
        )
        return (*cautions_of(self.tables, self.coverage), *self.more_cautions, *([chance] if most > 1 else []))

    def summary(self) -> dict[str, Any]:
        """Return all of it in what JSON can hold."""
        best: dict[str, list[dict[str, Any]]] = {}
        for table, verdict in self.verdicts:
            best.setdefault(verdict.measure.key, []).append(_as_table(table, verdict))
        said = [f"{statement.heading}: {statement.text}" for statement in self.statements]
        return {"statements": said, "cautions": [*self.cautions], "best": best}

    def _of_quality(self) -> Iterator[Statement]:
        """Speak in full of most points, in brief of smaller groups, and of the largest group of another backbone."""
        own: dict[_Where, list[Verdict]] = {}
        beside: dict[_Where, list[Verdict]] = {}
        for table, verdict in self.verdicts:
            found = beside if table.comparison.is_beside else own
            found.setdefault((table.comparison.title, verdict.group), []).append(verdict)
        shown = _largest(own)[:_MOST]
        in_full = [where for where in shown if 2 * _size(own[where]) >= _size(own[shown[0]])]
        for title, group in in_full:
            told = (title, group if [other for other, _ in in_full].count(title) > 1 else "")
            for verdict in own[title, group]:
                yield Statement(_heading(verdict.measure.name, *told), tuple(filter(None, _judged(verdict))))
        for where in (where for where in shown if where not in in_full):
            yield Statement(_held_to(own[where]) or _heading("Other lines", *where), tuple(_briefly(own[where])))
        largest = {title: (title, group) for title, group in reversed(_largest(beside))}
        others = [where for where in beside if where in largest.values()][:_MOST]
        for where in others:
            yield Statement(f"Measured with {where[0]}", tuple(_briefly(beside[where])))
        if more := len(own) + len(beside) - len(shown) - len(others):
            ways = "more ways of sampling or measuring are" if more > 1 else "more way of sampling or measuring is"
            yield Statement("Other points", (f"{more:,} {ways} in the tables alone.",))

    def _of_shares(self) -> Iterator[Statement]:
        for table in self.tables.get("shares", ())[:_MOST]:
            for kind in () if table.comparison.is_beside else GROUPS:
                if sentences := balance_sentences(table, kind):
                    yield Statement(_heading(f"Balance of {GROUPS[kind]}", table.comparison.title), sentences)

    def _of_memorization(self) -> Iterator[Statement]:
        for table in self.tables.get("memorization", ())[:_MOST]:
            if sentences := tuple(_memorized(table)):
                yield Statement(_heading("Memorization", table.comparison.title), sentences)


def _size(found: Sequence[Verdict]) -> int:
    return max(len(verdict.rivals) for verdict in found) + 1


def _largest(groups: Mapping[_Where, Sequence[Verdict]]) -> list[_Where]:
    """Return the largest groups first; equal ones stay in their order."""
    return sorted(groups, key=lambda where: -_size(groups[where]))


def _held_to(found: Sequence[Verdict]) -> str:
    """Name the baselines of a group, which tell what it is; empty where it has none."""
    rows = [row for verdict in found for row in (verdict.leader, *verdict.rivals)]
    labels = [*dict.fromkeys(row.baseline.label for row in rows if row.baseline is not None)]
    return f"Held to {'; '.join(labels)}" if labels else ""


def _heading(name: str, *where: str) -> str:
    """Name a metric, and where there are several, which measurement and which points are meant."""
    said = ", ".join(filter(None, where))
    return f"{name} ({said})" if said else name


def _judged(verdict: Verdict) -> tuple[str, ...]:
    """Return sentences, some of them empty."""
    if not verdict.rivals:
        only = f"{value_text(verdict.estimate)} for {title_of(verdict.leader)}, the only pruned point."
        return (f"{only} {_held(verdict)}".strip(),)
    return _leading(verdict), _held(verdict), _against_baseline(verdict), _by_ratio(verdict)


def _leading(verdict: Verdict) -> str:
    """Say which point is ahead, and from which it is not told apart."""
    value, title, rivals, tied = value_text(verdict.estimate), title_of(verdict.leader), verdict.rivals, verdict.tied
    if not tied:
        every = "both" if len(rivals) == 2 else f"all {len(rivals)}"
        others = title_of(rivals[0]) if len(rivals) == 1 else f"{every} other pruned points"
        return f"the best is {value} for {title}, which can be told apart from {others}."
    end = "lowest" if verdict.measure.better == "lower" else "highest"
    if len(rivals) == 1:
        return f"the {end} is {value} for {title}, which cannot be told apart from {title_of(tied[0])}."
    if len(tied) == len(rivals):
        return f"the {end} is {value} for {title}, which cannot be told apart from any other pruned point."
    return (
        f"the {end} is {value} for {title}, which cannot be told apart from {len(tied)} of the {len(rivals)} other "
        f"pruned points{_listed(tied)}."
    )


def _briefly(found: Sequence[Verdict]) -> Iterator[str]:
    """Say in a sentence for each metric which point is ahead, and how many are told apart from the baseline."""
    for verdict in found:
        best = "lowest" if verdict.measure.better == "lower" else "highest"
        tied = len(verdict.tied)
        others = f", from which {_points(tied)} cannot be told apart" if tied else ""
        ahead = f"is {best} for" if verdict.rivals else "of"
        value = f"{title_of(verdict.leader)}: {value_text(verdict.estimate)}"
        yield f"{verdict.measure.name} {ahead} {value}{others}. {_against_baseline(verdict)}".strip()


def _listed(rows: Sequence[TableRow]) -> str:
    """Name rows, the first few of many."""
    shown, more = [title_of(row) for row in rows[:_NAMED]], len(rows) - _NAMED
    return f" ({'; '.join([*shown, *([f'{more} more'] if more > 0 else [])])})"


def _held(verdict: Verdict) -> str:
    """Say how far the leader is from its baseline."""
    difference, held_to, baseline = verdict.difference, verdict.held_to, verdict.leader.baseline
    if difference is None or held_to is None or baseline is None:
        return ""
    apart = _errors(difference, is_better=(difference.value < 0) == (verdict.measure.better == "lower"))
    return f"It is {_distance(difference)} {_the(baseline)} at {value_text(held_to)}{apart}."


def _the(baseline: Line) -> str:
    return "the unpruned" if baseline.label == UNPRUNED else baseline.label


def _distance(difference: Difference) -> str:
    """Write how far below or above something is."""
    if not difference.value:
        return "no different from"
    spread = spread_text(difference.half_width, over_trainings=difference.kind == TRAININGS)
    shown = number_text(abs(difference.value), difference.half_width)
    return f"{shown}{spread} {'below' if difference.value < 0 else 'above'}"


def _errors(difference: Difference, *, is_better: bool) -> str:
    if difference.half_width is None:
        return ", and no error is known"
    if not difference.error:
        return ""
    ratio = abs(difference.value) / difference.error
    errors = f"{ratio:.1f} standard errors"
    if not difference.told_apart and ratio > _OF_MANY and difference.kind == TRAININGS:
        return f", {errors}, but too few trainings to tell the two apart"
    if not difference.told_apart:
        return f", {errors}: the two cannot be told apart"
    return f", {errors}: {'better' if is_better else 'worse'}, and the two can be told apart"


def _against_baseline(verdict: Verdict) -> str:
    """Say how many points are better or worse than their baseline."""
    compared = len(verdict.differences)
    if compared < 2:
        return ""
    baselines = {row.baseline.label: row.baseline for row in (verdict.leader, *verdict.rivals) if row.baseline}
    single = len(baselines) == 1
    one = next(iter(baselines.values()))
    baseline = ("the baseline" if one.is_named else _the(one)) if single else "their baselines"
    better, worse, even = verdict.better, verdict.worse, compared - verdict.better - verdict.worse
    if compared in (better, worse):
        every = "Both points" if compared == 2 else f"All {compared} points"
        return f"{every} are {'better' if better else 'worse'} than {baseline}."
    if compared == even:
        none = "Neither of the two points" if compared == 2 else f"None of the {compared} points"
        return f"{none} can be told apart from {baseline}."
    found = f"{_are(better)} better than {baseline}"
    if not even:
        return f"Of {compared} points, {found} and {_are(worse)} worse."
    it = "it" if single else "them"
    return f"Of {compared} points, {found}, {_are(worse)} worse and {even:,} cannot be told apart from {it}."


def _are(count: int) -> str:
    return f"{count or 'none'} {'are' if count > 1 else 'is'}"


def _by_ratio(verdict: Verdict) -> str:
    """Say what is best at each pruning ratio, where it is not what leads anyway."""
    if len({ratio_of(row) for row in (verdict.leader, *verdict.rivals)}) < 2:
        return ""
    winners = [row for row in verdict.winners if verdict.tied or row is not verdict.leader]
    return " ".join(
        f"Of those pruned {ratio_of(row)}, the best is {row.line.label} at {value_text(verdict.value(row))}, which can "
        "be told apart from the others."
        for row in winners
    )


def _memorized(table: Table) -> Iterator[str]:
    """Say how many samples repeat training samples, and how near they are beside held-out ones."""
    columns = {measure.key: number for number, measure in enumerate(table.measures)}
    if (column := columns.get("zero_count")) is not None:
        yield from _copies(_known(table, column))
    if (column := columns.get("nearest_distance_ratio")) is not None:
        yield from _nearness(_known(table, column), table.measures[column].key)


def _known(table: Table, column: int) -> list[tuple[CellMean, TableRow]]:
    return [(estimate, row) for row in table.rows if (estimate := row.estimates[column]) is not None]


def _copies(known: Sequence[tuple[CellMean, TableRow]]) -> Iterator[str]:
    copied = [(estimate.mean, row) for estimate, row in known if estimate.mean]
    if copied:
        most, row = max(copied, key=lambda pair: pair[0])
        yield (
            f"exact copies of training samples are in {len(copied)} of {_points(len(known))}, most for {title_of(row)} "
            f"({number_text(most)})."
        )
    elif known:
        yield "no generated sample is an exact copy of a training sample."


def _nearness(known: Sequence[tuple[CellMean, TableRow]], key: str) -> Iterator[str]:
    if not known:
        return
    nearest, row = min(known, key=lambda pair: pair[0].mean)
    near = sum(estimate.mean + (estimate.half_width or 0) < 1 for estimate, _ in known)
    other = row.baseline.cells[0].estimate(key) if row.baseline is not None else None
    held = f", beside {value_text(other)} of {_the(row.baseline)}" if row.baseline is not None and other else ""
    said = "The distance to the nearest training sample, over that of held-out samples, is"
    if len(known) == 1:
        yield (
            f"{said} {value_text(nearest)} for {title_of(row)}, which is {'' if near else 'not '}below 1 by more than "
            "the error: below it, generated samples are nearer than unseen ones."
        )
        return
    yield (
        f"{said} lowest for {title_of(row)}: {value_text(nearest)}{held}. Of {_points(len(known))}, {_are(near)} below "
        "1 by more than the error, where generated samples are nearer than unseen ones."
    )


def _points(count: int) -> str:
    return f"{count:,} point{'' if count == 1 else 's'}"


def _as_table(table: Table, verdict: Verdict) -> dict[str, Any]:
    estimate, difference, baseline = verdict.estimate, verdict.difference, verdict.leader.baseline
    apart = {
        "baseline": baseline.label,
        "difference": difference.value,
        "difference_error": difference.error,
        "difference_half_width": difference.half_width,
        "told_apart_from_baseline": difference.told_apart,
    } if difference is not None and baseline is not None else {}  # fmt: skip
    return {
        "measurement": ", ".join(filter(None, (table.comparison.title, verdict.group))),
        "line": verdict.leader.line.label,
        "pruned": verdict.leader.cell.ratio,
        "value": estimate.mean,
        "half_width": estimate.half_width,
        "rivals": len(verdict.rivals),
        "not_told_apart_from": [title_of(row) for row in verdict.tied],
        "comparisons_with_baseline": len(verdict.differences),
        "better": verdict.better,
        "worse": verdict.worse,
        **apart,
    }
