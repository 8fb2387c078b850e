"""safetensors files with provenance in their metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from dprune.errors import InputError
from dprune.formats.arrays import read_stdin
from dprune.formats.provenance import METADATA_KEY, canonical
from dprune.formats.publish import STDOUT, publish_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from dprune.formats.provenance import Record


def write_tensors(path: str | Path, tensors: Mapping[str, npt.NDArray[Any]], metadata: Record) -> None:
    """Publish arrays and a JSON object of metadata as safetensors, or write them to stdout when `path` is a dash."""
    publish_bytes(path, save(dict(tensors), {METADATA_KEY: canonical(metadata)}))


def read_metadata(path: str | Path) -> Record | None:
    """Return dprune's metadata of a safetensors file, None if it has none.

    Raises:
        InputError: the file does not exist or is not whole.
    """
    try:
        with safe_open(path, framework="np") as file:
            return _parse(file.metadata())
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(str(path), error) from error


def _parse(metadata: Mapping[str, str] | None) -> Record | None:
    text = (metadata or {}).get(METADATA_KEY)
    content = json.loads(text) if text else None
    return content if isinstance(content, dict) else None


def damaged(name: str, error: Exception) -> InputError:
    """Describe a safetensors file that does not open."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{name}: no such file.")
    return InputError(f"{name}: is not a whole safetensors file: {error}.")


def read_tensors(path: str | Path) -> tuple[str, dict[str, npt.NDArray[Any]], Record | None]:
    """Read a whole safetensors file, or stdin when `path` is a dash.

    Returns:
        What messages call it, its arrays, and dprune's metadata (None for a file made elsewhere).

    Raises:
        InputError: the file does not exist or is not whole.
    """
    name = "stdin" if str(path) == STDOUT else str(path)
    try:
        data = read_stdin() if name == "stdin" else Path(path).read_bytes()
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return name, tensors, _parse(header.get("__metadata__"))
    except KeyError as error:
        raise InputError(f"{name}: holds tensors of type {error.args[0]}, which numpy lacks: save float32.") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(name, error) from error
