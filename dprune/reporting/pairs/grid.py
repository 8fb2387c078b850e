"""What two models made of the same noise: the images of one above those of the other, a column for each seed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dprune.reporting.image_folders import Folder, SeedImage, shown_seeds
from dprune.reporting.image_grid import GAP, captions, for_grid, seeds_text
from dprune.reporting.pairs.findings import PairRow, Pairs
from dprune.reporting.pairs.inputs import PairResult
from dprune.sheets.sheet import Sheet, SheetCell, SheetRow

if TYPE_CHECKING:
    from PIL import Image

SEEDS = 8
"""Columns, where nobody says how many."""


@dataclass(frozen=True)
class PairGrid:
    """Images of two models.

    Attributes:
        title: what both are.
        names: of both, the first on top.
        seeds: the first that both have with the same class, whatever came of them.
        images: of the seeds, of both models.
    """

    title: str
    names: tuple[str, str]
    seeds: tuple[int, ...]
    images: tuple[tuple[SeedImage, ...], tuple[SeedImage, ...]]

    @property
    def heads(self) -> tuple[str, ...]:
        """The class of each column where both models agree in all, else nothing."""
        first, second = (tuple(shown.class_name for shown in images) for images in self.images)
        return first if first == second and any(first) else ()

    @property
    def words(self) -> str:
        """What it shows, where it stands alone."""
        return f"What {self.title} made of the same noise"

    def draw(self) -> Image.Image:
        """Lay it out as a picture."""
        rows = [
            SheetRow([SheetCell(image, captions(name, self.heads)) for image, name in images], called)
            for called, images in zip(self.names, self.images, strict=True)
        ]
        said = f"Columns are the seeds {seeds_text(self.seeds)}: the same noise."
        return Sheet(rows, self.heads, note=said, gap=GAP).draw()


def make_pair_grids(pairs: Pairs, folders: Sequence[Folder], count: int) -> tuple[PairGrid, ...]:
    """Decode the first images of each row of which there are folders of both models.

    Raises:
        InputError: two models share no seed, or an image is missing or cannot be decoded.
    """
    found = ((row, _both(row, folders)) for row in pairs.rows)
    return tuple(_grid(row, both, count) for row, both in found if both)


def without_pairs_alone(
    folders: Sequence[Folder], pairs: Sequence[PairResult], trainings: Collection[str]
) -> tuple[Folder, ...]:
    """Leave out folders that stand in a grid of pairs and nowhere else.

    Args:
        folders: of images.
        pairs: results of pairs.
        trainings: marks of those that have other results.
    """
    known = {folder.drawn for folder in folders}
    paired = set().union(*(set(pair.digests) for pair in pairs if known.issuperset(pair.digests)))
    return tuple(f for f in folders if f.drawn not in paired or f.point.training.mark in trainings)


def _both(row: PairRow, folders: Sequence[Folder]) -> tuple[Folder, Folder] | None:
    known = {folder.drawn: folder for folder in folders}
    for pair in row.results:
        first, second = (known.get(digest) for digest in pair.digests)
        if first is not None and second is not None:
            return first, second
    return None


def _grid(row: PairRow, both: tuple[Folder, Folder], count: int) -> PairGrid:
    seeds = tuple(shown_seeds(both, count))
    first, second = (for_grid(folder.images(seeds)) for folder in both)
    return PairGrid(row.title, row.names, seeds, (first, second))
