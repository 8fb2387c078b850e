"""Tables of comparisons as HTML: rows in groups of one pruning ratio; what is the same in all of them is said once.

Several tables of the same lines stand side by side as one, so that quality and memorization can be read together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dprune.formats.readable import first_capital
from dprune.metrics.catalogue import Measure
from dprune.metrics.differences import Difference
from dprune.reporting.cell_texts import (
    COUNTS,
    KINDS,
    difference_spread,
    difference_text,
    estimate_spread,
    measure_head,
)
from dprune.reporting.coverage import Coverage, CoveredPoint
from dprune.reporting.line_table import LineTable
from dprune.reporting.markup import escape
from dprune.reporting.study.estimates import CellMean, trained_on_text
from dprune.reporting.study.grouping import MISSING, Line, ratio_title
from dprune.reporting.tables import Table, TableRow, number_text

_NARROW = 5
"""Columns of numbers for which there is room on any screen but a phone's."""

MINUS = "\N{MINUS SIGN}"

_Key = tuple[str, str]
_Head = tuple[str, str]
_Cells = list[str]


@dataclass(frozen=True)
class _Body:
    """Rows of a table as HTML.

    Attributes:
        heads: name and explanation of each column behind the lines.
        rows: line, pruning ratio (`0` for the unpruned) and cells.
        trained_on: numbers of training samples by pruning ratio.
    """

    heads: Sequence[_Head]
    rows: Sequence[tuple[Line, str, _Cells]]
    trained_on: Mapping[str, set[int]]


def html_table(tables: Sequence[Table], caption: str) -> str:
    """Write the metrics of tables side by side, in a frame that scrolls; below it what all rows have in common."""
    columns = [(table, number) for table in tables for number in _measured(table)]
    keyed = [dict(zip(map(_key, table.rows), enumerate(table.rows), strict=True)) for table in tables]
    places = {id(table): found for table, found in zip(tables, keyed, strict=True)}
    rows = _merged(tables)
    counts = [_counts(key, keyed) for key in rows]
    shown = [number for number in range(len(COUNTS)) if len({some[number] for some in counts}) > 1]
    body = []
    for (key, row), some in zip(rows.items(), counts, strict=True):
        cells = [_estimate_at(table, places[id(table)].get(key), number) for table, number in columns]
        cells += [f"<td>{some[number]}</td>" for number in shown]
        body.append((row.line, key[1], cells))
    heads = [_head(table.measures[number]) for table, number in columns] + [COUNTS[number][:2] for number in shown]
    return _framed(caption, _Body(heads, body, _trained_on(rows))) + _below(tables, counts[0], shown, _unpruned(rows))


def html_differences(tables: Sequence[Table], caption: str) -> str:
    """Write the differences from the unpruned likewise; empty where there are none."""
    columns = [(table, number) for table in tables for number in table.differing]
    if not columns:
        return ""
    held = [{_key(row): row for row in table.held} for table in tables]
    places = {id(table): found for table, found in zip(tables, held, strict=True)}
    several = any(table.several_baselines for table in tables)
    body = []
    rows = _merged(tables)
    for key, row in rows.items():
        if not any(key in found for found in held):
            continue
        baseline = next(found[key].baseline for found in held if key in found)
        cells = [f"<td>{escape(baseline.label)}</td>"] if several and baseline else []
        cells += [_difference_at(places[id(table)].get(key), number) for table, number in columns]
        body.append((row.line, key[1], cells))
    heads = [("Held to", "")] if several else []
    heads += [_head(table.measures[number]) for table, number in columns]
    return _framed(caption, _Body(heads, body, _trained_on(rows)))


def _key(row: TableRow) -> _Key:
    return row.names()[:2]


def _merged(tables: Sequence[Table]) -> dict[_Key, TableRow]:
    """Return a row of each line and ratio, by ratio, in the order of the first table and then of the others."""
    found = {_key(row): row for table in reversed(tables) for row in table.rows}
    order = {key: place for place, key in enumerate(dict.fromkeys(_key(row) for table in tables for row in table.rows))}

    def place(key: _Key) -> tuple[bool, bool, float, int]:
        row = found[key]
        return not row.line.is_unpruned, row.cell.ratio is None, row.cell.ratio or 0.0, order[key]

    # Rounded ratios that are the same make one group.
    first = {key[1]: place(key)[:3] for key in sorted(found, key=place, reverse=True)}
    return {key: found[key] for key in sorted(found, key=lambda key: (*first[key[1]], order[key]))}


