"""All that a report says of scores and subsets, worked out once for its page and for the files beside it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from dprune.charts.figure import Figure
from dprune.metrics.catalogue import Measure
from dprune.reporting.agreement.inputs import AgreementInputs
from dprune.reporting.agreement.kept_sets import KeptSets
from dprune.reporting.agreement.matrices import Matrix, correlation_matrix, end_matrices, overlap_matrices
from dprune.reporting.agreement.predictions import Prediction, predictions
from dprune.reporting.agreement.spreads import spread_charts, spread_rows
from dprune.reporting.agreement.statements import statements
from dprune.reporting.conclusions import Statement
from dprune.reporting.curves import Colours
from dprune.reporting.study.experiments import Point
from dprune.reporting.study.grouping import Comparison
from dprune.reporting.tables import Table, csv_text

_NAMED = 4
_CORRELATIONS = ("score", "other", "rank_correlation", "se", "low", "high", "samples", "most")
_OVERLAPS = ("line", "other", "share", "chance", "sets", "other_sets")
_SPREADS = ("score", "begin", "end", "density")
_PREDICTIONS = ("measurement", "pruned", "score", "metric", "lines", "spearman", "spearman_p", "pearson", "pearson_p")
_PLACES = ("measurement", "pruned", "score", "metric", "line", "mean_score", "value", "half_width")


@dataclass(frozen=True)
class Agreement:
    """What scores and subsets say.

    Attributes:
        inputs: scores and subsets.
        points: of all results.
        comparisons: of these.
        tables: of the metrics that are predicted.
        colours: of the lines.
    """

    inputs: AgreementInputs
    points: Sequence[Point]
    comparisons: Sequence[Comparison]
    tables: Sequence[Table]
    colours: Colours

    @functools.cached_property
    def _kept(self) -> KeptSets:
        return KeptSets(self.inputs, self.points, self.comparisons)

    @functools.cached_property
    def correlations(self) -> Matrix | None:
        """Rank correlation of each two scores."""
        return correlation_matrix(self.inputs.scores)

    @functools.cached_property
    def overlaps(self) -> list[Matrix]:
        """What methods keep in common at each ratio; without subsets, what the ends of scores have."""
        if self.inputs.subsets:
            return overlap_matrices(self._kept.by_ratio())
        ratios = {choosing.ratio for choosing in self._kept.choosings}
        return end_matrices(self.inputs.scores, [ratio for ratio in ratios if ratio is not None and 0 < ratio < 1])

    @functools.cached_property
    def predictions(self) -> list[Prediction]:
        """What the mean score of each subset says of each metric."""
        if not self.inputs.subsets:
            return []
        return predictions(self.tables, [score.name for score in self.inputs.scores], self._kept)

    @property
    def measures(self) -> list[Measure]:
        """Metrics of the predictions."""
        return list(dict.fromkeys(prediction.measure for prediction in self.predictions))

    @functools.cached_property
    def scatters(self) -> dict[str, list[Figure]]:
        """Charts of the first metric over the mean of each score, by measurement and ratio."""
        found: dict[str, list[Figure]] = {}
        for prediction in self.predictions:
            if prediction.measure == self.measures[0]:
                found.setdefault(prediction.measurement, []).append(prediction.figure(self.colours))
        return found

    @functools.cached_property
    def spreads(self) -> list[Figure]:
        """How each score is spread over the samples."""
        return spread_charts(self.inputs.scores)

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What it says in words."""
        return tuple(statements(self.correlations, self.overlaps, self.predictions))

    @property
    def cautions(self) -> tuple[str, ...]:
        """What is missing."""
        lacking = [choosing.title for choosing in self._kept.choosings if not choosing.sets]
        if not lacking or not self.inputs.subsets:
            return ()
        more = [f"{len(lacking) - _NAMED} more"] if len(lacking) > _NAMED else []
        return (f"Missing: no file of --subsets is of {'; '.join([*lacking[:_NAMED], *more])}.",)

    def figures(self) -> dict[str, Figure]:
        """Return all charts by the path of their files, without its ending."""
        matrices = [*([self.correlations] if self.correlations else []), *self.overlaps]
        found = {f"agreement/{matrix.path}": matrix.figure for matrix in matrices}
        found |= {f"agreement/spread-{n:02d}": figure for n, figure in enumerate(self.spreads, 1)}
        scatters = [figure for figures in self.scatters.values() for figure in figures]
        return found | {f"agreement/prediction-{n:02d}": figure for n, figure in enumerate(scatters, 1)}

    def files(self) -> dict[str, str]:
        """Return the numbers as CSV, by the path of their files."""
        found = {}
        if self.spreads:
            found["agreement/spreads.csv"] = csv_text(_SPREADS, spread_rows(self.inputs.scores))
        if self.correlations is not None:
            found["agreement/correlations.csv"] = csv_text(_CORRELATIONS, self.correlations.csv_rows())
        if self.overlaps:
            rows = [(matrix.ratio, *row) for matrix in self.overlaps for row in matrix.csv_rows()]
            found["agreement/overlaps.csv"] = csv_text(("pruned", *_OVERLAPS), rows)
        if self.predictions:
            found["agreement/predictions.csv"] = csv_text(_PREDICTIONS, [*map(_row, self.predictions)])
            found["agreement/means.csv"] = csv_text(_PLACES, [row for p in self.predictions for row in _places(p)])
        return found


def _head(prediction: Prediction) -> tuple[object, ...]:
    return prediction.measurement, prediction.ratio, prediction.score, prediction.measure.key


def _row(prediction: Prediction) -> tuple[object, ...]:
    found = prediction.association
    numbers = (found.spearman, found.spearman_p, found.pearson, found.pearson_p) if found else (None,) * 4
    return (*_head(prediction), len(prediction.places), *numbers)


def _places(prediction: Prediction) -> list[tuple[object, ...]]:
    return [
        (*_head(prediction), place.line.label, place.mean, place.estimate.mean, place.estimate.half_width)
        for place in prediction.places
    ]
