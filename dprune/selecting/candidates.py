"""Which samples have a score that lets them be chosen at all."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import Array
from dprune.formats.provenance import FINDINGS_KEY
from dprune.selecting.quotas import IntArray

_log = logging.getLogger("dprune")


def scored(ids: IntArray, scores: Array) -> IntArray:
    """Return the ids that have a score.

    Args:
        ids: sorted ids, int64 [n].
        scores: one a sample, NaN for none.

    Raises:
        InputError: none has.
    """
    found: IntArray = ids[~np.isnan(scores.values[ids])]
    if len(ids) and not len(found):
        raise InputError(
            f"{scores.name}: the score of each of the {len(ids):,} samples to choose from is NaN, which is never "
            "kept: score them first."
        )
    return found


def between(ids: IntArray, scores: Array, below: float | None, above: float | None) -> IntArray:
    """Return the ids whose score is less than `below` and more than `above`, in the precision of the scores.

    Args:
        ids: sorted ids of samples with a score, int64 [n].
        scores: one a sample.
        below: bound that no score reaches, None for none.
        above: likewise from the other side.

    Raises:
        InputError: there is no such score.
    """
    values = scores.values[ids]
    passes = np.ones(len(ids), dtype=np.bool_)
    if below is not None:
        passes &= values < _like(values, below)
    if above is not None:
        passes &= values > _like(values, above)
    if len(ids) and not passes.any():
        said = " and ".join(f"{word} {x:g}" for word, x in (("below", below), ("above", above)) if x is not None)
        raise InputError(
            f"{scores.name}: no score of the {len(ids):,} samples to choose from is {said}: they lie between "
            f"{values.min():g} and {values.max():g}."
        )
    return ids[passes]


def warn_of_unranked(kept: int, scores: Array) -> None:
    """Say so where more is kept of the lowest scores than a method ranked: the others it scored alike.

    Args:
        kept: how many samples are.
        scores: with the provenance that tells.
    """
    record = scores.record or {}
    ranked = {**record.get("options", {}), **record.get(FINDINGS_KEY, {})}.get("ranked")
    if isinstance(ranked, int) and kept > ranked:
        _log.warning("%s: ranks %d samples and %d are kept: the others are a random choice.", scores.name, ranked, kept)


def _like(values: npt.NDArray[np.generic], bound: float) -> float:
    """Round a bound as the scores were: the float32 that is next to .95 is not below .95."""
    with np.errstate(over="ignore"):
        return float(values.dtype.type(bound)) if values.dtype.kind == "f" else bound
