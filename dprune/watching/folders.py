"""Looking at folders of thousands of files, on disks that are far away, and at who is writing them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from dprune.formats.claims import CLAIM, PIECE, TASK
from dprune.formats.temporary import Holder, holders, stem_of

Key = TypeVar("Key")
Found = TypeVar("Found")

THREADS = 32
"""A header waits for a network disk and takes hardly any time to read."""


def names_in(folder: Path) -> set[str]:
    """Return the names of what lies in a folder, listed once; none where it is not there."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def look_at(files: Iterable[Key], look: Callable[[Key], Found]) -> dict[Key, Found]:
    """Look at many files at once; return what was found of each."""
    given = list(files)
    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip(given, threads.map(look, given), strict=True))


def time_of(path: Path) -> float:
    """Return when a file was written, in seconds since 1970; 0 for one that has vanished."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def makers_in(folder: Path, names: set[str] | None = None) -> list[Holder]:
    """Return what living processes hold in a folder that they fill, whose `names` may have been listed before."""
    return holders(folder, names_in(folder) if names is None else names)


def makers_of(path: Path) -> list[Holder]:
    """Return what living processes hold of a file beside which they have their claims."""
    stem = stem_of(path.name) if path.name else ""
    return [holder for holder in makers_in(path.parent) if holder.stem == stem]


def pieces_held(found: Sequence[Holder]) -> set[int]:
    """Return the numbers of the pieces that tasks of an array have in hand."""
    return {int(holder.mark.partition("-")[0]) for holder in found if holder.stem == PIECE}


def processes(found: Sequence[Holder]) -> int:
    """Count the processes behind what they hold, as far as that tells them apart."""
    workers = {holder for holder in found if holder.stem in (CLAIM, TASK)}
    # Beside a file all have its name; a process that only publishes has no claim.
    return len(workers or {holder.mark for holder in found if holder.stem != PIECE})
