"""What `dprune status` tells: how far outputs are, and what to run the same command again would do.

It only reads, and so may look at what others are writing: what vanishes meanwhile is looked for once more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import InputError, UsageError, unreadable
from dprune.formats.kinds import kind_of, no_output
from dprune.formats.locations import JOURNAL
from dprune.formats.publish import STDOUT
from dprune.formats.temporary import is_temporary
from dprune.inspecting.findings import NONSENSE
from dprune.watching.clusters import cluster_standing
from dprune.watching.files import file_standing, folder_of_files
from dprune.watching.folders import makers_in, makers_of, names_in
from dprune.watching.rendering import plain_standing, shown_standing
from dprune.watching.runs import run_standing
from dprune.watching.scores import score_standing
from dprune.watching.shards import begun_shards, finished_shards, shards_of_others
from dprune.watching.standing import DAMAGED, EXIT_CODES, NONE, UNFINISHED, Standing
from dprune.watching.stores import store_standing

ATTEMPTS, PAUSE_S = 3, 0.05


@dataclass(frozen=True)
class Overview:
    """How far outputs are, in the order in which they were given."""

    standings: Sequence[Standing]

    @property
    def exit_code(self) -> int:
        """The worst of all: bad or none before unfinished before complete."""
        states = [standing.state for standing in self.standings]
        return EXIT_CODES[max(states, key=list(EXIT_CODES).index)]

    @property
    def problems(self) -> list[str]:
        """All that keeps commands from going on, a sentence each."""
        return [problem for standing in self.standings for problem in standing.problems]

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"outputs": [standing.as_json() for standing in self.standings], "exit_code": self.exit_code}

    def text(self, columns: int | None) -> str:
        """Return it for people.

        Args:
            columns: width of the terminal that shows it, None for plain text.
        """
        if columns is None:
            return "\n\n".join(map(plain_standing, self.standings))
        return "\n\n".join(shown_standing(standing, columns) for standing in self.standings)

    def array(self, tasks: int | None) -> str:
        """Return what is missing of the one output for `sbatch --array=`, see `Standing.array_of`.

        Raises:
            UsageError: there are several outputs.
            InputError: the same command would not go on.
        """
        if len(self.standings) > 1:
            raise UsageError("--array: is a list for one job: name one output.")
        return self.standings[0].array_of(tasks)


def open_status(outputs: Sequence[str]) -> Overview:
    """Look at outputs one by one.

    Args:
        outputs: files and folders as they were given to `--output`; scores by networks are known by their file
            before it is there.

    Raises:
        UsageError: one of them is stdin.
    """
    if STDOUT in outputs:
        raise UsageError("-: stdin is not an output of a command: name a file or folder.")
    return Overview([_standing(output) for output in outputs])


def _standing(output: str) -> Standing:
    for attempt in range(ATTEMPTS):
        try:
            return _with_makers(_look(output))
        except InputError as error:
            problem = str(error)
        except OSError as error:
            problem = str(unreadable(output, error))
        except NONSENSE as error:
            problem = f"{output}: makes no sense ({type(error).__name__}: {error}): make it again."
        # What a worker replaces or removes just now is whole at the next look, what is damaged is not.
        if attempt + 1 < ATTEMPTS:
            time.sleep(PAUSE_S)
    return _bad(output, DAMAGED, problem)


def _with_makers(found: Standing) -> Standing:
    """Say that a rerun has to wait where those who are at work leave it nothing to do."""
    if found.at_work and found.state == UNFINISHED and found.tally is not None and not found.shared:
        found.rerun += ", once what is at work has ended"
    return found


def _bad(output: str, state: str, problem: str) -> Standing:
    return Standing(output, state=state, rerun="", problems=[problem])


def _look(output: str) -> Standing:
    kind = kind_of(output)
    if kind == "pipe":
        raise InputError(f"{output}: is neither a file nor a folder: name an output of a command.")
    if os.path.isdir(output):
        return _look_at_folder(output, kind)
    if (scores := score_standing(output)) is not None:
        return scores
    if (clusters := cluster_standing(output)) is not None:
        return clusters
    return _not_begun(output) if kind == "missing" else file_standing(output, kind)


def _look_at_folder(folder: str, kind: str) -> Standing:
    if kind in ("features", "latents"):
        return store_standing(folder, kind)
    if kind == "shards":
        return finished_shards(folder)
    if kind == "run":
        return run_standing(folder)
    if kind in ("sweep", "report"):
        return folder_of_files(folder, kind)
    if (begun := begun_shards(folder)) is not None:
        return begun
    if (others := shards_of_others(folder)) is not None:
        return others
    if all(name == JOURNAL or is_temporary(name) for name in names_in(Path(folder))):
        return _not_begun(folder)
    return _bad(folder, NONE, no_output(folder))


def _not_begun(output: str) -> Standing:
    """Look at an output of which nothing is there yet: somebody may be about to make it."""
    path = Path(output)
    if at_work := makers_in(path) if path.is_dir() else makers_of(path):
        return Standing(output, state=UNFINISHED, at_work=at_work, rerun="waits for what is at work to end, and begins")
    return _bad(output, NONE, f"{output}: there is nothing there: the command that makes it has not begun.")
