"""Weights from files that nobody vouches for: safetensors and torch files, read without running what they hold."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dprune.errors import InputError, unreadable
from dprune.formats.regular import ZIP_ERRORS
from dprune.formats.tensor_files import TensorFile, is_tensor_file, not_whole

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPERS = (
    "ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model_state_dict",
    "model",
    "module",
)
"""Names that training scripts keep a network's state dict under; averaged weights come first."""
_LIGHTNING = ("pytorch_lightning", "lightning.pytorch", "lightning")
_LIGHTNING_NOTES = (
    "callbacks.model_checkpoint.ModelCheckpoint",
    "callbacks.early_stopping.EarlyStopping",
    "utilities.parsing.AttributeDict",
)
"""What its checkpoints hold beside weights."""
_UNLIKE = "is neither a whole safetensors file nor a torch file of plain tensors"
_COPY = "copy it again, or convert it to safetensors"
_PICKLE = b"\x80"
"""What torch's files began with before they were zip archives."""
_DEEPEST = 4
_DIGESTED_AT_ONCE = 32 << 20


class Forgotten(dict[Any, Any]):
    """Stands for an object of a library in a torch file, and holds nothing of it."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setitem__(self, key: object, value: object) -> None:
        """Forget it."""

    def __setstate__(self, state: object) -> None:
        """Forget it."""


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
    running = hashlib.sha256()
    try:
        with path.open("rb") as file:
            # In large pieces: after each, a thread waits until the others let Python go on.
            buffer = memoryview(bytearray(min(_DIGESTED_AT_ONCE, max(1, os.fstat(file.fileno()).st_size))))
            while size := file.readinto(buffer):
                running.update(buffer[:size])
    except OSError as error:
        raise unreadable(path, error) from error
    return running.hexdigest()


def tensor_bytes(value: Tensor) -> memoryview:
    """Return the bytes of a tensor that lies in one piece in the computer's memory, without copying them."""
    import torch

    # A tensor without dimensions shows no bytes.
    found: memoryview = value.reshape(-1).view(torch.uint8).numpy().data
    return found


