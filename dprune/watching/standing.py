"""How far one output is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dprune.errors import InputError, UsageError
from dprune.formats.provenance import Record
from dprune.formats.temporary import Holder
from dprune.watching.pace import Pace

COMPLETE, UNFINISHED, DAMAGED, NONE = "complete", "unfinished", "damaged", "none"
EXIT_CODES = {COMPLETE: 0, UNFINISHED: 75, DAMAGED: InputError.exit_code, NONE: InputError.exit_code}
"""In their order: of several outputs the last that one of them has counts."""
UP_TO_DATE = "nothing: it is up to date"
FOLDS = "folds"
"""Pieces that are not for any task to take: each has the one of its number."""


class Missing(NamedTuple):
    """A piece of an output that a rerun makes.

    Attributes:
        position: its number among all, which stands for it in a list for `--array=`.
        name: of its file, or what else it is called.
        reason: why it counts as missing, empty where there is simply no such file.
        at_work: whether a living process is known to make it.
    """

    position: int
    name: str
    reason: str = ""
    at_work: bool = False


class Tally(NamedTuple):
    """How many pieces there are of how many; None where nobody knows that yet."""

    unit: str
    done: int
    total: int | None


@dataclass
class Standing:
    """What is there of one output, and what is not.

    Attributes:
        name: the output as it was given.
        kind: as `dprune info` calls it.
        state: whether it is `complete`, or `unfinished` so that the same command would go on; it would not where the
            output is `damaged` or there is `none`.
        record: provenance, None where none is known.
        tally: of its pieces, None for what has none.
        missing: pieces that a rerun makes, as far as it is known which there are.
        shared: whether tasks of an array share the missing pieces.
        facts: counts and the like for people and JSON.
        undecodable: images that cannot be decoded, each with `shard`, `key` and `reason`.
        at_work: what living processes hold.
        pace: how fast pieces came, None where that says nothing.
        remaining: seconds that the rest takes at that pace.
        rerun: what the same command would do, empty where that cannot be told.
        problems: why the same command would not go on, a sentence each.
    """

    name: str
    kind: str = "unknown"
    state: str = COMPLETE
    record: Record | None = None
    tally: Tally | None = None
    missing: Sequence[Missing] = ()
    shared: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    undecodable: Sequence[Record] = ()
    at_work: Sequence[Holder] = ()
    pace: Pace | None = None
    remaining: float | None = None
    rerun: str = UP_TO_DATE
    problems: list[str] = field(default_factory=list)

    @property
    def command(self) -> str | None:
        """The subcommand that makes it, with its method."""
        return (self.record or {}).get("command")

    @property
    def exit_code(self) -> int:
        """What a script gets to see."""
        return EXIT_CODES[self.state]

    @property
    def array(self) -> str | None:
        """The missing pieces for `sbatch --array=`, empty where all is done, None where tasks do not share them."""
        if self.state == COMPLETE:
            return ""
        if not self.shared or self.state != UNFINISHED:
            return None
        # Where all pieces are there, one task is enough to put the last hand to it.
        return compact([piece.position for piece in self.missing] or [0])

    def expect(self, pace: Pace | None, left: float | None) -> None:
        """Note how fast it grows, and how long it takes to grow by so many units more, if these are known."""
        self.pace = pace
        if pace is not None and pace.rate and left is not None:
            self.remaining = max(0.0, left) / pace.rate

    def array_of(self, tasks: int | None) -> str:
        """Return a list for `sbatch --array=` that completes it.

        Args:
            tasks: the most tasks that there may be, None for one a missing piece.

        Raises:
            InputError: nothing goes on here.
            UsageError: its pieces are not shared by tasks, or each task is to have its own.
        """
        if self.problems:
            raise InputError(self.problems[0])
        found = self.array
        if found is None:
            raise UsageError(f"--array: no task of an array goes on with {self.name}: a rerun {self.rerun}.")
        if tasks is None or not found:
            return found
        if self.tally is not None and self.tally.unit == FOLDS:
            raise UsageError(
                f"--tasks {tasks}: each task has the fold of its number: limit them with --array={found}%N."
            )
        # Whatever their numbers, tasks take the pieces that they find missing; low ones are allowed on every cluster.
        return compact(range(min(tasks, max(1, len(self.missing)))))

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "exit_code": self.exit_code,
            "command": self.command,
            "pieces": None if self.tally is None else self.tally._asdict(),
            "missing": [piece._asdict() for piece in self.missing],
            "array": self.array,
            "facts": self.facts,
            "undecodable": list(self.undecodable),
            "at_work": [holder._asdict() for holder in self.at_work],
            "pace": None if self.pace is None else self.pace.as_json(),
            "remaining_s": self.remaining,
            "rerun": self.rerun,
            "problems": self.problems,
        }


def compact(numbers: Iterable[int]) -> str:
    """Write ascending numbers in the shortest form that `sbatch --array=` reads, such as `3,5,10-14`."""
    runs = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ends = [(members[0][1], members[-1][1]) for members in (list(run) for _, run in runs)]
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ends)
