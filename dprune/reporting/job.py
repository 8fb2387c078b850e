"""The job of `dprune report`: results read and placed, pages and files made."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from dprune.charts.figure import FORMATS
from dprune.errors import UsageError
from dprune.formats.jobs import Job
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import FINDINGS_KEY, Record, make_record, parent_record, with_findings
from dprune.formats.publish import Output, publish_bytes, publish_json
from dprune.formats.results import Result, read_result, result_digest
from dprune.reporting.agreement.inputs import AgreementInputs
from dprune.reporting.agreement.score_names import split_labels
from dprune.reporting.content import Content
from dprune.reporting.feature_map import MapInputs, make_maps
from dprune.reporting.image_folders import Folder, open_folders
from dprune.reporting.image_grid import make_grid
from dprune.reporting.loss_gaps import LossGaps, is_of_losses, parents_of_losses, points_of_losses
from dprune.reporting.page.rendering import render
from dprune.reporting.pairs.findings import Pairs
from dprune.reporting.pairs.grid import SEEDS as PAIR_SEEDS
from dprune.reporting.pairs.grid import make_pair_grids, without_pairs_alone
from dprune.reporting.pairs.inputs import PairResult, pair_results
from dprune.reporting.pictures import Picture, open_pictures
from dprune.reporting.study.baselines import named_choices
from dprune.reporting.study.expected import Expected
from dprune.reporting.study.experiments import Choice, Point, point_of_result
from dprune.reporting.study.given_names import called_without, given_names
from dprune.reporting.study.grouping import compare_results
from dprune.runtime import Monitor, check_stop

_log = logging.getLogger("dprune")

PAGE = "report.html"
IMAGE_SEEDS, PROJECTION = 4, "pca"


@dataclass(frozen=True)
class ReportSettings:
    """What the report shows, in the words of `dprune report`, which says what each means."""

    title: str = "What pruning did"
    images: tuple[str, ...] = ()
    image_seeds: int | None = None
    picture: tuple[str, ...] = ()
    train: str | None = None
    generated: tuple[str, ...] = ()
    clusters: str | None = None
    projection: str | None = None
    baseline: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    format: str | None = None
    scores: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    expect: str | None = None

    def __post_init__(self) -> None:
        """Hold the options together.

        Raises:
            UsageError: some lack those that they belong to.
        """
        if self.image_seeds is not None and not self.images:
            raise UsageError("--image-seeds says how many images a cell shows: give --images, or leave it out.")
        if bool(self.train) != bool(self.generated):
            raise UsageError("--train and --generated make the map together: give both.")
        for name, value in (("--clusters", self.clusters), ("--projection", self.projection)):
            if value is not None and not self.train:
                raise UsageError(f"{name} is for the map: give --train and --generated, too.")
        if unknown := next((kind for kind in self.formats if kind not in FORMATS), None):
            raise UsageError(f"--format {self.format}: {unknown!r} is none of {', '.join(FORMATS)}.")

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats of the files of charts, each once."""
        return tuple(dict.fromkeys(kind.strip().lower() for kind in (self.format or "").split(",") if kind.strip()))


