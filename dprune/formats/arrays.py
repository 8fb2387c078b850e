"""Arrays of one value a sample, or of ids: .npy files with their provenance as one JSON line behind the data.

`np.load` and memory maps ignore that line, and files without it are taken as made elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, UsageError, unreadable
from dprune.formats.provenance import Record, canonical, checked_record, parent_record
from dprune.formats.publish import STDOUT, publish_bytes

NPY_MAGIC = b"\x93NUMPY"
VECTORS = {
    "scores": ("scores are one number a sample", "fiu"),
    "subset": ("a subset is a vector of sample ids", "iu"),
    "groups": ("groups are one whole number a sample", "iu"),
}
"""What vectors of a kind are in words, and the kinds of dtypes that will do."""
_WRITES = {"select": "subset", "score": "scores", "memorization": "pairs"}
"""What kind of array each command writes."""
_MISTAKEN = {
    ("subset", "scores"): "a subset, not scores: give it by --within, to choose among its samples",
    ("subset", "groups"): "a subset, not groups: give it by --within, to choose among its samples",
    ("subset", "rows"): "a subset, not one row for each sample: give what it was chosen from",
    ("scores", "subset"): "scores, not a subset: choose one by them with dprune select",
    ("scores", "groups"): "scores, not groups: give them as SCORES",
}
"""What an array of one kind is that was given as another, and what to do with it."""
NPY_ERRORS = (ValueError, EOFError, OSError, MemoryError, OverflowError, TypeError, RecursionError, TokenError)
"""What numpy raises on damaged headers, which may be no Python or speak of more values than memory holds."""


@dataclass(frozen=True)
class Array:
    """An array that was read, with what is known of it.

    Attributes:
        name: what messages call it.
        values: the array, read-only.
        record: its provenance, None for one made elsewhere.
    """

    name: str
    values: npt.NDArray[Any]
    record: Record | None

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset that it speaks of."""
        return self.record.get("fingerprint") if self.record else None

    def as_parent(self) -> Record:
        """Describe it as the input of another file."""
        return parent_record(self.record, digest_array(self.values))


def digest_array(values: npt.NDArray[Any]) -> str:
    """Return the SHA-256, in hex, of an array's dtype, shape and content."""
    sha = hashlib.sha256(canonical([values.dtype.str, list(values.shape)]).encode())
    sha.update(np.ascontiguousarray(values).data)
    return sha.hexdigest()


def write_array(path: str | Path, values: npt.NDArray[Any], record: Record) -> None:
    """Publish an array with its provenance, or write both to stdout when `path` is a dash."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    # On a line of its own, so that tail -n 1 shows it.
    line = b"\n" + canonical(record).encode("utf-8", "surrogateescape") + b"\n"
    publish_bytes(path, buffer.getvalue() + line)


def read_stdin() -> bytes:
    """Read all of stdin, which can be asked for once.

    Raises:
        UsageError: stdin is a terminal.
        InputError: it is closed, or empty, as it is for the second of two inputs that are `-`.
    """
    stream = sys.stdin.buffer
    if stream.isatty():
        raise UsageError("stdin is a terminal: pipe an array in, or name a file.")
    try:
        data = stream.read()
    except OSError as error:
        raise unreadable("stdin", error) from error
    if not data:
        raise InputError("stdin: is empty: the command before the pipe wrote nothing, or two inputs are given as '-'.")
    return data


def read_file(path: str | Path) -> bytes:
    """Read a whole file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def read_array(path: str | Path, data: bytes | None = None) -> Array:
    """Read a .npy file, or stdin when `path` is a dash, unless its bytes are given.

    Raises:
        InputError: the file does not exist, is no .npy, is cut short, or holds pickled objects.
    """
    name = "stdin" if str(path) == STDOUT else str(path)
    if data is None:
        data = read_stdin() if name == "stdin" else read_file(path)
    if data.startswith(b"PK"):
        raise InputError(f"{name}: is an .npz archive, not a .npy array: save one array with numpy.save.")
    if not data.startswith(NPY_MAGIC):
        raise InputError(f"{name}: is no .npy array: save it with numpy.save.")
    buffer = io.BytesIO(data)
    try:
        values = np.load(buffer, allow_pickle=False)
    except NPY_ERRORS as error:
        raise InputError(f"{name}: is not a whole .npy array of numbers: {error}.") from error
    values.flags.writeable = False
    return Array(name, values, _trailing_record(name, data[buffer.tell() :]))


