"""How alike models are that were sampled with the same seeds: a row for each two lines, a sentence, and a table."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dprune.metrics.catalogue import PAIRED, Measure
from dprune.metrics.differences import NORMAL, measured
from dprune.reporting.cell_texts import estimate_spread
from dprune.reporting.conclusions import Statement
from dprune.reporting.markup import markdown
from dprune.reporting.pairs.inputs import PairResult
from dprune.reporting.study.estimates import SAMPLING, TRAININGS, CellMean, count_range, t_quantile
from dprune.reporting.study.experiments import Point
from dprune.reporting.study.grouping import Comparison, called_alike, cell_title, compare
from dprune.reporting.tables import csv_text, number_text
from dprune.reporting.word_tables import WordTable, markdown_word_table

CAPTION = "How alike models are that were sampled with the same seeds"
NOTE = (
    "Each row holds two models that were sampled with the same seeds. Shuffled pairs have different seeds: they tell "
    "how alike any two samples are, and in classes how alike class alone makes them. By chance, the nearest sample of "
    "the other model is the partner for one in as many samples as there are. In brackets, ± is of sampling alone, with "
    "both samples of a pair left out together; without brackets, it is over several pairs of trainings."
)
_COUNTS = ("Pairs of trainings", "Pairs of samples")
_DIGEST = 8


@dataclass(frozen=True)
class PairRow:
    """Two lines at their ratios, compared in one space of features.

    Attributes:
        names: of both.
        features: network of the features, empty where that is not known.
        results: one for each two trainings, sorted by digest.
    """

    names: tuple[str, str]
    features: str
    results: tuple[PairResult, ...]

    @property
    def title(self) -> str:
        """What the row is of."""
        # Names have commas.
        return (", and " if "," in self.names[0] else " and ").join(self.names)

    def estimate(self, key: str) -> CellMean | None:
        """Return a mean over the results, None where none has the number."""
        found = [measured(pair.result.metrics, pair.result.details, key) for pair in self.results]
        known = [one for one in found if one is not None]
        if not known:
            return None
        mean, once = fmean(one.value for one in known), (1,) * len(known)
        if len(known) > 1:
            error = stdev(one.value for one in known) / len(known) ** 0.5
            return CellMean(mean, error, t_quantile(len(known) - 1) * error, TRAININGS, len(known), once)
        error_of_one = known[0].error
        half = None if error_of_one is None else NORMAL * error_of_one
        return CellMean(mean, error_of_one, half, SAMPLING, 1, once)


@dataclass(frozen=True)
class Pairs:
    """All results of pairs.

    Attributes:
        rows: sorted by their titles.
    """

    rows: tuple[PairRow, ...]

    @classmethod
    def of(cls, results: Sequence[PairResult], known: Sequence[Comparison]) -> Pairs:
        """Put together what is of the same two lines.

        Args:
            results: of pairs.
            known: results of other metrics, whose lines are called alike.
        """
        titles = _titles([point for pair in results for point in pair.points if point is not None], known)
        found: dict[tuple[tuple[str, str], str], list[PairResult]] = {}
        for pair in results:
            found.setdefault((_names(pair, titles), pair.features), []).append(pair)
        return cls(tuple(PairRow(*key, tuple(some)) for key, some in sorted(found.items(), key=lambda item: item[0])))

    @functools.cached_property
    def measures(self) -> list[Measure]:
        """Columns that have any number."""
        return [measure for measure in PAIRED if any(row.estimate(measure.key) for row in self.rows)]

    @functools.cached_property
    def table(self) -> WordTable:
        """All rows, grouped by the features where there are several kinds."""
        several = len({row.features for row in self.rows}) > 1
        shown = [number for number in range(len(_COUNTS)) if len({_counts(row)[number] for row in self.rows}) > 1]
        heads = ("Models", *(measure.name for measure in self.measures), *(_COUNTS[number] for number in shown))
        rows = sorted(self.rows, key=lambda row: row.features) if several else self.rows
        texts = (self._texts(row, shown) for row in rows)
        groups = ((f"features of {row.features or 'unknown origin'}" if several else "") for row in rows)
        return WordTable(CAPTION, heads, tuple(zip(groups, texts, strict=True)), "Features")

    @property
    def notes(self) -> tuple[str, ...]:
        """What the table means, and what all rows have in common."""
        counts = zip(_COUNTS, *map(_counts, self.rows), strict=True)
        alike = [_several(said[0], head) for head, *said in counts if len(set(said)) == 1 and said[0]]
        return (NOTE, f"Every row: {', '.join(alike)}.") if alike else (NOTE,)

    def _texts(self, row: PairRow, shown: Sequence[int]) -> tuple[str, ...]:
        estimates = (row.estimate(measure.key) for measure in self.measures)
        return (row.title, *map(_text, estimates), *(_counts(row)[number] for number in shown))

    @property
    def statement(self) -> Statement:
        """What the first row says."""
        row = self.rows[0]
        cosine, shuffled, in_class, *_, retrieval = (row.estimate(measure.key) for measure in PAIRED)
        beside = ((shuffled, "of shuffled pairs"), (in_class, "of pairs shuffled in classes"))
        said = [f"{_spoken(estimate)} {of}" for estimate, of in beside if estimate is not None]
        first = f"for {row.title}, the mean cosine of pairs is {_spoken(cosine)}"
        first, others = ", beside ".join(filter(None, (first, " and ".join(said)))) + ".", []
        if retrieval is not None:
            others.append(f"The nearest sample of the other model is the partner for {retrieval.mean:.0%}.")
        if len(self.rows) > 1:
            others.append(f"{len(self.rows) - 1} more are in the table of pairs.")
        return Statement("Same seeds", (first, *others))

    def markdown(self) -> str:
        """Write the table and what it means."""
        return "\n".join([markdown_word_table(self.table), *(markdown(note) + "\n" for note in self.notes)])

    def csv(self) -> str:
        """Write a row for each result, every digit kept."""
        keys = [key for measure in self.measures for key in (measure.key, f"{measure.key}_se")]
        lines = [
            (*row.names, row.features, pair.count, *(pair.result.metrics.get(key) for key in keys))
            for row in self.rows
            for pair in row.results
        ]
        return csv_text(("first", "second", "features", "pairs", *keys), lines)


def _text(estimate: CellMean | None) -> str:
    """Write a mean with half of its interval behind a space."""
    if estimate is None:
        return ""
    return f"{number_text(estimate.mean, estimate.half_width)} {estimate_spread(estimate)}".strip()


def _spoken(estimate: CellMean | None) -> str:
    """Write a mean as the sentences of conclusions do."""
    return _text(estimate).replace("±", "± ")


def _several(count: str, head: str) -> str:
    """Write a count with the head of its column."""
    return f"{count} {head.replace('Pairs', 'pair' if count == '1' else 'pairs')}"


def _counts(row: PairRow) -> tuple[str, str]:
    """Return how many pairs of trainings and of samples a row is of."""
    known = {pair.count for pair in row.results if pair.count is not None}
    return f"{len(row.results):,}", count_range(known) if known else ""


def _titles(points: Iterable[Point], known: Sequence[Comparison]) -> Mapping[str, str]:
    """Name models by the digest of their samples."""
    by_mark = {point.mark: point for point in points}
    found = [called_alike(comparison, known) for comparison in compare(by_mark.values())]
    return {
        point.mark: cell_title(line, cell)
        for comparison in found
        for line, cell in comparison.cells()
        for point in cell.points
    }


def _names(pair: PairResult, titles: Mapping[str, str]) -> tuple[str, str]:
    first, second = (
        f"samples made elsewhere ({digest[:_DIGEST]})" if point is None else titles[point.mark]
        for point, digest in zip(pair.points, pair.digests, strict=True)
    )
    if first != second:
        return first, second
    return first, "itself" if len(set(pair.digests)) == 1 else "another training of it"
