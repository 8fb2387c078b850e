"""A sheet of images: names at the side of rows, heads above columns and blocks of columns, captions below images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from dprune.sheets.lettering import Lettering, lettered, text_width

PAPER, INK, FAINT, HAIR, BLANK = "#ffffff", "#1d2530", "#5c6675", "#dfe3e8", "#eef0f3"
TITLE, NAME, SMALL = 18, 15, 12
"""Pixels of the letters of titles, of names of rows and blocks, and of all else."""
MARGIN, BLOCK_GAP, FRAME, WIDEST_NAME, NARROWEST = 24, 32, 3, 200, 420


@dataclass(frozen=True)
class Caption:
    """A text below an image."""

    text: str
    colour: str = FAINT


@dataclass(frozen=True)
class SheetCell:
    """A place of a sheet.

    Attributes:
        image: of the same size as the others, None for an empty place.
        captions: below it, each on lines of its own.
        frame: colour around it, None for a thin grey line.
        absent: what is said in an empty place; nothing is drawn there without it.
    """

    image: Image.Image | None
    captions: tuple[Caption, ...] = ()
    frame: str | None = None
    absent: str = ""


@dataclass(frozen=True)
class SheetRow:
    """A row of a sheet: its cells, its name and what is said below that."""

    cells: Sequence[SheetCell]
    name: str = ""
    detail: str = ""


@dataclass(frozen=True)
class ColumnBlock:
    """Columns that belong together, at some distance from the others."""

    columns: int
    title: str = ""


@dataclass(frozen=True)
class Sheet:
    """What is to be drawn; everything that is written fits, whatever it is called.

    Attributes:
        rows: all of the same columns; those that are shorter end in empty places.
        heads: above the columns, in small letters.
        blocks: of columns, one of all where there are none.
        title: above all.
        note: below the title, in small letters.
        gap: pixels between images.
    """

    rows: Sequence[SheetRow]
    heads: Sequence[str] = ()
    blocks: Sequence[ColumnBlock] = ()
    title: str = ""
    note: str = ""
    gap: int = 8

    def draw(self) -> Image.Image:
        """Draw the sheet as an RGB image."""
        top = MARGIN + self._above
        sheet = Image.new("RGB", (self._width, top + sum(self._heights) + MARGIN), PAPER)
        canvas = ImageDraw.Draw(sheet)
        y = MARGIN
        for text in self._titles:
            text.draw(canvas, MARGIN, y)
            y += text.height + 4
        self._draw_heads(canvas, top - self.gap)
        for row, height in zip(self.rows, self._heights, strict=True):
            self._draw_row(sheet, canvas, row, top)
            top += height
        return sheet

    @functools.cached_property
    def _side(self) -> tuple[int, int]:
        """Width and height of a cell."""
        sizes = [cell.image.size for row in self.rows for cell in row.cells if cell.image is not None]
        return max((w for w, _ in sizes), default=64), max((h for _, h in sizes), default=64)

    @functools.cached_property
    def _blocks(self) -> Sequence[ColumnBlock]:
        return self.blocks or [ColumnBlock(max((len(row.cells) for row in self.rows), default=0))]

    @functools.cached_property
    def _names(self) -> int:
        """Width of the names at the side, with what stands between them and the images."""
        wanted = [text_width(row.name, NAME) for row in self.rows] + [text_width(r.detail, SMALL) for r in self.rows]
        return min(WIDEST_NAME, max(wanted)) + 16 if any(wanted) else 0

    @functools.cached_property
    def _lefts(self) -> list[int]:
        """Left edges of the columns."""
        step, left, found = self._side[0] + self.gap, MARGIN + self._names, []
        for block in self._blocks:
            found += [left + n * step for n in range(block.columns)]
            left += block.columns * step - self.gap + BLOCK_GAP
        return found

    @property
    def _width(self) -> int:
        return max([NARROWEST if self.title else 0, *(left + self._side[0] for left in self._lefts)]) + MARGIN

    @functools.cached_property
    def _titles(self) -> list[Lettering]:
        texts, room = ((self.title, TITLE, INK), (self.note, SMALL + 1, FAINT)), self._width - 2 * MARGIN
        return [lettered(text, room, size, colour) for text, size, colour in texts if text]

    @functools.cached_property
    def _block_titles(self) -> list[Lettering]:
        room = self._side[0] + self.gap
        return [lettered(b.title, b.columns * room - self.gap, NAME, INK) for b in self._blocks if b.title]

    @functools.cached_property
    def _heads(self) -> list[Lettering]:
        return [lettered(head, self._side[0], SMALL, FAINT) for head in self.heads]

    @property
    def _above(self) -> int:
        """Height of all that stands above the images."""
        titles = sum(text.height + 4 for text in self._titles) + (14 if self._titles else 0)
        return titles + sum(self._tallest(found) for found in (self._block_titles, self._heads))

    def _tallest(self, texts: Sequence[Lettering]) -> int:
        return max(text.height for text in texts) + self.gap if texts else 0

    @functools.cached_property
    def _heights(self) -> list[int]:
        """Height of each row, with the gap below it."""
        return [self._height(row) for row in self.rows]

    def _height(self, row: SheetRow) -> int:
        names = sum(text.height for text in self._name(row))
        below = [sum(text.height for text in self._captions(cell)) for cell in row.cells]
        return max(names, self._side[1] + max(below, default=0) + (10 if any(below) else 0)) + self.gap

    def _name(self, row: SheetRow) -> list[Lettering]:
        texts, room = ((row.name, NAME, INK), (row.detail, SMALL, FAINT)), self._names - 16
        return [lettered(text, room, size, colour) for text, size, colour in texts if text]

    def _captions(self, cell: SheetCell) -> list[Lettering]:
        return [lettered(caption.text, self._side[0], SMALL, caption.colour) for caption in cell.captions]

    def _draw_heads(self, canvas: ImageDraw.ImageDraw, bottom: int) -> None:
        """Draw the heads so that they end above the images, and the titles of blocks above them."""
        width = self._side[0]
        for left, head in zip(self._lefts, self._heads, strict=False):
            head.draw(canvas, left, bottom - head.height, width)
        bottom -= self._tallest(self._heads)
        begins = itertools.accumulate((block.columns for block in self._blocks), initial=0)
        for begin, title in zip(begins, self._block_titles, strict=False):
            title.draw(canvas, self._lefts[begin], bottom - title.height)

    def _draw_row(self, sheet: Image.Image, canvas: ImageDraw.ImageDraw, row: SheetRow, top: int) -> None:
        names = self._name(row)
        y = top + max(0, self._side[1] - sum(text.height for text in names)) // 2
        for text in names:
            text.draw(canvas, MARGIN, y)
            y += text.height
        for left, cell in zip(self._lefts, row.cells, strict=False):
            self._draw_cell(sheet, canvas, cell, left, top)

    def _draw_cell(self, sheet: Image.Image, canvas: ImageDraw.ImageDraw, cell: SheetCell, left: int, top: int) -> None:
        width, height = self._side
        if cell.image is not None:
            x, y = left + (width - cell.image.width) // 2, top + (height - cell.image.height) // 2
            edge = FRAME if cell.frame else 1
            box = (x - edge, y - edge, x + cell.image.width + edge - 1, y + cell.image.height + edge - 1)
            # Or images on white would run into the paper.
            canvas.rectangle(box, cell.frame or HAIR)
            sheet.paste(cell.image, (x, y))
        elif cell.absent:
            canvas.rectangle((left, top, left + width - 1, top + height - 1), BLANK)
            text = lettered(cell.absent, width - 8, SMALL, FAINT)
            text.draw(canvas, left + 4, top + (height - text.height) // 2, width - 8)
        y = top + height + 6
        for text in self._captions(cell):
            text.draw(canvas, left, y)
            y += text.height


def sized(image: Image.Image, least: int, most: int | None = None) -> Image.Image:
    """Enlarge an image by a whole number until its longer side has `least` pixels, or reduce it to `most`."""
    longest = max(image.size)
    if most is not None and longest > most:
        return image.resize(_times(image, most / longest), Image.Resampling.LANCZOS)
    # Enlarging tiny images smoothly would show detail that they do not have.
    times = -(-least // longest)
    return image if times <= 1 else image.resize(_times(image, times), Image.Resampling.NEAREST)


def _times(image: Image.Image, times: float) -> tuple[int, int]:
    return max(1, round(image.width * times)), max(1, round(image.height * times))
