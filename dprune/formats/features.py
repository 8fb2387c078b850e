"""Features from wherever people keep them: a store, a folder of clip-retrieval, a .npy [n, d], or a safetensors."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import digest_array, map_array
from dprune.formats.class_names import NAMELESS, ClassNames
from dprune.formats.clip_retrieval import ClipFolder, is_clip_folder
from dprune.formats.kinds import TENSOR_FILES, kind_of
from dprune.formats.manifests import read_manifest
from dprune.formats.named import NamedSamples
from dprune.formats.named_sources import NamedRows, NamedStore
from dprune.formats.provenance import Record, digest, parent_record
from dprune.formats.regular import check_regular
from dprune.formats.shards import split_ids
from dprune.formats.stores import Store
from dprune.formats.tensors import read_tensors
from dprune.runtime import Ahead


class Features(ABC):
    """One feature vector a sample, in the order of the ids.

    Attributes:
        name: what messages call them.
        shape: samples and dimension.
        dtype: float16 where all are stored so, else float32.
        record: what made them, None for features made elsewhere.
        fingerprint: of the dataset, None for features made elsewhere that do not tell what their rows are.
        class_names: what their labels are called.
    """

    name: str
    shape: tuple[int, int]
    dtype: np.dtype[np.floating]
    record: Record | None = None
    fingerprint: str | None = None
    class_names: ClassNames = NAMELESS

    @property
    def named(self) -> NamedSamples | None:
        """What tells the keys of the samples, None where nothing does."""
        return None

    def rows(self, begin: int, end: int) -> npt.NDArray[np.float32]:
        """Return samples `begin` to `end` as float32 [end - begin, d]; NaN rows could not be decoded."""
        out = np.empty((end - begin, self.shape[1]), dtype=np.float32)
        self.fill(out, begin, end)
        return out

    @abstractmethod
    def fill(self, out: npt.NDArray[np.floating], begin: int, end: int) -> None:
        """Write samples `begin` to `end` into `out`, of `dtype` or float32; what is beyond float32 becomes infinite."""

    @abstractmethod
    def take(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Return the samples that sorted `ids` name, [len(ids), d]: float64 where they are stored so, else float32."""

    @abstractmethod
    def logits(self) -> npt.NDArray[np.floating] | None:
        """Return the Inception network's logits, float32 or float64 [n, c], or None where there are none."""

    @abstractmethod
    def labels(self) -> npt.NDArray[np.int64] | None:
        """Return the labels, int64 [n] with -1 for none, or None where no sample has one."""

    def labels_in_parts(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield what `labels` returns in parts, for who would rather not hold all of them."""
        labels = self.labels()
        if labels is not None:
            yield labels

    def as_parent(self) -> Record:
        """Describe them as the input of another file."""
        return self._parent.result()

    def describe_ahead(self) -> None:
        """Begin to work out `as_parent`, which may have to read all values, beside what comes next."""
        _ = self._parent

    @functools.cached_property
    def _parent(self) -> Ahead[Record]:
        return Ahead(self._describe)

    @abstractmethod
    def _describe(self) -> Record:
        """Work out `as_parent`."""


class StoreFeatures(Features):
    """Features in a store that `embed` made."""

    def __init__(self, store: Store) -> None:
        self.store, self.name = store, str(store.folder)
        self.record, self.fingerprint, self.class_names = store.record, store.fingerprint, store.class_names
        self._ends = list(accumulate(store.counts))
        self.shape = sum(store.counts), _dimension(store)
        self.dtype = _narrowest({file.places["features"].dtype for file in store.files})

    @property
    def named(self) -> NamedStore:
        """The store, whose parts hold keys."""
        return NamedStore(self.store)

    def fill(self, out: npt.NDArray[np.floating], begin: int, end: int) -> None:
        """Write samples `begin` to `end` into `out`."""
        for part, rows, place in _pieces(self._ends, begin, end):
            out[place] = self.store.read(self.store.shards[part], "features", rows.start, rows.stop)

    def take(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Return the samples that sorted `ids` name, as float32 [len(ids), d]."""
        out, filled = np.empty((len(ids), self.shape[1]), dtype=np.float32), 0
        for shard, rows in zip(self.store.shards, split_ids(ids, self.store.counts), strict=True):
            if len(rows):
                part = self.store.read(shard, "features", int(rows[0]), int(rows[-1]) + 1)
                assert part is not None
                out[filled : filled + len(rows)] = part[rows - rows[0]]
                filled += len(rows)
        return out

    def logits(self) -> npt.NDArray[np.float32] | None:
        """Return the Inception network's logits, None where another network made the features."""
        parts = [self.store.read(shard, "logits") for shard in self.store.shards]
        known = [part.astype(np.float32) for part in parts if part is not None]
        return np.concatenate(known) if known and len(known) == len(parts) else None

    def labels(self) -> npt.NDArray[np.int64] | None:
        """Return the labels, None where no sample has one."""
        parts = [self.store.read(shard, "label") for shard in self.store.shards]
        labels = np.concatenate([part for part in parts if part is not None])
        return labels if len(labels) == self.shape[0] and (labels >= 0).any() else None

    def labels_in_parts(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the labels part by part, nothing where a part has none or no sample has one."""
        files = self.store.files
        if all("label" in file.places for file in files) and any((file.mapped("label") >= 0).any() for file in files):
            yield from (file.mapped("label").astype(np.int64, copy=False) for file in files)

    def _describe(self) -> Record:
        return self.store.as_parent()


def _dimension(store: Store) -> int:
    """Return the dimension of a store's features.

    Raises:
        InputError: a part holds none, or of another dimension, or not one row per sample.
    """
    first = store.files[0].places.get("features")
    dimension = first.shape[-1] if first and first.shape else 0
    for file, count in zip(store.files, store.counts, strict=True):
        rows = {"features": ((count, dimension), "f"), "label": ((count,), "iu")}
        if "logits" in file.places:
            rows["logits"] = (count, *file.places["logits"].shape[1:2]), "f"
        for name, (shape, kinds) in rows.items():
            place = file.places.get(name)
            if place is None and name == "label":
                continue
            if place is None or place.dtype is None or place.dtype.kind not in kinds or place.shape != shape:
                is_ = f"is {place.letters} {list(place.shape)}" if place else "is missing"
                wanted = f"{'floats' if kinds == 'f' else 'whole numbers'} {list(shape)}"
                raise InputError(
                    f"{file.name}: its tensor {name!r} {is_}, not {wanted}: remove the file and {store.remedy}."
                )
    return dimension


class ClipFeatures(Features):
    """Features in a folder that clip-retrieval wrote, mapped, in the order of its parts."""

    def __init__(self, folder: ClipFolder) -> None:
        self.folder, self.name, self.fingerprint = folder, folder.name, folder.fingerprint
        self._ends = list(accumulate(folder.counts))
        self.shape = self._ends[-1], folder.parts[0].values.shape[1]
        self.dtype = _narrowest({part.values.dtype for part in folder.parts})

    @property
    def named(self) -> NamedRows:
        """The rows, whose keys are in the metadata."""
        return NamedRows(self.folder)

    def fill(self, out: npt.NDArray[np.floating], begin: int, end: int) -> None:
        """Write samples `begin` to `end` into `out`; what is beyond float32 becomes infinite, which none may be."""
        for part, rows, place in _pieces(self._ends, begin, end):
            with np.errstate(over="ignore"):
                out[place] = self.folder.parts[part].values[rows]

    def take(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Return the samples that sorted `ids` name, in the precision that they have."""
        rows = zip(self.folder.parts, split_ids(ids, self.folder.counts), strict=True)
        return np.concatenate([_at_least_single(part.values[which]) for part, which in rows])

    def logits(self) -> None:
        """Return None: CLIP has none."""

    def labels(self) -> None:
        """Return None: captions are no labels."""

    def _describe(self) -> Record:
        return parent_record(None, digest([digest_array(part.values) for part in self.folder.parts]))


class Unlabelled(StoreFeatures):
    """Features in a store whose labels number other classes than those that they would be compared with."""

    def __init__(self, features: StoreFeatures) -> None:
        super().__init__(features.store)
        self.name = features.name

    def labels(self) -> npt.NDArray[np.int64] | None:
        """Return None."""
        return None

    def labels_in_parts(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield nothing."""
        yield from ()


class ArrayFeatures(Features):
    """Features in one array, made elsewhere, with the labels and logits that came with it."""

    def __init__(
        self,
        name: str,
        values: npt.NDArray[np.floating],
        label: npt.NDArray[np.int64] | None = None,
        logit: npt.NDArray[np.floating] | None = None,
    ) -> None:
        self.name, self.values, self._label, self._logit = name, values, label, logit
        self.shape = values.shape[0], values.shape[1]
        self.dtype = _narrowest({values.dtype})

    def fill(self, out: npt.NDArray[np.floating], begin: int, end: int) -> None:
        """Write samples `begin` to `end` into `out`; what is beyond float32 becomes infinite, which none may be."""
        with np.errstate(over="ignore"):
            out[...] = self.values[begin:end]

    def take(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Return the samples that sorted `ids` name, in the precision that they have."""
        return _at_least_single(self.values[ids])

    def logits(self) -> npt.NDArray[np.floating] | None:
        """Return the logits that came with the array."""
        return None if self._logit is None else _at_least_single(self._logit)

    def labels(self) -> npt.NDArray[np.int64] | None:
        """Return the labels that came with the array."""
        return self._label

    def _describe(self) -> Record:
        beside = {"label": self._label, "logits": self._logit}
        known = {name: digest_array(values) for name, values in beside.items() if values is not None}
        own = digest_array(self.values)
        return parent_record(None, digest({"features": own, **known}) if known else own)


def open_features(path: str | Path) -> Features:
    """Open features for reading by rows.

    Raises:
        InputError: there are none, parts of the store are missing, or the array is no matrix of floats.
    """
    path = Path(path)
    if path.is_dir() and not read_manifest(path) and is_clip_folder(path):
        return ClipFeatures(ClipFolder(path))
    if path.is_dir():
        features = StoreFeatures(Store.open(path, "features"))
        if not features.shape[0]:
            raise InputError(f"{path}: holds no features: embed shards with samples in them.")
        return features
    label = logits = None
    if kind_of(path) in TENSOR_FILES:
        name, tensors, _ = read_tensors(path)
        if "features" not in tensors:
            raise InputError(f"{name}: holds no tensor called 'features'.")
        values, label, logits = tensors["features"], tensors.get("label"), tensors.get("logits")
    else:
        name, values = str(path), _map_array(path)
    if values.ndim != 2 or values.dtype.kind != "f" or not values.size:
        raise InputError(f"{name}: features are floats of shape [n, d], not {values.dtype} of {list(values.shape)}.")
    if label is not None and (label.shape != values.shape[:1] or label.dtype.kind not in "iu"):
        raise InputError(f"{name}: 'label' is not one whole number per sample.")
    if logits is not None and (logits.ndim != 2 or len(logits) != len(values) or logits.dtype.kind != "f"):
        raise InputError(f"{name}: 'logits' are not floats of shape [n, classes], one row per sample.")
    return ArrayFeatures(name, values, None if label is None else label.astype(np.int64), logits)


def _pieces(ends: Sequence[int], begin: int, end: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield for each part that has some of the samples `begin` to `end` its number, its rows, and where these come."""
    part, at = bisect_right(ends, begin), begin
    while at < end:
        first, last = ends[part - 1] if part else 0, min(end, ends[part])
        yield part, slice(at - first, last - first), slice(at - begin, last - begin)
        at, part = last, part + 1


def _narrowest(stored: set[Any]) -> np.dtype[np.floating]:
    return np.dtype(np.float16 if stored == {np.dtype(np.float16)} else np.float32)


def _at_least_single(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32)


def _map_array(path: Path) -> npt.NDArray[np.floating]:
    check_regular(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder.")
    return map_array(path)
