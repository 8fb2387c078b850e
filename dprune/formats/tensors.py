"""Arrays in safetensors files with provenance in their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dprune.formats.provenance import Record
from dprune.formats.publish import STDOUT
from dprune.formats.tensor_files import TensorFile, content_of, publish_tensors
from dprune.formats.whole_files import read_file, read_stdin


def write_tensors(
    path: str | Path, tensors: Mapping[str, npt.NDArray[Any]], metadata: Record, *, replace: bool = True
) -> None:
    """Publish arrays and a JSON object of metadata as safetensors, see `publish_tensors`."""
    publish_tensors(path, {name: content_of(values) for name, values in tensors.items()}, metadata, replace=replace)


def read_metadata(path: str | Path) -> Record | None:
    """Return dprune's metadata of a safetensors file, None if it has none.

    Raises:
        InputError: the file does not exist or is not whole.
    """
    return TensorFile.open(path).metadata


def read_tensors(path: str | Path) -> tuple[str, dict[str, npt.NDArray[Any]], Record | None]:
    """Read a whole safetensors file, or stdin when `path` is a dash.

    Returns:
        What messages call it, its arrays, and dprune's metadata (None for a file made elsewhere).

    Raises:
        InputError: the file does not exist or is not whole.
    """
    name = "stdin" if str(path) == STDOUT else str(path)
    file = TensorFile.parse(name, read_stdin() if name == "stdin" else read_file(path))
    return name, {tensor: file.read(tensor) for tensor in file.places}, file.metadata
