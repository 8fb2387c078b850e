"""What stands where an output is to go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError
from dprune.formats.arrays import read_array
from dprune.formats.shards import read_manifest
from dprune.formats.tensors import read_metadata

if TYPE_CHECKING:
    from dprune.formats.provenance import Record


def existing_record(path: str | Path) -> Record | None:
    """Return the provenance of the file or folder at `path`.

    Returns:
        None where nothing stands (or an empty folder), an empty record for something without provenance.
    """
    path = Path(path)
    if path.is_dir():
        # Listed first: another task may publish the manifest at any moment, and it would look like a stray file.
        entries = [name for name in os.listdir(path) if not name.endswith(".tmp")]
        return read_manifest(path).get("provenance") or ({} if entries else None)
    if not path.exists():
        return None
    try:
        if path.suffix == ".safetensors":
            return read_metadata(path) or {}
        return read_array(path).record or {}
    except InputError:
        # A file that cannot be read is something that the user may want to keep: only --overwrite replaces it.
        return {}


class FileOutput:
    """How a job whose output is one file answers to `delivery.Job`."""

    def existing(self, output: str) -> dict[str, Any] | None:
        """Return the provenance of the file at `output`, None if there is none."""
        return existing_record(output)

    def complete(self, output: str) -> bool:
        """Files are published whole."""
        return True
