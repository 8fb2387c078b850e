"""A picture of what a ranking ranks: the lowest, middle and highest samples of each group, the kept ones framed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dprune.formats.images import publish_png, thumbnails
from dprune.formats.readable import presentable
from dprune.formats.shards import Dataset
from dprune.selecting.quotas import IntArray
from dprune.selecting.ranking import Ranking

MOST_GROUPS = 32
COLUMNS = 7
THUMB, GAP, FRAME, BLOCK_GAP, MARGIN, LABEL, HEADER = 64, 12, 3, 40, 28, 124, 78
BLOCK = COLUMNS * (THUMB + GAP) - GAP
"""Width of a block of thumbnails in pixels."""
PAPER, INK, FAINT, KEPT = "#ffffff", "#1c2733", "#6b7785", "#0a7d5a"
TITLES = ("lowest", "middle", "highest")


def draw_sheet(dataset: Dataset, ranking: Ranking, kept: IntArray, path: Path, mark: str) -> None:
    """Publish a PNG with a row for each group, at most 32 of them.

    Args:
        dataset: where the images are.
        ranking: candidates by group, from the lowest to the highest.
        kept: sorted ids of the samples that are kept.
        path: where the picture goes.
        mark: what it carries to tell what it shows, see `Beside`.
    """
    rows = [_ends_and_middle(ranking.group(number)) for number in range(min(len(ranking.names), MOST_GROUPS))]
    shown_ids = [ids for blocks in rows for ids in blocks]
    thumbs = thumbnails(dataset, np.unique(np.concatenate(shown_ids)) if shown_ids else ranking.ids, THUMB)
    sheet = _Sheet(len(rows))
    shown = f"{len(kept):,} of {len(ranking.ids):,} candidates kept (framed)"
    more = len(ranking.names) - len(rows)
    sheet.header(shown + (f"; {more:,} more groups not shown" if more else ""))
    for number, blocks in enumerate(rows):
        members = ranking.group(number)
        count = int(np.isin(members, kept, assume_unique=True).sum())
        sheet.row_label(number, f"{ranking.names[number]}", f"{count:,} of {len(members):,}")
        for block, ids in enumerate(blocks):
            for column, sample in enumerate(ids.tolist()):
                sheet.place(number, block, column, thumbs[sample], framed=bool(np.isin(sample, kept)))
    publish_png(sheet.image, path, mark)


def _ends_and_middle(ids: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    middle = max(0, (len(ids) - COLUMNS) // 2)
    return ids[:COLUMNS], ids[middle : middle + COLUMNS], ids[-COLUMNS:]


class _Sheet:
    """The canvas and where things go on it."""

    def __init__(self, rows: int) -> None:
        width = LABEL + 3 * BLOCK + 2 * BLOCK_GAP + 2 * MARGIN
        self.image = Image.new("RGB", (width, HEADER + rows * (THUMB + GAP) + MARGIN), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def _left(self, block: int) -> int:
        return MARGIN + LABEL + block * (BLOCK + BLOCK_GAP)

    def _text(self, place: tuple[int, int], text: str, size: int, colour: str) -> None:
        self._draw.text(place, presentable(text), fill=colour, font=ImageFont.load_default(size))

    def header(self, text: str) -> None:
        self._text((MARGIN, 14), text, 18, INK)
        for block, title in enumerate(TITLES):
            self._text((self._left(block), HEADER - 30), title, 16, FAINT)

    def row_label(self, row: int, name: str, counts: str) -> None:
        top = HEADER + row * (THUMB + GAP)
        self._text((MARGIN, top + 10), name, 20, INK)
        self._text((MARGIN, top + 36), counts, 14, FAINT)

    def place(self, row: int, block: int, column: int, thumb: Image.Image, *, framed: bool) -> None:
        left, top = self._left(block) + column * (THUMB + GAP), HEADER + row * (THUMB + GAP)
        if framed:
            corners = (left - FRAME, top - FRAME, left + THUMB + FRAME - 1, top + THUMB + FRAME - 1)
            self._draw.rectangle(corners, fill=KEPT)
        self.image.paste(thumb, (left, top))
