"""What a model that is to know classes is told of them by its training set; nothing here imports torch."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.class_names import ClassNames
from dprune.models.classes import TrainedClasses

_log = logging.getLogger("dprune")


def trained_classes(labels: npt.NDArray[np.int64], classes: int) -> TrainedClasses:
    """Count the samples of each class.

    Args:
        labels: of what is trained on, int64 [n], -1 for none.
        classes: that there are.
    """
    return TrainedClasses(classes, tuple(np.bincount(labels[labels >= 0], minlength=classes).tolist()))


def check_labels(title: str, trained: TrainedClasses, samples: int, names: ClassNames) -> None:
    """Say which classes have no sample, and how many samples have no label.

    Args:
        title: what messages call the dataset.
        trained: its classes, with the samples of each that are trained on.
        samples: that are trained on.
        names: of the classes.

    Raises:
        InputError: none has a label.
    """
    labelled = sum(trained.samples or ())
    if not labelled:
        raise InputError(f"{title}: no remaining sample has a label: give --unconditional.")
    if labelled < samples:
        _log.warning("%s of the %s samples have no label, and are trained on without one.",
                     f"{samples - labelled:,}", f"{samples:,}")  # fmt: skip
    if len(trained.empty):
        _log.warning("no sample of %d of the %d classes is left to train on (%s): dprune sample leaves them out.",
                     len(trained.empty), trained.count, names.listed(trained.empty))  # fmt: skip
