"""Files of weights by their content, as far as that needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dprune.errors import InputError

# What stands for the digest of weights that are not looked at before they are needed.
HUB = "hub"
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_SIZE = 95_628_359
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def check_file(name: str) -> Path:
    """Return a file's path.

    Raises:
        InputError: it does not exist or is no file.
    """
    path = Path(name)
    if path.is_file():
        return path
    problem = "is a folder, not a file of weights" if path.is_dir() else "no such file"
    raise InputError(f"--weights {name}: {problem}: give the safetensors or torch file of the network.")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}.") from error
