"""What scorings by networks have in common: who measures, who writes, and what is up to date."""

from __future__ import annotations

import logging
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dprune.errors import InputError, UsageError
from dprune.formats.beside import Beside, progress_folder
from dprune.formats.claims import claim_beside
from dprune.formats.jobs import FileJob
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, difference, make_record
from dprune.formats.publish import STDOUT, Output
from dprune.formats.temporary import sweep
from dprune.formats.turns import Turns, is_shared
from dprune.runtime import Monitor, array_task, ranks
from dprune.scoring.outputs import ScoreFile
from dprune.scoring.population import Samples
from dprune.scoring.progress import Progress, Workload, workload_file
from dprune.scoring.settings import ScoreSettings

Values = TypeVar("Values")

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class SharedScoring(FileJob, Generic[Values]):
    """Scores that workers share: each fills its part of a progress folder, and whoever finds it full makes them.

    Attributes:
        samples: what is scored.
        settings: noise levels, draws, precision, device.
    """

    samples: Samples
    settings: ScoreSettings
    output: Output

    @property
    @abstractmethod
    def file(self) -> ScoreFile:
        """The output."""

    @property
    def beside(self) -> Sequence[Beside]:
        """See `Job`."""
        return self.file.files[1:]

    @property
    def claim(self) -> Path | None:
        """See `Job`; a task of an array claims what it measures, piece by piece."""
        return None if array_task() else claim_beside(self.output.path, ranks())

    def tidy(self) -> None:
        """See `Job`; the last worker removes the progress that led to the scores."""
        super().tidy()
        path = Path(self.output.path)
        if self._is_written() and not sweep(path.parent, path.name):
            shutil.rmtree(progress_folder(path), ignore_errors=True)

    def portions(self, name: str, count: int, measures: int, mark: str) -> Progress:
        """Return what is measured of `count` samples.

        Args:
            name: of the folder inside that of the progress, empty for that folder itself.
            count: samples.
            measures: of one draw.
            mark: see `Progress`.
        """
        shape = (self.settings.levels, self.settings.draws, measures)
        return Progress(progress_folder(self.output.path) / name, count, shape, mark)

    @abstractmethod
    def workload(self) -> Workload:
        """Return what this command measures, its share or others'."""

    @property
    def workload_file(self) -> Path:
        """Where that is noted."""
        return workload_file(self.output.path)

    def announce(self) -> None:
        """Note what this command measures, once it is sure that it can."""
        self.workload().publish(self.workload_file)

    @abstractmethod
    def measure(self, turns: Turns, monitor: Monitor) -> None:
        """Measure what is missing and this worker's to measure."""

    @abstractmethod
    def values(self) -> Values | None:
        """Return all that was measured, None while some is missing."""

    @abstractmethod
    def write(self, values: Values) -> None:
        """Publish all files, the output last."""

    def record_of(self, method: str, settings: ScoreSettings, inputs: dict[str, Record], **chosen: Any) -> Record:
        """Return the provenance of scores.

        Args:
            method: that they are by.
            settings: at which they are.
            inputs: networks that they are by.
            chosen: further options that change them.
        """
        return make_record(
            f"score {method}",
            settings.options() | chosen,
            seed=settings.seed,
            fingerprint=self.samples.latents.fingerprint,
            parents=self.samples.parents() | inputs,
            tags=self.output.tags,
        )

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        counts = self.counts()
        return {"samples": counts.pop("scored"), **counts, "levels": self.settings.levels, "draws": self.settings.draws}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        tables = {file.title: file.found() for file in self.scores}
        return self.counts() | {"complete": True} | {title: table for title, table in tables.items() if table}

    @property
    def scores(self) -> Sequence[ScoreFile]:
        """The scores whose reliability a summary tells."""
        return (self.file,)

    def counts(self) -> dict[str, Any]:
        """Return what a summary says in any case."""
        return self.counted(len(self.samples.ids))

    def counted(self, scored: int) -> dict[str, Any]:
        """Count what is scored, and what is not."""
        return {"scored": scored, "not_scored": len(self.samples.latents) - scored}

    def is_finished(self) -> bool:
        """Tell whether another worker has written the scores meanwhile."""
        return is_shared() and self._is_written()

    def _is_written(self) -> bool:
        found = existing_record(self.output.path)
        return found is not None and not difference(found, self.record) and all(b.is_made() for b in self.beside)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Measure this worker's share; whoever finds all shares measured writes the scores."""
        if self.output.path == STDOUT:
            raise UsageError("--output -: standard errors and progress go beside the scores: give -o FILE.")
        # Others see this worker at work until it needs the progress no more.
        with Turns(Path(self.output.path)) as turns:
            if not self.is_finished():
                self.measure(turns, monitor)
            return self.counts() | self._completed()

    def _completed(self) -> dict[str, Any]:
        """Write the scores if all is measured, and return the summary."""
        try:
            values = self.values()
        except InputError:
            # A worker that wrote the scores may be removing the portions that this one reads.
            if not self.is_finished():
                raise
            values = None
        if values is None:
            if self.is_finished():
                return self.summary()
            _log.info("%s is not complete yet: %s.", self.output.path, self.waits_for())
            return {"complete": False}
        # Another worker may be doing so as well.
        self.write(values)
        return self.summary()

    def waits_for(self) -> str:
        """Say what is missing when this worker has measured its share."""
        return "other workers are still measuring, and the last of them completes it"
