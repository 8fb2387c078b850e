"""The job of `dprune report`: results read and placed, pages and files made."""

from __future__ import annotations

import functools
import logging
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
from dprune.formats.results import read_result
from dprune.reporting.content import Content
from dprune.reporting.feature_map import MapInputs, make_maps
from dprune.reporting.image_folders import Folder, open_folders
from dprune.reporting.image_grid import make_grid
from dprune.reporting.page.rendering import render
from dprune.reporting.pictures import Picture, open_pictures
from dprune.reporting.study.baselines import named_choices
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
        points: one for each result, sorted by digest.
        title: of the page.
        folders: of generated images.
        image_seeds: images in a cell of the grid.
        pictures: that stand in it as they are.
        map_inputs: what is drawn as a map, or None.
        baselines: training sets that count as unpruned, whatever their provenance says.
        names: that users gave to lines, by their keys.
        formats: of the files of charts.
    """

    points: tuple[Point, ...]
    title: str
    folders: tuple[Folder, ...]
    image_seeds: int
    pictures: tuple[Picture, ...]
    map_inputs: MapInputs | None
    baselines: frozenset[Choice]
    names: Mapping[Hashable, str]
    formats: tuple[str, ...]
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the report."""
        results = [parent_record(point.result.record, point.mark) for point in self.points if point.result]
        parents = _numbered("result", results) | _numbered("images", [folder.parent for folder in self.folders])
        options: dict[str, Any] = {"title": self.title}
        options |= {"image_seeds": self.image_seeds} if self.folders else {}
        options |= {"formats": sorted(self.formats)} if self.formats else {}
        if self.pictures:
            parents |= _numbered("picture", [parent_record(None, picture.digest) for picture in self.pictures])
            options["captions"] = [picture.caption for picture in self.pictures]
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
        return make_record("report", options, parents=parents, tags=self.output.tags)

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
        lines = {line.label for of_kind in content.comparisons.values() for c in of_kind for line in c.lines}
        folder = Path(self.output.path)
        for name in _listed(self.output.path):
            (folder / name).unlink(missing_ok=True)
        # First, so that a run that is cut off leaves a report with files missing, which the same command completes.
        record = with_findings(self.record, {"lines": len(lines)})
        manifest = {"kind": "report", "contents": sorted(found), "provenance": record}
        publish_json(folder / MANIFEST, manifest | {"conclusions": content.conclusions.summary()})
        for name, data in found.items():
            publish_bytes(folder / name, data)
        if not content.has_unpruned:
            _log.warning(
                "no result is of the unpruned training set, to compare with: if one is, name it with --baseline."
            )
        for statement in content.conclusions.statements:
            _log.info("%s: %s", statement.heading, statement.sentences[0])
        return self.summary()

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        found = {"results": len(self.points), "folders_of_images": len(self.folders)}
        return found | ({"pictures": len(self.pictures)} if self.pictures else {})

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        found = (self.existing() or {}).get(FINDINGS_KEY, {})
        counts = {"results": len(self.points), "lines": found.get("lines"), "files": len(_listed(self.output.path))}
        conclusions = read_manifest(self.output.path).get("conclusions")
        return counts | {"page": str(Path(self.output.path) / PAGE), "conclusions": conclusions}

    def touched(self) -> Sequence[Path]:
        """See `Job`."""
        return (Path(self.output.path) / PAGE, *super().touched())

    def _content(self, monitor: Monitor) -> Content:
        known = [*chain.from_iterable(compare_results(self.points, self.names).values())]
        grid = make_grid(self.folders, self.image_seeds, known) if self.folders else None
        check_stop(monitor)
        maps = make_maps(self.map_inputs, known) if self.map_inputs else ()
        return Content(self.title, self.points, grid, self.pictures, maps, self.map_inputs, self.names, self.formats)


def open_report(results: Sequence[str], settings: ReportSettings, output: Output) -> ReportJob:
    """Read what `dprune report` was given; the order of results makes no difference.

    Raises:
        InputError: a file or folder is not what it should be, or a baseline is not there.
        MismatchError: features and clusters do not belong together.
    """
    points, folders, pictures = _read_points(results), open_folders(settings.images), open_pictures(settings.picture)
    before = [*chain.from_iterable(compare_results(points).values())] if settings.label else []
    named = [called_without(name, settings.label) for name in settings.baseline]
    baselines = named_choices(named, points, {folder.name: folder.point for folder in folders})
    if baselines:
        points = tuple(point_of_result(point.result, baselines) for point in points if point.result)
        folders = tuple(folder.placed(baselines) for folder in folders)
    map_inputs = None
    if settings.train:
        projection = settings.projection or PROJECTION
        map_inputs = MapInputs.open(settings.train, settings.generated, settings.clusters, projection)
        map_inputs = replace(map_inputs, baselines=baselines)
    shown = settings.image_seeds or IMAGE_SEEDS
    lines = [*chain.from_iterable(compare_results(points).values())] if settings.label else []
    names = given_names(settings.label, lines, before)
    return ReportJob(
        points, settings.title, folders, shown, pictures, map_inputs, baselines, names, settings.formats, output
    )


def _read_points(paths: Sequence[str]) -> tuple[Point, ...]:
    found: dict[str, Point] = {}
    for path in paths:
        point = point_of_result(read_result(path))
        if (known := found.get(point.mark)) is not None and known.result is not None:
            _log.warning("%s says the same as %s and counts once.", path, known.result.name)
        found.setdefault(point.mark, point)
    return tuple(found[mark] for mark in sorted(found))


def _numbered(role: str, parents: Sequence[Record]) -> dict[str, Record]:
    return {f"{role} {n}" if n > 1 else role: parent for n, parent in enumerate(parents, 1)}


def _listed(output: str) -> list[str]:
    """Return the files that the manifest at `output` lists, those inside its folder only."""
    if not Path(output).is_dir():
        return []
    names = read_manifest(output).get("contents", [])
    paths = [PurePosixPath(name) for name in names if isinstance(name, str)]
    return [str(path) for path in paths if not path.is_absolute() and ".." not in path.parts]
