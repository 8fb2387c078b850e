"""safetensors files with provenance in their metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from dprune.errors import InputError
from dprune.formats.arrays import read_file, read_stdin
from dprune.formats.provenance import METADATA_KEY, Record, canonical
from dprune.formats.publish import STDOUT, publish_bytes

# Types that a memory map can show as they lie on the disk.
_DTYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
           "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}  # fmt: skip


class Place(NamedTuple):
    """Where a tensor lies in its file.

    Attributes:
        dtype: as numpy calls it.
        shape: of the whole tensor.
        offset: of its first byte, from the beginning of the file.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


def write_tensors(path: str | Path, tensors: Mapping[str, npt.NDArray[Any]], metadata: Record) -> None:
    """Publish arrays and a JSON object of metadata as safetensors, or write them to stdout when `path` is a dash."""
    # safetensors writes memory as it lies, and would mix up the values of a transposed array.
    ordered = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    publish_bytes(path, save(ordered, {METADATA_KEY: canonical(metadata)}))


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


def tensor_places(path: str | Path) -> dict[str, Place]:
    """Return where each tensor of a safetensors file lies; tensors of types that numpy lacks are left out.

    Raises:
        InputError: the file does not exist or is not whole.
    """
    try:
        # Opening it checks the header, and the length of the file against it.
        with safe_open(path, framework="np"), Path(path).open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(str(path), error) from error
    return {
        name: Place(np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] in _DTYPES
    }


def map_tensor(path: str | Path, place: Place) -> npt.NDArray[Any]:
    """Return a tensor as a memory map that cannot be written to; one without values cannot be mapped, and is empty."""
    if 0 in place.shape:
        values = np.empty(place.shape, dtype=place.dtype)
        values.flags.writeable = False
        return values
    return np.memmap(path, dtype=place.dtype, mode="r", offset=place.offset, shape=place.shape)


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
        data = read_stdin() if name == "stdin" else read_file(path)
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return name, tensors, _parse(header.get("__metadata__"))
    except KeyError as error:
        raise InputError(f"{name}: holds tensors of type {error.args[0]}, which numpy lacks: save float32.") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(name, error) from error
