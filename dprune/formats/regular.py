"""Files that can be read by offset, or more than once."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

from dprune.errors import InputError

ZIP_ERRORS = (OSError, ValueError, RuntimeError, zipfile.BadZipFile)
"""What opening a file as a zip archive raises if it is none, damaged, or of a kind that Python cannot read."""


def check_regular(path: str | Path) -> None:
    """Refuse pipes, which opening would wait for, and devices, many of which never end; what is not there passes.

    Raises:
        InputError: it is one of them.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path}: is {'a pipe' if stat.S_ISFIFO(mode) else 'a device'}: name a regular file.")
