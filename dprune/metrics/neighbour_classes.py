"""The class that the nearest labelled samples have: what a sample shows, whatever it was asked to be."""

from __future__ import annotations

import torch
from torch import Tensor

from dprune.metrics.catalogue import CLASS_NEIGHBOURS
from dprune.metrics.nearest import nearest
from dprune.metrics.rows import spans


def predict_classes(
    x: Tensor, labelled: Tensor, classes: Tensor, count: int, k: int = CLASS_NEIGHBOURS, exclude: Tensor | None = None
) -> Tensor:
    """Give each row the class that most of its k nearest labelled rows have, by Euclidean distance.

    Of classes with equally many, the one whose rows are nearer by rank wins. Exact, and the same on every device.

    Args:
        x: floats [n, d].
        labelled: floats [m, d], m at least k.
        classes: of the labelled rows, int64 [m], 0 to `count` - 1.
        count: number of classes.
        k: neighbours that vote.
        exclude: int64 [n], a labelled row that each row must not find, such as itself.

    Returns:
        int64 [n], -1 for rows of which no distance can be told.
    """
    found = nearest(x, labelled, k, exclude=exclude).id
    # All ranks together weigh less than one more vote.
    weights = k * k + torch.arange(k, 0, -1, device=x.device)
    predicted = torch.full((len(x),), -1, device=x.device)
    for low, high in spans(len(x), count):
        ids = found[low:high]
        votes = torch.zeros((len(ids), count), dtype=torch.int64, device=x.device)
        votes.scatter_add_(1, classes[ids.clamp(min=0)], weights * (ids >= 0))
        most, winner = votes.max(1)
        predicted[low:high] = winner.where(most > 0, -1)
    return predicted
