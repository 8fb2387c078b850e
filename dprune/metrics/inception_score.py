"""The Inception score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.metrics.rows import check_rows, spans
from dprune.namespace import beside
from dprune.seeds import generator


@dataclass(frozen=True)
class InceptionScore:
    """An Inception score.

    Attributes:
        score: mean over the splits.
        deviation: standard deviation over the splits, which the literature prints behind ±; no standard error.
    """

    score: Estimate
    deviation: float


def inception_score(
    logits: Tensor, splits: int = 10, seed: int | None = 0, blocks: Blocks | None = None
) -> InceptionScore:
    """Compute exp of the mean Kullback-Leibler divergence of p(y|x) from p(y) (Salimans et al., 2016), in float64.

    A split needs only the sums of p(y|x) and of its negative entropy, so one pass gives the score and every
    replicate without a block.

    Args:
        logits: class logits [n, classes] of any float type.
        splits: parts in which the score is computed apart.
        seed: seed of the order of the samples, None for the given one, which is wrong if that is sorted by class.
        blocks: for the standard error.

    Raises:
        InputError: there are fewer samples than splits, or some are not finite.
    """
    count = len(logits)
    if splits < 1:
        raise InputError("an Inception score takes at least one split.")
    check_rows(logits, "generated", splits)
    position = np.arange(count)
    if seed is not None:
        position = generator(seed, "Inception score").permutation(count)
    # The first row of split i is i * count // splits, as everywhere in the literature.
    bounds = np.arange(1, splits) * count // splits
    owner = beside(logits, np.searchsorted(bounds, position, side="right"))
    blocks = blocks or Blocks.whole(logits)
    group = owner * len(blocks) + beside(logits, blocks.labels)
    sums = _grouped(logits, group, splits * len(blocks)).view(splits, len(blocks), -1)
    scores = _scores(sums.sum(1))
    score = blocks.estimate(float(scores.mean()), _scores(sums.sum(1, keepdim=True) - sums).mean(0))
    return InceptionScore(score, float(scores.std(correction=0)))


def _grouped(logits: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the sums of p, of the negative entropy and of ones by group, float64 [groups, classes + 2]."""
    sums = torch.zeros((groups, logits.shape[1] + 2), dtype=torch.float64, device=logits.device)
    for low, high in spans(len(logits), logits.shape[1]):
        logs = torch.log_softmax(logits[low:high].double(), 1)
        p = logs.exp()
        negative_entropy = torch.where(p > 0, p * logs, 0).sum(1, keepdim=True)
        member = torch.zeros((groups, high - low), dtype=torch.float64, device=logits.device)
        member.scatter_(0, group[low:high].unsqueeze(0), 1)
        sums.addmm_(member, torch.cat([p, negative_entropy, torch.ones_like(negative_entropy)], 1))
    return sums


def _scores(sums: Tensor) -> Tensor:
    """Return exp(mean of sum p log p - sum q log q), q the mean of p, for sums [..., classes + 2]."""
    means = sums[..., :-1] / sums[..., -1:]
    marginal = means[..., :-1].clamp(min=0)
    entropy: Tensor = torch.special.entr(marginal).sum(-1)
    return (means[..., -1] + entropy).exp()
