"""What a path is, told by its first bytes, or of a folder by its manifest: names are the user's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dprune.errors import InputError
from dprune.formats.arrays import HEAD, NPY_ERRORS, NPY_MAGIC
from dprune.formats.clip_retrieval import is_clip_folder
from dprune.formats.manifests import read_manifest
from dprune.formats.marked_text import MARK
from dprune.formats.publish import STDOUT
from dprune.formats.tensor_files import TensorFile

TENSOR_FILES = ("clusters", "statistics", "features", "tensors")
"""Kinds of safetensors files."""
ARRAY_FILES = ("vector", "matrix", "array")
"""Kinds of .npy files."""
_OUTPUTS = ("shards", "features", "latents", "sweep", "run", "report", "keys", "vector", "matrix", *TENSOR_FILES)


def kind_of(path: str | Path) -> str:
    """Tell what a path is, without reading more than its header.

    Returns:
        Of a folder the kind that its manifest states (`shards`, `features`, `latents`, `sweep`, `run`, `report`), or
        `clip-retrieval` for embeddings that lie beside no shards, else `folder`. Of a .npy file `vector`, `matrix` for
        more dimensions, or `array` where its header is damaged. Of a safetensors file what its tensors make it:
        `clusters`, `statistics`, `features`, else `tensors`. `tar`, `zip`, `json`, `png` and `keys` (text that
        `select` wrote) by their first bytes. `stdin`, `pipe` and `missing`; `file` for all else.

    Raises:
        InputError: the manifest of a folder is damaged.
    """
    if str(path) == STDOUT:
        return "stdin"
    if os.path.isdir(path):
        return str(read_manifest(path).get("kind", "")) or _folder(path)
    if not os.path.isfile(path):
        return "pipe" if os.path.exists(path) else "missing"
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return "file"
    if head.startswith(NPY_MAGIC):
        return _array(path)
    # Before what begins with a brace: a tar begins with the name of its first member.
    if head[257:262] == b"ustar":
        return "tar"
    if head.lstrip().startswith(b"{"):
        return "json"
    if head[8:9] == b"{":
        return _tensors(path)
    beginnings = {b"PK\x03\x04": "zip", b"\x89PNG\r\n\x1a\n": "png", MARK: "keys"}
    return next((kind for beginning, kind in beginnings.items() if head.startswith(beginning)), "file")


def no_output(folder: str | Path) -> str:
    """Say of a folder that no command made why it is none of dprune's, and what is."""
    for entry in sorted(Path(folder).iterdir()):
        try:
            made = kind_of(entry) in _OUTPUTS
        except InputError:
            continue
        if made:
            return f"{folder}: holds outputs of commands and is none itself: name them, such as {entry}."
    return f"{folder}: is a folder that no command of dprune made: name an output of a command."


def _folder(path: str | Path) -> str:
    return "clip-retrieval" if is_clip_folder(path) and not any(Path(path).glob("*.tar")) else "folder"


def _array(path: str | Path) -> str:
    try:
        # Of a shape that is too large, numpy warns before it raises.
        with np.errstate(over="ignore"):
            dimensions: int = np.load(path, mmap_mode="r", allow_pickle=False).ndim
    except NPY_ERRORS:
        return "array"
    return "matrix" if dimensions > 1 else "vector"


def _tensors(path: str | Path) -> str:
    try:
        names = TensorFile.open(path).places.keys()
    except InputError:
        return "tensors"
    marks = {"assignment": "clusters", "covariance": "statistics", "features": "features"}
    return next((kind for tensor, kind in marks.items() if tensor in names), "tensors")
