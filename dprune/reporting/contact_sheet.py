"""A picture of what a ranking ranks: the lowest, middle and highest samples of each group, the kept ones framed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from dprune.errors import InputError
from dprune.formats.images import BadImage, decode_image
from dprune.formats.publish import publish_bytes
from dprune.formats.shards import Dataset, ShardReader, open_dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dprune.pruning.select import Ranking

    IntArray = npt.NDArray[np.int64]

SOFTWARE = "dprune"
MOST_GROUPS = 32
COLUMNS = 7
THUMB, GAP, FRAME, BLOCK_GAP, MARGIN, LABEL, HEADER = 64, 12, 3, 40, 28, 124, 78
PAPER, INK, FAINT, KEPT = "#ffffff", "#1c2733", "#6b7785", "#0a7d5a"
TITLES = ("lowest", "middle", "highest")


@dataclass(frozen=True)
class ContactSheet:
    """Where the images are, and where the picture goes."""

    dataset: Dataset
    path: str

    @classmethod
    def open(cls, shards: Sequence[str], path: str) -> ContactSheet:
        """Find the shards.

        Raises:
            InputError: there are none, or a file that is no such picture stands where it is to go.
        """
        if Path(path).exists() and not _is_ours(path):
            raise InputError(f"{path}: exists and is no picture that dprune drew: give another --figure.")
        return cls(open_dataset(shards), path)

    @property
    def name(self) -> str:
        """What messages call the images."""
        return self.dataset.title

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the images' dataset."""
        return self.dataset.fingerprint

    def __len__(self) -> int:
        """Return the number of samples in the dataset."""
        return len(self.dataset)

    def draw(self, ranking: Ranking, kept: IntArray) -> None:
        """Publish a PNG with a row for each group, at most 32 of them.

        Args:
            ranking: candidates by group, from the lowest to the highest.
            kept: sorted ids of the samples that are kept.
        """
        groups = range(min(len(ranking.names), MOST_GROUPS))
        rows = [_ends_and_middle(ranking.group(group)) for group in groups]
        thumbs = self._thumbs(np.unique(np.concatenate([ids for blocks in rows for ids in blocks])))
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
        buffer = io.BytesIO()
        mark = PngInfo()
        mark.add_text("Software", SOFTWARE)
        sheet.image.save(buffer, "PNG", optimize=True, pnginfo=mark)
        publish_bytes(self.path, buffer.getvalue())

    def _thumbs(self, ids: IntArray) -> dict[int, Image.Image]:
        found, first = {}, 0
        for shard, rows, count in zip(self.dataset.shards, self.dataset.split(ids), self.dataset.counts, strict=True):
            reader = ShardReader(shard, shard.index()) if len(rows) else None
            for row in rows.tolist():
                assert reader is not None
                found[first + row] = _thumb(reader.image(row))
            first += count
        return found


def _is_ours(path: str) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get("Software") == SOFTWARE
    except OSError:
        return False


def _ends_and_middle(ids: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    middle = max(0, (len(ids) - COLUMNS) // 2)
    return ids[:COLUMNS], ids[middle : middle + COLUMNS], ids[-COLUMNS:]


def _thumb(data: bytes) -> Image.Image:
    try:
        image = decode_image(data)
    except BadImage:
        return Image.new("RGB", (THUMB, THUMB), "#d9dee4")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Enlarging tiny images smoothly would show detail that they do not have.
    smooth = Image.Resampling.LANCZOS if side > THUMB else Image.Resampling.NEAREST
    return image.resize((THUMB, THUMB), smooth, (left, top, left + side, top + side))


class _Sheet:
    """The canvas and where things go on it."""

    def __init__(self, rows: int) -> None:
        width = LABEL + 3 * self._block_width() + 2 * BLOCK_GAP + 2 * MARGIN
        self.image = Image.new("RGB", (width, HEADER + rows * (THUMB + GAP) + MARGIN), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    @staticmethod
    def _block_width() -> int:
        return COLUMNS * (THUMB + GAP) - GAP

    def _left(self, block: int) -> int:
        return MARGIN + LABEL + block * (self._block_width() + BLOCK_GAP)

    def _text(self, place: tuple[int, int], text: str, size: int, colour: str) -> None:
        self._draw.text(place, text, fill=colour, font=ImageFont.load_default(size))

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
