"""Labels of samples where they lie with their names: in a store of features or latents, or in the shards themselves."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import Array
from dprune.formats.class_names import NAMELESS, ClassNames
from dprune.formats.features import open_features
from dprune.formats.kinds import kind_of
from dprune.formats.latents import open_latents
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record
from dprune.formats.ranges import is_url
from dprune.formats.shards import TELL_S, Dataset, Shard, open_dataset
from dprune.runtime import cpu_count

_STORES = ("features", "latents", "clip-retrieval")
_SHARDS = ("shards", "folder", "tar")

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class SampleLabels(Array):
    """A label for each sample, int64 [N], below 0 for none.

    Attributes:
        class_names: what the labels are called.
    """

    class_names: ClassNames = NAMELESS


def find_sample_labels(path: str, members: MemberChoice | None = None) -> SampleLabels | None:
    """Read the labels of a store of features or latents, or of shards; None for anything else, such as an array.

    Args:
        path: of any of these; shards also by a glob, a brace range, an @list or a URL.
        members: which members of shards are labels, None for the default.

    Raises:
        InputError: it is damaged, or no sample has a label.
    """
    kind = kind_of(path)
    if kind == "clusters":
        raise InputError(f"{path}: holds clusters: give it with --clusters.")
    if kind in _STORES:
        found = _of_store(path, kind)
    elif kind in _SHARDS or (kind == "missing" and _is_pattern(path)):
        found = _of_shards(open_dataset([path], members))
    else:
        return None
    if not (found.values >= 0).any():
        raise InputError(f"{path}: no sample of it has a label to group by: name a .npy of groups.")
    return found


def _is_pattern(path: str) -> bool:
    return is_url(path) or path.startswith("@") or any(sign in path for sign in "*?[{")


def _of_store(path: str, kind: str) -> SampleLabels:
    store = open_latents(path) if kind == "latents" else open_features(path)
    labels = store.labels()
    known = np.empty(0, np.int64) if labels is None else labels
    return _labels(path, known, store.record, store.fingerprint, store.class_names)


def _of_shards(dataset: Dataset) -> SampleLabels:
    record = dataset.records[0] if dataset.records else None
    return _labels(dataset.title, labels_of(dataset), record, dataset.fingerprint, dataset.class_names)


def _labels(
    name: str, values: npt.NDArray[np.int64], record: Record | None, fingerprint: str | None, names: ClassNames
) -> SampleLabels:
    of = record and {**record, "fingerprint": fingerprint}
    return SampleLabels(name, values, of, dataset=fingerprint, class_names=names)


def labels_of(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Read the labels of shards, int64 [N] with -1 for none; no image is read.

    Raises:
        InputError: a label is not a whole number, or a shard is damaged.
    """
    found, told = list[npt.NDArray[np.int64]](), time.monotonic()
    # Where files lie on another machine, to wait for one member after the other takes all the time.
    with ThreadPoolExecutor(cpu_count()) as pool:
        for labels in pool.map(_labels_of_shard, dataset.shards):
            found.append(labels)
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                _log.info("%s: read the labels of %s of %s shards.", dataset.title, f"{len(found):,}",
                          f"{len(dataset.shards):,}")  # fmt: skip
    return np.concatenate(found)


def _labels_of_shard(shard: Shard) -> npt.NDArray[np.int64]:
    reader = shard.reader()
    return np.array([reader.label(row) for row in range(shard.size.count)], dtype=np.int64)
