"""The grid of generated images as HTML: a table for each pruning ratio, beside each other where there is room.

And pictures that were drawn before, each in a frame that scrolls where it is wider than the page.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dprune.formats.images import drawn_png
from dprune.formats.readable import first_capital
from dprune.reporting.image_folders import SeedImage
from dprune.reporting.image_grid import ABSENT, ImageGrid, seeds_text
from dprune.reporting.markup import escape
from dprune.reporting.pictures import Picture
from dprune.reporting.study.grouping import Line, ratio_title

if TYPE_CHECKING:
    from PIL.Image import Image


def html_images(grid: ImageGrid) -> str:
    """Write the section."""
    classes = "its class above it" if grid.heads else "its class below it, where it has one"
    tables = "".join(_block(grid, ratio) for ratio in grid.ratios)
    return (
        f'<p class="note">A column holds the images of one seed, {classes}. The seeds are {seeds_text(grid.seeds)}. '
        f'The noise is the same in all rows: what differs is the training set.</p><div class="blocks">{tables}</div>'
    )


def _block(grid: ImageGrid, ratio: str) -> str:
    """Write the images of one pruning ratio."""
    title = ratio_title(ratio)
    rows = "".join(_row(grid, line, ratio) for line in grid.lines)
    return (
        f'<div class="scroll images" tabindex="0" role="region" aria-label="Images, {title}"><table>'
        f"<caption>{first_capital(title)}</caption>"
        f"<thead><tr><td></td>{html_heads(grid.heads, grid.seeds)}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def html_heads(names: Sequence[str], seeds: Sequence[int]) -> str:
    """Write the heads of columns of seeds: their classes where these are known, else the seeds."""
    said = [f"seed {seed}" for seed in seeds]
    return "".join(
        f'<th scope="col" title="{seed}">{escape(name or seed)}</th>'
        for name, seed in zip(names or [""] * len(said), said, strict=True)
    )


def html_cells(images: Sequence[SeedImage], seeds: Sequence[int], name: str, *, captioned: bool) -> str:
    """Write a row's images, of seeds that `name` says whose they are; none where there are none."""
    return "".join(
        f"<td>{_picture(one, f'{name}, seed {seed}', captioned=captioned)}</td>"
        for one, seed in zip(images, seeds, strict=False)
    )


def _row(grid: ImageGrid, line: Line, ratio: str) -> str:
    where = "" if line.is_unpruned else f", {ratio_title(ratio)}"
    cells = html_cells(grid.shown(line, ratio), grid.seeds, f"{line.label}{where}", captioned=not grid.heads)
    absent = f'<td colspan="{len(grid.seeds)}"><div class="absent">{ABSENT}s</div></td>'
    return f'<tr><th scope="row">{escape(line.label)}</th>{cells or absent}</tr>'


def _picture(shown: SeedImage, said: str, *, captioned: bool) -> str:
    image, name = shown
    alt = f"{said}, {name}" if name else said
    below = f'<span class="class">{escape(name)}</span>' if name and captioned else ""
    return f'<img src="{_data(image)}" width="{image.width}" height="{image.height}" alt="{escape(alt)}">{below}'


def _data(image: Image) -> str:
    return _data_of("image/png", drawn_png(image))


def _data_of(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def html_pictures(pictures: Iterable[Picture]) -> str:
    """Write the section."""
    return "".join(map(_figure, pictures))


def _figure(picture: Picture) -> str:
    caption, image = escape(picture.caption), picture.image
    shown = f'<img src="{_data_of(*picture.encoded())}" width="{image.width}" height="{image.height}" alt="{caption}">'
    return (
        f'<figure class="picture"><div class="scroll" tabindex="0" role="region" aria-label="{caption}">{shown}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
