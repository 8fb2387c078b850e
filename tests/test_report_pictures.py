"""dprune report --picture: pictures that were drawn before stand in the page, with what they show below them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Result, dprune
from PIL import Image
from studies import Run, write_metrics
from test_report import generated
from test_report_page import Node, Tree

from dprune.formats.images import described_png
from dprune.formats.manifests import read_manifest
from dprune.reporting.pictures import TALLEST, WIDEST


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return write_metrics(tmp_path / "a.json", Run())


def draw(path: Path, width: int = 40, height: int = 30, **options: object) -> Path:
    """A picture of noise, so that nothing makes it small."""
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def report(result: Path, *pictures: object, more: tuple[object, ...] = ()) -> Result:
    given = [part for picture in pictures for part in ("--picture", picture)]
    return dprune("report", result, *given, "-o", result.parent / "report", *more)


def figures(result: Path) -> list[Node]:
    root = Tree((result.parent / "report" / "report.html").read_text()).root
    (section,) = root.all("section", id="pictures")
    return section.all("figure")


def shown(figure: Node) -> Image.Image:
    (image,) = figure.all("img")
    data = image.attributes["src"].partition("base64,")[2]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_picture_is_shown_as_it_is_with_its_caption(result: Path, tmp_path: Path) -> None:
    png, jpeg = draw(tmp_path / "kept.png"), draw(tmp_path / "photo.jpg")
    report(result, f"{png}=What was <kept>", jpeg).ok()
    kept, photo = figures(result)
    assert np.array_equal(shown(kept), Image.open(png))
    assert np.array_equal(shown(photo), Image.open(jpeg))
    assert kept.text == kept.all("img")[0].attributes["alt"] == "What was <kept>"
    assert photo.text == f"{tmp_path.name}/photo"
    assert kept.all("img")[0].attributes["width"] == "40"


def test_dprunes_own_pictures_say_what_they_show(shards: Path, result: Path, tmp_path: Path) -> None:
    figure, count = tmp_path / "kept.png", 18
    np.save(tmp_path / "s.npy", np.arange(count, dtype=np.float32))
    dprune("select", tmp_path / "s.npy", "--keep", 5, "--shards", shards, "--figure", figure,
           "-o", tmp_path / "k.npy").ok()  # fmt: skip
    report(result, figure).ok()
    assert figures(result)[0].text == f"The lowest, middle and highest: 5 of {count} candidates kept (framed)"


def test_pictures_that_say_the_same_tell_whose_they_are(result: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("runs/all/0/pairs.png", "runs/kept/pairs-0.9.png")]
    for file, colour in zip(files, ("red", "blue"), strict=True):
        file.parent.mkdir(parents=True)
        file.write_bytes(described_png(Image.new("RGB", (8, 8), colour), "Closest pairs"))
    report(result, *files, f"{draw(tmp_path / 'mine.png')}=Closest pairs", files[0]).ok()
    told = ["Closest pairs (all/0/pairs)", "Closest pairs (kept/pairs-0.9)", "Closest pairs"]
    assert [figure.text for figure in figures(result)] == told
    report(result, files[0], more=("--overwrite",)).ok()
    assert figures(result)[0].text == "Closest pairs"


def test_a_file_and_its_caption_may_hold_equals_signs(result: Path, tmp_path: Path) -> None:
    (tmp_path / "keep=0.5").mkdir()
    plain, longer = draw(tmp_path / "a.png"), draw(tmp_path / "keep=0.5" / "b=c.png")
    report(result, f"{plain}=k=24", f"{longer}=k=1000", longer).ok()
    assert [figure.text for figure in figures(result)] == ["k=24", "k=1000", "keep=0.5/b=c"]


@pytest.mark.parametrize(("width", "height"), [(4 * WIDEST, 800), (30, 2 * TALLEST)])
def test_large_pictures_are_scaled_down(result: Path, tmp_path: Path, width: int, height: int) -> None:
    report(result, draw(tmp_path / "large.png", width, height)).ok()
    image = shown(figures(result)[0])
    assert image.width <= WIDEST
    assert image.height <= TALLEST
    assert image.width / image.height == pytest.approx(width / height, rel=0.05)


def test_what_would_be_large_without_loss_is_a_jpeg(result: Path, tmp_path: Path) -> None:
    report(result, draw(tmp_path / "noise.png", 900, 900)).ok()
    image = shown(figures(result)[0])
    assert (image.format, image.size) == ("JPEG", (900, 900))


def test_one_that_is_given_twice_is_shown_once(result: Path, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png")
    summary = json.loads(report(result, picture, picture, f"{picture}=again", more=("--dry-run", "--json")).ok().out)
    assert summary["work"]["pictures"] == 2
    report(result, picture, picture, f"{picture}=again").ok()
    assert len(figures(result)) == 2


def test_pictures_and_captions_are_recorded(result: Path, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png")
    report(result, f"{picture}=one").ok()
    assert "up to date" in report(result, f"{picture}=one").ok().err
    report(result, f"{picture}=two").fails(3, "made differently", "captions", "--overwrite")
    draw(picture, 50)
    report(result, f"{picture}=one").fails(3, "made differently", "--overwrite")
    record = read_manifest(result.parent / "report")["provenance"]
    assert record["options"]["captions"] == ["one"]
    assert "picture" in record["parents"]


def test_without_pictures_nothing_is_said_of_them(result: Path) -> None:
    report(result).ok()
    assert "pictures" not in (result.parent / "report" / "report.html").read_text()
    assert "captions" not in read_manifest(result.parent / "report")["provenance"]["options"]


def test_what_cannot_be_shown(result: Path, tmp_path: Path) -> None:
    report(result, tmp_path / "none.png=x").fails(3, "--picture", "none.png", "no such file")
    report(result, result).fails(3, "--picture", "a.json", "cannot be decoded", "PNG")
    report(result, f"{draw(tmp_path / 'b.png')}=").fails(3, "--picture", "b.png", "caption is empty")
    cut = tmp_path / "cut.png"
    cut.write_bytes(draw(tmp_path / "whole.png").read_bytes()[:-900])
    report(result, cut).fails(3, "cut.png", "cannot be decoded")
    report(result, tmp_path).fails(3, "--picture", "cannot be read")
    assert not (result.parent / "report").exists()


def test_grids_of_a_report_say_what_they_show_in_another(result: Path, tmp_path: Path) -> None:
    """So a page can be made anew where the images are gone."""
    dprune("report", result, "--images", generated(tmp_path / "images", Run()), "-o", tmp_path / "first").ok()
    grid = tmp_path / "first" / "images" / "grid.png"
    report(result, grid).ok()
    (figure,) = figures(result)
    assert figure.text == "Generated images of the seeds 0 to 3 by line, unpruned"
    assert np.array_equal(shown(figure), Image.open(grid))
