"""dprune report of `eval --metrics paired`: its table, its sentence and its images, beside other results and alone."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import dprune, image_bytes, places_of
from PIL import Image
from scipy import stats
from studies import Run, made, write_metrics
from test_report import generated, page_of, rows_of, with_images

from dprune.formats.provenance import parent_record
from dprune.metrics.catalogue import PAIRED
from dprune.reporting.image_grid import SMALLEST
from dprune.sheets.sheet import sized

FEW = {"seeds": "0-11"}
FIRST = Run(scores="random", order="random", keep="0.5", grouped=False, sample=FEW, train={"fold": "0/2"})
SECOND = replace(FIRST, train={"fold": "1/2"})
NUMBERS = {
    "paired_cosine": 0.98, "shuffled_cosine": 0.7, "class_shuffled_cosine": 0.9, "paired_distance": 0.65,
    "shuffled_distance": 2.5, "class_shuffled_distance": 1.6, "paired_retrieval": 0.93,
}  # fmt: skip


def write_pairs(path: Path, first: Run, second: Run, *, more: dict[str, Any] | None = None, details: Any = None,
                **values: float) -> Path:  # fmt: skip
    """A result of pairs whose errors are all 0.01."""
    known = NUMBERS | values
    metrics = {name: number for key in known for name, number in ((key, known[key]), (f"{key}_se", 0.01))}
    details = {"paired": {"pairs": 12, "without_partner": [0, 0], "of_other_classes": 0, "classes": 10}} | (
        details or {}
    )
    return write_metrics(path, first, metrics | (more or {}), details=details, options={"metrics": ["paired"]},
                         reference=made(second.generated()), counts={"reference": 12})  # fmt: skip


def report(folder: Path, *args: object) -> Path:
    dprune("report", *args, "-o", folder / "report").ok()
    return folder / "report"


def test_a_row_says_how_alike_two_models_are(tmp_path: Path) -> None:
    folder = report(tmp_path, write_pairs(tmp_path / "p.json", FIRST, SECOND))
    half = "0.020"
    first, second = "random, half 1 of 2, pruned 0.5", "random, half 2 of 2, pruned 0.5"
    text = (folder / "pairs.md").read_text()
    assert f"| {first}, and {second} | 0.980 (±{half}) | 0.700 (±{half}) | 0.900 (±{half}) | 0.650 (±{half}) |" in text
    assert "Every row: 1 pair of trainings, 12 pairs of samples." in text
    (row,) = rows_of(folder, "pairs.csv")
    assert (row["first"], row["second"], row["features"], row["pairs"]) == (first, second, "inception", "12")
    assert {key: float(row[key]) for key in NUMBERS} == NUMBERS
    assert float(row["paired_cosine_se"]) == 0.01
    said = (
        f"for {first}, and {second}, the mean cosine of pairs is 0.980 (± {half}), beside 0.700 (± {half}) of shuffled "
        f"pairs and 0.900 (± {half}) of pairs shuffled in classes. The nearest sample of the other model is the "
        "partner for 93%."
    )
    page = " ".join(" ".join(page_of(folder).text).split())
    assert said in page
    assert said in (folder / "summary.md").read_text()
    # There is nothing else to tell.
    assert "1 pair of models." in page
    assert "unpruned" not in page
    assert not (folder / "lines.csv").exists()


def test_pairs_are_no_points_of_the_study(tmp_path: Path) -> None:
    study = [
        write_metrics(tmp_path / f"{n}.json", run) for n, run in enumerate((Run(), Run(scores="cluster-distance")))
    ]
    without = report(tmp_path / "without", *study)
    folder = report(tmp_path / "with", *study, write_pairs(tmp_path / "p.json", FIRST, SECOND))
    for name in ("quality.csv", "quality.md", "lines.csv"):
        assert (folder / name).read_bytes() == (without / name).read_bytes()
    assert json.loads((folder / "manifest.json").read_text())["provenance"]["parents"].keys() == {
        "result", "result 2", "pairs"
    }  # fmt: skip
    # A result that speaks of more is a point as well.
    both = write_pairs(tmp_path / "b.json", FIRST, SECOND, more={"frechet_distance": 3.0, "frechet_distance_se": 0.1})
    folder = report(tmp_path / "both", *study, both)
    assert len(rows_of(folder, "pairs.csv")) == 1
    assert "random" in (folder / "quality.csv").read_text()


def test_models_are_called_as_the_lines_of_the_report(tmp_path: Path) -> None:
    other = Run(scores="cluster-distance", sample=FEW)
    files = [write_metrics(tmp_path / f"{n}.json", run) for n, run in enumerate((Run(sample=FEW), other))]
    pairs = write_pairs(tmp_path / "p.json", other, Run(sample=FEW))
    folder = report(tmp_path, *files, pairs, "--label", "nearest=Near the centre")
    (row,) = rows_of(folder, "pairs.csv")
    assert (row["first"], row["second"]) == ("Near the centre, pruned 0.75", "unpruned")


def test_several_trainings_of_two_lines_are_one_row(tmp_path: Path) -> None:
    values = [0.98, 0.95, 0.97]
    files = [
        write_pairs(
            tmp_path / f"{seed}.json", *(replace(run, seed=seed) for run in (FIRST, SECOND)), paired_cosine=value
        )
        for seed, value in enumerate(values)
    ]
    folder = report(tmp_path, *files)
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
    text = (folder / "pairs.md").read_text()
    assert f"| {np.mean(values):.3f} ±{half:.3f} |" in text
    assert "Every row: 3 pairs of trainings, 12 pairs of samples." in text
    assert sorted(float(row["paired_cosine"]) for row in rows_of(folder, "pairs.csv")) == sorted(values)


def test_two_trainings_of_one_line_and_samples_made_elsewhere_have_names(tmp_path: Path) -> None:
    twice = write_pairs(tmp_path / "t.json", FIRST, replace(FIRST, seed=1))
    itself = write_pairs(tmp_path / "i.json", FIRST, FIRST)
    elsewhere = write_pairs(tmp_path / "e.json", FIRST, SECOND)
    content = write_metrics(tmp_path / "e.json", FIRST, NUMBERS, options={"metrics": ["paired"]},
                            reference=parent_record(None, "0123456789abcdef"))  # fmt: skip
    folder = report(tmp_path, twice, itself, elsewhere, content)
    names = {row["second"] for row in rows_of(folder, "pairs.csv")}
    assert names == {"another training of it", "itself", "samples made elsewhere (01234567)"}


@pytest.mark.parametrize("count", [None, 3])
def test_images_of_one_model_stand_above_those_of_the_other(tmp_path: Path, count: int | None) -> None:
    pairs = write_pairs(tmp_path / "p.json", FIRST, SECOND)
    folders = [generated(tmp_path / name, run, "0-11") for name, run in (("a", FIRST), ("b", SECOND))]
    more = () if count is None else ("--image-seeds", count)
    folder = report(tmp_path, pairs, *with_images(*folders), *more)
    shown, page = count or 8, page_of(folder)
    assert page.alts[:2] == ["random, half 1 of 2, pruned 0.5, seed 0", "random, half 1 of 2, pruned 0.5, seed 1"]
    assert len(page.alts) == 2 * shown
    assert page.alts[shown] == "random, half 2 of 2, pruned 0.5, seed 0"
    # They stand nowhere else, since nothing else was measured of them.
    assert [path.name for path in (folder / "images").iterdir()] == ["pairs.png"]
    with Image.open(folder / "images" / "pairs.png") as picture:
        sheet = np.asarray(picture)
    with Image.open(io.BytesIO(image_bytes(2))) as image:
        places = places_of(sheet, np.asarray(sized(image, SMALLEST)))
    assert len(places) == 2
    assert places[0][1] == places[1][1], "below each other"


def test_images_of_lines_that_were_measured_stand_in_both_grids(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "p.json", FIRST, SECOND)
    measured = write_metrics(tmp_path / "m.json", FIRST)
    folders = [generated(tmp_path / name, run, "0-11") for name, run in (("a", FIRST), ("b", SECOND))]
    folder = report(tmp_path, pairs, measured, *with_images(*folders))
    assert {path.name for path in (folder / "images").iterdir()} == {"grid.png", "pairs.png"}
    assert len(page_of(folder).alts) == 4 + 2 * 8


def test_of_one_model_alone_there_is_no_grid_of_pairs(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "p.json", FIRST, SECOND)
    folder = report(tmp_path, pairs, *with_images(generated(tmp_path / "a", FIRST, "0-11")))
    assert [path.name for path in (folder / "images").iterdir()] == ["grid.png"]


def test_features_of_several_networks_are_groups(tmp_path: Path) -> None:
    files = [write_pairs(tmp_path / "p.json", FIRST, SECOND)]
    other = json.loads(files[0].read_text())
    for side in other["inputs"]:
        side["model"] = "dinov2-b"
    other.pop("check")
    other["provenance"]["options"]["jackknife"] = 10
    (tmp_path / "q.json").write_text(json.dumps(other))
    folder = report(tmp_path, *files, tmp_path / "q.json")
    rows = list(csv.DictReader(io.StringIO((folder / "pairs.csv").read_text())))
    assert {row["features"] for row in rows} == {"inception", "dinov2-b"}
    assert "| features of dinov2-b | random" in (folder / "pairs.md").read_text()


def test_a_real_pair_goes_all_the_way(tmp_path: Path) -> None:
    """From images of two models to the report, as the commands chain."""
    for name, run in (("a", FIRST), ("b", SECOND)):
        generated(tmp_path / name, run, "0-11")
        dprune("embed", tmp_path / name, "--model", "pixels", "--image-size", 4, "--workers", 0, "-o",
               tmp_path / f"{name}-features").ok()  # fmt: skip
    dprune(
        "eval", tmp_path / "a-features", tmp_path / "b-features", "--metrics", "paired", "-o", tmp_path / "p.json"
    ).ok()
    folder = report(tmp_path, tmp_path / "p.json", *with_images(tmp_path / "a", tmp_path / "b"))
    (row,) = rows_of(folder, "pairs.csv")
    # Both folders hold the same images.
    assert (float(row["paired_cosine"]), float(row["paired_distance"])) == (pytest.approx(1), 0)
    assert {measure.key for measure in PAIRED} - row.keys() == {"class_shuffled_cosine", "class_shuffled_distance"}
    assert len(page_of(folder).alts) == 16
