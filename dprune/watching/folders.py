"""Looking at folders of thousands of files that others write, on disks that are far away."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

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
