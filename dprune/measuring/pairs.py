"""Generated samples with their nearest training samples: a table for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
