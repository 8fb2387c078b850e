"""Whether the classes of both sides have the same shares, which all distances depend on, and whether by chance."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from dprune.formats.features import Features
from dprune.metrics.jackknife import FEWEST

ALIKE = 0.1
"""Total variation up to which shares pass as the same: that of 500 samples of ten classes drawn by chance is .05."""

_log = logging.getLogger("dprune")


def warn_of_shares(generated: Features, reference: Features, ids: npt.NDArray[np.int64]) -> None:
    """Warn where the classes of generated samples are spread otherwise than those of the reference.

    Args:
        generated: features of the generated samples.
        reference: those that they are held against.
        ids: of the reference's samples that take part, int64 [n].
    """
    ours, theirs = generated.labels(), reference.labels()
    if ours is None or theirs is None:
        return
    labels = [some[some >= 0] for some in (ours, theirs[ids])]
    if not all(map(len, labels)):
        return
    names, places = np.unique(np.concatenate(labels), return_inverse=True)
    counts = np.stack([np.bincount(part, minlength=len(names)) for part in np.split(places, [len(labels[0])])])
    share = counts / counts.sum(1, keepdims=True)
    variation = float(np.abs(share[0] - share[1]).sum() / 2)
    missing = names[counts[0] == 0]
    called = reference.class_names or generated.class_names
    classes = "class" if len(missing) == 1 else "classes"
    lack = f"; no sample of the {classes} {called.listed(missing)} was generated" if len(missing) else ""
    if variation > ALIKE or lack:
        _log.warning(
            "the classes of %s and %s have different shares (total variation %.2f%s), which changes distances "
            "too: dprune sample --classes proportional draws classes as the training set has them.",
            generated.name, reference.name, variation, lack,
        )  # fmt: skip


def strata_of(labels: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64] | None:
    """Return labels [n] that were asked for in balance, which samples drawn anew would have too; else None.

    They are where every class that occurs has as many samples, give or take one, which by chance is rare, and enough
    of them to be spread over blocks.
    """
    if labels is None or not len(labels) or labels.min() < 0:
        return None
    names, counts = np.unique(labels, return_counts=True)
    return labels if len(names) > 1 and counts.min() >= FEWEST and np.ptp(counts) <= 1 else None
