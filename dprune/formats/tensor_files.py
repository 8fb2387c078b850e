"""safetensors files as they lie on the disk: written in one way, and read against the digests that they carry.

The metadata of a file of dprune's has three keys: `dprune`, a JSON object; `dprune.digests`, of each tensor by its name
its dtype, shape and the digest of its bytes; and `dprune.check`, the digest of both texts. So nothing in the file can
change unseen. A tensor is checked when it is first touched, once in a process.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, unreadable
from dprune.formats.checked_json import AGAIN, Anything, ListOf, Object, Text, Whole, parse_json
from dprune.formats.digests import RunningDigest, changed, content_digest
from dprune.formats.provenance import METADATA_KEY, Record, canonical
from dprune.formats.publish import STDOUT, publish, publish_bytes
from dprune.formats.regular import check_regular
from dprune.runtime import cpu_count

DIGESTS_KEY = f"{METADATA_KEY}.digests"
CHECK_KEY = f"{METADATA_KEY}.check"
BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
        "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}  # fmt: skip
"""Bits of a value of each type that safetensors knows."""
NUMPY = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
         "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8"}  # fmt: skip
"""Types that numpy has, as they lie on the disk."""
_LETTERS = {np.dtype(name): letters for letters, name in NUMPY.items()}
_MOST_HEADER = 100_000_000
_MANY_BYTES, _MOST_THREADS = 64 << 20, 8
"""Above so many bytes, digests are taken, and tensors written, by several threads."""
_ENTRY = Object({"dtype": Text(16), "shape": ListOf(Whole(), most=64), "data_offsets": ListOf(Whole(), 2, 2)})
_DIGESTS = Object(others=ListOf(Anything(), 3, 3))
_HEADER = Object({}, {"__metadata__": Object(others=Text(_MOST_HEADER))}, _ENTRY)


def is_tensor_file(path: str | Path) -> bool:
    """Tell by its first bytes whether a file is safetensors.

    Raises:
        InputError: it does not exist or cannot be read.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise unreadable(path, error) from error


