"""Generated samples with their nearest training samples: a table for programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import write_array
from dprune.formats.kinds import file_kind
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record, difference

if TYPE_CHECKING:
    from dprune.metrics.nearest import Neighbours

COMMAND = "memorization"
PAIR = np.dtype([("generated", "<i8"), ("train", "<i8"), ("distance", "<f8")])


def nearest_pairs(
    found: Neighbours, generated: npt.NDArray[np.int64], train: npt.NDArray[np.int64]
) -> npt.NDArray[np.void]:
    """List each generated sample with its nearest training sample, the closest pair first, equal ones by id.

    Args:
        found: what a search found.
        generated: id of each query in its dataset, int64 [q].
        train: id of each training row in its dataset, int64 [n].

    Returns:
        `PAIR` [at most q]: `generated` and `train` ids, and their `distance`; samples without any are left out.
    """
    rows, distances = found.id[:, 0].cpu().numpy(), found.distance[:, 0].cpu().numpy()
    kept = np.flatnonzero(rows >= 0)
    pairs = np.empty(len(kept), dtype=PAIR)
    pairs["generated"], pairs["train"], pairs["distance"] = generated[kept], train[rows[kept]], distances[kept]
    return pairs[np.lexsort((pairs["generated"], pairs["distance"]))]


@dataclass(frozen=True)
class PairsFile:
    """The .npy that the pairs go to.

    Attributes:
        path: of the file.
        overwrite: whether pairs of another measurement may be replaced.
    """

    path: str
    overwrite: bool = False

    def check(self, record: Record) -> None:
        """Refuse to replace another file.

        Args:
            record: provenance that the pairs will carry.

        Raises:
            InputError: one stands there.
        """
        if not Path(self.path).exists() or self.is_made(record):
            return
        found = existing_record(self.path) if file_kind(self.path) == "npy" else None
        if not found or found.get("command") != COMMAND:
            raise InputError(f"{self.path}: exists and holds no pairs that dprune wrote: give another --pairs.")
        if not self.overwrite:
            raise InputError(
                f"{self.path} exists and was made otherwise ({difference(found, record)}): give --overwrite to "
                "replace it, or another --pairs."
            )

    def is_made(self, record: Record) -> bool:
        """Tell whether the pairs of the measurement with this provenance are there."""
        if file_kind(self.path) != "npy":
            return False
        return not difference(existing_record(self.path) or {}, record)

    def write(self, pairs: npt.NDArray[np.void], record: Record) -> None:
        """Publish the pairs with their provenance."""
        write_array(self.path, pairs, record)
