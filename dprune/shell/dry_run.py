"""What a command would do: its inputs, its output, what is there of that already, and how much there is to do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError
from dprune.formats.locations import expand
from dprune.formats.provenance import difference
from dprune.formats.publish import STDOUT
from dprune.formats.ranges import is_url
from dprune.formats.readable import clock, readable, size
from dprune.shell.next_steps import NAMES, Given, kind_called

if TYPE_CHECKING:
    from dprune.formats.jobs import Job
    from dprune.formats.provenance import Record
    from dprune.watching.standing import Standing

MAKE, GO_ON, REPLACE, NOTHING = "make", "go on", "replace", "nothing"
_INDENT = 9


@dataclass(frozen=True)
class Input:
    """A file or folder that a command reads, or several that a glob, a brace range or a list names.

    Attributes:
        name: of the option, or of the argument as help calls it.
        path: as it was given.
        kind: what it is, for people; empty where that cannot be told.
        bytes: of the file, of those named, or of those in the folder; None where they are not on this machine, or too
            many.
    """

    name: str
    path: str
    kind: str
    bytes: int | None


@dataclass(frozen=True)
class DryRun:
    """What a job would do.

    Attributes:
        output: where its output goes.
        would: `make`, `replace`, `go on` or `nothing`.
        how: of work that goes on where it does, of what is replaced how it differs, else empty.
        inputs: that were given.
        beside: files that are made with the output.
        work: counts of what there is to do.
        remaining_s: seconds that it takes at the pace so far, None where there is none.
        record: provenance of the output.
    """

    output: str
    would: str
    how: str
    inputs: Sequence[Input]
    beside: Sequence[str]
    work: Mapping[str, Any]
    remaining_s: float | None
    record: Record

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "output": self.output,
            "would": self.would,
            "how": self.how,
            "inputs": [vars(each) for each in self.inputs],
            "beside": list(self.beside),
            "work": dict(self.work),
            "remaining_s": self.remaining_s,
            "provenance": self.record,
        }

    def text(self) -> str:
        """Return it for people."""
        shown = [f"{each.name} {each.path}{_told(each)}" for each in self.inputs]
        counts = {name: value for name, value in self.work.items() if name != "bytes"}
        work = [f"{name.replace('_', ' ')}: {readable(value)}" for name, value in counts.items()]
        rows = {"inputs": shown, "beside": self.beside, "work": [", ".join(work)] if work else []}
        if "bytes" in self.work:
            rows["size"] = [f"about {size(self.work['bytes'])}"]
        if self.remaining_s is not None:
            rows["time"] = [f"about {clock(self.remaining_s)}, at the pace so far"]
        lines = [_headline(self)]
        for title, entries in rows.items():
            lines += [f"  {title if not n else '':{_INDENT}}{entry}" for n, entry in enumerate(entries)]
        return "\n".join(lines)


def _headline(plan: DryRun) -> str:
    output = "what goes to stdout" if plan.output == STDOUT else plan.output
    how = f": {plan.how}" if plan.how else ""
    return {
        MAKE: f"would make {output}",
        GO_ON: f"would go on with {output}{how}",
        REPLACE: f"would replace {output}, which was made differently{how}",
        NOTHING: f"would do nothing: {output} is up to date",
    }[plan.would]


def _told(each: Input) -> str:
    said = ", ".join(filter(None, (each.kind, "" if each.bytes is None else size(each.bytes))))
    return f" ({said})" if said else ""


def dry_run(job: Job, given: Sequence[Given], *, is_made: bool) -> DryRun:
    """Find out what a job would do.

    Args:
        job: that may run.
        given: paths that the command was given.
        is_made: whether the output is up to date.
    """
    output, beside = job.output.path, [str(file.path) for file in job.beside]
    inputs = [found for each in given if each.path not in (STDOUT, output, *beside) and (found := _input(each))]
    would, how, remaining = (NOTHING, "", None) if is_made else _standing(job)
    work = {} if is_made else job.work()
    return DryRun(output, would, how, inputs, beside, work, remaining, job.record)


def _standing(job: Job) -> tuple[str, str, float | None]:
    found = None if job.output.path == STDOUT else job.existing()
    if found and (unlike := difference(found, job.record)):
        return REPLACE, unlike, None
    begun = None if job.output.path == STDOUT else _begun(job)
    if begun is not None:
        return GO_ON, begun.rerun, begun.remaining
    return (MAKE if found is None else GO_ON), "", None


def _begun(job: Job) -> Standing | None:
    """Return how far the output is, None where nothing that this job would go on from is there."""
    from dprune.watching.job import open_status
    from dprune.watching.standing import COMPLETE, UNFINISHED

    (found,) = open_status([job.output.path]).standings
    if found.state == COMPLETE and found.kind == "run" and found.tally is not None:
        # A training of fewer steps, which is extended.
        return replace(found, rerun=f"goes on at step {found.tally.done:,}")
    known = found.record is not None and not difference(found.record, job.record)
    return found if known and found.state == UNFINISHED else None


def _input(each: Given) -> Input | None:
    """Look at what was given, None where that is no input."""
    name, path = each.option or each.name, each.path
    if is_url(path):
        return Input(name, path, "", None)
    if os.path.exists(path):
        kind = NAMES.get(kind_called(path), "")
        return Input(name, path, kind, None if kind == NAMES["images"] else _bytes(path))
    files = _named(path)
    if not files:
        return None
    here, several = not any(map(is_url, files)), "s" if len(files) > 1 else ""
    return Input(name, path, f"{len(files):,} file{several}", sum(map(os.path.getsize, files)) if here else None)


def _named(pattern: str) -> list[str]:
    """Return the files that a glob, a brace range or a list names, none where it is nothing of the kind."""
    try:
        return expand([pattern])
    except InputError:
        return []


def _bytes(path: str) -> int:
    """Add up a folder's files, but not those of folders in it: there may be millions."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    with os.scandir(path) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())
