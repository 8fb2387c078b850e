"""What the Fréchet distance comes to for real samples: as many as generated ones, to the same rest of the reference.

Held-out samples are such, and where the reference has twice as many samples as were generated, so are some of its own:
a distance of real to real hangs on the count of samples, on chance and on the features, and on no model.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.measuring.moments import Measured, stoppable
from dprune.measuring.settings import EvalSettings
from dprune.measuring.sides import Side
from dprune.metrics.frechet import Moments, frechet_distance, replicate_moments
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.namespace import Array, beside
from dprune.runtime import Monitor
from dprune.seeds import generator

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class HeldOut:
    """Real samples that no model saw.

    Attributes:
        side: the samples.
        name: what messages call them.
        of_reference: whether their ids are rows of the reference, which are then taken out of it.
    """

    side: Side
    name: str
    of_reference: bool


@dataclass(frozen=True)
class RealBaseline:
    """Two distances to the same samples.

    Attributes:
        real: distance of real samples; without an error where these are a part of the reference drawn by chance.
        generated: that of as many generated ones, likewise.
        count: samples of either.
        rest: reference samples that both are held to.
        source: where the real ones are from, `held-out` or `reference`.
    """

    real: Estimate
    generated: Estimate
    count: int
    rest: int
    source: str

    @property
    def ratio(self) -> Estimate:
        """Distance of the generated samples over that of the real ones, in whose error both vary; NaN over zero."""
        return self.generated.over(self.real)


def real_baseline(
    generated: Measured, reference: Measured, held_out: HeldOut | None, settings: EvalSettings, monitor: Monitor
) -> RealBaseline | None:
    """Measure real samples as the generated ones are, None where there are none to be had.

    Raises:
        InputError: without the held-out samples the reference has less than two.
    """
    if held_out is not None:
        return _of_held_out(generated, reference, held_out, settings, monitor)
    if reference.ids is None or generated.count is None or len(reference.ids) < 2 * generated.count:
        return None
    # The words seed the draw: others would choose other samples.
    ids = _some(reference.ids, generated.count, settings.seed, "reference samples as a yardstick")
    rows = _rows(reference, ids)
    rest, (ours, _) = _rest(reference, ids, rows), generated.moments
    real, own = (frechet_distance(moments, rest).distance for moments in (Moments.of(rows), ours))
    return RealBaseline(real, own, len(rows), rest.count, "reference")


def _of_held_out(
    generated: Measured, reference: Measured, held_out: HeldOut, settings: EvalSettings, monitor: Monitor
) -> RealBaseline:
    assert generated.ids is not None
    count = min(len(generated.ids), len(held_out.side.ids))
    rest = reference.moments[0]
    if held_out.of_reference:
        assert reference.ids is not None
        inside = np.isin(held_out.side.ids, reference.ids)
        left = len(reference.ids) - int(inside.sum())
        if left < 2:
            raise InputError(f"{held_out.name}: without these ids the reference has {left} samples: hold fewer out.")
        rows = held_out.side.x[beside(held_out.side.x, inside)]
        rest = _rest(reference, held_out.side.ids[inside], rows) if len(rows) else rest
    if count < rest.dimension:
        _log.warning(
            "the held-out baseline is made of %d real samples, fewer than the %d dimensions: generated and real "
            "distances are then alike whatever was generated: hold more samples out.", count, rest.dimension,
        )  # fmt: skip
    places = np.arange(len(held_out.side.ids))
    chosen = beside(held_out.side.x, _some(places, count, settings.seed, "held-out samples at equal count"))
    ours = _rows(generated, _some(generated.ids, count, settings.seed, "generated samples at equal count"))
    blocks = Blocks.draw(count, settings.seed, settings.jackknife) if settings.jackknife else None
    real, own = (_distance(rows, rest, blocks, monitor) for rows in (held_out.side.x[chosen], ours))
    return RealBaseline(real, own, count, rest.count, "held-out")


def _distance(rows: Array, rest: Moments, blocks: Blocks | None, monitor: Monitor) -> Estimate:
    if blocks is None or min(blocks.remaining) < 2:
        return frechet_distance(Moments.of(rows), rest).distance
    whole, replicates = replicate_moments(rows, blocks)
    found = frechet_distance(whole, rest, stoppable(replicates, monitor), blocks).distance
    # Replicates would pass for those of the blocks that all other metrics have in common.
    return Estimate(found.value, found.error)


def _some(ids: npt.NDArray[np.int64], count: int, seed: int, purpose: str) -> npt.NDArray[np.int64]:
    """Draw some of the ids, sorted."""
    chosen: npt.NDArray[np.int64] = generator(seed, purpose).choice(ids, count, replace=False, shuffle=False)
    chosen.sort()
    return chosen


def _rows(measured: Measured, ids: npt.NDArray[np.int64]) -> Array:
    """Return the features of some samples, read again where they are not held."""
    if (side := measured.side) is not None:
        return side.x[beside(side.x, np.searchsorted(side.ids, ids))]
    assert measured.features is not None
    return beside(measured.moments[0].mean, measured.features.take(ids))


def _rest(reference: Measured, ids: npt.NDArray[np.int64], rows: Array) -> Moments:
    """Take the moments of the reference without the samples `ids`, whose features are `rows`."""
    whole, _ = reference.moments
    if whole.count - len(rows) > whole.dimension:
        return whole.without(Moments.of(rows))
    # So few have a singular scatter, of which taking away would lose digits.
    assert reference.ids is not None
    return Moments.of(_rows(reference, np.setdiff1d(reference.ids, ids, assume_unique=True)))
