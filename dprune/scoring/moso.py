"""MoSo: how much the loss over the other samples would move if a sample were left out of training.

Tan et al., "Data pruning via moving-one-sample-out" (NeurIPS 2023).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dprune.scoring.settings import DOT, SQUARED_NORM

Floats = npt.NDArray[np.float64]

FORMS = ("exact", "first-order")


def moso(measures: npt.NDArray[np.floating], form: str) -> Floats:
    """Return single-draw scores by one checkpoint of a fold's surrogate.

    With N samples, a sample's gradient g and their mean m over samples, noise levels and draws, the exact form is
    (2N-3)/(N-1)^2 |m|^2 - |g|^2/(N-1)^2 + (2N-4)/(N-1)^2 <m - g/N, g>. First order is <m, g>, which the exact form
    comes to for large N, up to a scale and a constant of the fold. High is a sample whose gradient goes along with
    the others'.

    Args:
        measures: of all samples of a fold, [N, S, M, 3], N of 2 and more: losses, squared norms, dots with m.
        form: `exact` or `first-order`.

    Returns:
        float64 [N, S, M].
    """
    norms, dots = (measures[..., place].astype(np.float64) for place in (SQUARED_NORM, DOT))
    if form == "first-order":
        return dots
    count = len(measures)
    # The mean of all dots with the mean gradient is its squared norm.
    whole = (2 * count - 3) * dots.mean() - norms + (2 * count - 4) * (dots - norms / count)
    scores: Floats = whole / (count - 1) ** 2
    return scores


def standardized(singles: Floats) -> Floats:
    """Scale a fold's single-draw scores [N, S, M] so that its scores have mean 0 and deviation 1 at each noise level.

    Gradients of surrogates differ in scale, and so would the scores of folds.
    """
    scores = singles.mean(2, keepdims=True)
    deviation = scores.std(0, keepdims=True)
    # A fold whose samples all score alike ranks nothing, and is not divided by zero.
    found: Floats = (singles - scores.mean(0, keepdims=True)) / np.where(deviation > 0, deviation, 1)
    return found
