"""The job of `dprune memorization --losses`: how much smaller losses of training samples are, by noise level."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import NPY_MAGIC, Array, read_array
from dprune.formats.jobs import FileJob
from dprune.formats.provenance import Record, generator_of, make_record, packed_subset, parent, training_subset
from dprune.formats.publish import STDOUT, Output
from dprune.formats.results import read_result
from dprune.formats.subsets import narrowed, read_chosen
from dprune.formats.whole_files import read_file
from dprune.measuring.losses import Losses, read_losses
from dprune.measuring.pairs import COMMAND
from dprune.measuring.settings import MemorizationSettings
from dprune.measuring.sides import Measurement
from dprune.measuring.trained_samples import part_by, took_all, trained_count
from dprune.metrics.catalogue import LOSS_GAP_AT
from dprune.metrics.loss_gap import LossGap, loss_gap
from dprune.runtime import Monitor

IntArray = npt.NDArray[np.int64]
UNBIASED = ("random", "interval")
"""Orders of `select` that take samples of all scores."""
FEWEST = 2
"""Samples of either side, of which an error can be told."""

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class LossGapJob(FileJob):
    """One comparison of losses.

    Attributes:
        losses: of the store that holds the training samples.
        subset: ids of these, None for all.
        held_ids: ids of held-out samples in the same store, None for all that are no training samples.
        held_losses: of held-out samples of another store, or None.
    """

    losses: Losses
    subset: Array | None
    held_ids: Array | None
    held_losses: Losses | None
    output: Output

    def __post_init__(self) -> None:
        """Hold the inputs together; raises what `open_loss_gap` does."""
        _check_subset(self.losses, self.subset)
        if self.held_losses is not None:
            _check_alike(self.losses, self.held_losses)
        _ = self.sides
        _warn_of_selection(self.subset)

    @functools.cached_property
    def sides(self) -> tuple[IntArray, IntArray]:
        """Ids of the training samples, and of the held-out ones in their own store."""
        losses, other = self.losses, self.held_losses
        trained = narrowed(self.subset, losses.name, losses.fingerprint, len(losses))
        if other is not None:
            return trained, np.arange(len(other))
        if self.held_ids is None:
            held = np.setdiff1d(np.arange(len(losses)), trained, assume_unique=True)
        else:
            held = narrowed(self.held_ids, losses.name, losses.fingerprint, len(losses))
            if len(both := np.intersect1d(held, trained, assume_unique=True)):
                raise MismatchError(
                    f"{self.held_ids.name}: {len(both):,} of its ids are training samples too (the first is "
                    f"{both[0]}): hold out ids that are not in the --subset that the model was trained on."
                )
        if not len(held):
            raise InputError(
                f"{losses.name}: all of its samples are training samples: give the --subset that the model was trained "
                "on, or with --held-out the losses of other samples."
            )
        return trained, held

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the result."""
        given = {"losses": self.losses, "subset": self.subset, "held_out": self.held_ids or self.held_losses}
        parents = {role: value.as_parent() for role, value in given.items() if value is not None}
        return make_record(COMMAND, {}, parents=parents, tags=self.output.tags)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """See `Job`."""
        other = self.held_losses or self.losses
        sides = [
            _usable(*side) for side in zip((self.losses, other), self.sides, ("training", "held-out"), strict=True)
        ]
        (trained, _), (held, _) = sides
        found = {
            sigma: loss_gap(values[trained], other.levels[sigma][held]) for sigma, values in self.losses.levels.items()
        }
        inputs = [
            {"role": role, "count": len(ids), "dropped": dropped, "dimension": None, "model": None,
             "digest": source.as_parent()["digest"]}
            for role, (ids, dropped), source in zip(("train", "held_out"), sides, (self.losses, other), strict=True)
        ]  # fmt: skip
        measurement = Measurement(_numbers(found), {"loss_gap": _table(found)}, inputs)
        measurement.publish(self.output.path, COMMAND, self.record)
        return _summary(measurement.metrics, inputs)

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        found = read_result(self.output.path)
        return _summary(found.metrics, found.inputs)


def open_loss_gap(settings: MemorizationSettings, output: Output) -> LossGapJob:
    """Open what `dprune memorization --losses` was given.

    Raises:
        InputError: a file is missing or not what it should be, or there is nothing to compare.
        MismatchError: the files do not belong together.
    """
    assert settings.losses is not None
    losses, held_ids, held_losses = read_losses(settings.losses), None, None
    subset = read_chosen(settings.subset, None) if settings.subset is not None else None
    if settings.held_out is not None:
        # A pipe can be read once, and has no files beside it.
        data = None if settings.held_out == STDOUT else read_file(settings.held_out)
        if data is not None and data.startswith(NPY_MAGIC) and _are_losses(settings.held_out, data):
            held_losses = read_losses(settings.held_out)
        else:
            held_ids = read_chosen(settings.held_out, None, data)
    return LossGapJob(losses, subset, held_ids, held_losses, output)


