"""The samples that are kept, written as ids, as a table, or as what others call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dprune.formats.arrays import Array, write_array
from dprune.formats.clusters import Clusters
from dprune.formats.marked_text import write_text
from dprune.formats.named import NamedSamples
from dprune.formats.provenance import Record
from dprune.formats.sample_labels import SampleLabels
from dprune.formats.sample_tables import as_csv, group_column, label_columns, number_column, sample_columns
from dprune.formats.uids import UidSet
from dprune.selecting.quotas import IntArray

NAMING = ("keys", "datacomp")
"""Formats that say of samples what only their dataset can tell."""


@dataclass(frozen=True)
class Known:
    """What is known of each sample, None for what was not given."""

    named: NamedSamples | None
    clusters: Clusters | None
    groups: Array | None
    scores: Array | None

    def columns(self, ids: IntArray) -> dict[str, Sequence[Any]]:
        """Return what is known of some samples, by the names of columns."""
        columns = sample_columns(ids, self.named)
        if isinstance(self.groups, SampleLabels):
            columns |= label_columns(self.groups.values[ids], self.groups.class_names)
        elif self.groups is not None:
            columns |= group_column("group", self.groups.values[ids])
        if self.clusters is not None:
            if self.clusters.label is not None and "label" not in columns:
                columns |= label_columns(self.clusters.label[ids], self.clusters.class_names)
            columns |= group_column("cluster", self.clusters.assignment[ids])
        if self.scores is not None:
            columns |= number_column("score", self.scores.values[ids])
        return columns


def write_subset(path: str, kept: IntArray, form: str, known: Known, record: Record) -> None:
    """Publish a subset, or write it to stdout when `path` is a dash.

    Args:
        path: of the file.
        kept: sorted ids.
        form: `npy`, `csv`, or one of `NAMING`.
        known: of all samples; the dataset for `NAMING`.
        record: provenance.

    Raises:
        InputError: samples have no name of their own.
    """
    if form == "npy":
        write_array(path, kept, record)
    elif form == "csv":
        write_text(path, as_csv(known.columns(kept)), record)
    elif form == "keys":
        assert known.named is not None
        write_text(path, "".join(f"{key}\n" for key in known.named.keys_of(kept)), record)
    else:
        assert known.named is not None
        # Whoever reads them takes a sample as often as its uid comes.
        write_array(path, UidSet(known.named.uids_of(kept)).values, record)
