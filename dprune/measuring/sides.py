"""Features of one side in memory: narrowed to a subset, without the samples that could not be decoded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import Array
from dprune.formats.features import Features
from dprune.formats.provenance import Record
from dprune.metrics.rows import finite_rows

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Side:
    """The samples of one side that take part.

    Attributes:
        x: features on the device, float32 or float64 [n, d], all finite.
        ids: of the samples in their dataset, sorted, int64 [n].
        dropped: samples left out because their features are not finite.
    """

    x: Tensor
    ids: npt.NDArray[np.int64]
    dropped: int


@dataclass(frozen=True)
class SubsetRows:
    """Some rows of features, read block by block as `metrics.nearest` wants them.

    Attributes:
        features: all rows.
        ids: sorted ids of those that take part, int64 [n].
    """

    features: Features
    ids: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and dimension."""
        return len(self.ids), self.features.shape[1]

    def rows(self, begin: int, end: int) -> npt.NDArray[np.floating]:
        """Return rows `begin` to `end` of those that take part."""
        return self.features.take(self.ids[begin:end])


def chosen_ids(features: Features, subset: Array | None) -> npt.NDArray[np.int64]:
    """Return the ids that a subset names, or all.

    Raises:
        InputError: an id is outside the features, or there is none.
        MismatchError: the subset speaks of another dataset.
    """
    count = features.shape[0]
    if subset is None:
        return np.arange(count, dtype=np.int64)
    if subset.fingerprint and features.fingerprint and subset.fingerprint != features.fingerprint:
        raise MismatchError(
            f"{subset.name} was chosen from another dataset than {features.name} (fingerprints "
            f"{subset.fingerprint[:12]} and {features.fingerprint[:12]}): give the features of that dataset."
        )
    if not len(subset.values):
        raise InputError(f"{subset.name}: holds no ids: give a subset with samples in it.")
    if subset.values[-1] >= count:
        raise InputError(f"{subset.name}: holds the id {subset.values[-1]}, and {features.name} has {count:,} samples.")
    ids: npt.NDArray[np.int64] = subset.values
    return ids


def load_side(features: Features, ids: npt.NDArray[np.int64], role: str, device: torch.device) -> Side:
    """Read the features of `ids` onto the device, leave out those that are not finite, and say how many these were.

    Raises:
        InputError: none is left.
    """
    x = torch.from_numpy(features.take(ids)).to(device)
    kept = finite_rows(x)
    dropped = len(ids) - int(kept.sum())
    tell_dropped(features, role, dropped, len(ids))
    if dropped:
        x, ids = x[kept], ids[kept.cpu().numpy()]
    return Side(x, ids, dropped)


def tell_dropped(features: Features, role: str, dropped: int, count: int) -> None:
    """Warn of samples that are left out.

    Raises:
        InputError: these are all.
    """
    if dropped == count:
        raise InputError(f"{features.name}: no {role} sample has features that are numbers: embed the images again.")
    if dropped:
        _log.warning("%d of the %s samples have features that are not finite and are left out.", dropped, role)


class Described(Protocol):
    """What is known of where a side comes from: a `Source`, or statistics."""

    @property
    def model(self) -> str | None:
        """Network that made the features, None if that is not known."""

    @property
    def parent(self) -> Record:
        """How a record describes it as an input."""


def describe(role: str, source: Described, count: int | None, dropped: int, dimension: int) -> Record:
    """Describe one side for the result file; a count of None is not known."""
    return {
        "role": role,
        "count": count,
        "dropped": dropped,
        "dimension": dimension,
        "model": source.model,
        "digest": source.parent["digest"],
    }
