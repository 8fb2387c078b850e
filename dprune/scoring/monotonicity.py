"""Loss monotonicity: in what share of a training's steps from checkpoint to checkpoint a sample's loss rose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def rises(losses: npt.NDArray[np.floating]) -> Floats:
    """Return the share of consecutive checkpoints in which the loss rose.

    Args:
        losses: [..., K] by K checkpoints in their order, K of 2 and more.

    Returns:
        float64 [...] in [0, 1]; ties are many, and are left to the selection.
    """
    found: Floats = (np.diff(losses, axis=-1) > 0).mean(-1)
    return found


def rises_of_mean(pairs: npt.NDArray[np.floating]) -> Floats:
    """Return `rises` of the mean over pairs of draws, float64 [n], for losses [n, P, K]."""
    return rises(pairs.mean(1))