def _are_losses(path: str, data: bytes) -> bool:
    return read_array(path, data).values.dtype.kind == "f"


def _check_subset(losses: Losses, subset: Array | None) -> None:
    """Hold the subset that is given to the one that the provenance of the losses' model names."""
    model, named = generator_of(losses.record), training_subset(losses.record)
    if named is None:
        if model is None:
            return
        if not took_all(model) and (subset is None or len(subset.values) != trained_count(model)):
            raise InputError(f"{losses.name}: its model was trained on the {trained_count(model):,} samples that "
                             f"{part_by(model)} left: give the ids of those with --subset.")  # fmt: skip
        if subset is not None and took_all(model) and model.get("fingerprint") == losses.fingerprint:
            raise MismatchError(
                f"{losses.name}: its model was trained on all samples: leave --subset out, and give with --held-out "
                "the losses of others."
            )
        return
    inherent = packed_subset(parent(losses.record, "latents"))
    if inherent is not None and inherent["digest"] == named["digest"]:
        if subset is not None:
            raise MismatchError(f"{losses.name} is of nothing but the model's training samples: leave --subset out.")
        return
    if subset is None:
        raise InputError(
            f"{losses.name}: its model was trained on a subset with the digest {named['digest'][:12]}: give that file "
            "with --subset."
        )
    if (given := subset.as_parent()["digest"]) != named["digest"]:
        raise MismatchError(
            f"{subset.name} has the digest {given[:12]}, and the model behind {losses.name} was trained on the subset "
            f"with the digest {named['digest'][:12]}: give that one with --subset."
        )


def _check_alike(ours: Losses, theirs: Losses) -> None:
    one, other = ours.how(), theirs.how()
    if list(ours.levels) != list(theirs.levels) or (one is not None and other is not None and one != other):
        raise MismatchError(
            f"{ours.name} and {theirs.name} are of different models, or were scored at other noise levels or with "
            "other options: score both stores alike."
        )


def _warn_of_selection(subset: Array | None) -> None:
    """Say where training samples are no random ones: then others differ from them whatever the model learnt."""
    made = subset.record if subset is not None else None
    if made and made["command"] == "select" and made["options"].get("order", "random") not in UNBIASED:
        assert subset is not None
        _log.warning(
            "%s was chosen by scores: its samples may be easier or harder than the held-out ones, and the gap shows "
            "that, too. Hold it to the same gap of a model that was trained on neither.", subset.name
        )  # fmt: skip


def _usable(losses: Losses, ids: IntArray, role: str) -> tuple[IntArray, int]:
    """Return the ids of those samples that have losses, and how many have none."""
    kept: IntArray = ids[losses.usable()[ids]]
    if len(kept) < FEWEST:
        raise InputError(f"{losses.name}: {len(kept)} {role} samples have losses: score at least {FEWEST} of them.")
    if dropped := len(ids) - len(kept):
        _log.info("%s of %s %s samples were not scored and are left out.", f"{dropped:,}", f"{len(ids):,}", role)
    return kept, dropped


def _numbers(found: dict[float, LossGap]) -> Record:
    """Return the relative gaps with their errors, the largest first."""
    largest = max(found, key=lambda sigma: np.nan_to_num(found[sigma].relative.value, nan=-np.inf))
    top = found[largest].relative
    numbers: Record = {"loss_gap_pct": top.value, "loss_gap_pct_se": top.error, "loss_gap_sigma": largest}
    for sigma, gap in found.items():
        key = LOSS_GAP_AT.format(sigma)
        numbers |= {key: gap.relative.value, f"{key}_se": gap.relative.error}
    return numbers


def _table(found: dict[float, LossGap]) -> Record:
    """Return all numbers by noise level, in columns."""
    names = ("training", "held_out", "gap", "relative")
    columns: Record = {"sigma": list(found)}
    for name in names:
        estimates = [getattr(gap, name) for gap in found.values()]
        columns |= {name: [e.value for e in estimates], f"{name}_se": [e.error for e in estimates]}
    return columns


def _summary(metrics: Record, inputs: list[Record]) -> dict[str, Any]:
    counts = {side["role"]: side["count"] for side in inputs}
    prefix = LOSS_GAP_AT.partition("{")[0]
    by_level = {
        key.removeprefix(prefix): value
        for key, value in metrics.items() if key.startswith(prefix) and not key.endswith("_se")
    }  # fmt: skip
    return (
        counts | {name: metrics[name] for name in ("loss_gap_pct", "loss_gap_sigma")} | {"loss_gap_by_sigma": by_level}
    )
