"""How much smaller the diffusion loss of training samples is than that of samples that the model did not see."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dprune.metrics.jackknife import Estimate


@dataclass(frozen=True)
class LossGap:
    """Losses at one noise level; errors are over samples, the noises that all share being held fixed.

    Attributes:
        training: mean loss of training samples.
        held_out: mean loss of held-out samples.
        gap: held-out minus training.
        relative: the gap in percent of the training loss; NaN where that is zero.
    """

    training: Estimate
    held_out: Estimate
    gap: Estimate
    relative: Estimate


def loss_gap(training: npt.NDArray[np.floating], held_out: npt.NDArray[np.floating]) -> LossGap:
    """Compare the losses of training samples [n] with those of held-out samples [m], which are other samples.

    Sums are float64. The error of the gap is that of two independent means, that of the relative one of first order.
    """
    ours, theirs = _mean(training), _mean(held_out)
    gap = Estimate(theirs.value - ours.value, math.hypot(ours.error, theirs.error))
    ratio = theirs.over(ours)
    relative = replace(ratio, value=100 * (ratio.value - 1), error=100 * ratio.error)
    return LossGap(ours, theirs, gap, relative)


def _mean(losses: npt.NDArray[np.floating]) -> Estimate:
    values = losses.astype(np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), float(error))
