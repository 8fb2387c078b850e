"""How generated samples spread over clusters or classes, beside how the reference does and the training set did."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.namespace import beside


@dataclass(frozen=True)
class Shares:
    """Shares of k groups.

    Attributes:
        generated: share of each group, float64 [k].
        errors: standard errors of these, float64 [k]; NaN where none can be told.
        reference: the same of the reference.
        total_variation: half the sum of the absolute differences, 0 for equal shares, 1 for disjoint ones.
        entropy: of the generated shares, in nats; log k when they are equal.
        reference_entropy: of the reference's shares.
        smallest: smallest generated share among the groups that the reference has.
        smallest_group: whose share that is, the first of several.
        unlabelled: generated samples that belong to no group.
    """

    generated: Tensor
    errors: Tensor
    reference: Tensor
    total_variation: Estimate
    entropy: Estimate
    reference_entropy: float
    smallest: Estimate
    smallest_group: int
    unlabelled: int


@dataclass(frozen=True)
class Followed:
    """How generated shares follow those of the training set.

    Attributes:
        training: share of each group among the training samples, float64 [k].
        total_variation: half the sum of the absolute differences.
        slope: of the least-squares line of generated over training shares; 1 where they are the same, 0 where generated
            shares know nothing of them. None where the training set has as many samples of each group, give or take
            one.
    """

    training: Tensor
    total_variation: Estimate
    slope: Estimate | None


def shares(generated: Tensor, reference: Tensor, groups: int, blocks: Blocks | None = None) -> Shares:
    """Compare the shares of groups.

    Args:
        generated: group of each generated sample, integers [n], -1 for none.
        reference: group of each reference sample, integers [m], -1 for none.
        groups: number of groups k.
        blocks: of the generated samples, for the standard errors.

    Raises:
        InputError: a label is out of range, or a side has no labelled sample.
    """
    blocks = blocks or Blocks.whole(generated)
    theirs = _histogram(reference, groups, "reference", Blocks.whole(reference))[0]
    counts = _histogram(generated, groups, "generated", blocks)
    expected = theirs / theirs.sum()
    whole = counts.sum(0, keepdim=True)
    pairs = zip(_statistics(whole, expected), _statistics(blocks.without_each(counts), expected), strict=True)
    total_variation, entropy, smallest = (blocks.estimate(float(value), left_out) for value, left_out in pairs)
    share = (whole / whole.sum())[0]
    return Shares(
        generated=share, errors=_errors(counts, blocks), reference=expected,
        total_variation=total_variation, entropy=entropy,
        reference_entropy=float(torch.special.entr(expected).sum()), smallest=smallest,
        smallest_group=int(share.masked_fill(expected == 0, torch.inf).argmin()),
        unlabelled=len(generated) - int(whole.sum()),
    )  # fmt: skip


def follow_training(generated: Tensor, training: Tensor, groups: int, blocks: Blocks | None = None) -> Followed:
    """Hold the shares of groups to those of the training set, whose samples are fixed.

    Args:
        generated: group of each generated sample, integers [n], -1 for none.
        training: group of each training sample, integers [m], -1 for none.
        groups: number of groups k.
        blocks: of the generated samples, for the standard errors.

    Raises:
        InputError: a label is out of range, or a side has no labelled sample.
    """
    blocks = blocks or Blocks.whole(generated)
    theirs = _histogram(training, groups, "training", Blocks.whole(training))[0]
    counts = _histogram(generated, groups, "generated", blocks)
    expected = theirs / theirs.sum()
    both = counts.sum(0, keepdim=True), blocks.without_each(counts)
    variation = [_statistics(some, expected)[0] for some in both]
    slope = None
    if theirs.max() - theirs.min() > 1:
        centred = expected - expected.mean()
        over = [(some / some.sum(1, keepdim=True)) @ centred / centred.square().sum() for some in both]
        slope = blocks.estimate(float(over[0]), over[1])
    return Followed(expected, blocks.estimate(float(variation[0]), variation[1]), slope)


def _errors(counts: Tensor, blocks: Blocks) -> Tensor:
    """Return the standard error of each share from counts by block [blocks, k]."""
    left_out = blocks.without_each(counts)
    share = left_out / left_out.sum(1, keepdim=True)
    whole = (counts.sum(0) / counts.sum()).tolist()
    errors = [blocks.estimate(*pair).error for pair in zip(whole, share.T, strict=True)]
    return torch.tensor(errors, dtype=torch.float64)


def _histogram(labels: Tensor, groups: int, role: str, blocks: Blocks) -> Tensor:
    """Count samples by block and group, float64 [blocks, k]."""
    known = labels >= 0
    if not known.any():
        raise InputError(f"no {role} sample belongs to a group: shares need labels or clusters.")
    if int(labels.max()) >= groups or int(labels.min()) < -1:
        raise InputError(f"labels of the {role} samples are outside -1 to {groups - 1}, the groups there are.")
    cells = (beside(labels, blocks.labels) * groups + labels)[known]
    return torch.bincount(cells, minlength=len(blocks) * groups).view(len(blocks), groups).double()


def _statistics(counts: Tensor, expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return total variation, entropy and smallest share for counts [r, k], float64 [r] each."""
    share = counts / counts.sum(1, keepdim=True)
    smallest = share.masked_fill(expected == 0, torch.inf).amin(1)
    return (share - expected).abs().sum(1) / 2, torch.special.entr(share).sum(1), smallest
