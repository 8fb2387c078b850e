"""What stands where an output is to go."""

from __future__ import annotations

import os
from pathlib import Path

from dprune.errors import InputError
from dprune.formats.arrays import read_array
from dprune.formats.kinds import TENSOR_FILES, kind_of
from dprune.formats.manifests import read_manifest
from dprune.formats.marked_text import parse_text
from dprune.formats.provenance import Record, checked_record
from dprune.formats.results import read_result
from dprune.formats.tensors import read_metadata
from dprune.formats.whole_files import read_file


def existing_record(path: str | Path, folder_of: str | None = None) -> Record | None:
    """Return the provenance of the file or folder at `path`.

    Args:
        path: where the output is to go.
        folder_of: kind of folder that it is to be (`shards`, `features` and so on), None for a file.

    Raises:
        InputError: a file stands where a folder is to go, or the reverse, or a folder of another kind.

    Returns:
        None where nothing stands (or an empty folder), an empty record for something without provenance.
    """
    path = Path(path)
    if path.exists() and path.is_dir() != (folder_of is not None):
        found, wanted = ("file", "folder") if folder_of else ("folder", "file")
        raise InputError(f"{path}: is a {found}, and the output is a {wanted}: give another -o.")
    if path.is_dir():
        kind = read_manifest(path).get("kind", folder_of)
        if kind != folder_of:
            raise InputError(f"{path}: is a folder of {kind}, not of {folder_of}: give another -o.")
        # Listed first: another task may publish the manifest at any moment, and it would look like a stray file.
        entries = [name for name in os.listdir(path) if not name.endswith(".tmp")]
        return read_manifest(path).get("provenance") or ({} if entries else None)
    if not path.exists():
        return None
    try:
        kind = kind_of(path)
        if kind in TENSOR_FILES:
            return checked_record(str(path), read_metadata(path)) or {}
        if kind == "json":
            return read_result(path).record
        if kind == "keys":
            return parse_text(str(path), read_file(path))[1] or {}
        return read_array(path).record or {}
    except InputError:
        # A file that cannot be read is something that the user may want to keep: only --overwrite replaces it.
        return {}
