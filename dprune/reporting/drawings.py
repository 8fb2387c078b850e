"""The charts of a report, each drawn once for all places that show it, and their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dprune.charts.figure import Figure
from dprune.metrics.catalogue import Measure
from dprune.reporting.curves import Colours, curve, curve_csv
from dprune.reporting.distributions import (
    histogram_charts,
    histograms_csv,
    prd_charts,
    prd_csv,
    share_charts,
)
from dprune.reporting.group_shares import GROUPS
from dprune.reporting.study.grouping import Comparison

# The shares of groups have a table of their own, for all comparisons.
_NUMBERS = {"prd": prd_csv, "distances": histograms_csv}


class Drawings:
    """Charts of comparisons."""

    def __init__(
        self,
        comparisons: Mapping[str, Sequence[Comparison]],
        measures: Mapping[str, Sequence[Measure]],
        colours: Colours,
    ) -> None:
        """Begin with none drawn.

        Args:
            comparisons: by the kind of their results.
            measures: metrics by the kind of results that have them.
            colours: of all lines.
        """
        self._comparisons, self._measures, self.colours = comparisons, measures, colours
        self._curves: dict[tuple[int, str], Figure | None] = {}
        self._distributions: dict[int, dict[str, list[Figure]]] = {}

    def curves(self, comparison: Comparison, measures: Sequence[Measure]) -> dict[Measure, Figure]:
        """Return curves over the pruning ratio, of those metrics that have any."""
        found = {}
        for measure in measures:
            place = id(comparison), measure.key
            if place not in self._curves:
                self._curves[place] = curve(comparison, measure, self.colours)
            if (figure := self._curves[place]) is not None:
                found[measure] = figure
        return found

    def distributions(self, comparison: Comparison) -> dict[str, list[Figure]]:
        """Return charts of single cells by what they show."""
        if id(comparison) not in self._distributions:
            found = {kind: share_charts(comparison, kind, self.colours) for kind in GROUPS}
            found |= {
                "prd": prd_charts(comparison, self.colours),
                "distances": histogram_charts(comparison, self.colours),
            }
            self._distributions[id(comparison)] = {name: charts for name, charts in found.items() if charts}
        return self._distributions[id(comparison)]

    def figures(self) -> dict[str, Figure]:
        """Return all charts by the path of their files, without its ending."""
        found: dict[str, Figure] = {}
        for kind, comparison, suffix in self._placed():
            curves = self.curves(comparison, self._measures[kind])
            found |= {f"curves/{measure.key}{suffix}": figure for measure, figure in curves.items()}
            for name, figures in self.distributions(comparison).items():
                found |= {f"distributions/{name}{suffix}-{n:02d}": figure for n, figure in enumerate(figures, 1)}
        return found

    def tables(self) -> dict[str, str]:
        """Return the numbers of all charts as CSV, by the path of their files."""
        found: dict[str, str] = {}
        for kind, comparison, suffix in self._placed():
            for measure in self.curves(comparison, self._measures[kind]):
                found[f"curves/{measure.key}{suffix}.csv"] = curve_csv(comparison, measure)
            for name in _NUMBERS.keys() & self.distributions(comparison).keys():
                found[f"distributions/{name}{suffix}.csv"] = _NUMBERS[name](comparison)
        return found

    def _placed(self) -> Iterator[tuple[str, Comparison, str]]:
        for kind, comparisons in self._comparisons.items():
            for number, comparison in enumerate(comparisons, 1):
                yield kind, comparison, f"-{number}" if len(comparisons) > 1 else ""
