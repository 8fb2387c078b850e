"""Files that a command writes beside its output: pictures, pairs, statistics, errors, exports."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dprune.errors import InputError, UsageError
from dprune.formats.kinds import kind_of
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, difference, record_digest
from dprune.formats.publish import STDOUT, check_place
from dprune.formats.regular import ZIP_ERRORS

ZIP_MARK = b"dprune "
"""What the comment of an archive of dprune's begins with; `Beside.mark` follows."""


@dataclass(frozen=True)
class Beside:
    """A file that stands or falls with an output.

    One that dprune did not make is never replaced, one that it made otherwise is with --overwrite alone.

    Attributes:
        option: that names it, or the output that it gets its name from.
        path: where it goes.
        record: provenance of what it holds. Arrays and tensors carry it, pictures and archives its digest.
    """

    option: str
    path: Path
    record: Record

    @property
    def mark(self) -> str:
        """What pictures and archives carry to tell what they hold."""
        return record_digest(self.record)

    def is_made(self) -> bool:
        """Tell whether the file is there and holds what it should."""
        return mark_of(self.path) == self.mark

    def check(self, *, overwrite: bool) -> None:
        """Refuse to replace a file that is something else.

        Raises:
            InputError: one stands there that dprune did not make, or that it made otherwise and may not replace.
        """
        found = mark_of(self.path)
        if found in (None, self.mark):
            return
        if not found:
            raise InputError(f"{self.path}: exists and was not written by dprune: give another {self.option}.")
        if not overwrite:
            known = existing_record(self.path)
            unlike = f" ({difference(known, self.record)})" if known else ""
            raise InputError(
                f"{self.path} exists and was made differently{unlike}: give --overwrite to replace it, or another "
                f"{self.option}."
            )


def mark_of(path: Path) -> str | None:
    """Return the mark of what stands at a path, see `Beside.mark`: None for nothing, empty for a file of others."""
    if not path.exists():
        return None
    if path.is_dir():
        return ""
    kind = kind_of(path)
    if kind == "png":
        from dprune.formats.images import png_mark

        return png_mark(path)
    if kind == "zip":
        return _zip_mark(path)
    found = existing_record(path)
    return record_digest(found) if found else ""


def _zip_mark(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            comment = archive.comment
    except ZIP_ERRORS:
        return ""
    return comment.removeprefix(ZIP_MARK).decode("ascii", "replace") if comment.startswith(ZIP_MARK) else ""


def progress_folder(output: str | Path) -> Path:
    """Return where the progress of an output is kept: beside it, and hidden."""
    path = Path(output)
    return path.with_name(f".{path.name}.progress")


def check_names(output: str, files: Sequence[Beside]) -> None:
    """Refuse files without a name, two of one name, and names of what is no file.

    Raises:
        UsageError: a file has no name, or two have one.
        InputError: a name is that of a device or a pipe.
    """
    named = [("-o", Path(output)), *((file.option, file.path) for file in files)]
    for option, path in named[1:]:
        if str(path) in (STDOUT, "."):
            raise UsageError(f"{option} {str(path).rstrip('.')}: name a file.")
    for option, path in named:
        if str(path) != STDOUT:
            check_place(path, option)
    places = [os.path.realpath(path) for _, path in named]
    for number, place in enumerate(places):
        if (first := places.index(place)) < number:
            same = f"{named[first][0]} and {named[number][0]} name the same file"
            raise UsageError(f"{same}, {named[number][1].name}: give each its own.")
