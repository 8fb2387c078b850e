"""Weights from files that nobody vouches for: safetensors and torch files, read without running what they hold."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError, unreadable

if TYPE_CHECKING:
    from torch import Tensor


def check_file(name: str, option: str = "--weights") -> Path:
    """Return the path of a file of weights that an option names.

    Raises:
        InputError: it does not exist or is no file.
    """
    path = Path(name)
    if path.is_file():
        return path
    problem = "is a folder, not a file of weights" if path.is_dir() else "no such file"
    raise InputError(f"{option} {name}: {problem}: give the safetensors or torch file of the network.")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or torch file, floats as float32; no pickled code is run.

    Raises:
        InputError: the file is damaged, or holds anything else than tensors.
    """
    import torch

    try:
        content = _read(path)
    except Exception as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
        raise InputError(
            f"{path}: is neither a whole safetensors file nor a torch file of plain tensors ({reason}): "
            "copy it again, or convert it to safetensors."
        ) from error
    for wrapper in ("ema", "state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no table of tensors: give the network's state dict.")
    # Half precision is a way to store weights; positions could not be resampled in it on a CPU.
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _read(path: Path) -> dict[str, Any]:
    import torch

    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        from safetensors.torch import load_file

        return load_file(path)
    # Training scripts such as DiT's put their parsed options beside the weights.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}")
    return content


def misfit(path: Path, network: str, error: Exception) -> InputError:
    """Describe weights that are not this network's by the first key that torch complains of."""
    text = str(error)
    key = re.search(r"(size mismatch for [\w.]+)|((?:Missing|Unexpected) key\(s\) in state_dict: \"[^\"]+\")", text)
    reason = key.group().replace("(s) in state_dict", "") if key else f"{type(error).__name__} {text.splitlines()[0]}"
    return InputError(f"{path}: does not fit {network} ({reason}): give the file of this very network.")
