"""Files of weights: safetensors whose metadata says what network they are of and what made them.

Headers are read without torch.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError
from dprune.formats.checked_json import shaped
from dprune.formats.class_names import ClassNames
from dprune.formats.provenance import Record, checked_record, parent_record
from dprune.formats.tensor_files import StoredTensor, TensorFile, is_tensor_file, publish_tensors
from dprune.models.descriptions import DESCRIPTIONS
from dprune.models.weights import file_digest, read_tensor_file, tensor_bytes

if TYPE_CHECKING:
    from torch import Tensor

_LETTERS = {"torch.bool": "BOOL", "torch.uint8": "U8", "torch.int8": "I8", "torch.int16": "I16", "torch.int32": "I32",
            "torch.int64": "I64", "torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float32": "F32",
            "torch.float64": "F64"}  # fmt: skip
"""Types of tensors that networks and optimizers hold, as safetensors calls them."""

MODEL = "model.safetensors"
"""What a training leaves in its folder."""
NETWORK_KEY = "network"
_PIECE = 16 << 20
_threads = threading.local()


@dataclass(frozen=True)
class ModelFile:
    """A file of weights whose header was read.

    Attributes:
        path: where it is.
        network: what kind of network it is and what determines its parameters, with the key `kind`
            (`dit`, `vae`); empty for a file made elsewhere.
        record: its provenance, None for a file made elsewhere.
    """

    path: Path
    network: dict[str, Any]
    record: Record | None

    @classmethod
    def open(cls, path: str | Path) -> ModelFile:
        """Read the header; a torch file has none.

        Args:
            path: of the file, or of the folder of a finished training.

        Raises:
            InputError: the file does not exist, or is a damaged safetensors file.
        """
        folder = Path(path)
        path = folder / MODEL if folder.is_dir() else folder
        if folder.is_dir() and not path.is_file():
            raise InputError(
                f"{folder}: is a folder without {MODEL}, which a training writes when it has ended: "
                "run its command again, or name a file."
            )
        if not is_tensor_file(path):
            return cls(path, {}, None)
        content = dict(TensorFile.open(path).metadata or {})
        network = content.pop(NETWORK_KEY, None)
        record = checked_record(str(path), content)
        return cls(path, network, record) if isinstance(network, dict) and record else cls(path, {}, None)

    @property
    def class_names(self) -> ClassNames:
        """What the classes that it knows are called."""
        return ClassNames(tuple(self.network.get("class_names", ())))

    def check_kind(self, kind: str, title: str, command: str) -> None:
        """Refuse a file of another kind of network; one made elsewhere does not say what it is.

        Args:
            kind: that is wanted, see `network`.
            title: what messages call such a network.
            command: what makes it.

        Raises:
            InputError: dprune made it of another kind, or what it says of itself is damaged.
        """
        found = self.network.get("kind", kind)
        if found != kind:
            raise InputError(
                f"{self.path}: holds a network of kind {found}, not {title}: "
                f"give the model.safetensors of dprune {command}."
            )
        if self.network:
            shaped(str(self.path), self.network, DESCRIPTIONS[kind])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        return self._digest_ahead.result()

    @functools.cached_property
    def _digest_ahead(self) -> Future[str]:
        pool = ThreadPoolExecutor(1)
        try:
            return pool.submit(file_digest, self.path)
        finally:
            pool.shutdown(wait=False)

    def digest_ahead(self) -> None:
        """Begin to take the digest, seconds for gigabytes, while this thread goes on."""
        _ = self._digest_ahead

    def as_parent(self) -> Record:
        """Describe it as the input of another file."""
        return parent_record(self.record, self.digest)

    def weights(self) -> dict[str, Tensor]:
        """Read the weights: the averaged ones of a checkpoint, which holds more, and all of any other file.

        Raises:
            InputError: the file is not whole.
        """
        return self.state("raw.") | self.state("ema.") if "step" in self.network else self.state()

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """Read the tensors whose names begin with `prefix`, which is taken off.

        Raises:
            InputError: the file is not whole, or a tensor is not what was written.
        """
        return read_tensor_file(self.path, prefix)


def publish_model(path: str | Path, state: Mapping[str, Tensor], network: Mapping[str, Any], record: Record) -> None:
    """Publish weights.

    Args:
        path: of the file.
        state: tensors by name, on any device.
        network: see `ModelFile`.
        record: provenance.

    Raises:
        DpruneError: the disk is full, or the folder cannot be written.
    """
    publish_tensors(
        path, {name: _content(value) for name, value in state.items()}, {**record, NETWORK_KEY: dict(network)}
    )


def _content(value: Tensor) -> StoredTensor:
    return StoredTensor(_LETTERS[str(value.dtype)], tuple(value.shape), functools.partial(_pieces, value.detach()))


def _pieces(value: Tensor) -> Iterator[memoryview]:
    """Yield a tensor's bytes; those on a GPU come by a piece of memory that copies are fast to, one for each thread."""
    if value.device.type != "cuda":
        yield tensor_bytes(value.cpu().contiguous())
        return
    import torch

    if not hasattr(_threads, "staging"):
        _threads.staging = torch.empty(_PIECE, dtype=torch.uint8, pin_memory=True)
    for part in value.contiguous().reshape(-1).view(torch.uint8).split(_PIECE):
        yield tensor_bytes(_threads.staging[: len(part)].copy_(part))


def fits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Say what first keeps a state dict from fitting a network, given the network's, or return an empty string."""
    for name, value in expected.items():
        if name not in state:
            return f"{name} is missing"
        if state[name].shape != value.shape:
            return f"{name} is {list(state[name].shape)}, not {list(value.shape)}"
        if state[name].is_floating_point() != value.is_floating_point():
            return f"{name} is {_LETTERS[str(state[name].dtype)]}, not {_LETTERS[str(value.dtype)]}"
    return next((f"{name} is not expected" for name in state if name not in expected), "")
