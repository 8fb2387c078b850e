"""Everything that a report shows, drawn once for the page and for the files beside it."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from dprune.formats.images import described_png
from dprune.metrics.catalogue import MEMORIZATION, QUALITY, SHARES, Measure
from dprune.reporting.agreement.findings import Agreement
from dprune.reporting.agreement.inputs import AgreementInputs
from dprune.reporting.agreement.texts import markdown_agreement
from dprune.reporting.conclusions import Conclusions
from dprune.reporting.conclusions_markup import markdown_summary
from dprune.reporting.coverage import Coverage
from dprune.reporting.curves import Colours
from dprune.reporting.drawings import Drawings
from dprune.reporting.feature_map import FeatureMap, MapInputs
from dprune.reporting.group_shares import shares_csv
from dprune.reporting.headlines import headline_tables
from dprune.reporting.image_grid import ImageGrid, draw_grid
from dprune.reporting.line_table import LineTable, line_table
from dprune.reporting.loss_gaps import LossGaps
from dprune.reporting.markdown_tables import markdown_tables
from dprune.reporting.pairs.findings import Pairs
from dprune.reporting.pairs.grid import PairGrid
from dprune.reporting.pictures import Picture
from dprune.reporting.share_texts import markdown_shares
from dprune.reporting.study.expected import Expected
from dprune.reporting.study.experiments import Point
from dprune.reporting.study.grouping import Comparison, compare_results
from dprune.reporting.tables import Table, csv_table, csv_text

TABLES: dict[str, tuple[str, tuple[Measure, ...]]] = {
    "quality": ("metrics", QUALITY),
    "shares": ("metrics", SHARES),
    "memorization": ("memorization", MEMORIZATION),
}


@dataclass(frozen=True)
class Content:
    """What the results say.

    Attributes:
        title: of the page.
        points: one for each result.
        grid: images, or None.
        pairs: models that were sampled with the same seeds, or None.
        loss_gaps: what results of losses say, or None.
        pair_grids: what some of these made of the same noise.
        pictures: that were drawn before.
        maps: of features.
        map_inputs: what they show, or None.
        names: that users gave to lines, by their keys.
        formats: of the files of charts.
        expected: trainings that the study should have.
        agreement_inputs: scores and subsets, or None.
    """

    title: str
    points: Sequence[Point]
    grid: ImageGrid | None = None
    pairs: Pairs | None = None
    loss_gaps: LossGaps | None = None
    pair_grids: Sequence[PairGrid] = ()
    pictures: Sequence[Picture] = ()
    maps: Sequence[FeatureMap] = ()
    map_inputs: MapInputs | None = None
    names: Mapping[Hashable, str] = field(default_factory=dict)
    formats: Sequence[str] = ()
    expected: Expected = field(default_factory=Expected)
    agreement_inputs: AgreementInputs | None = None

    @functools.cached_property
    def comparisons(self) -> dict[str, list[Comparison]]:
        """Results that were measured alike, by kind."""
        return compare_results(self.points, self.names)

    @functools.cached_property
    def lines(self) -> LineTable:
        """What the lines are."""
        return line_table(comparison for found in self.comparisons.values() for comparison in found)

    @property
    def has_unpruned(self) -> bool:
        """Whether there is anything that the pruned can be compared with."""
        return any(comparison.unpruned for found in self.comparisons.values() for comparison in found)

    @functools.cached_property
    def colours(self) -> Colours:
        """Colours of all lines."""
        beside = [
            *([self.grid.comparison] if self.grid else []),
            *(self.loss_gaps.comparisons if self.loss_gaps else []),
        ]
        return Colours([*(c for found in self.comparisons.values() for c in found), *beside])

    def tables(self, name: str) -> list[Table]:
        """Return the tables of one name, one for each comparison that has any of the metrics."""
        return self._tables[name]

    @functools.cached_property
    def _tables(self) -> dict[str, list[Table]]:
        made = {
            name: [Table.of(comparison, measures) for comparison in self.comparisons.get(kind, [])]
            for name, (kind, measures) in TABLES.items()
        }
        return {name: [table for table in tables if table.measures] for name, tables in made.items()}

    @functools.cached_property
    def coverage(self) -> Coverage:
        """Which points there are, and which are missing."""
        return Coverage.of((c for found in self.comparisons.values() for c in found), self.expected)

    @functools.cached_property
    def conclusions(self) -> Conclusions:
        """What the tables say, in words."""
        found = self.agreement
        more, cautions = (found.statements, found.cautions) if found else ((), ())
        more = (*more, self.pairs.statement) if self.pairs else more
        more = (*more, self.loss_gaps.statement) if self.loss_gaps else more
        return Conclusions(self._tables, self.coverage, more, cautions)

    @functools.cached_property
    def agreement(self) -> Agreement | None:
        """What scores and subsets say, None where none were given."""
        if self.agreement_inputs is None:
            return None
        every = [comparison for found in self.comparisons.values() for comparison in found]
        tables = [table for tables in headline_tables(self.comparisons) for table in tables]
        return Agreement(self.agreement_inputs, self.points, every, tables, self.colours)

    @functools.cached_property
    def drawings(self) -> Drawings:
        """Charts of all comparisons."""
        measures: dict[str, list[Measure]] = {}
        for kind, of_table in TABLES.values():
            measures.setdefault(kind, []).extend(of_table)
        return Drawings(self.comparisons, measures, self.colours)

    def files(self) -> dict[str, bytes]:
        """Return the files beside the page, by their path in the report's folder."""
        found: dict[str, str] = {}
        for name in TABLES:
            if tables := self.tables(name):
                shares = markdown_shares([table.comparison for table in tables]) if name == "shares" else ""
                found[f"{name}.md"] = "\n".join(filter(None, (markdown_tables(tables), shares)))
                found[f"{name}.csv"] = csv_table(tables)
        found["summary.md"] = markdown_summary(self.title, self.conclusions, self.lines, self.coverage)
        found |= {"trainings.csv": self.coverage.csv()} if self.coverage.is_shown else {}
        found |= {"lines.csv": csv_text(self.lines.heads, self.lines.rows)} if self.lines.rows else {}
        if by_group := shares_csv(self.comparisons.get("metrics", [])):
            found["shares-by-group.csv"] = by_group
        figures = self.drawings.figures()
        found |= self.drawings.tables()
        if self.agreement is not None:
            found["agreement.md"] = markdown_agreement(self.agreement)
            found |= self.agreement.files()
            figures |= self.agreement.figures()
        if self.pairs is not None:
            found |= {"pairs.md": self.pairs.markdown(), "pairs.csv": self.pairs.csv()}
        if self.loss_gaps is not None:
            found |= {"loss-gap.md": self.loss_gaps.markdown(), "loss-gap.csv": self.loss_gaps.csv()}
            figures |= {f"loss-gap-{n:02d}": f for n, f in enumerate(self.loss_gaps.figures(self.colours), 1)}
        for number, drawn in enumerate(self.maps, 1):
            name = f"map-{number}" if len(self.maps) > 1 else "map"
            figures[name], found[f"{name}.csv"] = drawn.figure(), drawn.csv()
        files = {f"{path}.{kind}": figure.on_paper(kind) for path, figure in figures.items() for kind in self.formats}
        pictures = {"images/grid.png": described_png(draw_grid(self.grid), self.grid.words)} if self.grid else {}
        for number, pair in enumerate(self.pair_grids, 1):
            name = f"images/pairs{f'-{number}' if len(self.pair_grids) > 1 else ''}.png"
            pictures[name] = described_png(pair.draw(), pair.words)
        return {path: text.encode() for path, text in found.items()} | files | pictures
