"""The cache: what is kept from one command to the next. One that cannot be used costs time and nothing else."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
from pathlib import Path

from dprune.formats.temporary import sweep, temporary

_log = logging.getLogger("dprune")


def cache_folder() -> Path:
    """Return $DPRUNE_CACHE, by default `dprune` in the user's cache folder."""
    if os.environ.get("DPRUNE_CACHE"):
        return Path(os.environ["DPRUNE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dprune"


def writable(folder: Path) -> Path:
    """Return a folder of the cache, which is made, or where it cannot be written one that goes with this process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary(folder / "try"):
            return folder
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        _log.warning("%s cannot be written (%s): what this command puts there is not kept.", folder, reason)
        return _scratch() / folder.name


@functools.cache
def _scratch() -> Path:
    folder = tempfile.mkdtemp(prefix="dprune-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def sweep_once(folder: Path) -> None:
    """Remove what dead processes left in a folder of the cache, which may hold a file for each of many shards."""
    sweep(folder)
