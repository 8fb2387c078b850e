"""From a job to its output: dry runs, outputs that are up to date, summaries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dprune import console
from dprune.errors import DpruneError, InputError, UsageError
from dprune.formats.provenance import difference
from dprune.formats.publish import STDOUT, Output
from dprune.runtime import Monitor, array_task, ranks

if TYPE_CHECKING:
    from dprune.formats.jobs import Job
    from dprune.shell.next_steps import Given


@dataclass(frozen=True)
class Delivery:
    """An output, and under which conditions a command makes it."""

    output: Output
    dry_run: bool = False
    json: bool = False
    stop_after: float | None = None
    resumes: bool = False
    shares_work: bool = False
    folder: bool = False
    given: Sequence[Given] = ()

    def __post_init__(self) -> None:
        """Refuse an output without a name, and two kinds of data on stdout."""
        if not self.output.path:
            raise UsageError("--output is empty: name a file or folder.")
        if self.folder and self._is_stdout:
            raise UsageError("--output -: the output is a folder, which stdout cannot be: name one.")
        if self._is_stdout and self.json:
            raise UsageError("--json and the output cannot both go to stdout: give -o FILE.")

    @property
    def _is_stdout(self) -> bool:
        return self.output.path == STDOUT

    def deliver(self, job: Job) -> None:
        """Run `job` unless its output is already there.

        Raises:
            InputError: the output or a file beside it exists, was made differently, and --overwrite was not given.
            UsageError: several workers run a command that cannot share its work, or two files have one name.
            DpruneError: another process makes the same, or what was made has vanished.
        """
        from dprune.formats.beside import check_names

        if ranks().world > 1 and not self.shares_work:
            raise UsageError("RANK and WORLD_SIZE are set, but this command does not share its work: unset both.")
        check_names(self.output.path, job.beside)
        if self.dry_run:
            self._tell_plan(job)
            return
        if self._is_stdout and sys.stdout.isatty():
            raise UsageError("stdout is a terminal: give -o FILE, or pipe the array on.")
        summary = None if self._is_made(job) else self._run(job)
        job.tidy()
        if made := summary is None:
            self._keep(job)
        else:
            self._tell(summary)
        if self.json:
            found = {"output": self.output.path, "up_to_date": made}
            console.emit_json(found | (job.summary() if summary is None else summary))

    def _tell_plan(self, job: Job) -> None:
        """Say what would be done; what the command would refuse is refused."""
        from dprune.shell.dry_run import dry_run

        plan = dry_run(job, self.given, is_made=self._is_made(job))
        if self.json:
            console.emit_json(plan.as_json(), indent=2)
            return
        console.emit(plan.text())
        if console.verbosity() > 0:
            console.emit_json(job.record, indent=2)

    def _keep(self, job: Job) -> None:
        """Leave what is there as it is, but for its time."""
        # By the time of a store others tell when the last of several workers began.
        if ranks().world == 1 and array_task() is None:
            job.touch()
        console.say(f"{self.output.path} is up to date.")

    def _run(self, job: Job) -> dict[str, Any] | None:
        """Run `job` and return its summary, None where another process had made the output before this one's turn."""
        job.tidy()
        with console.TerminalMonitor(self.stop_after, resumes=self.resumes) as monitor, self._claimed(job, monitor):
            # The ranks of a group must not part ways by looking at different moments.
            if not (job.together and ranks().world > 1) and self._is_made(job):
                return None
            summary = job.run(monitor)
        if summary.get("complete") is not False:
            self._check_whole(job)
        return summary

    def _claimed(self, job: Job, monitor: Monitor) -> AbstractContextManager[None]:
        """Keep other processes from the same work; what goes to stdout is nobody else's."""
        from dprune.formats.claims import claimed

        claim = None if self._is_stdout else job.claim
        return nullcontext() if claim is None else claimed(claim, self.output.path, monitor)

    def _check_whole(self, job: Job) -> None:
        """Refuse to end as if all were well where what was made has vanished.

        Raises:
            DpruneError: something is missing.
        """
        # Of a group that works together only the first has written, and others may not see it yet.
        if self._is_stdout or (job.together and ranks().rank):
            return
        found = job.existing()
        whole = found is not None and not difference(found, job.record) and job.is_whole()
        if not (whole and all(file.is_made() for file in job.beside)):
            raise DpruneError(
                f"{self.output.path} was removed or changed while it was made: run the same command again."
            )

    def _is_made(self, job: Job) -> bool:
        """Tell whether there is nothing to do, and refuse to replace what was made differently."""
        found = None if self._is_stdout else job.existing()
        unlike = "" if found is None else difference(found, job.record)
        if unlike and not self.output.overwrite:
            raise InputError(
                f"{self.output.path} exists and was made differently ({unlike}): "
                "give --overwrite to replace it, or another -o."
            )
        for file in job.beside:
            file.check(overwrite=self.output.overwrite)
        if found is None or unlike or not job.complete():
            return False
        return all(file.is_made() for file in job.beside)

    def _tell(self, summary: dict[str, Any]) -> None:
        """Say what was made: where and how much in one line, what was measured in further ones."""
        from dprune.shell.summaries import in_words

        found = in_words(summary, every=console.verbosity() > 0)
        target = "to stdout" if self._is_stdout else self.output.path
        did = "did a share of" if summary.get("complete") is False else "wrote"
        console.say(f"{did} {target}{f' ({found.counts})' if found.counts else ''}")
        for line in found.lines:
            console.say(line)
