"""What scorings have in common that several workers share: who measures, who writes, and what is up to date."""

from __future__ import annotations

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from dprune.errors import InputError, UsageError
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, difference
from dprune.formats.publish import STDOUT
from dprune.runtime import Monitor, ranks
from dprune.scoring.outputs import check_free, is_made
from dprune.scoring.progress import progress_folder

Values = TypeVar("Values")

_log = logging.getLogger("dprune")


class SharedScoring(ABC, Generic[Values]):
    """Scores that are made of a progress folder, see `delivery.Job`; whoever finds it full makes them.

    Attributes:
        overwrite: whether files beside the output may be replaced.
        second_option: that names another output, where there is one.
    """

    overwrite: bool
    second_option: ClassVar[str] = "--output"

    @property
    @abstractmethod
    def record(self) -> Record:
        """Provenance of the scores."""

    @abstractmethod
    def files(self, output: str) -> Iterator[tuple[Path, Record]]:
        """Yield every file that is made, with its provenance, the output among them."""

    @abstractmethod
    def measure(self, output: str, monitor: Monitor) -> None:
        """Measure what is missing of this worker's share."""

    @abstractmethod
    def values(self, output: str) -> Values | None:
        """Return all that was measured, None while some is missing."""

    @abstractmethod
    def write(self, output: str, values: Values) -> dict[str, Any]:
        """Publish all files, the output last, and return what a summary says of them."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Return what a summary says in any case."""

    def _others(self, output: str) -> Iterator[tuple[Path, Record]]:
        yield from (pair for pair in self.files(output) if pair[0] != Path(output))

    def existing(self, output: str) -> Record | None:
        """Return the provenance of the scores at `output`.

        Raises:
            UsageError: two files would have one name.
            InputError: a file that belongs beside them was made otherwise.
        """
        paths = [path.absolute() for path, _ in self.files(output)]
        if repeated := next((path for place, path in enumerate(paths) if path in paths[:place]), None):
            raise UsageError(f"{repeated.name}: two files are to have this name: give another {self.second_option}.")
        found = existing_record(output)
        if not self.overwrite and (found is None or not difference(found, self.record)):
            for path, record in self._others(output):
                check_free(path, record)
        return found

    def complete(self, output: str) -> bool:
        """Tell whether all files beside the scores are there, too."""
        return all(is_made(path, record) for path, record in self._others(output))

    def is_finished(self, output: str) -> bool:
        """Tell whether another worker has written the scores meanwhile."""
        return ranks().world > 1 and is_made(Path(output), self.record) and self.complete(output)

    def run(self, output: str, monitor: Monitor) -> dict[str, Any]:
        """Measure this worker's share; whoever finds all shares measured writes the scores.

        Raises:
            InputError: a model or the store is not sound, or they give numbers that are not finite.
            MismatchError: a model is not one for the store.
            UsageError: the device is impossible, or the output is stdout.
            Interrupted: a signal or --stop-after ended the work; what was measured stays.
            DpruneError: out of memory.
        """
        if output == STDOUT:
            raise UsageError("--output -: errors and progress go beside the scores: give -o FILE.")
        if not self.is_finished(output):
            self.measure(output, monitor)
        try:
            values = self.values(output)
        except InputError:
            # The worker that wrote the scores may be removing the pieces that this one reads.
            if not self.is_finished(output):
                raise
            values = None
        if values is None:
            return self.summary() | {"complete": self._left(output)}
        found = self.write(output, values)
        # Another worker may be doing so as well.
        shutil.rmtree(progress_folder(output), ignore_errors=True)
        return self.summary() | {"complete": True} | found

    def _left(self, output: str) -> bool:
        finished = self.is_finished(output)
        if not finished:
            _log.info("%s is not complete yet: %s.", output, self.waits_for(output))
        return finished

    def waits_for(self, output: str) -> str:
        """Say what is missing when this worker has measured its share."""
        return "other workers still measure for it, and the last of them completes it"
