"""Images in `.npz` archives, as guided-diffusion's sampling scripts write them and its evaluator reads them.

`numpy.savez(path, images, labels)` calls them `arr_0`, uint8 [n, h, w, 3], and `arr_1`, int64 [n]. Archives run to tens
of gigabytes: headers and labels are read when one is opened, and images a few at a time, from front to back.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dprune.errors import BadImage, InputError, unreadable
from dprune.formats.arrays import unsound_array
from dprune.formats.images import check_shape
from dprune.formats.regular import check_regular

IMAGES, LABELS = ("arr_0", "images", "x", "samples"), ("arr_1", "labels", "label", "y")
"""What arrays of images and of labels are called; the first that is there is taken."""
NO_LABELS = "none"
"""What leaves labels out though there is an array of them."""
BLOCK_BYTES = 8 << 20
"""Of images that are read at once, unless one has more."""
LONGEST_REASON = 120
"""Of what numpy and zipfile say of a damaged archive, which may hold whatever they found there."""
AGAIN = "copy or make it again"
_MOST_LABEL_BYTES = 1 << 30
_CHANNELS = (1, 3)
_NPY = ".npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Array:
    """What an array of an archive says of itself; its values begin at byte `begin` of the member."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    begin: int

    def __str__(self) -> str:
        return f"{self.name!r} ({self.dtype} {list(self.shape)})"