@dataclass(frozen=True)
class ReportJob(Job):
    """One report, its inputs read.

    Attributes:
        points: one for each result, sorted by digest; those of pairs alone are none.
        pairs: results of pairs of models.
        losses: results of losses of samples, which are no points either.
        title: of the page.
        folders: of generated images.
        image_seeds: images in a cell of the grid, None for the default.
        pictures: that stand in it as they are.
        map_inputs: what is drawn as a map, or None.
        baselines: training sets that count as unpruned, whatever their provenance says.
        names: that users gave to lines, by their keys.
        formats: of the files of charts.
        agreement: scores and subsets, or None.
        expected: trainings that the study should have; empty where no table says so.
    """

    points: tuple[Point, ...]
    pairs: tuple[PairResult, ...]
    losses: tuple[Point, ...]
    title: str
    folders: tuple[Folder, ...]
    image_seeds: int | None
    pictures: tuple[Picture, ...]
    map_inputs: MapInputs | None
    baselines: frozenset[Choice]
    names: Mapping[Hashable, str]
    formats: tuple[str, ...]
    agreement: AgreementInputs | None
    expected: Expected
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the report."""
        results = [parent_record(point.result.record, point.mark) for point in self.points if point.result]
        parents = _numbered("result", results) | _numbered("images", [folder.parent for folder in self.folders])
        options: dict[str, Any] = {"title": self.title}
        parents |= _numbered("pairs", [parent_record(p.result.record, p.mark) for p in self.pairs if p.is_all])
        parents |= _numbered("losses", parents_of_losses(self.losses))
        options |= {"image_seeds": self._image_seeds} if self.folders else {}
        options |= {"formats": sorted(self.formats)} if self.formats else {}
        if self.pictures:
            parents |= _numbered("picture", [parent_record(None, picture.digest) for picture in self.pictures])
            options["captions"] = [picture.caption for picture in self.pictures]
        parents |= {"expected": parent_record(None, self.expected.digest)} if self.expected.digest else {}
        if self.baselines:
            every = (*self.points, *(folder.point for folder in self.folders))
            options["baseline"] = sorted(point.mark for point in every if point.choice in self.baselines)
        if self.names:
            options["label"] = self._labelled()
        if self.map_inputs is not None:
            inputs = self.map_inputs
            options["projection"] = inputs.projection
            parents |= {"train": inputs.train.as_parent()}
            parents |= _numbered("generated", [features.as_parent() for features in inputs.generated])
            parents |= {"clusters": inputs.clusters.as_parent()} if inputs.clusters else {}
        if self.agreement is not None:
            scores, subsets = self.agreement.scores, self.agreement.subsets
            options |= {"names": names} if (names := self.agreement.names) else {}
            parents |= _numbered("scores", [score.parent for score in scores])
            parents |= _numbered("subset", [kept.parent for kept in subsets])
        return make_record("report", options, parents=parents, tags=self.output.tags)

    @property
    def _image_seeds(self) -> int:
        return self.image_seeds or IMAGE_SEEDS

    def _labelled(self) -> dict[str, list[str]]:
        """Return the digests of the results of each line that the user named."""
        found: dict[str, list[str]] = {}
        for comparison in chain.from_iterable(compare_results(self.points, self.names).values()):
            for line in comparison.lines:
                if line.key in self.names:
                    found.setdefault(line.label, []).extend(point.mark for point in line.points)
        return {name: sorted(marks) for name, marks in sorted(found.items())}

    def existing(self) -> Record | None:
        """See `Job`."""
        return existing_record(self.output.path, "report")

    def complete(self) -> bool:
        """Tell whether all files that the manifest lists are there."""
        return all((Path(self.output.path) / name).is_file() for name in _listed(self.output.path))

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make the whole report, publish its manifest and its files, and count what is in it.

        Raises:
            InputError: an image cannot be decoded, or details of a result are damaged.
            Interrupted: a signal or --stop-after ended the work; nothing is written then.
        """
        content = self._content(monitor)
        found = {PAGE: render(content).encode(), **content.files()}
        check_stop(monitor)
        comparisons = [*chain.from_iterable(content.comparisons.values())]
        comparisons += content.loss_gaps.comparisons if content.loss_gaps else ()
        lines = {line.label for comparison in comparisons for line in comparison.lines}
        folder = Path(self.output.path)
        for name in _listed(self.output.path):
            (folder / name).unlink(missing_ok=True)
        # First, so that a run that is cut off leaves a report with files missing, which the same command completes.
        record = with_findings(self.record, {"lines": len(lines)})
        manifest = {"kind": "report", "contents": sorted(found), "provenance": record}
        publish_json(folder / MANIFEST, manifest | {"conclusions": content.conclusions.summary()})
        for name, data in found.items():
            publish_bytes(folder / name, data)
        if self.points and not content.has_unpruned:
            _log.warning(
                "no result is of the unpruned training set, to compare with: if one is, name it with --baseline."
            )
        for statement in content.conclusions.statements:
            _log.info("%s: %s", statement.heading, statement.sentences[0])
        return self.summary()

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        found = {"results": self._results, "folders_of_images": len(self.folders)}
        if self.agreement is not None:
            found |= {"scores": len(self.agreement.scores), "subsets": len(self.agreement.subsets)}
        return found | ({"pictures": len(self.pictures)} if self.pictures else {})

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        found = (self.existing() or {}).get(FINDINGS_KEY, {})
        counts = {"results": self._results, "lines": found.get("lines"), "files": len(_listed(self.output.path))}
        conclusions = read_manifest(self.output.path).get("conclusions")
        return counts | {"page": str(Path(self.output.path) / PAGE), "conclusions": conclusions}

    @property
    def _results(self) -> int:
        return len(self.points) + sum(pair.is_all for pair in self.pairs) + len(self.losses)

    def touched(self) -> Sequence[Path]:
        """See `Job`."""
        return (Path(self.output.path) / PAGE, *super().touched())

    def _content(self, monitor: Monitor) -> Content:
        known = [*chain.from_iterable(compare_results(self.points, self.names).values())]
        pairs = Pairs.of(self.pairs, known) if self.pairs else None
        shown = without_pairs_alone(self.folders, self.pairs, {point.training.mark for point in self.points})
        grid = make_grid(shown, self._image_seeds, known) if shown else None
        pair_grids = make_pair_grids(pairs, self.folders, self.image_seeds or PAIR_SEEDS) if pairs else ()
        check_stop(monitor)
        maps = make_maps(self.map_inputs, known) if self.map_inputs else ()
        return Content(
            title=self.title,
            points=self.points,
            grid=grid,
            pairs=pairs,
            loss_gaps=LossGaps.of(self.losses, known) if self.losses else None,
            pair_grids=pair_grids,
            pictures=self.pictures,
            maps=maps,
            map_inputs=self.map_inputs,
            names=self.names,
            formats=self.formats,
            expected=self.expected,
            agreement_inputs=self.agreement,
        )