def read_tensor_file(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors of a safetensors file whose names begin with `prefix`, which is taken off.

    Raises:
        InputError: the file does not exist or is not whole, or a tensor is not what was written.
    """
    checked = TensorFile.open(path)
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in checked.places if name.startswith(prefix)}
    except (OSError, SafetensorError) as error:
        raise not_whole(str(path), str(error)) from error
    checked.check_read({name: tensor_bytes(value) for name, value in state.items()})
    return {name.removeprefix(prefix): value for name, value in state.items()}


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or torch file, floats as float32; no pickled code is run.

    Tables that training scripts wrap around a state dict are opened, and what torch.compile and wrappers for several
    devices put before its names is taken off.

    Raises:
        InputError: the file is damaged, or holds no state dict, or more than one.
    """
    # Half precision is a way to store weights; positions could not be resampled in it on a CPU.
    return {name: value.float() if value.is_floating_point() else value
            for name, value in _tensors(path, _read(path)).items()}  # fmt: skip


def map_state(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a torch file, of whatever type they are; what nobody touches is not read.

    Raises:
        InputError: as `read_state`.
    """
    return _tensors(path, _read_torch(path, mapped=True))


def is_torch_file(path: str | Path) -> bool:
    """Tell by its beginning and its parts whether torch wrote a file, without torch.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if file.read(1) == _PICKLE:
                return True
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except ZIP_ERRORS:
        return False


def _tensors(path: Path, content: dict[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors of the one state dict that a file's content holds, by their own names."""
    import torch

    state: dict[str, Tensor] = {}
    for key, value in _unwrapped(path, content).items():
        if (name := bare_name(key)) in state:
            raise InputError(f"{path}: holds {name!r} twice, once as {key!r}: save one network's state dict alone.")
        if isinstance(value, torch.Tensor):
            state[name] = value
        elif not _is_note(value):
            kind = type(value).__name__
            raise InputError(f"{path}: holds a {kind} as {key!r} among its tensors: save the state dict alone.")
    return state


def bare_name(key: object) -> str:
    """Return a parameter's own name."""
    # Blocks may be compiled one by one, which leaves its mark inside of names.
    name = str(key).replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _is_note(value: object) -> bool:
    """Tell whether a value is what training scripts note beside weights: a number, a text, a setting."""
    return value is None or isinstance(value, bool | int | float | str | np.generic | argparse.Namespace)


def _is_state(content: object) -> bool:
    import torch

    if not isinstance(content, dict):
        return False
    tensors = sum(isinstance(value, torch.Tensor) for value in content.values())
    return tensors > 0 and all(isinstance(v, torch.Tensor) or _is_note(v) for v in content.values())


def _unwrapped(path: Path, content: dict[Any, Any]) -> dict[Any, Any]:
    """Return the state dict that a file's content is, or that is the one in it."""
    if found := _wrapped(content, _DEEPEST):
        return found
    within = [name for name, value in content.items() if _is_state(value)]
    if len(within) == 1:
        return dict(content[within[0]])
    if within:
        names = ", ".join(repr(name) for name in within[:3])
        raise InputError(f"{path}: holds several tables of tensors ({names}): save the network's alone.")
    raise InputError(f"{path}: holds no table of tensors{_culprit(content)}: give the network's state dict.")


def _wrapped(content: Any, depth: int) -> dict[Any, Any]:
    """Return the state dict that a table is, or that lies in it under a usual name; empty for none."""
    if _is_state(content):
        return dict(content)
    if not isinstance(content, dict) or not depth:
        return {}
    inside = (_wrapped(content[name], depth - 1) for name in _WRAPPERS if name in content)
    return next((found for found in inside if found), {})


def _culprit(content: dict[Any, Any]) -> str:
    """Name what keeps a table from being a state dict, if it is one otherwise."""
    import torch

    if not any(isinstance(value, torch.Tensor) for value in content.values()):
        return ""
    key, value = next((k, v) for k, v in content.items() if not isinstance(v, torch.Tensor) and not _is_note(v))
    return f" alone (it has a {type(value).__name__} as {key!r})"


def _read(path: Path) -> dict[Any, Any]:
    return dict(read_tensor_file(path)) if is_tensor_file(path) else _read_torch(path)


def _read_torch(path: Path, *, mapped: bool = False) -> dict[Any, Any]:
    if not is_torch_file(path):
        raise InputError(f"{path}: {_UNLIKE}: {_COPY}.")
    import torch

    try:
        # What was written before files were zip archives cannot be mapped.
        mapped = mapped and zipfile.is_zipfile(path)
        with torch.serialization.safe_globals(_harmless()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        if culprit := re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error)):
            raise InputError(
                f"{path}: holds {culprit[1]!r} beside plain tensors, which is not loaded, since that may run code: "
                "save the state dict alone, or convert it to safetensors."
            ) from error
        reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
        raise InputError(f"{path}: {_UNLIKE} ({reason}): {_COPY}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}: give the network's state dict.")
    return content


def _harmless() -> list[Any]:
    """What training scripts put beside weights and runs no code: parsed options, numbers and arrays of numpy's, notes.

    Lightning's notes are read as tables that forget all that is written to them.
    """
    numbers = {type(np.dtype(letter)) for letter in "?bBhHiIlLqQefd"}
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    # Older versions of numpy had them in another place.
    older = [(scalar, "numpy.core.multiarray.scalar"), (array, "numpy.core.multiarray._reconstruct")]
    forgotten = [(Forgotten, f"{library}.{name}") for library in _LIGHTNING for name in _LIGHTNING_NOTES]
    return [argparse.Namespace, np.dtype, np.ndarray, *numbers, scalar, array, *older, *forgotten]


def misfit(path: Path, network: str, error: Exception) -> InputError:
    """Describe weights that are not this network's by the first key that torch complains of."""
    text = str(error)
    key = re.search(r"(size mismatch for [\w.]+)|((?:Missing|Unexpected) key\(s\) in state_dict: \"[^\"]+\")", text)
    reason = key.group().replace("(s) in state_dict", "") if key else f"{type(error).__name__} {text.splitlines()[0]}"
    return InputError(f"{path}: does not fit {network} ({reason}): give the file of this network.")
