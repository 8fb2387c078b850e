"""Subsets of shards, by ids as arrays hold them or by keys as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import NPY_MAGIC, Array, digest_array, read_ids
from dprune.formats.provenance import Record, check_same_dataset, parent_record
from dprune.formats.publish import STDOUT
from dprune.formats.shards import Dataset
from dprune.formats.whole_files import read_file, read_stdin


def read_subset(path: str, dataset: Dataset) -> tuple[npt.NDArray[np.int64], Record]:
    """Read which samples of a dataset are wanted.

    Returns:
        Sorted ids, int64, and the subset's description as an input.

    Raises:
        InputError: a key does not exist or names two samples.
        MismatchError: the ids were chosen from another dataset.
    """
    data = read_stdin() if path == STDOUT else read_file(path)
    if not data.startswith(NPY_MAGIC):
        keys = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")
        ids = _find_keys(path, [key for key in keys if key], dataset)
        # Of the ids and not of the text, so that one subset has one digest however it is written.
        return ids, parent_record(None, digest_array(ids))
    array = read_ids(path, data)
    return narrowed(array, dataset.title, dataset.fingerprint, len(dataset)), array.as_parent()


def narrowed(subset: Array | None, name: str, fingerprint: str | None, count: int) -> npt.NDArray[np.int64]:
    """Return the ids of the samples of a dataset that a subset keeps, sorted; all of them without one.

    Args:
        subset: ids, as `read_ids` gives them.
        name: what messages call the dataset, or what was made of it.
        fingerprint: of the dataset, None where it is not known.
        count: its samples.

    Raises:
        MismatchError: the subset was chosen from another dataset.
        InputError: it names samples that are not there.
    """
    if subset is None:
        return np.arange(count, dtype=np.int64)
    check_same_dataset({name: fingerprint, subset.name: subset.fingerprint})
    ids: npt.NDArray[np.int64] = subset.values
    if len(ids) and ids[-1] >= count:
        raise InputError(
            f"{subset.name}: holds the id {ids[-1]}, and {name} has {count:,} samples: give a subset of them."
        )
    return ids


def _find_keys(path: str, keys: Sequence[str], dataset: Dataset) -> npt.NDArray[np.int64]:
    wanted, found, first = set(keys), {}, 0
    for shard in dataset.shards:
        index = shard.index()
        for row in range(len(index)):
            if (key := index.key(row)) in wanted:
                if key in found:
                    raise InputError(f"{path}: the key {key!r} names two samples: choose by ids instead.")
                found[key] = first + row
        first += len(index)
    if missing := sorted(wanted - found.keys()):
        raise InputError(f"{path}: there is no sample with the key {missing[0]!r} in {dataset.title}.")
    return np.array(sorted(found.values()), dtype=np.int64)
