"""A picture of what a ranking ranks: the lowest, middle and highest samples of each group, the kept ones framed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dprune.formats.images import publish_png, thumbnails
from dprune.formats.readable import presentable
from dprune.formats.shards import Dataset
from dprune.selecting.partition import Partition
from dprune.selecting.quotas import IntArray
from dprune.selecting.ranking import Ranking

MOST_GROUPS = 32
MOST_COLUMNS = 7
"""Images in a block, of which a row has three."""
THUMB, GAP, FRAME, BLOCK_GAP, MARGIN, HEADER = 64, 12, 3, 40, 28, 78
NARROWEST_LABEL, WIDEST_LABEL = 124, 280
NARROWEST = 600
"""Width in pixels that the first line fits into."""
NAME_SIZE, COUNT_SIZE = 18, 14
PAPER, INK, FAINT, KEPT = "#ffffff", "#1c2733", "#6b7785", "#0a7d5a"
TITLES = ("lowest", "middle", "highest")
# What no font has a picture for is drawn as this is.
_NO_CHARACTER = "\U0010ffff"


def draw_sheet(
    dataset: Dataset, ranking: Ranking, kept: IntArray, partition: Partition | None, path: Path, mark: str
) -> None:
    """Publish a PNG with a row for each group, at most 32 of them, in which no image stands twice.

    Args:
        dataset: where the images are.
        ranking: candidates by group, from the lowest to the highest.
        kept: sorted ids of the samples that are kept.
        partition: names the groups; None where all candidates are one.
        path: where the picture goes.
        mark: what it carries to tell what it shows, see `Beside`.
    """
    rows = [_ends_and_middle(ranking.group(number)) for number in range(min(len(ranking.names), MOST_GROUPS))]
    names = [_title(partition, number) for number in ranking.names[: len(rows)].tolist()]
    shown_ids = [ids for blocks in rows for ids in blocks]
    thumbs = thumbnails(dataset, np.unique(np.concatenate(shown_ids)) if shown_ids else ranking.ids, THUMB)
    sheet = _Sheet(names, max(map(len, shown_ids), default=1))
    each = f"; a row for each {partition.kind}" if partition else ""
    more = len(ranking.names) - len(rows)
    sheet.header(
        f"{len(kept):,} of {len(ranking.ids):,} candidates kept (framed){each}"
        + (f", {more:,} more not shown" if more else "")
    )
    for number, blocks in enumerate(rows):
        members = ranking.group(number)
        count = int(np.isin(members, kept, assume_unique=True).sum())
        sheet.row_label(number, f"{count:,} of {len(members):,}")
        for block, ids in enumerate(blocks):
            for column, sample in enumerate(ids.tolist()):
                sheet.place(number, block, column, thumbs[sample], framed=bool(np.isin(sample, kept)))
    publish_png(sheet.image, path, mark)


def _ends_and_middle(ids: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return a row's three blocks; a group that is too small for them is shared out among them in its order."""
    count = len(ids)
    low, middle, high = (min(MOST_COLUMNS, share // 3) for share in (count + 2, count, count + 1))
    begin = low + (count - low - middle - high) // 2
    return ids[:low], ids[begin : begin + middle], ids[count - high :]


def _title(partition: Partition | None, number: int) -> str:
    """Return what a row is called: a name as it is, where the font has its characters, and a number with its kind."""
    if partition is None:
        return "all"
    name, font = presentable(partition.name(number)), ImageFont.load_default(NAME_SIZE)
    missing = bytes(font.getmask(_NO_CHARACTER))
    if name.isdecimal() or any(bytes(font.getmask(one)) == missing for one in {*name} - {" "}):
        return f"{partition.kind} {number}"
    return name


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut a text to the widest label."""
    if font.getlength(text) <= WIDEST_LABEL:
        return text
    while font.getlength(text + "…") > WIDEST_LABEL:
        text = text[:-1].rstrip()
    return text + "…"


class _Sheet:
    """The canvas and where things go on it.

    Args:
        names: of the rows.
        columns: images in a block at most.
    """

    def __init__(self, names: list[str], columns: int) -> None:
        font = ImageFont.load_default(NAME_SIZE)
        self._names = [_fitted(name, font) for name in names]
        self._label = max([NARROWEST_LABEL, *(int(font.getlength(name)) + 2 * GAP for name in self._names)])
        self._block = columns * (THUMB + GAP) - GAP + BLOCK_GAP
        width = self._left(len(TITLES)) - BLOCK_GAP + MARGIN
        self.image = Image.new("RGB", (max(width, NARROWEST), HEADER + len(names) * (THUMB + GAP) + MARGIN), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def _left(self, block: int) -> int:
        return MARGIN + self._label + block * self._block

    def _text(self, place: tuple[int, int], text: str, size: int, colour: str) -> None:
        self._draw.text(place, text, fill=colour, font=ImageFont.load_default(size))

    def header(self, text: str) -> None:
        self._text((MARGIN, 14), text, 18, INK)
        for block, title in enumerate(TITLES):
            self._text((self._left(block), HEADER - 30), title, 16, FAINT)

    def row_label(self, row: int, counts: str) -> None:
        top = HEADER + row * (THUMB + GAP)
        self._text((MARGIN, top + 10), self._names[row], NAME_SIZE, INK)
        self._text((MARGIN, top + 36), counts, COUNT_SIZE, FAINT)

    def place(self, row: int, block: int, column: int, thumb: Image.Image, *, framed: bool) -> None:
        left, top = self._left(block) + column * (THUMB + GAP), HEADER + row * (THUMB + GAP)
        if framed:
            corners = (left - FRAME, top - FRAME, left + THUMB + FRAME - 1, top + THUMB + FRAME - 1)
            self._draw.rectangle(corners, fill=KEPT)
        self.image.paste(thumb, (left, top))
