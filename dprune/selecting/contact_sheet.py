"""A picture of what a ranking ranks: the lowest, middle and highest samples of each group, the kept ones framed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dprune.formats.beside import Beside
from dprune.formats.images import publish_png, thumbnails
from dprune.formats.provenance import Record, parents_of
from dprune.formats.shards import Dataset
from dprune.selecting.partition import Partition
from dprune.selecting.quotas import IntArray
from dprune.selecting.ranking import Ranking
from dprune.sheets.lettering import drawable
from dprune.sheets.sheet import ColumnBlock, Sheet, SheetCell, SheetRow

MOST_GROUPS = 32
MOST_COLUMNS = 7
"""Images in a block, of which a row has three."""
THUMB, GAP = 64, 12
KEPT = "#0a7d5a"
TITLES = ("lowest", "middle", "highest")


def draw_sheet(
    dataset: Dataset, ranking: Ranking, kept: IntArray, partition: Partition | None, picture: Beside
) -> None:
    """Publish a PNG with a row for each group, at most 32 of them, in which no image stands twice.

    Args:
        dataset: where the images are.
        ranking: candidates by group, from the lowest to the highest.
        kept: sorted ids of the samples that are kept.
        partition: names the groups; None where all candidates are one.
        picture: where it goes, and the provenance of what it shows.
    """
    groups = [ranking.group(number) for number in range(min(len(ranking.names), MOST_GROUPS))]
    rows = [_ends_and_middle(ids) for ids in groups]
    every = [ids for row in rows for ids in row]
    shown = np.unique(np.concatenate(every)) if every else ranking.ids
    thumbs, framed = thumbnails(dataset, shown, THUMB), set(np.intersect1d(shown, kept).tolist())
    cells = {ident: SheetCell(thumb, frame=KEPT if ident in framed else None) for ident, thumb in thumbs.items()}
    widths = [max((len(row[place]) for row in rows), default=0) for place in range(len(TITLES))]
    drawn = []
    for row, members, number in zip(rows, groups, ranking.names[: len(rows)].tolist(), strict=True):
        count = int(np.isin(members, kept, assume_unique=True).sum())
        padded = [cell for ids, width in zip(row, widths, strict=True) for cell in _padded(ids, cells, width)]
        drawn.append(SheetRow(padded, _title(partition, number), f"{count:,} of {len(members):,}"))
    blocks = [ColumnBlock(width, title) for width, title in zip(widths, TITLES, strict=True) if width]
    said = _said(len(kept), len(ranking.ids), partition, len(ranking.names) - len(rows))
    sheet = Sheet(drawn, blocks=blocks, title=said, gap=GAP)
    publish_png(sheet.draw(), picture.path, picture.mark, f"{_ranked(picture.record)}: {said}")


def _ranked(record: Record) -> str:
    """Say what stands in the blocks, and by which scores where these say so."""
    made = parents_of(record).get("scores", {}).get("provenance", {})
    method = str(made.get("command", "")).removeprefix("score ")
    return f"The lowest, middle and highest{f' by {method}' if method else ''}"


def _padded(ids: IntArray, cells: Mapping[int, SheetCell], width: int) -> list[SheetCell]:
    return [cells[sample] for sample in ids.tolist()] + [SheetCell(None)] * (width - len(ids))


def _said(kept: int, candidates: int, partition: Partition | None, more: int) -> str:
    each = f"; a row for each {partition.kind}" if partition else ""
    return f"{kept:,} of {candidates:,} candidates kept (framed){each}" + (f", {more:,} more not shown" if more else "")


def _ends_and_middle(ids: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return a row's three blocks; a group that is too small for them is shared out among them in its order."""
    count = len(ids)
    low, middle, high = (min(MOST_COLUMNS, share // 3) for share in (count + 2, count, count + 1))
    begin = low + (count - low - middle - high) // 2
    return ids[:low], ids[begin : begin + middle], ids[count - high :]


def _title(partition: Partition | None, number: int) -> str:
    """Return what a row is called: a name as it is, where a font has its letters, and a number with its kind."""
    if partition is None:
        return "all"
    name = drawable(partition.name(number))
    return name if name and not name.isdecimal() else f"{partition.kind} {number}"
