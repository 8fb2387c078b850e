"""Arrays of one value a sample, or of ids: .npy files with two lines behind the data.

The first is `xxh3` and the digest of the .npy and the second line, which is the provenance as JSON. `np.load` and
memory maps ignore both, and files without them are taken as made elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, unreadable
from dprune.formats.checked_json import AGAIN, parse_json
from dprune.formats.digests import changed, content_digest
from dprune.formats.provenance import Record, canonical, checked_record, parent_record
from dprune.formats.publish import STDOUT, publish_bytes
from dprune.formats.uids import is_uids
from dprune.formats.whole_files import read_file, read_stdin

NPY_MAGIC = b"\x93NUMPY"
HEAD = 512
"""Bytes that tell what a file is."""
VECTORS = {
    "scores": ("scores are one number per sample", "fiu"),
    "subset": ("a subset is a vector of sample ids", "iu"),
    "groups": ("groups are one whole number per sample", "iu"),
}
"""What vectors of a kind are in words, and the kinds of dtypes that will do."""
_WRITES = {"select": "subset", "score": "scores", "memorization": "pairs"}
"""What kind of array each command writes."""
_MISTAKEN = {
    ("subset", "scores"): "a subset, not scores: give it with --within or --subset, to choose among its samples",
    ("subset", "groups"): "a subset, not groups: give it with --within, to choose among its samples",
    ("subset", "rows"): "a subset, not one row for each sample: give what it was chosen from",
    ("weights", "subset"): (
        "weights, not a subset: give them to dprune train-dit --weights, or choose those that are drawn at all with "
        "dprune select WEIGHTS --above 0"
    ),
    ("weights", "groups"): "weights, not groups: give them to dprune train-dit --weights",
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
        guarded: whether the file carries a digest.
        dataset: fingerprint of the dataset that ids were translated to, None where they are as they were written.
        mask_of: length of the mask that ids were told by, None where they were not.
    """

    name: str
    values: npt.NDArray[Any]
    record: Record | None
    guarded: bool = False
    dataset: str | None = None
    mask_of: int | None = None

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset that it speaks of."""
        if self.dataset is not None:
            return self.dataset
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
    # The record is the last line, so that tail -n 1 shows it.
    array, line = buffer.getvalue(), canonical(record).encode()
    publish_bytes(path, array + f"\nxxh3 {content_digest(array + line)}\n".encode() + line + b"\n")


def read_array(path: str | Path, data: bytes | None = None) -> Array:
    """Read a .npy file, or stdin when `path` is a dash, unless its bytes are given.

    Raises:
        InputError: the file does not exist, is no .npy, is cut short, or holds pickled objects.
    """
    name = "stdin" if str(path) == STDOUT else str(path)
    if data is None:
        data = read_stdin(NPY_MAGIC) if name == "stdin" else read_file(path, magic=NPY_MAGIC)
    if not data.startswith(NPY_MAGIC):
        raise not_an_array(name, data[:HEAD])
    buffer = io.BytesIO(data)
    try:
        values = np.load(buffer, allow_pickle=False)
    except NPY_ERRORS as error:
        raise unsound_array(name, error) from error
    if values.dtype.kind in "mM":
        raise InputError(f"{name}: holds dates or lengths of time, not numbers: save an array of numbers.")
    values.flags.writeable = False
    guarded, line = _behind(name, data, buffer.tell())
    record = parse_json(f"{name} (what follows the array)", line) if line else None
    return Array(name, values, checked_record(name, record), guarded)


def map_array(path: str | Path) -> npt.NDArray[Any]:
    """Map a .npy file without reading it to memory, unless it carries a digest.

    Raises:
        InputError: as `read_array`.
    """
    try:
        with open(path, "rb") as file, np.errstate(over="ignore"):
            head = file.read(HEAD)
            if not head.startswith(NPY_MAGIC):
                raise not_an_array(str(path), head)
            values: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            file.seek(-1, io.SEEK_END)
            alone = file.tell() < getattr(values, "offset", 0) + values.nbytes
    except NPY_ERRORS as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from error
        raise unsound_array(str(path), error) from error
    return values if alone else read_array(path).values


def _behind(name: str, data: bytes, end: int) -> tuple[bool, bytes]:
    """Return whether an array's file carries a digest, which is right, and the line of its record."""
    behind = data[end:]
    if not behind.startswith(b"\nxxh3"):
        # An older dprune wrote the record alone.
        return False, behind.strip()
    lines = re.fullmatch(rb"\nxxh3 ([0-9a-f]{16})\n(.*)\n", behind)
    if lines is None or lines[1].decode() != content_digest(data[:end] + lines[2]):
        raise changed(name, "its content")
    return True, lines[2]


