"""Arrays in safetensors files with provenance in their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dprune.formats.class_names import ClassNames
from dprune.formats.provenance import Record
from dprune.formats.publish import STDOUT
from dprune.formats.tensor_files import TensorFile, content_of, publish_tensors
from dprune.formats.whole_files import read_file, read_stdin


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, npt.NDArray[Any]],
    metadata: Record,
    *,
    class_names: ClassNames | None = None,
    replace: bool = True,
) -> None:
    """Publish arrays and a JSON object of metadata as safetensors, see `publish_tensors`."""
    contents = {name: content_of(values) for name, values in tensors.items()}
    publish_tensors(path, contents, metadata, class_names=class_names, replace=replace)


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
    file = read_tensor_bytes(path)
    return file.name, {tensor: file.read(tensor) for tensor in file.places}, file.metadata


def read_tensor_bytes(path: str | Path) -> TensorFile:
    """Read a whole safetensors file, or stdin when `path` is a dash, into memory.

    Raises:
        InputError: the file does not exist or is not whole.
    """
    name = "stdin" if str(path) == STDOUT else str(path)
    return TensorFile.parse(name, read_stdin() if name == "stdin" else read_file(path))
