"""How near generated samples come to training samples, beside baselines that say what is near.

The baselines are samples that the model did not see, and as many training samples as there are generated ones, each
compared with the rest of the training set.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import Array
from dprune.formats.features import Features
from dprune.formats.provenance import Record
from dprune.measuring.balance import strata_of
from dprune.measuring.cells import Cells, default_cells
from dprune.measuring.pairs import nearest_pairs
from dprune.measuring.replicates import kept_replicates, pairing_digest
from dprune.measuring.settings import MemorizationSettings
from dprune.measuring.sides import Measurement, Side, TrainingRows, chosen_ids, describe_side, load_side
from dprune.measuring.sources import FeatureSource
from dprune.metrics.copying import (
    DistanceSummary,
    authenticity,
    calibrated_ratios,
    copying_test_in_cells,
    histogram_edges,
    mann_whitney_z,
    summarize,
)
from dprune.metrics.jackknife import Blocks, Estimate, Strata
from dprune.metrics.nearest import Neighbours, nearest
from dprune.metrics.rows import finite_rows
from dprune.runtime import Monitor, explained, take_device
from dprune.seeds import generator

_log = logging.getLogger("dprune")

HELD_OUT = "held_out_"
"""What keys of the held-out baseline begin with."""
NONE = Estimate(math.nan)
"""What cannot be told."""


def find_copies(
    sources: Mapping[str, FeatureSource],
    settings: MemorizationSettings,
    device: str,
    monitor: Monitor,
    *,
    subset: Array | None,
    held_ids: Array | None,
) -> tuple[Measurement, npt.NDArray[np.void]]:
    """Open all sides, making what features are missing, and compare them.

    The arguments are what `MemorizationJob` holds.

    Returns:
        What was found, and each generated sample with its nearest training sample, see `nearest_pairs`.
    """
    place = take_device(device)
    with explained(place, "--device cpu"):
        features = {role: source.open(monitor) for role, source in sources.items()}
        _check_dimensions(features)
        ids, held_out = chosen_ids(features["train"], subset), None
        if "held_out" in features:
            held_out = load_side(features["held_out"], chosen_ids(features["held_out"], held_ids), "held-out", place)
        else:
            _log.info("without --held-out there is no copying test, and no held-out baseline.")
        generated = load_side(features["generated"], chosen_ids(features["generated"], None), "generated", place)
        train = TrainingRows(features["train"], ids, monitor)
        strata = strata_of(features["generated"].labels())
        blocks = _blocks(len(generated.ids), settings, None if strata is None else strata[generated.ids])
        estimates, details, found = _Search(generated, train, held_out, settings, monitor, blocks).measure()
        details |= _jackknife(estimates, features["generated"], generated, blocks, settings)
        counts = {"generated": (len(generated.ids), generated.dropped), "train": (train.finite, train.dropped)}
        if held_out is not None:
            counts["held_out"] = (len(held_out.ids), held_out.dropped)
        inputs = [describe_side(role, sources[role], *known, train.shape[1]) for role, known in counts.items()]
        return Measurement(_numbers(estimates), details, inputs), nearest_pairs(found, generated.ids, train.ids)


def _jackknife(
    estimates: Record, features: Features, side: Side, blocks: Blocks, settings: MemorizationSettings
) -> Record:
    """Return what the error of a difference to another model is made of, which has a training set of its own."""
    if len(blocks) < 2:
        return {}
    alike = [settings.neighbours, settings.alpha]
    known = {key: value for key, value in estimates.items() if isinstance(value, Estimate)}
    of_generated = {key: value for key, value in known.items() if not key.startswith(HELD_OUT)}
    return {"jackknife": kept_replicates(of_generated, blocks, pairing_digest(features, side.ids, blocks, alike))}


def _numbers(estimates: Record) -> Record:
    """Return each number, and behind an estimate its standard error."""
    found: Record = {}
    for key, value in estimates.items():
        found |= {key: value.value, f"{key}_se": value.error} if isinstance(value, Estimate) else {key: value}
    return found


def _blocks(samples: int, settings: MemorizationSettings, strata: Strata | None = None) -> Blocks:
    return Blocks.draw(samples, settings.seed, count=settings.jackknife, strata=strata)


def _check_dimensions(features: Mapping[str, Features]) -> None:
    train = features["train"]
    for other in features.values():
        if other.shape[1] != train.shape[1]:
            raise MismatchError(
                f"{train.name} has features of {train.shape[1]:,} dimensions and {other.name} of {other.shape[1]:,}: "
                "make both with the same model."
            )


@dataclass(frozen=True)
class _Compared:
    """Samples held against the training samples.

    Attributes:
        found: their nearest training samples.
        nearest: distance to the nearest, float64 [n], on the CPU.
        blocks: of the samples.
    """

    found: Neighbours
    nearest: Tensor
    blocks: Blocks

    @property
    def known(self) -> Tensor:
        """Which samples have a distance, bool [n]."""
        return torch.isfinite(self.nearest)

    def percentage(self, flags: Tensor) -> Estimate:
        """Return what percentage of the samples with a distance `flags`, bool [n], mark."""
        return self.blocks.mean((100.0 * flags.cpu()).where(self.known, torch.nan))


@dataclass(frozen=True)
class _Search:
    """Sides in memory, the blocks of the generated one, and what is found of them."""

    generated: Side
    train: TrainingRows
    held_out: Side | None
    settings: MemorizationSettings
    monitor: Monitor
    blocks: Blocks

    def measure(self) -> tuple[Record, Record, Neighbours]:
        """Return metrics and estimates by key, the details, and the nearest training rows of each generated sample."""
        found = self._search()
        sides = {"generated": _Compared(found, found.distance[:, 0].cpu(), self.blocks)}
        if self.held_out is not None:
            stage = self.train.stage("comparing held-out samples")
            other = nearest(self.held_out.x, stage, found.id.shape[1])
            blocks = _blocks(len(other.id), self.settings)
            sides["held_out"] = _Compared(other, other.distance[:, 0].cpu(), blocks)
        distances = {role: side.nearest for role, side in sides.items()}
        distances["train"] = self._training_baseline()
        edges = histogram_edges(list(distances.values()))
        known = {role: summarize(values, edges) for role, values in distances.items()}
        copying, test = self._copying_test(distances)
        calibrated, neighbourhood = self._calibrated(sides)
        near = self._distances(sides, known)
        metrics = {**near, **copying, **self._authpct(sides), **calibrated}
        histograms = {"edges": edges, **{role: summary.histogram for role, summary in known.items()}}
        return metrics, {"histograms": histograms, "copying": test, "calibrated": neighbourhood}, found

    def _search(self) -> Neighbours:
        """Find the nearest training samples of each generated one."""
        settings, train = self.settings, self.train
        if settings.cells is not None and settings.cells > train.shape[0]:
            raise InputError(f"--cells {settings.cells}: there are {train.shape[0]:,} training samples: lower it.")
        neighbours = min(settings.neighbours, train.shape[0])
        found = nearest(self.generated.x, train.stage("comparing generated samples"), neighbours)
        train.check()
        _check_found(found)
        return found

    def _to_training(self, x: Tensor, label: str, exclude: Tensor | None = None) -> Tensor:
        return nearest(x, self.train.stage(label), exclude=exclude).distance[:, 0]

    def _training_baseline(self) -> Tensor:
        """Return the nearest distance of random training samples to the rest of the training set."""
        samples, device = self.train.shape[0], self.generated.x.device
        # The words seed the draw: others would choose other samples.
        draw = generator(self.settings.seed, "training samples as a yardstick")
        chosen = draw.choice(samples, min(samples, len(self.generated.x)), replace=False, shuffle=False)
        chosen.sort()
        rows, places = torch.from_numpy(self.train.take(chosen)).to(device), torch.from_numpy(chosen).to(device)
        kept = finite_rows(rows)
        return self._to_training(rows[kept], "comparing training samples", places[kept])

    def _copying_test(self, distances: Mapping[str, Tensor]) -> tuple[Record, Record | None]:
        """Return the metrics of Meehan's test, None without held-out samples, and how it was made."""
        if self.held_out is None:
            return dict.fromkeys(("copying_c_t", "copying_z", "copying_p")), None
        train, generated, held_out = self.train, self.generated.x, self.held_out.x
        wanted = self.settings.cells or default_cells(len(generated), len(held_out), train.finite)
        count = min(wanted, train.finite)
        cells = Cells.fit(train, count, self.settings.seed, generated.device, self.monitor)
        labels = cells.of(generated), cells.of(held_out), cells.of_training(train)
        test = copying_test_in_cells(generated, held_out, train.stage("testing for copies"), labels)
        if not test.cells:
            _log.warning(
                "the copying test has no result: no cell has both more than 20 generated samples and a held-out one: "
                "give more samples, or fewer --cells."
            )
        z_u = mann_whitney_z(distances["generated"], distances["held_out"])
        made = {"cells": test.cells, "of_cells": count, "weight": test.weight, "z_u": z_u}
        return {"copying_c_t": test.c_t, "copying_z": test.z, "copying_p": test.p}, made

    def _authpct(self, sides: Mapping[str, _Compared]) -> Record:
        """Return AuthPct of generated and held-out samples, which one search serves."""
        flags: dict[str, Tensor] = {}
        # A single training sample has no rest to be nearer to.
        if self.train.finite > 1:
            parts = [side.found for side in sides.values()]
            distance, ids = (torch.cat([x[:, :1] for x in of]) for of in zip(*((p.distance, p.id) for p in parts)))
            _, authentic = authenticity(Neighbours(distance, ids, 0), self.train.stage("authenticity"))
            flags = dict(zip(sides, authentic.split([len(part.id) for part in parts]), strict=True))
        return _percentages("authpct", sides, flags)

    def _calibrated(self, sides: Mapping[str, _Compared]) -> tuple[Record, Record]:
        """Return Carlini's copies, as a count and as percentages, and how they were told."""
        width, alpha = min(sides["generated"].found.distance.shape[1], self.train.finite), self.settings.alpha
        if width < self.settings.neighbours:
            _log.warning("the calibrated ratio looks at %d neighbours: there are no more training samples.", width)
        flags: dict[str, Tensor] = {}
        if width > 1:
            flags = {r: calibrated_ratios(side.found.distance[:, :width], alpha) < 1 for r, side in sides.items()}
        copies = {"calibrated_copies": _count(sides["generated"], flags.get("generated"))}
        return copies | _percentages("calibrated_copies_pct", sides, flags), {"neighbours": width, "alpha": alpha}

    @staticmethod
    def _distances(sides: Mapping[str, _Compared], known: Mapping[str, DistanceSummary]) -> Record:
        """Return the metrics that are made of nearest distances."""
        generated, held_out = known["generated"], known.get("held_out")
        if held_out and held_out.zero_count:
            _log.warning(
                "%d held-out samples are exact copies of training samples, so they are no baseline: give "
                "samples that the model did not see.", held_out.zero_count
            )  # fmt: skip
        mean = {role: replace(s.blocks.mean(s.nearest), value=known[role].mean) for role, s in sides.items()}
        near, far = mean["generated"], mean.get("held_out", NONE)
        return {
            "nearest_distance_mean": near,
            "nearest_distance_median": generated.quantiles[0.5],
            "nearest_distance_quantiles": {str(level): value for level, value in generated.quantiles.items()},
            "zero_count": _count(sides["generated"], sides["generated"].nearest == 0),
            f"{HELD_OUT}nearest_distance_mean": far,
            f"{HELD_OUT}nearest_distance_median": held_out and held_out.quantiles[0.5],
            # A baseline of copies measures nothing.
            "nearest_distance_ratio": near.over(far),
            "train_nearest_distance_mean": known["train"].mean,
        }


def _percentages(key: str, sides: Mapping[str, _Compared], flags: Mapping[str, Tensor]) -> Record:
    """Return what percentage of either side's samples is flagged, NaN for a side without flags."""
    prefixes = {"generated": "", "held_out": HELD_OUT}
    return {
        f"{prefix}{key}": sides[role].percentage(flags[role]) if role in flags else NONE
        for role, prefix in prefixes.items()
    }


def _count(side: _Compared, flags: Tensor | None) -> Estimate:
    """Return how many samples are flagged, NaN without flags."""
    if flags is None:
        return NONE
    share, known = side.percentage(flags), int(side.known.sum()) / 100
    return Estimate(int(flags.sum()), share.error * known, tuple(known * value for value in share.replicates))


def _check_found(found: Neighbours) -> None:
    """Warn of finite samples that no distance can be told of.

    Raises:
        InputError: these are all.
    """
    lost = int((found.id[:, 0] < 0).sum())
    if lost == len(found.id):
        raise InputError(
            "the features are too large for distances in float32: divide those of all sides by one number."
        )
    if lost:
        _log.warning("%d generated samples have features too large for distances, and are left out.", lost)
