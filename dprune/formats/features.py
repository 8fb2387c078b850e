"""Features from wherever people keep them: a store, a .npy of shape [n, d], or a safetensors with `features`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import NPY_ERRORS, digest_array
from dprune.formats.kinds import TENSOR_FILES, kind_of
from dprune.formats.provenance import Record, digest, parent_record, record_digest
from dprune.formats.shards import split_ids
from dprune.formats.stores import Store
from dprune.formats.tensors import read_tensors


class Features(Protocol):
    """One feature vector a sample, in the order of the ids."""

    @property
    def name(self) -> str:
        """What messages call them."""

    @property
    def record(self) -> Record | None:
        """What made them, None for features made elsewhere."""

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and dimension."""

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset, None for features made elsewhere."""

    def rows(self, begin: int, end: int) -> npt.NDArray[np.float32]:
        """Return samples `begin` to `end` as float32 [end - begin, d]; NaN rows could not be decoded."""

    def take(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Return the samples that sorted `ids` name, [len(ids), d]: float64 where they are stored so, else float32."""

    def logits(self) -> npt.NDArray[np.floating] | None:
        """Return the Inception network's logits, float32 or float64 [n, c], or None where there are none."""

    def labels(self) -> npt.NDArray[np.int64] | None:
        """Return the labels, int64 [n] with -1 for none, or None where no sample has one."""

    def as_parent(self) -> Record:
        """Describe them as the input of another file."""


@dataclass(frozen=True)
class StoreFeatures:
    """Features in a store that `embed` made."""

    store: Store

    @property
    def name(self) -> str:
        """What messages call them."""
        return str(self.store.folder)

    @property
    def record(self) -> Record | None:
        """Provenance of the store."""
        return self.store.record

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset."""
        return self.store.fingerprint

    @functools.cached_property
    def shape(self) -> tuple[int, int]:
        """Samples and dimension."""
        count = sum(self.store.counts)
        first = self.store.read(self.store.shards[0], "features", 0, 0)
        assert first is not None
        return count, first.shape[1]

    def rows(self, begin: int, end: int) -> npt.NDArray[np.float32]:
        """Return samples `begin` to `end` as float32."""
        out = np.empty((end - begin, self.shape[1]), dtype=np.float32)
        first = 0
        for shard, count in zip(self.store.shards, self.store.counts, strict=True):
            low, high = max(begin, first), min(end, first + count)
            if low < high:
                out[low - begin : high - begin] = self.store.read(shard, "features", low - first, high - first)
            first += count
        return out

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

    def as_parent(self) -> Record:
        """Describe them as the input of another file."""
        content = digest([self.store.fingerprint, record_digest(self.store.record)])
        return parent_record(self.store.record, content)


@dataclass(frozen=True)
class ArrayFeatures:
    """Features in one array, made elsewhere."""

    name: str
    values: npt.NDArray[np.floating]
    label: npt.NDArray[np.int64] | None = None
    record: Record | None = None
    logit: npt.NDArray[np.floating] | None = None

    @property
    def fingerprint(self) -> str | None:
        """None: nothing is known of the dataset."""
        return None

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and dimension."""
        return self.values.shape[0], self.values.shape[1]

    def rows(self, begin: int, end: int) -> npt.NDArray[np.float32]:
        """Return samples `begin` to `end` as float32."""
        return self.values[begin:end].astype(np.float32)

    def take(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Return the samples that sorted `ids` name, in the precision that they have."""
        return _at_least_single(self.values[ids])

    def logits(self) -> npt.NDArray[np.floating] | None:
        """Return the logits that came with the array."""
        return None if self.logit is None else _at_least_single(self.logit)

    def labels(self) -> npt.NDArray[np.int64] | None:
        """Return the labels that came with the array."""
        return self.label

    def as_parent(self) -> Record:
        """Describe them as the input of another file."""
        return parent_record(None, digest_array(self.values))


def open_features(path: str | Path) -> Features:
    """Open features for reading by rows.

    Raises:
        InputError: there are none, parts of the store are missing, or the array is no matrix of floats.
    """
    path = Path(path)
    if path.is_dir():
        features = StoreFeatures(Store.open(path, "features"))
        if not features.shape[0]:
            raise InputError(f"{path}: holds no features.")
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
        raise InputError(f"{name}: 'label' is not one whole number a sample.")
    if logits is not None and (logits.ndim != 2 or len(logits) != len(values) or logits.dtype.kind != "f"):
        raise InputError(f"{name}: 'logits' are not floats of shape [n, classes], one row a sample.")
    return ArrayFeatures(name, values, None if label is None else label.astype(np.int64), logit=logits)


def _at_least_single(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32)


def _map_array(path: Path) -> npt.NDArray[np.floating]:
    if kind_of(path) == "zip":
        raise InputError(f"{path}: is an .npz archive, not a .npy array.")
    try:
        values: npt.NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder.") from None
    except NPY_ERRORS as error:
        raise InputError(f"{path}: is neither a feature store nor a .npy of floats: {error}.") from error
    return values
