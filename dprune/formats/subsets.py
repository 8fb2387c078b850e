"""Subsets of a dataset: ids or a mask as arrays, keys or a table as text, or uids of DataComp. All are read here."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import NPY_MAGIC, Array, read_array, read_ids
from dprune.formats.named import NamedSamples
from dprune.formats.named_sources import NamedShards
from dprune.formats.provenance import Record, check_same_dataset
from dprune.formats.publish import STDOUT
from dprune.formats.shards import Dataset
from dprune.formats.table_samples import find_samples
from dprune.formats.text_tables import TextTable
from dprune.formats.uids import is_uids
from dprune.formats.whole_files import read_file, read_stdin

_MASKS = ("keep", "kept", "mask", "selected", "chosen")
"""What a column is called that says of each sample whether it is wanted."""
_YES, _NO = {"true", "1"}, {"false", "0", ""}

_log = logging.getLogger("dprune")


def read_subset(path: str, dataset: Dataset) -> tuple[npt.NDArray[np.int64], Record]:
    """Read which samples of shards are wanted.

    Returns:
        Sorted ids, int64, and the subset's description as an input.

    Raises:
        InputError: a key does not exist or names two samples.
        MismatchError: the ids were chosen from another dataset.
    """
    subset = read_chosen(path, NamedShards(dataset))
    return narrowed(subset, dataset.title, dataset.fingerprint, len(dataset)), subset.as_parent()


def read_chosen(path: str, named: NamedSamples | None, data: bytes | None = None) -> Array:
    """Read a subset as ids of a dataset.

    Args:
        path: .npy of ids, of a mask or of uids, or text as `find_samples` takes it; a dash for stdin.
        named: the dataset that it is of; None where no keys of it are known, and only ids will do.
        data: content of the file, None to read it.

    Returns:
        Sorted ids, int64. Those of keys and uids are the dataset's, whatever these were chosen from; others are as they
        are, and it is for `narrowed` to hold them to the dataset.

    Raises:
        InputError: it is no subset, a name is no sample's or two samples', no uid is of a sample, or there is nothing
            to look in.
    """
    if data is None:
        data = read_stdin() if path == STDOUT else read_file(path)
    name = "stdin" if path == STDOUT else path
    # Described by the ids, so that one subset has one digest however it is written.
    if not data.startswith(NPY_MAGIC):
        table = TextTable(name, data)
        found = find_samples(table, named, whole_lines=True)
        _check_no_mask(table)
        return Array(name, np.unique(found.ids), table.record, dataset=found.dataset)
    if not is_uids((array := read_array(path, data)).values):
        return read_ids(path, data)
    if named is None:
        raise InputError(
            f"{name}: holds uids of DataComp, not ids: dprune select --within {name} --shards SHARDS -o keep.npy makes "
            "ids of them."
        )
    return Array(name, named.find_uids(name, array.values), array.record, dataset=named.fingerprint)


def _check_no_mask(table: TextTable) -> None:
    """Refuse a mask as text: its lines would be two samples, and the rows of a table all that it names.

    Raises:
        InputError: it is one.
    """
    if not table.head and len(table.lines) > 2 and {row.cells[0].strip() for row in table.lines} <= {"0", "1"}:
        raise InputError(f"{table.name}: holds 0 and 1 alone, as a mask does: save that with numpy, as bool.")
    place = table.place(_MASKS)
    values = set() if place is None else {row.cells[place].strip().lower() for row in table.rows}
    if place is not None and values <= _YES | _NO and values & _NO:
        name = table.head[place]
        raise InputError(f"{table.name}: names samples whose {name} is false or 0: leave those out of the table.")


def narrowed(subset: Array | None, name: str, fingerprint: str | None, count: int) -> npt.NDArray[np.int64]:
    """Return the ids of the samples of a dataset that a subset keeps, sorted; all of them without one.

    Args:
        subset: ids, as `read_ids` gives them.
        name: what messages call the dataset, or what was made of it.
        fingerprint: of the dataset, None where it is not known.
        count: its samples.

    Raises:
        MismatchError: the subset was chosen from another dataset, or is a mask of another length.
        InputError: it names samples that are not there.
    """
    if subset is None:
        return np.arange(count, dtype=np.int64)
    check_same_dataset({name: fingerprint, subset.name: subset.fingerprint})
    if subset.mask_of not in (None, count):
        raise MismatchError(
            f"{subset.name}: is a mask of {subset.mask_of:,} samples, and {name} has {count:,}: make it from the same "
            "dataset."
        )
    if fingerprint and subset.record and not subset.fingerprint:
        _log.warning(
            "%s: was chosen by files that name no dataset, and its ids are taken as row numbers of %s: "
            "dprune select --shards holds them to one.",
            subset.name,
            name,
        )
    ids: npt.NDArray[np.int64] = subset.values
    if len(ids) and ids[-1] >= count:
        raise InputError(
            f"{subset.name}: holds the id {ids[-1]}, and {name} has {count:,} samples: give a subset of them."
        )
    return ids
