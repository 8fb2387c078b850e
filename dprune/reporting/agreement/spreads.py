"""How scores are spread over the samples: a ratio of pruning cuts a part of this off."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from dprune.charts.densities import density_steps
from dprune.charts.figure import Figure
from dprune.charts.theme import PALETTE, colour
from dprune.formats.readable import presentable
from dprune.reporting.agreement.inputs import StudyScore
from dprune.reporting.tables import number_text

_BINS = 40
_TAILS = 0.005
"""Share of the samples at either end that the axis may leave out: one sample could squeeze all others into a bin."""

_Density = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def spread_charts(scores: Iterable[StudyScore]) -> list[Figure]:
    """Draw the density of each score that is not the same for nearly all samples."""
    return [_chart(number, score, *density) for number, (score, density) in enumerate(_densities(scores))]


def spread_rows(scores: Iterable[StudyScore]) -> list[tuple[object, ...]]:
    """Return what the charts show, a row for each bin: score, its ends, and the density in it."""
    return [
        (score.name, begin, end, density)
        for score, (heights, edges) in _densities(scores)
        for (begin, end), density in zip(itertools.pairwise(edges.tolist()), heights.tolist(), strict=True)
    ]


def _densities(scores: Iterable[StudyScore]) -> Iterator[tuple[StudyScore, _Density]]:
    """Yield densities over all scored samples, those beyond the axis included."""
    for score in scores:
        values = score.array.values[np.isfinite(score.array.values)].astype(np.float64)
        low, high = np.quantile(values, [_TAILS, 1 - _TAILS]) if len(values) else (0.0, 0.0)
        if low < high:
            counts, edges = np.histogram(values, _BINS, (low, high))
            yield score, (counts / len(values) / np.diff(edges), edges)


def _chart(number: int, score: StudyScore, heights: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> Figure:
    name = presentable(score.name)
    middle = float(np.nanmedian(score.array.values))
    said = f"Density of {name} from {number_text(edges[0])} to {number_text(edges[-1])}; the median is {middle:.4g}."
    return density_steps(name, said, edges.tolist(), heights.tolist(), {}, top=float(heights.max()),
                         colour=colour(f"c{number % PALETTE}"), about="score", of="samples")  # fmt: skip
