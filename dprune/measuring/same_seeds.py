"""Samples of two models that came of the same seeds: found by their keys, wherever they stand in either set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError
from dprune.formats.features import Features
from dprune.formats.named import NamedSamples
from dprune.formats.provenance import Record
from dprune.measuring.moments import Measured
from dprune.measuring.replicates import seeds_in_order
from dprune.measuring.settings import EvalSettings
from dprune.measuring.sources import is_sampled
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.namespace import Array, beside, take_rows
from dprune.sampling.seeds import seed_of

if TYPE_CHECKING:
    from dprune.metrics.paired import Paired

IntArray = npt.NDArray[np.int64]

FEWEST = 2
"""Pairs that can be shuffled."""

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class SeedPairs:
    """Pairs of samples in the order of the first set.

    Attributes:
        first: places of the first set's samples among those that take part, int64 [n].
        second: places of their partners, int64 [n].
        classes: what was asked for, int64 [n], None where either set does not say.
        left_out: samples of either set without a partner.
        unlike: pairs that were left out since different classes were asked for.
    """

    first: IntArray
    second: IntArray
    classes: IntArray | None
    left_out: tuple[int, int]
    unlike: int

    @property
    def details(self) -> Record:
        """What a result says of the pairs."""
        return {"pairs": len(self.first), "without_partner": list(self.left_out), "of_other_classes": self.unlike,
                "classes": None if self.classes is None else len(np.unique(self.classes))}  # fmt: skip


def measure_pairs(
    generated: Measured, reference: Measured, named: Sequence[NamedSamples | None], settings: EvalSettings
) -> tuple[dict[str, Estimate], Any]:
    """Find the pairs of two sides that are held in memory, measure them, and describe them.

    Args:
        generated: one side.
        reference: the other.
        named: what tells the keys of each, None where nothing does.
        settings: of the blocks.

    Raises:
        InputError: keys are no seeds, or too few seeds are shared.
        MismatchError: one side is of a model and the other is not.
    """
    from dprune.metrics.paired import paired

    pairs = find_pairs(generated, reference, named)
    first, second = _rows(generated, pairs.first), _rows(reference, pairs.second)
    found = paired(first, second, pairs.classes, _blocks(generated, pairs, settings))
    return _estimates(found, all_take_part=len(pairs.first) == generated.count), pairs.details


def _rows(side: Measured, places: IntArray) -> Array:
    assert side.side is not None
    return take_rows(side.side.x, beside(side.side.x, places))


def _estimates(found: Paired, *, all_take_part: bool) -> dict[str, Estimate]:
    estimates: dict[str, Estimate] = {}
    for name, likeness in (("cosine", found.cosine), ("distance", found.distance)):
        estimates |= {f"paired_{name}": likeness.pairs, f"shuffled_{name}": likeness.shuffled}
        estimates |= {f"class_shuffled_{name}": likeness.in_class} if likeness.in_class is not None else {}
    estimates["paired_retrieval"] = found.retrieval
    if all_take_part:
        return estimates
    # Replicates of other blocks would pass for those of the blocks that all other metrics have in common.
    return {key: Estimate(one.value, one.error) for key, one in estimates.items()}


def _blocks(generated: Measured, pairs: SeedPairs, settings: EvalSettings) -> Blocks | None:
    """Return blocks of the pairs: those of the generated samples where all of these have partners."""
    if generated.blocks is None or len(pairs.first) == generated.count:
        return generated.blocks
    return Blocks.draw(len(pairs.first), settings.seed, settings.jackknife)


def find_pairs(generated: Measured, reference: Measured, named: Sequence[NamedSamples | None]) -> SeedPairs:
    """Match the samples of two sides by seed, and say how many are left out; `measure_pairs` has the arguments.

    Pairs of which different classes were asked for are none: a model that never saw a class draws another one.

    Raises:
        InputError: keys are no seeds, or too few seeds are shared.
        MismatchError: one side is of a model and the other is not.
    """
    sides = [(side.features, side.ids) for side in (generated, reference)]
    (ours, our_ids), (theirs, their_ids) = sides
    assert ours is not None
    assert theirs is not None
    assert our_ids is not None
    assert their_ids is not None
    _check_origin(ours, theirs)
    seeds = seeds_of(ours, named[0], our_ids), seeds_of(theirs, named[1], their_ids)
    shared, first, second = np.intersect1d(*seeds, assume_unique=True, return_indices=True)
    order = np.argsort(first)
    first, second = first[order], second[order]
    asked = [features.labels() for features in (ours, theirs)]
    classes, unlike = None, 0
    if asked[0] is not None and asked[1] is not None:
        classes = asked[0][our_ids[first]]
        alike = classes == asked[1][their_ids[second]]
        unlike = int((~alike).sum())
        first, second, classes = first[alike], second[alike], classes[alike]
    left_out = len(our_ids) - len(shared), len(their_ids) - len(shared)
    found = SeedPairs(first, second, classes, left_out, unlike)
    _tell(found, ours.name, theirs.name)
    return found


def _tell(found: SeedPairs, ours: str, theirs: str) -> None:
    """Say what is left out.

    Raises:
        InputError: too little is left.
    """
    count, (alone, others) = len(found.first), found.left_out
    if count < FEWEST:
        seeds = f"{count + found.unlike:,} seed{'' if count + found.unlike == 1 else 's'}"
        classes = f", and {found.unlike:,} of them with different classes" if found.unlike else ""
        raise InputError(
            f"--metrics paired: {ours} and {theirs} share {seeds}{classes}, and {FEWEST} pairs are the fewest: sample "
            "both with the same --seeds and --classes."
        )
    if alone or others:
        _log.warning(
            "pairs are the %s seeds that both have; left out are %s samples of %s and %s of %s.",
            f"{count + found.unlike:,}", f"{alone:,}", ours, f"{others:,}", theirs,
        )  # fmt: skip
    if found.unlike:
        _log.warning(
            "left out are %s pairs of which different classes were asked for: dprune sample --classes balanced gives a "
            "seed the same class for all models of the same classes.", f"{found.unlike:,}",
        )  # fmt: skip


def seeds_of(features: Features, named: NamedSamples | None, ids: IntArray) -> IntArray:
    """Return the seeds of samples by their sorted ids, int64 [n], each once.

    They are read from the keys, or from what `sample` was asked for where an older dprune kept no keys.

    Raises:
        InputError: nothing tells them, or two samples have the same.
    """
    if named is None or not named.knows_keys:
        in_order = seeds_in_order(features)
        if in_order is None:
            raise InputError(
                f"--metrics paired: {features.name} holds no keys, which tell the seeds of its samples: give the "
                "images, or features that dprune embed made of them."
            )
        return in_order[ids]
    seeds = np.empty(len(ids), dtype=np.int64)
    for place, key in enumerate(named.any_keys_of(ids)):
        seed = seed_of(key)
        if seed is None:
            raise InputError(
                f"--metrics paired: the key {key!r} of {features.name} is no seed, and pairs are known by seeds: give "
                "what dprune sample wrote, or images that are named after their seeds."
            )
        seeds[place] = seed
    names, counts = np.unique(seeds, return_counts=True)
    if counts.max(initial=1) > 1:
        raise InputError(
            f"--metrics paired: {features.name} has {counts.max():,} samples of the seed {names[counts.argmax()]}, so "
            "that none is the partner of another: give each seed once."
        )
    return seeds


def _check_origin(ours: Features, theirs: Features) -> None:
    """Refuse real samples beside generated ones, whose keys may be numbers, too."""
    sampled = [is_sampled(features.record) for features in (ours, theirs)]
    if sampled[0] != sampled[1]:
        other = theirs.name if sampled[0] else ours.name
        raise MismatchError(
            f"--metrics paired: {other} was not drawn by dprune sample as the other side was, so its keys are not the "
            "same seeds: give samples of two models."
        )
    if not any(sampled):
        _log.info("the names of the samples are taken for the seeds that they were drawn with.")
