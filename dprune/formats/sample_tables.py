"""Tables of samples: what they are called, where they are and what is known of them, a row each."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.formats.class_names import ClassNames
from dprune.formats.named import NamedSamples

Columns = Mapping[str, Sequence[Any]]


def sample_columns(ids: npt.NDArray[np.int64], named: NamedSamples | None) -> dict[str, Sequence[Any]]:
    """Return what identifies samples as columns: `id`; of a known dataset `key`, `shard`, `label`, `class`.

    Args:
        ids: sorted, int64 [n].
        named: the dataset, None where nothing is known of it.

    Raises:
        InputError: the dataset is damaged.
    """
    columns: dict[str, Sequence[Any]] = {"id": ids.tolist()}
    if named is not None:
        columns |= {"key": named.any_keys_of(ids)} if named.knows_keys else {}
        columns |= {"shard": named.parts_of(ids)}
        columns |= label_columns(named.labels_of(ids), named.class_names)
    return columns


def label_columns(labels: npt.NDArray[np.int64], names: ClassNames) -> dict[str, Sequence[Any]]:
    """Return labels as `label`, and where they have names as `class`, empty for none; nothing if no sample has one."""
    if not (labels >= 0).any():
        return {}
    named = {"class": ["" if label < 0 else names.name(label) for label in labels.tolist()]} if names else {}
    return {"label": _shown(labels), **named}


def number_column(name: str, values: npt.NDArray[Any]) -> dict[str, Sequence[Any]]:
    """Return numbers as a column: floats in the fewest digits that tell them apart, empty where NaN."""
    if values.dtype.kind == "f":
        # By way of text: as a float of Python, 0.1 of float32 would have all the digits of its rounding.
        return {name: ["" if np.isnan(value) else float(str(value)) for value in values]}
    return {name: values.tolist()}


def group_column(name: str, groups: npt.NDArray[np.integer]) -> dict[str, Sequence[Any]]:
    """Return numbers of groups as a column, empty for none."""
    return {name: _shown(groups)}


def _shown(groups: npt.NDArray[np.integer]) -> list[Any]:
    return ["" if group < 0 else group for group in groups.tolist()]


def as_csv(columns: Columns, delimiter: str = ",") -> str:
    """Write a table with a header as RFC 4180 has it, but with the ends of lines that Unix has."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