class Place(NamedTuple):
    """Where a tensor lies in its file.

    Attributes:
        letters: its type, as safetensors calls it.
        shape: of the whole tensor.
        begin: of its bytes, from the beginning of the file.
        end: of its bytes.
    """

    letters: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The type as numpy calls it, None for one that it lacks."""
        return np.dtype(NUMPY[self.letters]) if self.letters in NUMPY else None


class StoredTensor(NamedTuple):
    """What is written of a tensor.

    Attributes:
        letters: its type, as safetensors calls it.
        shape: of the whole tensor.
        pieces: gives its bytes from first to last, each piece valid until the next is asked for.
    """

    letters: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[memoryview]]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * BITS[self.letters] // 8


def content_of(values: npt.NDArray[Any]) -> StoredTensor:
    """Return an array as it is written."""
    # A file holds memory as it lies: rows first, and the lowest byte first.
    ordered = np.asarray(values, dtype=values.dtype.newbyteorder("<"), order="C")
    data = ordered.reshape(-1).view(np.uint8).data
    return StoredTensor(_LETTERS[ordered.dtype], ordered.shape, lambda: [data])


def publish_tensors(
    path: str | Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, Any], *, replace: bool = True
) -> None:
    """Publish tensors and a JSON object of metadata with their digests, or write them to stdout when `path` is a dash.

    Args:
        path: of the file.
        tensors: by name.
        metadata: of the file.
        replace: see `publish`.

    Raises:
        DpruneError: the disk is full, or the folder cannot be written.
    """
    # Wide types first, so that every tensor lies at a multiple of its type's size.
    order = sorted(tensors, key=lambda name: (-BITS[tensors[name].letters], name))
    ordered = {name: tensors[name] for name in order}
    if str(path) == STDOUT:
        data = {name: b"".join(part.pieces()) for name, part in ordered.items()}
        digests = {name: content_digest(held) for name, held in data.items()}
        publish_bytes(path, _header(ordered, digests, metadata) + b"".join(data.values()))
        return
    with publish(path, replace=replace) as file:
        # A header is as long whatever its digests are, so that one pass over the tensors is enough.
        begin = len(_header(ordered, dict.fromkeys(ordered, content_digest("")), metadata))
        digests = _write(file.fileno(), ordered, begin)
        file.write(_header(ordered, digests, metadata))


def _write(descriptor: int, tensors: Mapping[str, StoredTensor], begin: int) -> dict[str, str]:
    """Write tensors one behind the other and return their digests; several at once where there are many bytes."""
    sizes = [part.nbytes for part in tensors.values()]
    work = functools.partial(_write_tensor, descriptor), tensors.values(), accumulate(sizes, initial=begin)
    if sum(sizes) < _MANY_BYTES:
        return dict(zip(tensors, map(*work), strict=True))
    with ThreadPoolExecutor(_digesting_threads()) as threads:
        return dict(zip(tensors, threads.map(*work), strict=True))


def _write_tensor(descriptor: int, tensor: StoredTensor, at: int) -> str:
    running = RunningDigest()
    for piece in tensor.pieces():
        running.update(piece)
        while piece:
            written = os.pwrite(descriptor, piece, at)
            piece, at = piece[written:], at + written
    return running.hexdigest()


def _header(tensors: Mapping[str, StoredTensor], digests: Mapping[str, str], metadata: Mapping[str, Any]) -> bytes:
    stated = {name: [part.letters, part.shape, digests[name]] for name, part in tensors.items()}
    texts = {METADATA_KEY: canonical(metadata), DIGESTS_KEY: canonical(stated)}
    entries: dict[str, Any] = {"__metadata__": {**texts, CHECK_KEY: _check(texts)}}
    begin = 0
    for name, part in tensors.items():
        end = begin + part.nbytes
        entries[name] = {"dtype": part.letters, "shape": part.shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _check(texts: Mapping[str, str]) -> str:
    return content_digest(f"{texts[METADATA_KEY]}\0{texts[DIGESTS_KEY]}")


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header was read and agrees with its length and with its digests.

    Attributes:
        name: what messages call it.
        source: its path, or all its bytes.
        places: of its tensors, in the order of their names.
        texts: all its metadata.
        digests: of its tensors, empty for a file that carries none.
        version: tells it from other files of this path.
    """

    name: str
    source: Path | bytes
    places: dict[str, Place]
    texts: dict[str, str]
    digests: dict[str, str]
    version: tuple[int, ...] = ()

    @classmethod
    def open(cls, path: str | Path) -> TensorFile:
        """Read the header of a file.

        Raises:
            InputError: the file does not exist, cannot be read or is not whole, or its metadata are damaged.
        """
        check_regular(path)
        try:
            with open(path, "rb") as file:
                state = os.fstat(file.fileno())
                length = int.from_bytes(file.read(8), "little")
                text = file.read(min(length, _MOST_HEADER))
        except OSError as error:
            raise unreadable(path, error) from error
        version = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        return cls._parsed(str(path), Path(path), text, length, state.st_size, version)

    @classmethod
    def parse(cls, name: str, data: bytes) -> TensorFile:
        """Read the header of a file that is in memory.

        Raises:
            InputError: as `open`.
        """
        length = int.from_bytes(data[:8], "little")
        return cls._parsed(name, data, data[8 : 8 + min(length, _MOST_HEADER)], length, len(data), ())

    @classmethod
    def _parsed(
        cls, name: str, source: Path | bytes, text: bytes, length: int, size: int, version: tuple[int, ...]
    ) -> TensorFile:
        if len(text) < length or not text:
            raise not_whole(name, "its header is cut short")
        header = parse_json(f"{name} (its header)", text)
        if problem := _HEADER.misfit(header):
            raise not_whole(name, problem)
        texts = header.pop("__metadata__", {})
        begin = 8 + length
        places = {key: Place(entry["dtype"], tuple(entry["shape"]), *(begin + at for at in entry["data_offsets"]))
                  for key, entry in sorted(header.items())}  # fmt: skip
        _check_places(name, places, begin, size)
        return cls(name, source, places, texts, _stated_digests(name, places, texts), version)

    @property
    def guarded(self) -> bool:
        """Whether the file carries digests."""
        return CHECK_KEY in self.texts

    @functools.cached_property
    def metadata(self) -> Record | None:
        """What dprune says of the file, None for one made elsewhere.

        Raises:
            InputError: it is no sound JSON.
        """
        text = self.texts.get(METADATA_KEY)
        content = parse_json(f"{self.name} (its metadata)", text) if text else None
        return content if isinstance(content, dict) else None

    def check(self, names: Iterable[str] | None = None) -> None:
        """Compare tensors, by default all, with their digests, unless this process did before.

        Raises:
            InputError: one is not what was written.
        """
        wanted = self.places if names is None else names
        self.check_read({name: self._bytes(name).data for name in wanted if self._unseen(name)})

    def check_read(self, found: Mapping[str, memoryview]) -> None:
        """Compare the bytes of tensors that were read with their digests, unless this process did before.

        Raises:
            InputError: one is not what was written.
        """
        unseen = {name: data for name, data in found.items() if self._unseen(name)}
        if sum(data.nbytes for data in unseen.values()) < _MANY_BYTES:
            digests = list(map(content_digest, unseen.values()))
        else:
            with ThreadPoolExecutor(_digesting_threads()) as threads:
                digests = list(threads.map(content_digest, unseen.values()))
        for name, digest in zip(unseen, digests, strict=True):
            if digest != self.digests[name]:
                raise changed(self.name, f"its tensor {name!r}")
            _seen.add((self.name, self.version, name))

    def _unseen(self, name: str) -> bool:
        return name in self.digests and not (self.version and (self.name, self.version, name) in _seen)

    def _bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the bytes of a tensor, of a file without reading them to memory."""
        place = self.places[name]
        size = place.end - place.begin
        if isinstance(self.source, bytes):
            return np.frombuffer(self.source, np.uint8, size, place.begin)
        if not size:
            # What holds no values cannot be mapped.
            values = np.empty(0, np.uint8)
            values.flags.writeable = False
            return values
        try:
            return np.memmap(self.source, np.uint8, "r", place.begin, (size,))
        except (OSError, ValueError) as error:
            raise not_whole(self.name, str(error)) from error

    def mapped(self, name: str) -> npt.NDArray[Any]:
        """Return a checked tensor as an array that cannot be written to, of a file without reading it to memory.

        Raises:
            InputError: it is not what was written, or of a type that numpy lacks.
        """
        place = self.places[name]
        if place.dtype is None:
            raise InputError(f"{self.name}: holds tensors of type {place.letters}, which numpy lacks: save float32.")
        values = self._bytes(name)
        self.check_read({name: values.data})
        return values.view(place.dtype).reshape(place.shape)

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a checked tensor in memory.

        Raises:
            InputError: as `mapped`.
        """
        return np.array(self.mapped(name))


