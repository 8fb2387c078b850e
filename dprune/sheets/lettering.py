"""Text in pictures: a font that has the letters, lines that are broken where they must be, and nothing cut off."""

from __future__ import annotations

import functools
import math
import unicodedata
from dataclasses import dataclass

from PIL import ImageDraw, ImageFont

from dprune.formats.readable import presentable

LEADING = 1.3
"""Height of a line over that of the font."""
SMALLEST = 9
"""Pixels below which text that does not fit is broken inside words, and not shrunk further."""
MOST_LETTERS = 160
"""Of a text, or a list of classes that somebody else wrote could make a picture of any size."""
_NOWHERE = "\U0010ffff"
"""A letter that no font has: what is drawn in its place stands for all that is missing."""
# Pillow's own font has hardly more than ASCII. Pillow looks for the others where each system keeps its fonts.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "LiberationSans-Regular.ttf", "NotoSansCJK-Regular.ttc",
    "NotoSansCJKjp-Regular.otf", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "Arial Unicode.ttf", "PingFang.ttc",
    "msyh.ttc", "malgun.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf",
)  # fmt: skip

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def _font(name: str, size: int) -> Font | None:
    """Load a font of the system, by an empty name Pillow's own; None where it is not installed."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


@functools.cache
def _has(name: str, letter: str) -> bool:
    font = _font(name, 16)
    if font is None:
        return False
    drawn, missing = font.getmask(letter), font.getmask(_NOWHERE)
    return letter.isspace() or drawn.size != missing.size or bytes(drawn) != bytes(missing)


@functools.cache
def _font_of(text: str) -> str:
    """Name the first font that has all letters of a text, or where none has, the one with the most of them."""
    fonts, letters = ("", *_SYSTEM_FONTS), set(text)
    found = (name for name in fonts if all(_has(name, letter) for letter in letters))
    # The fonts of the system are looked for only where they are wanted.
    first = next(found, None)
    return first if first is not None else max(fonts, key=lambda name: sum(_has(name, letter) for letter in letters))


@functools.cache
def drawable(text: str) -> str | None:
    """Return a text as it can be drawn here: as it is, else without accents; None where no font has its letters."""
    shown = presentable(" ".join(text.split()))
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", shown) if not unicodedata.combining(letter))
    return next((found for found in (shown, bare) if all(_has(_font_of(found), letter) for letter in found)), None)


def class_title(label: int, name: str) -> str:
    """Return what a class is called in a picture: its number where its name cannot be drawn."""
    return drawable(name) or str(label)


@dataclass(frozen=True)
class Lettering:
    """Lines of text in one size.

    Attributes:
        lines: as they stand below each other.
        size: of the font in pixels.
        colour: of the letters.
        font: that has them, see `_font_of`.
    """

    lines: tuple[str, ...]
    size: int
    colour: str
    font: str = ""

    @property
    def width(self) -> int:
        """Pixels of the longest line."""
        return max((_width(line, self.font, self.size) for line in self.lines), default=0)

    @property
    def height(self) -> int:
        """Pixels of all lines."""
        return round(len(self.lines) * self.size * LEADING)

    def draw(self, canvas: ImageDraw.ImageDraw, left: float, top: float, room: int = 0) -> None:
        """Draw the lines from a corner, or in the middle of a room of so many pixels."""
        for number, line in enumerate(self.lines):
            aside = max(0, room - _width(line, self.font, self.size)) // 2
            place = (left + aside, top + round(number * self.size * LEADING))
            canvas.text(place, line, self.colour, _font(self.font, self.size))


def text_width(text: str, size: int) -> int:
    """Return the width of a text in pixels where it stands on one line."""
    spelled = _spelled(text)
    return _width(spelled, _font_of(spelled), size)


def lettered(text: str, room: int, size: int, colour: str) -> Lettering:
    """Bring a text into so many pixels of width, by as many lines as it takes.

    A word that is wider than the room makes all letters smaller, down to `SMALLEST`, and is broken after that, behind
    punctuation where it has any.
    """
    spelled = _spelled(text)
    words, font = spelled.split(), _font_of(spelled)
    while size > SMALLEST and any(_width(word, font, size) > room for word in words):
        size -= 1
    lines: list[str] = []
    for word in words:
        pieces = _broken(word, room, font, size)
        if lines and _width(f"{lines[-1]} {pieces[0]}", font, size) <= room:
            lines[-1] += f" {pieces.pop(0)}"
        lines += pieces
    return Lettering(tuple(lines), size, colour, font)


def _width(line: str, name: str, size: int) -> int:
    font = _font(name, size)
    assert font is not None
    return math.ceil(font.getlength(line))


def _spelled(text: str) -> str:
    """Return a text as it can be drawn here, with question marks for letters that cannot, and an end to it."""
    if len(text) > MOST_LETTERS:
        text = text[:MOST_LETTERS] + "…"
    found, shown = drawable(text), presentable(text)
    return found if found is not None else "".join(c if _has(_font_of(shown), c) else "?" for c in shown)


def _broken(word: str, room: int, font: str, size: int) -> list[str]:
    """Break a word into pieces that fit, each as long as can be."""
    pieces = []
    while _width(word, font, size) > room and len(word) > 1:
        most = next((n for n in range(2, len(word)) if _width(word[:n], font, size) > room), len(word)) - 1
        marks = [n for n in range(most // 2, most) if not word[n].isalnum()]
        end = marks[-1] + 1 if marks else most
        pieces.append(word[:end])
        word = word[end:]
    return [*pieces, word]