def not_an_array(name: str, head: bytes) -> InputError:
    """Describe a file that is no .npy.

    Args:
        name: what messages call it.
        head: its first bytes.
    """
    is_, remedy = next(
        (words for beginning, words in _OTHERS.items() if re.match(beginning, head, re.DOTALL)),
        ("is not a .npy array", "save it with numpy.save"),
    )
    return InputError(f"{name}: {is_}: {remedy}.")


_OTHERS = {
    rb"# dprune ": ("is a list of keys, not a .npy array", "make ids of it by dprune select --within with --shards"),
    rb"PK.{28}[^/]+/(?:data\.pkl|\.format_version|version|byteorder)": (
        "is a torch file, not a .npy array", "save the tensor's .numpy() with numpy.save"),
    rb"PK.{28}[^/]+\.npy": ("is an .npz archive, not a .npy array", "save one array with numpy.save"),
    rb"PK": ("is a zip archive, not a .npy array", "save one array with numpy.save"),
    rb"\x80[\x02-\x05]": ("is a Python pickle, which is never loaded", "save one array with numpy.save"),
    rb".{8}\{\"": ("is a safetensors file, not a .npy array", "save one array with numpy.save"),
    rb"[\t\r\n\x20-\x7e]{64}|[\t\r\n\x20-\x7e]{1,63}\Z": (
        "is text, not a .npy array", "load it with numpy.loadtxt or pandas, and save the numbers with numpy.save"),
}  # fmt: skip
"""What is taken for an array by mistake, by its beginning: in words, and what to do."""


def unsound_array(name: str, error: Exception) -> InputError:
    """Describe a .npy, or one of an .npz, that numpy does not load."""
    if any(words in str(error) for words in ("pickle", "Python objects")):
        return InputError(f"{name}: holds pickled Python objects, which are never loaded: save an array of numbers.")
    return InputError(f"{name}: is not a whole .npy array of numbers ({error}): {AGAIN}.")


def stated_kind(record: Record | None) -> str:
    """Return what its provenance says that an array holds: `subset`, `weights`, `scores`, `pairs`, or nothing."""
    if (record or {}).get("options", {}).get("repeat") is True:
        return "weights"
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
    if kind == "subset" and is_uids(values):
        return f"{words}, not uids of DataComp: dprune select --within them with --shards makes ids of them"
    return f"{words}, not {values.dtype} of shape {list(values.shape)}"


def is_mask(values: npt.NDArray[Any]) -> bool:
    """Tell whether values say of each sample whether it is chosen."""
    return values.ndim == 1 and values.dtype == bool


def _check_vector(array: Array, kind: str) -> None:
    check_role(array, kind)
    if problem := misshapen(array.values, kind):
        raise InputError(f"{array.name}: {problem}.")


def read_scores(path: str | Path, data: bytes | None = None) -> Array:
    """Read one score a sample; NaN means not scored.

    Raises:
        InputError: as `read_array`, or not a vector of numbers.
    """
    array = read_array(path, data)
    _check_vector(array, "scores")
    return array


def read_ids(path: str | Path, data: bytes | None = None) -> Array:
    """Read a subset: sample ids, or a mask of bool [N] that is true for them, returned sorted as int64.

    Raises:
        InputError: as `read_array`, or not a vector of unique ids from 0.
    """
    array = read_array(path, data)
    if is_mask(array.values):
        return Array(array.name, np.flatnonzero(array.values), array.record, mask_of=len(array.values))
    _check_vector(array, "subset")
    ids = np.sort(array.values.astype(np.int64))
    if len(ids) and ids[0] < 0:
        raise InputError(f"{array.name}: holds the id {ids[0]}; ids count from 0.")
    if (repeated := ids[1:][ids[1:] == ids[:-1]]).size:
        hint = " If it is a mask, save it as bool." if ids[-1] <= 1 else ""
        raise InputError(f"{array.name}: holds the id {repeated[0]} more than once.{hint}")
    return Array(array.name, ids, array.record)


def read_groups(path: str | Path, data: bytes | None = None) -> Array:
    """Read one group a sample, as int64; a negative one belongs to none.

    Raises:
        InputError: as `read_array`, or not a vector of whole numbers.
    """
    array = read_array(path, data)
    _check_vector(array, "groups")
    return Array(array.name, array.values.astype(np.int64), array.record)