def _digesting_threads() -> int:
    return min(_MOST_THREADS, cpu_count())


_seen: set[tuple[str, tuple[int, ...], str]] = set()
"""Tensors of files that this process found to be what was written."""


def not_whole(name: str, problem: str) -> InputError:
    """Describe a safetensors file that is none, or not all of it."""
    return InputError(f"{name}: is not a whole safetensors file ({problem}): {AGAIN}.")


def _check_places(name: str, places: Mapping[str, Place], begin: int, size: int) -> None:
    """Refuse tensors that do not follow each other to the end of the file."""
    for tensor, place in sorted(places.items(), key=lambda item: item[1][2:]):
        if place.letters not in BITS:
            raise not_whole(name, f"its tensor {tensor!r} has the unknown type {place.letters!r}")
        bits = BITS[place.letters] * math.prod(place.shape)
        if place.begin != begin or bits != 8 * (place.end - place.begin):
            raise not_whole(name, f"its tensor {tensor!r} is not where its header says")
        begin = place.end
    if begin != size:
        raise not_whole(name, f"it has {size:,} bytes, and its header needs {begin:,}")


def _stated_digests(name: str, places: Mapping[str, Place], texts: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of a file's tensors, which agree with its header; none for a file without."""
    if not {DIGESTS_KEY, CHECK_KEY} & texts.keys():
        return {}
    if not {METADATA_KEY, DIGESTS_KEY, CHECK_KEY} <= texts.keys() or texts[CHECK_KEY] != _check(texts):
        raise changed(name, "its metadata")
    stated = parse_json(f"{name} (its digests)", texts[DIGESTS_KEY])
    found = {tensor: [place.letters, list(place.shape)] for tensor, place in places.items()}
    if _DIGESTS.misfit(stated) or {tensor: entry[:2] for tensor, entry in stated.items()} != found:
        raise changed(name, "its header")
    return {tensor: entry[2] for tensor, entry in stated.items()}
