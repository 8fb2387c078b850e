"""Jobs: what a command opened, its inputs read and checked, its output not yet made."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dprune.formats.beside import Beside
from dprune.formats.claims import claim_in
from dprune.formats.manifests import MANIFEST
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record
from dprune.formats.publish import Output
from dprune.formats.temporary import sweep
from dprune.runtime import Monitor, Ranks, ranks


class Job(ABC):
    """One run of a subcommand. `open_<command>` is the only way into it.

    Attributes:
        output: where it goes, and what else was said of it.
        together: whether the ranks of a group do one work, of which the first writes all; else each has a share.
    """

    output: Output
    together: ClassVar[bool] = False

    @property
    @abstractmethod
    def record(self) -> Record:
        """Provenance of the output."""

    @property
    def beside(self) -> Sequence[Beside]:
        """Files that are made with the output."""
        return ()

    @property
    def claim(self) -> Path | None:
        """The file that stands for this worker's share while it works on it; None where another would do no harm."""
        here = ranks()
        if self.together:
            return None if here.rank else claim_in(self.output.path, Ranks())
        return claim_in(self.output.path, here)

    @abstractmethod
    def existing(self) -> Mapping[str, Any] | None:
        """Return the provenance of what stands where the output goes: empty for a file without, None for nothing.

        Raises:
            InputError: something is there that not even --overwrite replaces.
        """

    @abstractmethod
    def complete(self) -> bool:
        """Tell whether what stands there is whole; asked only when its provenance is this job's."""

    def is_whole(self) -> bool:
        """Tell whether what stands there is whole after the work."""
        return self.complete()

    def tidy(self) -> None:
        """Remove what dead processes left of the output and the files beside it."""
        folder = Path(self.output.path)
        for place in (folder, *(path for path in folder.glob("*/") if not path.is_symlink())):
            sweep(place)
        for file in self.beside:
            sweep(file.path.parent, file.path.name)

    @abstractmethod
    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make the output and the files beside it, and return a summary that JSON can hold.

        Raises:
            Interrupted: the monitor asked to stop; what was made stays, and the next run goes on from there.
            DpruneError: anything else that keeps it from being made.
        """

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Return what `run` returned, told by what stands there; asked only when that is whole.

        It has the same keys. What only a run can tell, such as how fast it was, is None.
        """

    def work(self) -> Mapping[str, Any]:
        """Count what there is to do, for who asks before; `bytes` are those of the output, where these are known."""
        return {}

    def touch(self) -> None:
        """Set the time of what stands there, the output last, so that it counts as newer than its inputs."""
        for path in (*(file.path for file in self.beside), *self.touched()):
            # It may be another's, who lets us read it.
            with contextlib.suppress(OSError):
                os.utime(path)

    def touched(self) -> Sequence[Path]:
        """Return what stands for the output to those who ask for its time: of a folder its manifest, too."""
        folder = Path(self.output.path)
        return (folder / MANIFEST, folder)


class FileJob(Job):
    """A job whose output is one file, which is published whole."""

    def touched(self) -> Sequence[Path]:
        """See `Job`."""
        return (Path(self.output.path),)

    @property
    def claim(self) -> Path | None:
        """See `Job`; two that make the same file at once make it twice."""
        return None

    def existing(self) -> Record | None:
        """See `Job`."""
        return existing_record(self.output.path)

    def complete(self) -> bool:
        """See `Job`."""
        return True

    def tidy(self) -> None:
        """See `Job`."""
        path = Path(self.output.path)
        sweep(path.parent, path.name)
        super().tidy()
