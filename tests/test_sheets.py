"""Sheets of images: what is written on them fits, and is told apart, whatever it is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import image_bytes, places_of, sample, write_tar
from PIL import Image

from dprune.formats.class_names import ClassNames
from dprune.formats.shards import open_dataset
from dprune.sheets import lettering
from dprune.sheets.classes import class_grid
from dprune.sheets.lettering import SMALLEST, class_title, drawable, lettered, text_width
from dprune.sheets.samples import samples_shown
from dprune.sheets.sheet import FAINT, INK, MARGIN, PAPER, Caption, ColumnBlock, Sheet, SheetCell, SheetRow, sized


def image(seed: int, side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def places(sheet: Sheet, cells: list[Image.Image]) -> list[tuple[int, int]]:
    """Where the images stand, each once."""
    drawn = np.asarray(sheet.draw())
    found = [places_of(drawn, np.asarray(cell)) for cell in cells]
    assert all(len(places) == 1 for places in found)
    return [place for places in found for place in places]


@pytest.mark.parametrize(
    "text", ["cat", "Smileys & Emotion", "Donaudampfschifffahrtsgesellschaft", "n01440764_10026", "Wörter"]
)
@pytest.mark.parametrize("room", [30, 64, 200])
def test_no_line_is_wider_than_its_room_and_no_letter_is_lost(text: str, room: int) -> None:
    found = lettered(text, room, 15, INK)
    assert found.width <= room
    assert "".join(found.lines).replace(" ", "") == drawable(text).replace(" ", "")
    assert SMALLEST <= found.size <= 15
    assert found.size == 15 or any(text_width(word, found.size + 1) > room for word in text.split())


def test_long_keys_are_broken_behind_punctuation() -> None:
    assert lettered("photographs_of_dogs/n01440764", 96, 12, INK).lines == ("photographs_of_", "dogs/n01440764")


def test_letters_that_no_font_has_are_never_drawn_as_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_SYSTEM_FONTS", ())
    for cached in (lettering._font_of, lettering.drawable):
        cached.cache_clear()
    try:
        assert drawable("cat") == "cat"
        assert drawable("K\u00e4se") == "Kase"
        assert drawable("\u72ac") is None
        assert [class_title(3, name) for name in ("cat", "\u72ac")] == ["cat", "3"]
        assert lettered("cat \u72ac", 200, 15, INK).lines == ("cat ?",)
    finally:
        for cached in (lettering._font_of, lettering.drawable):
            cached.cache_clear()


def test_names_stand_at_the_side_and_heads_above_their_columns() -> None:
    cells = [image(n) for n in range(6)]
    rows = [SheetRow([SheetCell(cell) for cell in cells[:3]], "Supercalifragilisticexpialidocious & so on, and so on"),
            SheetRow([SheetCell(cell) for cell in cells[3:]], "b", "of 12")]  # fmt: skip
    sheet = Sheet(rows, heads=["a", "Animals & Nature", "c"], blocks=[ColumnBlock(1, "left"), ColumnBlock(2, "right")])
    found, drawn = places(sheet, cells), np.asarray(sheet.draw())
    assert [left for _, left in found[:3]] == [left for _, left in found[3:]]
    assert found[2][1] - found[1][1] < found[1][1] - found[0][1]
    for top, left in found:
        assert (drawn[top : top + 64, : left - 1][:, :MARGIN] == 255).all()
    (top, left), names = found[0], drawn[:, MARGIN : found[0][1] - 1]
    assert (names[top : top + 64] < 128).any()
    # What is said below and above keeps clear of the images and of the paper's edge.
    assert (drawn[:, -MARGIN + 2 :] == 255).all()
    assert (drawn[:MARGIN] == 255).all()
    heads = drawn[MARGIN : top - 1, found[1][1] : found[1][1] + 64]
    assert (heads < 160).any()
    assert (names[: top - 4] == 255).all()


def test_a_row_is_as_high_as_its_captions() -> None:
    cells = [image(n) for n in range(3)]
    said = (Caption("exact copy", "#b3261e"), Caption("photographs/of/dogs/n01440764_10026_large"))
    rows = [
        SheetRow([SheetCell(cells[0], said, frame="#b3261e"), SheetCell(cells[1])]),
        SheetRow([SheetCell(cells[2])]),
    ]
    sheet = Sheet(rows, title="Closest pairs of a title that is longer than all of the images are wide, or so it seems")
    (top, left), _, (below, _) = places(sheet, cells)
    height = sum(lettered(caption.text, 64, 12, FAINT).height for caption in said)
    assert below - top >= 64 + height
    drawn = np.asarray(sheet.draw())
    assert (drawn[top - 3 : top + 67, left - 3 : left] == (179, 38, 30)).all()
    assert (drawn[below - 2, left : left + 64] == 255).all()


def test_empty_places_say_why_or_nothing() -> None:
    rows = [
        SheetRow([SheetCell(None, absent="no image"), SheetCell(image(0))]),
        SheetRow([SheetCell(None), SheetCell(image(1))]),
    ]
    sheet = Sheet(rows)
    (top, left), (below, _) = places(sheet, [image(0), image(1)])
    drawn = np.asarray(sheet.draw())
    assert (drawn[top : top + 64, MARGIN : MARGIN + 64] < 200).any()
    assert (drawn[below : below + 64, MARGIN : MARGIN + 64] == 255).all()
    assert left > MARGIN


def test_classes_with_several_images_have_a_row_each_and_none_is_left_out() -> None:
    images, labels = [image(n, 8) for n in range(12)], [1, 0, 1, 0, 1, 0, 1, 1, 1, -1, -1, -1]
    sheet = class_grid(images, labels, ClassNames(("cats", "dogs")))
    assert [row.name for row in sheet.rows] == ["no class", "cats", "dogs"]
    assert [len(row.cells) for row in sheet.rows] == [3, 3, 6]
    assert len(places(sheet, [sized(one, 64) for one in images])) == 12


def test_many_images_of_a_class_are_spread_over_rows_of_like_length() -> None:
    images = [image(n) for n in range(26)]
    sheet = class_grid(images, [0] * 13 + [1] * 13, ClassNames())
    assert [(row.name, len(row.cells)) for row in sheet.rows] == [("0", 7), ("", 6), ("1", 7), ("", 6)]


def test_single_images_have_their_classes_below_in_the_order_of_the_seeds() -> None:
    sheet = class_grid([image(n) for n in range(5)], [4, 3, 2, 1, 0], ClassNames(("a", "b")))
    said = [cell.captions[0].text for row in sheet.rows for cell in row.cells]
    assert said == ["4", "3", "2", "b", "a"]
    assert [len(row.cells) for row in sheet.rows] == [3, 2]
    for label, title in ((-1, ""), (1, "b")):
        sheet = class_grid([image(n) for n in range(5)], [label] * 5, ClassNames(("a", "b")))
        assert sheet.title == title
        assert not any(cell.captions for row in sheet.rows for cell in row.cells)


def test_a_name_of_any_length_makes_no_picture_of_any_size() -> None:
    sheet = Sheet([SheetRow([SheetCell(image(0), (Caption("x" * 100_000),))], "y\n" * 100_000)]).draw()
    assert sheet.height < 1000


def test_samples_are_called_by_their_keys_and_classes(tmp_path: Path) -> None:
    members = [*sample("cat/a", 0, 0), *sample("b", 1, 1), *sample("c", 2, 7), ("d.png", image_bytes(3))]
    write_tar(tmp_path / "000000.tar", members)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    shown = samples_shown(open_dataset([str(tmp_path)]), np.array([0, 1, 2, 3]), 32)
    assert [shown[number].title for number in range(4)] == ["cat/a", "b (dog)", "c (class 7)", "d"]
    assert shown[0].image.size == (32, 32)


@pytest.mark.parametrize(("side", "least", "most", "expected"), [
    (8, 64, None, 64), (50, 64, None, 100), (64, 64, 128, 64), (256, 64, None, 256), (256, 64, 128, 128),
])  # fmt: skip
def test_tiny_images_are_enlarged_by_whole_numbers(side: int, least: int, most: int | None, expected: int) -> None:
    shown = sized(image(0, side), least, most)
    assert shown.size == (expected, expected)
    if expected > side:
        assert np.array_equal(np.asarray(shown)[:: expected // side, :: expected // side], np.asarray(image(0, side)))


def test_an_empty_sheet_is_paper() -> None:
    assert Sheet([]).draw().getcolors(1) is not None
    assert Sheet([]).draw().getpixel((0, 0)) == tuple(bytes.fromhex(PAPER[1:]))