@dataclass(frozen=True)
class NpzImages:
    """The images of an archive.

    Attributes:
        path: of the archive.
        images: name of their array, and `begin`, where its values begin.
        shape: of the array, [n, h, w], [n, h, w, 1] or [n, h, w, 3].
        label_name: of the array of labels, None for none.
        labels: int64 [n], negative ones for none.
        digest: of the names, sizes and CRC-32 of all arrays, as the archive states them.
    """

    path: str
    images: str
    begin: int
    shape: tuple[int, ...]
    label_name: str | None
    labels: Labels | None
    digest: str

    @classmethod
    def open(cls, path: str, images: str | None = None, labels: str | None = None) -> NpzImages:
        """Read headers and labels.

        Args:
            path: of the archive.
            images: name of the array of images, None for the first of `IMAGES`.
            labels: the same of labels and `LABELS`; `NO_LABELS` leaves them out.

        Raises:
            InputError: it is no whole archive, or an array is missing, of another type or layout, or pickled.
        """
        check_regular(path)
        with _described(path), zipfile.ZipFile(path) as archive:
            arrays = _headers(path, archive)
            found = _images(path, arrays, images)
            name = _label_name(path, arrays, labels)
            read = None if name is None else _labels(path, archive, arrays[name], found.shape[0])
            listing = "".join(f"{i.filename}\0{i.file_size}\0{i.CRC:08x}\n" for i in archive.infolist())
            digest = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
            return cls(path, found.name, found.begin, found.shape, name, read, digest)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    def blocks(self, begin: int) -> Iterator[Pixels]:
        """Yield the images from number `begin` on, some at a time, in the shape of the array.

        Raises:
            InputError: the archive is damaged.
        """
        size = math.prod(self.shape[1:])
        at_once = max(1, BLOCK_BYTES // size)
        with _described(self.path), zipfile.ZipFile(self.path) as archive, archive.open(self.images + _NPY) as file:
            # Whatever is sought past would not count towards the checksum, which is held to the archive's at the end.
            for part in _cut(self.begin + begin * size):
                _exactly(file, part)
            for first in range(begin, len(self), at_once):
                number = min(at_once, len(self) - first)
                block = np.frombuffer(_exactly(file, number * size), dtype=np.uint8)
                yield block.reshape(number, *self.shape[1:])


@contextlib.contextmanager
def _described(path: str) -> Iterator[None]:
    """Turn whatever zipfile and numpy raise over an archive into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damaged archives make both raise nearly anything
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from error
        reason = (str(error) or type(error).__name__)[:LONGEST_REASON].rstrip(".")
        raise InputError(f"{path}: is not a whole .npz archive ({reason}): {AGAIN}.") from error


def _cut(size: int) -> Iterator[int]:
    """Yield how many bytes to read at once of so many."""
    yield from itertools.repeat(BLOCK_BYTES, size // BLOCK_BYTES)
    yield size % BLOCK_BYTES


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError("an array is cut short")
    return data


def _headers(path: str, archive: zipfile.ZipFile) -> dict[str, _Array]:
    return {entry.filename[: -len(_NPY)]: _header(path, archive, entry) for entry in archive.infolist()
            if entry.filename.endswith(_NPY)}  # fmt: skip


def _header(path: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Array:
    name = entry.filename[: -len(_NPY)]
    with archive.open(entry) as file:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        array = _Array(name, shape, dtype, fortran, file.tell())
    if dtype.hasobject:
        raise unsound_array(f"{path}: {name}", ValueError("Python objects"))
    # A header may state any shape: what there is bounds what is made of it.
    if array.begin + math.prod(shape) * dtype.itemsize != entry.file_size:
        raise ValueError(f"{array} does not fill its {entry.file_size:,} bytes")
    return array


def _images(path: str, arrays: dict[str, _Array], asked: str | None) -> _Array:
    found = _called(path, arrays, asked) if asked else next((arrays[name] for name in IMAGES if name in arrays), None)
    if found is None:
        raise InputError(
            f"{path}: holds no images as 'arr_0', but {_told(arrays)}: name their array with --image-column."
        )
    remedy = _no_images(found)
    if remedy:
        raise InputError(f"{path}: {found} holds no uint8 images [n, h, w, 3]: {remedy}.")
    try:
        check_shape((found.shape[2], found.shape[1]))
    except BadImage as error:
        raise InputError(f"{path}: an image of {found} is {error}.") from error
    return found


def _no_images(array: _Array) -> str:
    """Say what to do with an array that is not of images, or return an empty string."""
    shape = array.shape
    if len(shape) == 4 and shape[1] in _CHANNELS and shape[3] not in _CHANNELS:
        return "save it with its channels last, by images.transpose(0, 2, 3, 1)"
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in _CHANNELS) or 0 in shape:
        return "give another array with --image-column"
    if array.dtype.kind == "f":
        return "save bytes, by (images * 255).round().astype('uint8') where they are from 0 to 1"
    if array.dtype != np.uint8:
        return "save it by images.astype('uint8') where all are from 0 to 255"
    return "save it by numpy.ascontiguousarray" if array.fortran else ""


def _label_name(path: str, arrays: dict[str, _Array], asked: str | None) -> str | None:
    if asked == NO_LABELS:
        return None
    if asked is not None:
        return _called(path, arrays, asked).name
    return next((name for name in LABELS if name in arrays), None)


def _labels(path: str, archive: zipfile.ZipFile, array: _Array, count: int) -> Labels:
    otherwise = f"leave labels out with --label-column {NO_LABELS}"
    if array.dtype.kind not in "iu" or array.shape not in ((count,), (count, 1)):
        hint = "save labels.argmax(1), or " if array.shape[:1] == (count,) and len(array.shape) == 2 else ""
        raise InputError(f"{path}: {array} is not a whole number for each of {count:,} images: {hint}{otherwise}.")
    size = count * array.dtype.itemsize
    if size > _MOST_LABEL_BYTES:
        raise InputError(f"{path}: {array} has more labels than are read: {otherwise}.")
    with archive.open(array.name + _NPY) as file:
        _exactly(file, array.begin)
        values = np.frombuffer(_exactly(file, size), dtype=array.dtype)
    if array.dtype.kind == "u" and len(values) and values.max() > np.iinfo(np.int64).max:
        raise InputError(f"{path}: {array} holds {values.max()}, more than 63 bits: {otherwise}.")
    return values.astype(np.int64)


def _called(path: str, arrays: dict[str, _Array], name: str) -> _Array:
    if name not in arrays:
        raise InputError(f"{path}: holds no array {name!r}, but {_told(arrays)}: name one of these.")
    return arrays[name]


def _told(arrays: dict[str, _Array]) -> str:
    names = [str(array) for array in arrays.values()]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "no arrays"
