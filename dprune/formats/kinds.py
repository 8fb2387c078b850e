"""What a file is, told by its first bytes: names are the user's."""

from __future__ import annotations

from pathlib import Path

from dprune.formats.arrays import NPY_MAGIC

HEAD = 512


def file_kind(path: str | Path) -> str:
    """Return `npy`, `tensors` (safetensors), `zip`, `json` or `tar`; an empty string for all else and missing files."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return ""
    if head.startswith(NPY_MAGIC):
        return "npy"
    if head[8:9] == b"{" and not head.lstrip().startswith(b"{"):
        return "tensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.lstrip().startswith(b"{"):
        return "json"
    return "tar" if head[257:262] == b"ustar" else ""
