"""The grid of generated images: a block for each pruning ratio, in it a row for each line and a column for each seed.

What stands below each other has the same noise and the same class, so that eyes can compare what pruning did to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dprune.reporting.image_folders import Folder, SeedImage, shown_seeds
from dprune.reporting.study.grouping import Comparison, Line, called_alike, cell_ratio, compare, ratio_text, ratio_title
from dprune.sheets.lettering import drawable
from dprune.sheets.sheet import Caption, ColumnBlock, Sheet, SheetCell, SheetRow, sized

if TYPE_CHECKING:
    from PIL import Image

SMALLEST, LARGEST, GAP = 64, 128, 4
ABSENT = "no image"


@dataclass(frozen=True)
class ImageGrid:
    """Images of all cells.

    Attributes:
        comparison: lines and cells.
        ratios: blocks; of the unpruned alone there is one, of the ratio 0.
        seeds: columns of each block.
        images: of each cell, by the label of its line and its ratio; the unpruned have one.
    """

    comparison: Comparison
    ratios: tuple[str, ...]
    seeds: tuple[int, ...]
    images: dict[tuple[str, str], tuple[SeedImage, ...]]

    @property
    def lines(self) -> list[Line]:
        """The rows of each block, the unpruned first."""
        return [*self.comparison.unpruned, *self.comparison.pruned]

    def shown(self, line: Line, ratio: str) -> tuple[SeedImage, ...]:
        """Return the images of a line in the block of a ratio, the unpruned in every block; empty where it has none."""
        return self.images.get((line.label, "0" if line.is_unpruned else ratio), ())

    @property
    def heads(self) -> tuple[str, ...]:
        """The class of each column where all cells agree in it, else nothing."""
        found = {tuple(shown.class_name for shown in images) for images in self.images.values()}
        return next(iter(found)) if len(found) == 1 and any(next(iter(found))) else ()

    @property
    def words(self) -> str:
        """What it shows, where it stands alone."""
        return f"Generated images of the seeds {seeds_text(self.seeds)} by line, {', '.join(self.titles)}"

    @property
    def titles(self) -> list[str]:
        """What the blocks are called."""
        return [ratio_title(ratio) for ratio in self.ratios]


def make_grid(folders: Sequence[Folder], count: int, known: Sequence[Comparison] = ()) -> ImageGrid:
    """Decode what a grid shows; of several models that differ in seeds alone, one is shown.

    Args:
        folders: of images.
        count: images in a cell, as far as all have the same seeds.
        known: results, whose lines are called alike.

    Raises:
        InputError: the folders share no seed, or an image is missing or cannot be decoded.
    """
    seeds = shown_seeds(folders, count)
    by_mark = {folder.point.mark: folder for folder in folders}
    (found,) = compare([folder.point for folder in by_mark.values()])
    comparison = called_alike(found, known)
    cells = comparison.cells()
    images = {
        (line.label, cell_ratio(line, cell)): for_grid(by_mark[cell.points[0].mark].images(seeds))
        for line, cell in cells
    }
    every = sorted({(cell.ratio is None, cell.ratio or 0.0) for line, cell in cells if not line.is_unpruned})
    ratios = dict.fromkeys(ratio_text(None if unknown else ratio) for unknown, ratio in every)
    return ImageGrid(comparison, tuple(ratios) or ("0",), tuple(seeds), images)


def for_grid(images: Sequence[SeedImage]) -> tuple[SeedImage, ...]:
    """Scale images to sizes at which they can be compared."""
    return tuple(shown._replace(image=sized(shown.image, SMALLEST, LARGEST)) for shown in images)


def draw_grid(grid: ImageGrid) -> Image.Image:
    """Lay the whole grid out as one picture, the blocks beside each other."""
    heads, count = grid.heads, len(grid.seeds)
    rows = []
    for line in grid.lines:
        cells: list[SheetCell] = []
        for ratio in grid.ratios:
            shown = [SheetCell(image, captions(name, heads)) for image, name in grid.shown(line, ratio)]
            cells += shown or [SheetCell(None, absent=ABSENT)] * count
        rows.append(SheetRow(cells, line.label))
    blocks = [ColumnBlock(count, title) for title in grid.titles]
    said = f"Columns are the seeds {seeds_text(grid.seeds)}, the same in all rows."
    return Sheet(rows, heads * len(blocks), blocks, note=said, gap=GAP).draw()


def captions(name: str, heads: Sequence[str]) -> tuple[Caption, ...]:
    """Write the class below an image, where it does not stand above the column."""
    return (Caption(drawable(name) or "?"),) if name and not heads else ()


def seeds_text(seeds: Sequence[int]) -> str:
    """Write seeds as short as they can be said."""
    consecutive = np.all(np.diff(np.array(seeds, dtype=np.int64)) == 1)
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 2 and consecutive else ", ".join(map(str, seeds))
