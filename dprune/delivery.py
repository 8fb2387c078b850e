"""From a job to its output: dry runs, outputs that are up to date, summaries."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dprune import console
from dprune.errors import InputError, UsageError
from dprune.formats.publish import STDOUT
from dprune.runtime import Monitor, ranks


class Job(Protocol):
    """One run of a subcommand, its inputs read and checked, its output not yet made."""

    @property
    def record(self) -> dict[str, Any]:
        """The provenance that the output will carry."""

    def existing(self, output: str) -> Mapping[str, Any] | None:
        """Provenance of what stands at `output` (empty for something that has none), None where nothing stands."""

    def complete(self, output: str) -> bool:
        """Tell whether what stands at `output` is whole; asked only when its provenance is this job's."""

    def run(self, output: str, monitor: Monitor) -> dict[str, Any]:
        """Make the output, publish it and return a summary that JSON can hold."""


@dataclass(frozen=True)
class Delivery:
    """Where a command's output goes, and under which conditions."""

    output: str
    overwrite: bool = False
    dry_run: bool = False
    json: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    stop_after: float | None = None
    shares_work: bool = False
    folder: bool = False

    def __post_init__(self) -> None:
        """Refuse an output without a name, and two kinds of data on stdout."""
        if not self.output:
            raise UsageError("--output is empty: name a file or folder.")
        if self.folder and self.output == STDOUT:
            raise UsageError("--output -: the output is a folder, which stdout cannot be: name one.")
        if self.output == STDOUT and self.json:
            raise UsageError("--json and the output cannot both go to stdout: give -o FILE.")

    def deliver(self, job: Job) -> None:
        """Run `job` unless its output is already there.

        Raises:
            InputError: the output exists, was made otherwise, and --overwrite was not given.
            UsageError: several workers run a command that cannot share its work.
        """
        from dprune.formats.provenance import difference

        if ranks().world > 1 and not self.shares_work:
            raise UsageError("RANK and WORLD_SIZE are set, but this command does not share its work: unset both.")
        if self.dry_run:
            console.emit(json.dumps({"output": self.output, "provenance": job.record}, indent=2))
            return
        if self.output == STDOUT and sys.stdout.isatty():
            raise UsageError("stdout is a terminal: give -o FILE, or pipe the array on.")
        found = None if self.output == STDOUT else job.existing(self.output)
        if found is not None:
            unlike = difference(found, job.record)
            if unlike and not self.overwrite:
                raise InputError(
                    f"{self.output} exists and was made otherwise ({unlike}): "
                    "give --overwrite to replace it, or another -o."
                )
            if not unlike and job.complete(self.output):
                console.say(f"{self.output} is up to date.")
                if self.json:
                    console.emit(json.dumps({"output": self.output, "up_to_date": True}))
                return
        with console.TerminalMonitor(self.stop_after) as monitor:
            summary = job.run(self.output, monitor)
        self._tell(summary)
        if self.json:
            console.emit(json.dumps({"output": self.output, "up_to_date": False, **summary}))

    def _tell(self, summary: dict[str, Any]) -> None:
        """Say what was made in one line, and tables of counts in one more each."""
        lines = {key: f"{key.replace('_', ' ')}: {console.readable(value)}" for key, value in summary.items()}
        tables = [key for key, value in summary.items() if isinstance(value, dict)]
        target = "to stdout" if self.output == STDOUT else self.output
        did = "did a share of" if summary.get("complete") is False else "wrote"
        console.say(f"{did} {target} ({', '.join(line for key, line in lines.items() if key not in tables)})")
        for key in tables:
            console.say(lines[key])
