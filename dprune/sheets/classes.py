"""Images by class: a row for each class, its name at the side."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dprune.formats.class_names import ClassNames
from dprune.sheets.lettering import class_title
from dprune.sheets.sheet import Caption, Sheet, SheetCell, SheetRow, sized

if TYPE_CHECKING:
    from PIL import Image

LEAST_SIDE = 64
"""Pixels that images have at least: names of classes could not be read beside smaller ones."""
FULL_ROW, MOST_IN_ROW = 3, 12
"""Images of a class that are worth a row, and those after which another row begins."""
GAP = 4


def class_grid(images: Sequence[Image.Image], labels: Sequence[int], names: ClassNames) -> Sheet:
    """Arrange images of one size; all of them are shown.

    Args:
        images: any number.
        labels: of the images, -1 for none.
        names: of the classes.

    Returns:
        Rows of a class each in the order of the labels, where classes have three images or more on average; else all
        images in a square in the order that they have, with their classes below, or that of all of them above.
    """
    by_label: dict[int, list[SheetCell]] = defaultdict(list)
    shown = [sized(image, LEAST_SIDE) for image in images]
    for image, label in zip(shown, labels, strict=True):
        by_label[label].append(SheetCell(image))
    if len(by_label) > 1 and len(images) >= FULL_ROW * len(by_label):
        most = max(map(len, by_label.values()))
        columns = math.ceil(most / math.ceil(most / MOST_IN_ROW))
        rows = [
            SheetRow(cells[begin : begin + columns], "" if begin else _title(label, names))
            for label, cells in sorted(by_label.items())
            for begin in range(0, len(cells), columns)
        ]
        return Sheet(rows, gap=GAP)
    columns, only = math.ceil(math.sqrt(len(images))), len(by_label) == 1
    captions = [(Caption(_title(label, names)),) if label >= 0 and not only else () for label in labels]
    cells = [SheetCell(image, said) for image, said in zip(shown, captions, strict=True)]
    rows = [SheetRow(cells[begin : begin + columns]) for begin in range(0, len(cells), columns)]
    return Sheet(rows, title=_title(labels[0], names) if only and labels[0] >= 0 else "", gap=GAP)


def _title(label: int, names: ClassNames) -> str:
    return class_title(label, names.name(label)) if label >= 0 else "no class"
