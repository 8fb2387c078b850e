"""Grids of generated images: rows are methods, columns pruning ratios, every cell the same seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dprune.errors import BadImage, DpruneError, InputError
from dprune.formats.images import decode_image
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import Record
from dprune.formats.readable import presentable
from dprune.formats.shards import Dataset, ShardReader, open_dataset
from dprune.reporting.experiments import Choice, Point, point_of_images
from dprune.reporting.grouping import Comparison, Line, called_alike, cell_ratio, compare, ratio_text
from dprune.sampling.seeds import KEY_DIGITS, Seeds

SMALLEST, LARGEST, GAP = 64, 128, 2
_MARGIN, _LABEL, _HEAD, _SPACE = 20, 190, 40, 10
_PAPER, _INK, _FAINT, _BLANK = "#ffffff", "#1d2530", "#667080", "#e6e9ed"


@dataclass(frozen=True)
class Folder:
    """Images that `sample` made.

    Attributes:
        name: what messages call it.
        dataset: its shards.
        seeds: in the order of the images.
        point: where it belongs in the study.
        parent: how a record describes it.
    """

    name: str
    dataset: Dataset
    seeds: Seeds
    point: Point
    parent: Record

    def placed(self, baselines: frozenset[Choice]) -> Folder:
        """Place it anew, with training sets that count as unpruned."""
        point = point_of_images(self.name, self.parent["provenance"], self.point.mark, baselines)
        return replace(self, point=point)

    @classmethod
    def open(cls, path: str) -> Folder:
        """Open a folder.

        Raises:
            InputError: it is not what `sample` writes.
        """
        manifest = read_manifest(path)
        record = manifest.get("provenance", {})
        if manifest.get("kind") != "shards" or record.get("command") != "sample":
            raise InputError(f"{path}: has no manifest of dprune sample: give a folder that it wrote to --images.")
        try:
            seeds = Seeds.parse(str(record["options"]["seeds"]))
        except (DpruneError, KeyError) as error:
            raise InputError(f"{path}: its manifest does not say which seeds it holds: sample again.") from error
        dataset = open_dataset([path])
        parent = dataset.parents()["shards"]
        return cls(path, dataset, seeds, point_of_images(path, record, parent["digest"]), parent)

    def images(self, seeds: Sequence[int]) -> list[Image.Image]:
        """Decode the images of seeds.

        Raises:
            InputError: one is missing or cannot be decoded.
        """
        keys = {f"{seed:0{KEY_DIGITS}d}": seed for seed in seeds}
        found: dict[int, Image.Image] = {}
        for shard in self.dataset.shards:
            index = shard.index()
            rows = {key: row for row in range(len(index)) if (key := index.key(row)) in keys}
            reader = ShardReader(shard, index) if rows else None
            for key, row in rows.items():
                assert reader is not None
                try:
                    found[keys[key]] = decode_image(reader.image(row))
                except BadImage as error:
                    raise InputError(f"{shard.location}: the image {key} {error}: sample again.") from error
            if len(found) == len(keys):
                return [found[seed] for seed in seeds]
        missing = next(seed for seed in seeds if seed not in found)
        raise InputError(f"{self.name}: holds no image of the seed {missing}, which its manifest lists: sample again.")


def open_folders(paths: Sequence[str]) -> tuple[Folder, ...]:
    """Open folders of generated images; one that is given twice counts once.

    Raises:
        InputError: one is not what `sample` writes.
    """
    found = {folder.point.mark: folder for folder in map(Folder.open, paths)}
    return tuple(found[mark] for mark in sorted(found))


def common_seeds(folders: Sequence[Folder], count: int) -> list[int]:
    """Return the first seeds that all folders have.

    Raises:
        InputError: there is none.
    """
    shared = list(folders[0].seeds.parts)
    for folder in folders[1:]:
        pairs = ((one, other) for one in shared for other in folder.seeds.parts)
        both = (range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)
        shared = [part for part in both if len(part)]
        if not shared:
            raise InputError(
                f"{folders[0].name} and {folder.name} have no seed in common: sample them with equal seeds."
            )
    return [seed for part in shared for seed in part[:count]][:count]


@dataclass(frozen=True)
class ImageGrid:
    """Pictures of all cells.

    Attributes:
        comparison: lines and cells.
        ratios: columns beside the unpruned.
        seeds: of the images in every cell.
        pictures: of each cell, by the label of its line and its ratio.
    """

    comparison: Comparison
    ratios: tuple[str, ...]
    seeds: tuple[int, ...]
    pictures: dict[tuple[str, str], Image.Image]

    def picture(self, line: Line, ratio: str) -> Image.Image | None:
        """Return the picture of a line at a ratio, None where there are no images."""
        return self.pictures.get((line.label, ratio))

    def unpruned(self) -> list[tuple[Line, Image.Image]]:
        """Return the pictures of the unpruned."""
        return [(line, self.pictures[line.label, "0"]) for line in self.comparison.unpruned]

    @property
    def side(self) -> tuple[int, int]:
        """Width and height that hold any picture."""
        sizes = [picture.size for picture in self.pictures.values()]
        return max(width for width, _ in sizes), max(height for _, height in sizes)


def make_grid(folders: Sequence[Folder], count: int, known: Sequence[Comparison] = ()) -> ImageGrid:
    """Decode what a grid shows; of several models that differ in seeds alone, one is shown.

    Args:
        folders: of images.
        count: images in a cell, as far as all have the same seeds.
        known: results, whose lines are called alike.

    Raises:
        InputError: the folders share no seed, or an image is missing or cannot be decoded.
    """
    seeds = common_seeds(folders, count)
    by_mark = {folder.point.mark: folder for folder in folders}
    (found,) = compare([folder.point for folder in by_mark.values()])
    comparison = called_alike(found, known)
    cells = comparison.cells()
    pictures = {
        (line.label, cell_ratio(line, cell)): _tiled(by_mark[cell.points[0].mark].images(seeds)) for line, cell in cells
    }
    every = sorted({(cell.ratio is None, cell.ratio or 0.0) for line, cell in cells if not line.is_unpruned})
    ratios = dict.fromkeys(ratio_text(None if unknown else ratio) for unknown, ratio in every)
    return ImageGrid(comparison, tuple(ratios), tuple(seeds), pictures)


def _tiled(images: Sequence[Image.Image]) -> Image.Image:
    side = max(SMALLEST, min(LARGEST, max(max(image.size) for image in images)))
    columns = math.ceil(math.sqrt(len(images)))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), _PAPER)
    for number, image in enumerate(images):
        # Enlarging tiny images smoothly would show detail that they do not have.
        smooth = Image.Resampling.LANCZOS if max(image.size) > side else Image.Resampling.NEAREST
        share = side / max(image.size)
        width, height = (max(1, round(length * share)) for length in image.size)
        corner = (number % columns * (side + GAP), number // columns * (side + GAP))
        middle = (corner[0] + (side - width) // 2, corner[1] + (side - height) // 2)
        sheet.paste(image.resize((width, height), smooth), middle)
    return sheet


def draw_grid(grid: ImageGrid) -> Image.Image:
    """Lay the whole grid out as one picture, the unpruned in the first column."""
    width, height = grid.side
    references = grid.unpruned()
    columns = [*(["unpruned"] if references else []), *(f"pruned {ratio}" for ratio in grid.ratios)]
    lines = grid.comparison.pruned
    rows = max(len(lines), len(references), 1)
    size = (2 * _MARGIN + _LABEL + len(columns) * (width + _SPACE), 2 * _MARGIN + _HEAD + rows * (height + _SPACE))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    left, top = _MARGIN + _LABEL, _MARGIN + _HEAD
    for column, name in enumerate(columns):
        draw.text((left + column * (width + _SPACE), _MARGIN + 10), name, _INK, ImageFont.load_default(15))
    for row, (_, picture) in enumerate(references):
        sheet.paste(picture, (left, top + row * (height + _SPACE)))
    for row, line in enumerate(lines):
        y = top + row * (height + _SPACE)
        label = "\n".join(textwrap.wrap(presentable(line.label), 22)[:6])
        draw.multiline_text((_MARGIN, y + 4), label, _INK, ImageFont.load_default(15), spacing=5)
        for column, ratio in enumerate(grid.ratios, len(columns) - len(grid.ratios)):
            x = left + column * (width + _SPACE)
            found = grid.picture(line, ratio)
            if found is not None:
                sheet.paste(found, (x, y))
            else:
                draw.rectangle((x, y, x + width - 1, y + height - 1), _BLANK)
                draw.text((x + width / 2, y + height / 2), "no images", _FAINT, ImageFont.load_default(15), anchor="mm")
    return sheet


def seeds_text(seeds: Sequence[int]) -> str:
    """Write seeds as short as they can be said."""
    consecutive = np.all(np.diff(np.array(seeds, dtype=np.int64)) == 1)
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 2 and consecutive else ", ".join(map(str, seeds))
