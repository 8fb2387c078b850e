"""How far an output is as text for people: plain lines, or a table for a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dprune.formats.readable import clock, presentable, readable, speed
from dprune.inspecting.rendering import aligned, tabled
from dprune.watching.folders import processes
from dprune.watching.standing import COMPLETE, DAMAGED, FOLDS, NONE, UNFINISHED, Missing, Standing

MOST_NAMES = 5
MOST_LIST = 80
"""Characters of a list for `--array=`; `--array` alone prints it whole."""
_COLOURS = {COMPLETE: "green", UNFINISHED: "yellow"}

_UNKNOWN = {NONE: "nothing", DAMAGED: "something", UNFINISHED: "about to begin", COMPLETE: "something"}


class _Row(NamedTuple):
    title: str
    text: str
    style: str = ""


def plain_standing(standing: Standing) -> str:
    """Write a standing as lines."""
    rows = [(row.title, presentable(row.text)) for row in _rows(standing)]
    return "\n".join([f"{presentable(standing.name)}: {_title(standing)}", *aligned(rows)])


def shown_standing(standing: Standing, width: int) -> str:
    """Write a standing as a table with the escapes that colour it, for a terminal of so many columns."""
    rows = [(row.title, presentable(row.text), row.style) for row in _rows(standing)]
    return tabled(presentable(standing.name), _title(standing), rows, width)


def _title(standing: Standing) -> str:
    by = f" by dprune {standing.command}" if standing.command else ""
    return presentable(f"{_UNKNOWN[standing.state] if standing.kind == 'unknown' else standing.kind}{by}")


def _rows(standing: Standing) -> Iterator[_Row]:
    yield _Row("state", standing.state, _COLOURS.get(standing.state, "bold red"))
    yield from _pieces(standing)
    yield from _facts(standing)
    if standing.undecodable:
        yield _Row("undecodable", _undecodable(standing), "yellow")
    if standing.at_work:
        yield _Row("at work", _processes(standing))
    if standing.pace is not None:
        yield _Row("pace", _pace(standing))
    if standing.rerun:
        yield _Row("a rerun", standing.rerun)
    for problem in standing.problems:
        yield _Row("problem", problem, "bold red")


def _pieces(standing: Standing) -> Iterator[_Row]:
    if standing.tally is None:
        return
    unit, done, total = standing.tally
    # Rounded down: what is not all is never 100%.
    share = f" ({1000 * done // total / 10:g}%)" if total and done < total else ""
    yield _Row(unit, f"{done:,}" if total is None else f"{done:,} of {total:,}{share}")
    if standing.missing:
        yield _Row("missing", _names(standing.missing))
    if standing.missing and (array := standing.array):
        cut = array[:MOST_LIST].rpartition(",")[0]
        yield _Row("array", array if len(array) <= MOST_LIST else f"{cut},… (--array prints all)")


def _names(missing: Sequence[Missing]) -> str:
    shown = [f"{piece.name} ({piece.reason})" if piece.reason else piece.name for piece in missing[:MOST_NAMES]]
    more = len(missing) - len(shown)
    reasons = Counter(piece.reason for piece in missing[MOST_NAMES:] if piece.reason)
    told = (
        f" ({', '.join(f'{count:,} {reason}' for reason, count in reasons.most_common(MOST_NAMES))})" if reasons else ""
    )
    return ", ".join(shown) + (f" and {more:,} more{told}" if more else "")


def _facts(standing: Standing) -> Iterator[_Row]:
    facts = standing.facts
    if "samples" in facts:
        of = facts.get("of_samples")
        yield _Row("samples", f"{facts['samples']:,}" + (f" of {of:,}" if of is not None else ""))
    if facts.get("missing_seeds"):
        yield _Row("seeds missing", facts["missing_seeds"])
    if facts.get("exports_to_come"):
        yield _Row("to come", ", ".join(facts["exports_to_come"]))
    if "codebook" in facts:
        yield _Row("codebook", "there" if facts["codebook"] else "missing")
    if facts.get("mean_gradients"):
        sums = facts["mean_gradients"].items()
        summed = [f"{title}: of {done:,} samples".removeprefix(": ") for title, done in sums]
        yield _Row("mean gradient", ", ".join(summed))
    if facts.get("shape"):
        yield _Row("shape", " x ".join(map(str, facts["shape"])))
    yield from _training(standing)


def _training(standing: Standing) -> Iterator[_Row]:
    facts = standing.facts
    if facts.get("saved"):
        saved = facts["saved"]
        yield _Row("saved state", f"step {saved['step']:,}, {_ago(saved['time'])}")
    if steps := facts.get("checkpoints"):
        yield _Row("checkpoints", f"{len(steps):,}, the last of step {steps[-1]:,}")
    if steps := facts.get("extends"):
        yield _Row("extends", f"a training of {steps[-1]:,} steps")
    if line := facts.get("last_line"):
        shown = {key: value for key, value in line.items() if key in ("step", "epoch", "loss", "held_out_psnr")}
        yield _Row("log", readable(shown))


def _undecodable(standing: Standing) -> str:
    shown = []
    for bad in standing.undecodable[:MOST_NAMES]:
        where = f" in {bad['shard']}" if bad["shard"] else ""
        shown.append(f"{bad['key']}{where} ({bad['reason']})")
    count = len(standing.undecodable)
    more = f" and {count - len(shown):,} more (--json has all)" if count > len(shown) else ""
    return f"{count:,}: {', '.join(shown)}{more}"


def _processes(standing: Standing) -> str:
    pieces = [piece.name for piece in standing.missing if piece.at_work]
    count = processes(standing.at_work)
    said = f"{count:,} process{'es' if count > 1 else ''}"
    more = f" and {len(pieces) - MOST_NAMES:,} more" if len(pieces) > MOST_NAMES else ""
    return f"{said}, just now at {', '.join(pieces[:MOST_NAMES])}{more}" if pieces else said


def _pace(standing: Standing) -> str:
    pace = standing.pace
    assert pace is not None
    # Folds are measured portion by portion.
    unit = "portions" if standing.tally is None or standing.tally.unit == FOLDS else standing.tally.unit
    said = speed(pace.rate, pace.unit)
    if pace.last is None:
        said += " by the last line of the log"
    else:
        said += f" over the last {pace.pieces:,} {unit}, of which the last came {_ago(pace.last)}"
    return said if standing.remaining is None else f"{said}; at that the rest takes {clock(standing.remaining)}"


def _ago(then: float) -> str:
    return f"{clock(max(0.0, time.time() - then))} ago"
