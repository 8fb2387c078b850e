"""How far clusters are whose samples are assigned span by span."""

from __future__ import annotations

from pathlib import Path

from dprune.clustering.spans import Spans
from dprune.formats.beside import progress_folder
from dprune.formats.provenance import Record
from dprune.watching.folders import look_at, makers_in, makers_of, pieces_held, time_of
from dprune.watching.pace import pace_since
from dprune.watching.standing import UNFINISHED, Missing, Standing, Tally


def cluster_standing(output: str) -> Standing | None:
    """Look at the spans of clusters; return None where none is assigned for this output, or it is there already.

    Raises:
        InputError: what is to be assigned cannot be read.
    """
    folder = progress_folder(output)
    try:
        spans, record = Spans.noted(folder)
    except FileNotFoundError:
        return None
    begun = time_of(spans.note)
    if time_of(Path(output)) > begun:
        return None
    looks = look_at(range(len(spans)), lambda number: (not spans.missing([number]), time_of(spans.path(number))))
    done = {number: time for number, (there, time) in looks.items() if there}
    held = makers_in(folder)
    found = Standing(output, "clusters", UNFINISHED, record, shared=_is_shared(record))
    found.at_work = [*makers_of(Path(output)), *held]
    sizes = {number: end - begin for number in range(len(spans)) for begin, end in [spans.span(number)]}
    found.facts = {"samples": sum(sizes[number] for number in done), "of_samples": spans.count}
    found.tally = Tally("spans", len(done), len(spans))
    in_hand = pieces_held(held)
    left = [number for number in range(len(spans)) if number not in done]
    found.missing = [Missing(number, _named(spans, number), at_work=number in in_hand) for number in left]
    found.rerun = (f"assigns {len(left):,} of {len(spans):,} spans and " if left else "") + "writes the clusters"
    pace = pace_since(begun, [(time, sizes[number]) for number, time in done.items()], "samples")
    found.expect(pace, spans.count - found.facts["samples"])
    return found


def _is_shared(record: Record) -> bool:
    return bool(record.get("options", {}).get("assign_only"))


def _named(spans: Spans, number: int) -> str:
    begin, end = spans.span(number)
    return f"samples {begin:,} to {end:,}"