def open_report(results: Sequence[str], settings: ReportSettings, output: Output) -> ReportJob:
    """Read what `dprune report` was given; the order of results makes no difference.

    Raises:
        InputError: a file or folder is not what it should be, or a baseline is not there.
        MismatchError: features and clusters do not belong together.
    """
    points, pairs, losses, marks = _read_points(results)
    folders, pictures = open_folders(settings.images), open_pictures(settings.picture)
    expected = Expected.open(settings.expect, marks) if settings.expect else Expected()
    called, labels = split_labels(settings.label, settings.scores)
    agreement = None
    if settings.scores or settings.subsets:
        agreement = AgreementInputs.open(settings.scores, settings.subsets, called)
    before = [*chain.from_iterable(compare_results(points).values())] if labels else []
    named = [called_without(name, labels) for name in settings.baseline]
    baselines = named_choices(named, points, {folder.name: folder.point for folder in folders})
    if baselines:
        points = tuple(point_of_result(point.result, baselines) for point in points if point.result)
        losses = points_of_losses((point.result for point in losses if point.result), baselines)
        folders = tuple(folder.placed(baselines) for folder in folders)
    map_inputs = None
    if settings.train:
        projection = settings.projection or PROJECTION
        map_inputs = MapInputs.open(settings.train, settings.generated, settings.clusters, projection)
        map_inputs = replace(map_inputs, baselines=baselines)
    lines = [*chain.from_iterable(compare_results(points).values())] if labels else []
    names = given_names(labels, lines, before)
    return ReportJob(
        points=points,
        pairs=pairs,
        losses=losses,
        title=settings.title,
        folders=folders,
        image_seeds=settings.image_seeds,
        pictures=pictures,
        map_inputs=map_inputs,
        baselines=baselines,
        names=names,
        formats=settings.formats,
        agreement=agreement,
        expected=expected,
        output=output,
    )


def _read_points(
    paths: Sequence[str],
) -> tuple[tuple[Point, ...], tuple[PairResult, ...], tuple[Point, ...], dict[str, str]]:
    """Read results, those of pairs and of losses apart, and the digests of all by the real paths of their files."""
    found: dict[str, Result] = {}
    marks: dict[str, str] = {}
    for path in paths:
        result = read_result(path)
        mark = marks[os.path.realpath(path)] = result_digest(result)
        if (known := found.get(mark)) is not None:
            _log.warning("%s says the same as %s and counts once.", path, known.name)
        found.setdefault(mark, result)
    pairs = pair_results(found.values())
    losses = points_of_losses(result for result in found.values() if is_of_losses(result))
    alone = {pair.mark for pair in pairs if pair.is_all} | {point.mark for point in losses}
    return tuple(point_of_result(found[mark]) for mark in sorted(found) if mark not in alone), pairs, losses, marks


def _numbered(role: str, parents: Sequence[Record]) -> dict[str, Record]:
    return {f"{role} {n}" if n > 1 else role: parent for n, parent in enumerate(parents, 1)}


def _listed(output: str) -> list[str]:
    """Return the files that the manifest at `output` lists, those inside its folder only."""
    if not Path(output).is_dir():
        return []
    names = read_manifest(output).get("contents", [])
    paths = [PurePosixPath(name) for name in names if isinstance(name, str)]
    return [str(path) for path in paths if not path.is_absolute() and ".." not in path.parts]
