"""What a file is, told by its first bytes: names are the user's."""

from __future__ import annotations

from pathlib import Path

from dprune.formats.arrays import NPY_MAGIC

HEAD = 512


def file_kind(path: str | Path) -> str:
    """Return `npy`, `tensors` (safetensors), `tar`, or an empty string for anything else, missing files included."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return ""
    if head.startswith(NPY_MAGIC):
        return "npy"
    if head[8:9] == b"{":
        return "tensors"
    return "tar" if head[257:262] == b"ustar" else ""