def _trained_on(rows: Mapping[_Key, TableRow]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for (_, ratio, *_), row in rows.items():
        found.setdefault(ratio, set()).update(row.cell.trained_on)
    return found


def _unpruned(rows: Mapping[_Key, TableRow]) -> str:
    """Say how many samples the unpruned were trained on, of each line where these are not as many."""
    lines = {row.line.label: trained_on_text(row.cell.trained_on) for row in rows.values() if row.line.is_unpruned}
    said = {label: text for label, text in lines.items() if text}
    if len(set(said.values())) == 1:
        return f"Unpruned: {next(iter(said.values()))}."
    told = "; ".join(f"{label}: {text}" for label, text in said.items())
    return f"{first_capital(told)}." if told else ""


def _counts(key: _Key, keyed: Iterable[dict[_Key, tuple[int, TableRow]]]) -> tuple[str, ...]:
    """Return what stands behind the numbers of a row; where tables differ in it, of each of them."""
    known = [found[key][1].names()[2:] for found in keyed if key in found]
    return tuple(" / ".join(dict.fromkeys(values)) for values in zip(*known, strict=True))


def _below(tables: Sequence[Table], counts: tuple[str, ...], shown: Sequence[int], unpruned: str) -> str:
    """Say what all rows have in common, and which metrics have no number."""
    alike = [
        COUNTS[number][2](value) for number, value in enumerate(counts) if number not in shown and value != MISSING
    ]
    said = [f"Every row: {', '.join(alike)}."] if alike else []
    said += [unpruned] if unpruned else []
    lost = [table.measures[n].name for table in tables for n in range(len(table.measures)) if n not in _measured(table)]
    said += [f"Not computable from these samples: {', '.join(lost)}."] if lost else []
    return f'<p class="note">{escape(" ".join(said))}</p>' if said else ""


def _measured(table: Table) -> list[int]:
    """Return the columns that have any number."""
    return [n for n in range(len(table.measures)) if any(row.estimates[n] is not None for row in table.rows)]


def _head(measure: Measure) -> _Head:
    return measure_head(measure), measure.note


def _framed(caption: str, body: _Body) -> str:
    heads = "".join(
        f'<th scope="col"{_titled(title)}>{_unbroken(escape(name))}</th>' for name, title in (("Line", ""), *body.heads)
    )
    groups: dict[str, list[str]] = {}
    for line, ratio, cells in body.rows:
        row = f'<tr><th scope="row"{_titled(line.description)}>{escape(line.label)}</th>{"".join(cells)}</tr>'
        groups.setdefault(ratio, []).append(row)
    rows = "".join(f"<tbody>{_ratio_row(ratio, body)}{''.join(some)}</tbody>" for ratio, some in groups.items())
    css = "scroll narrow" if len(body.heads) <= _NARROW else "scroll"
    return (
        f'<div class="{css}" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>{rows}</table></div>"
    )


def _ratio_row(ratio: str, body: _Body) -> str:
    if ratio == "0":
        return ""
    said = ", ".join(filter(None, (ratio_title(ratio), trained_on_text(body.trained_on[ratio]))))
    return f'<tr class="group"><th scope="rowgroup">{said}</th><td colspan="{len(body.heads)}"></td></tr>'


def _unbroken(head: str) -> str:
    """Keep the arrow of a head from a line of its own."""
    return re.sub(" ([↓↑])$", r"&nbsp;\1", head)


def _titled(text: str) -> str:
    return f' title="{escape(text)}"' if text else ""


def _estimate_at(table: Table, place: tuple[int, TableRow] | None, column: int) -> str:
    if place is None:
        return _missing("not measured")
    number, row = place
    return _estimate(row.estimates[column], best=(number, column) in table.best)


def _estimate(estimate: CellMean | None, *, best: bool) -> str:
    if estimate is None:
        return _missing("not measured, or not computable from these samples")
    mean = number_text(estimate.mean, estimate.half_width)
    shown = f'<strong title="the best at this ratio">{mean}</strong>' if best else mean
    return f"<td>{shown}{_spread(estimate_spread(estimate), estimate.kind)}</td>"


def _difference_at(row: TableRow | None, column: int) -> str:
    difference: Difference | None = row.differences[column] if row is not None else None
    if difference is None:
        return _missing("one of the two was not measured")
    apart, kind = difference.told_apart, KINDS.get(difference.kind, "no error is known")
    spread = _spread(difference_spread(difference), f"{'' if apart else 'not '}told apart: {kind}")
    begin = '<td class="apart">' if apart else "<td>"
    return f"{begin}{difference_text(difference).replace('-', MINUS)}{spread}</td>"


def _missing(reason: str) -> str:
    return f'<td class="missing" title="{reason}">{MISSING}</td>'


def _spread(spread: str, said: str) -> str:
    return f' <span class="spread" title="{escape(said)}">{spread}</span>' if spread else ""


def html_coverage(coverage: Coverage) -> str:
    """Write how many trainings each point has, and which are missing."""
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Line", *coverage.heads))
    rows = "".join(
        f'<tr><th scope="row">{escape(line)}</th>{"".join(map(_covered, points))}</tr>'
        for line, points in coverage.rows
    )
    caption = "Trainings behind each point"
    return (
        f'<p class="note">{coverage.sentence}.</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _covered(point: CoveredPoint) -> str:
    css = ' class="gap"' if point.is_gap else "" if point.found else ' class="missing"'
    return f"<td{css}{_titled('; '.join(point.absent))}>{point.text}</td>"


def html_lines(lines: LineTable) -> str:
    """Write what the lines are, and what they all share."""
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in lines.heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(f"<td>{escape(text)}</td>" for text in texts)}</tr>'
        for label, *texts in lines.rows
    )
    shared = "".join(f"<dt>{escape(heading)}</dt><dd>{escape(text)}</dd>" for heading, text in lines.shared)
    caption = "What the lines are"
    frame = f'<div class="scroll texts" tabindex="0" role="region" aria-label="{caption}">'
    return (
        f"{frame}<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        + (f'<p class="note">Unless a line says otherwise: {escape(lines.usual)}.</p>' if lines.usual else "")
        + (f'<p class="note">All of them share:</p><dl>{shared}</dl>' if shared else "")
    )