def _trailing_record(name: str, line: bytes) -> Record | None:
    if not line.strip():
        return None
    try:
        record = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise InputError(f"{name}: what follows the array is no provenance: make the file again.") from None
    return checked_record(name, record)


def stated_kind(record: Record | None) -> str:
    """Return what its provenance says that an array holds: `subset`, `scores`, `pairs`, or nothing."""
    return _WRITES.get(str((record or {}).get("command", "")).partition(" ")[0], "")


def is_like_ids(values: npt.NDArray[Any]) -> bool:
    """Tell whether whole numbers can hardly be anything but sorted ids: they ascend beyond what would count them."""
    if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
        return False
    return bool(values[0] >= 0 and values[-1] >= len(values) and (values[1:] > values[:-1]).all())


def check_role(array: Array, role: str) -> None:
    """Hold an array to what it was given as, since what stands at a position may fit there by chance.

    Args:
        array: by its provenance, or of whole numbers from elsewhere by what they are.
        role: `scores`, `subset`, `groups`, or `rows` for whatever has one row a sample.

    Raises:
        InputError: it is something else.
    """
    if mistaken := _MISTAKEN.get((stated_kind(array.record), role)):
        raise InputError(f"{array.name}: holds {mistaken}.")
    if role != "subset" and array.record is None and is_like_ids(array.values):
        otherwise = ", or save scores as floats" if role == "scores" else ""
        raise InputError(
            f"{array.name}: its whole numbers ascend to {array.values[-1]}, beyond their count, as those of "
            f"{_MISTAKEN['subset', role]}{otherwise}."
        )


def misshapen(values: npt.NDArray[Any], kind: str) -> str:
    """Say that an array is no vector of a kind in `VECTORS`, or return an empty string."""
    words, dtypes = VECTORS[kind]
    if values.ndim == 1 and values.dtype.kind in dtypes:
        return ""
    return f"{words}, not {values.dtype} of shape {list(values.shape)}"


def _read_vector(path: str | Path, kind: str, data: bytes | None = None) -> Array:
    array = read_array(path, data)
    check_role(array, kind)
    if problem := misshapen(array.values, kind):
        raise InputError(f"{array.name}: {problem}.")
    return array


def read_scores(path: str | Path) -> Array:
    """Read one score a sample; NaN means not scored.

    Raises:
        InputError: as `read_array`, or not a vector of numbers.
    """
    return _read_vector(path, "scores")


def read_ids(path: str | Path, data: bytes | None = None) -> Array:
    """Read a subset: sample ids, returned sorted as int64.

    Raises:
        InputError: as `read_array`, or not a vector of unique ids from 0.
    """
    array = _read_vector(path, "subset", data)
    ids = np.sort(array.values.astype(np.int64))
    if len(ids) and ids[0] < 0:
        raise InputError(f"{array.name}: holds the id {ids[0]}; ids count from 0.")
    if (repeated := ids[1:][ids[1:] == ids[:-1]]).size:
        raise InputError(f"{array.name}: holds the id {repeated[0]} more than once.")
    return Array(array.name, ids, array.record)


def read_groups(path: str | Path) -> Array:
    """Read one group a sample, as int64; a negative one belongs to none.

    Raises:
        InputError: as `read_array`, or not a vector of whole numbers.
    """
    array = _read_vector(path, "groups")
    return Array(array.name, array.values.astype(np.int64), array.record)
