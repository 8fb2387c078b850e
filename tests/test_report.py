"""dprune report: the page and the files beside it, images and maps, what stands already, bad input."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import Result, dprune, image_bytes, places_of, write_tar
from PIL import Image
from scipy import stats
from studies import Run, histograms, made, rewrite, shares, write_memorization, write_metrics

from dprune.errors import DpruneError
from dprune.formats.provenance import make_record, parent, parent_record
from dprune.formats.publish import publish_bytes
from dprune.formats.shard_index import build_index
from dprune.reporting.image_grid import SMALLEST
from dprune.reporting.study.grouping import MISSING
from dprune.reporting.tables import half_text, number_text
from dprune.sheets.sheet import sized

SVG = "{http://www.w3.org/2000/svg}"
PRUNED = Run(scores="cluster-distance")
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """A page that is checked while it is read: tags are closed in order, nothing is fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.alts: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag not in ("link", "iframe", "object")
        assert tag != "script" or all(name in ("type", "id") for name, _ in attrs)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "href") or value.startswith(("data:image/png;base64,", "#")), (tag, value)
        if tag == "img":
            self.images += [value for name, value in attrs if name == "src"]
            self.alts += [value for name, value in attrs if name == "alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(folder: Path) -> Page:
    text = (folder / "report.html").read_text()
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    return Page(text)


def study(folder: Path, seeds=(0, 1)) -> list[Path]:
    """Files of both kinds: two methods and the unpruned at two ratios."""
    runs = [
        replace(PRUNED, order=o, keep=k, seed=s) for o in ("lowest", "highest") for k in ("0.5", "0.1") for s in seeds
    ]
    runs += [Run(seed=seed) for seed in seeds] + [Run(scores="random", order="random", keep="0.5")]
    files = [write_metrics(folder / f"q{n}.json", run, details=shares(run)) for n, run in enumerate(runs)]
    return files + [write_memorization(folder / f"m{n}.json", run) for n, run in enumerate(runs)]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / name).read_text())))


def test_a_study_becomes_a_page_tables_and_curves(tmp_path: Path) -> None:
    result = dprune("report", *study(tmp_path), "-o", tmp_path / "report", "--json").ok()
    summary = json.loads(result.out)
    found = files_of(tmp_path / "report")
    assert (summary["results"], summary["lines"], summary["files"]) == (22, 4, len(found) - 1)
    page = page_of(tmp_path / "report")
    said = " ".join(page.text)
    for words in ("Quality", "Balance", "Memorization", "How it was made", "furthest", "unpruned"):
        assert words in said
    assert {"quality.md", "memorization.csv", "shares.csv", "shares-by-group.csv", "curves/kid.csv"} <= found.keys()
    manifest = json.loads(found["manifest.json"])
    assert manifest["kind"] == "report"
    assert sorted([*manifest["contents"], "manifest.json"]) == sorted(found)
    assert len(manifest["provenance"]["parents"]) == 22


def test_numbers_of_the_tables_are_those_of_the_results(tmp_path: Path) -> None:
    values = {0: 10.0, 1: 14.0}
    for seed, value in values.items():
        metrics = {"frechet_distance": value, "frechet_distance_se": 0.5, "kid": None, "kid_se": None}
        write_metrics(tmp_path / f"{seed}.json", replace(PRUNED, seed=seed), metrics)
    write_metrics(tmp_path / "u.json", Run(), {"frechet_distance": 8.0, "frechet_distance_se": 0.25})
    dprune("report", *tmp_path.glob("*.json"), "-o", tmp_path / "report").ok()
    unpruned, pruned = rows_of(tmp_path / "report", "quality.csv")
    assert (unpruned["line"], unpruned["pruned"], float(unpruned["frechet_distance"])) == ("unpruned", "0.0", 8.0)
    assert [unpruned[f"frechet_distance_{name}"] for name in ("se", "over", "units")] == ["0.25", "sampling", "1"]
    assert float(unpruned["frechet_distance_half_width"]) == pytest.approx(1.96 * 0.25, rel=1e-4)
    assert (pruned["method"], pruned["order"], pruned["pruned"]) == ("cluster-distance", "lowest", "0.75")
    assert (pruned["trainings"], pruned["samplings"]) == ("2", "2")
    assert (pruned["generated"], pruned["reference"]) == ("500", "2000")
    assert float(pruned["frechet_distance"]) == 12.0
    assert float(pruned["frechet_distance_se"]) == pytest.approx(2)
    assert float(pruned["frechet_distance_half_width"]) == pytest.approx(2 * stats.t.ppf(0.975, 1))
    assert (pruned["frechet_distance_over"], pruned["frechet_distance_units"]) == ("trainings", "2")
    assert pruned["kid"] == ""
    markdown = (tmp_path / "report" / "quality.md").read_text().splitlines()
    assert markdown[2] == f"| unpruned | 0 | 1 | 1 | 500 | 8.00 (±0.49) | {MISSING} |"
    assert markdown[3] == f"| nearest | 0.75 | 2 | 1 | 500 | 12 ±25 | {MISSING} |"
    assert "Not computable from these samples: KID." in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.0003, "12.00"),
        (0.0018834, "0.001883"),
        (3.0, "3"),
        (123456.7, "123,457"),
        (1e-9, "1.000e-09"),
        (-0.5, "-0.5000"),
    ],
)
def test_numbers_have_four_digits(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (16.5432, 1.234, "16.5 ±1.2"),
        (12.0003, 0.0066, "12.0003 ±0.0066"),
        (0.7556, 0.2301, "0.76 ±0.23"),
        (3.0, 0.2, "3.00 ±0.20"),
        (0.5, 0.0995, "0.50 ±0.10"),
        (1234.5, 25.6, "1,234 ±26"),
        (123456.0, 12345.0, "123,456 ±12,345"),
        (0.0, 0.03, "0.000 ±0.030"),
        (1e-9, 2e-10, "1.000e-09 ±2.0e-10"),
    ],
)
def test_numbers_have_as_many_decimals_as_their_intervals(value: float, half: float, text: str) -> None:
    assert f"{number_text(value, half)} ±{half_text(half)}" == text


def test_the_same_results_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    files = study(tmp_path, seeds=(0,))
    dprune("report", *files, "-o", tmp_path / "one").ok()
    moved = [path.rename(path.with_name(f"moved-{path.name}")) for path in files]
    dprune("report", *reversed(moved), "-o", tmp_path / "two").ok()
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_report_that_stands_is_left_replaced_or_refused(tmp_path: Path) -> None:
    files, out = study(tmp_path, seeds=(0,)), tmp_path / "report"
    dprune("report", *files, "-o", out).ok()
    before = files_of(out)
    assert "up to date" in dprune("report", *files, "-o", out).ok().err
    (out / "curves" / "kid.csv").unlink()
    dprune("report", *files, "-o", out).ok()
    assert files_of(out) == before
    dprune("report", *files, "-o", out, "--title", "Another").fails(3, "--overwrite")
    assert files_of(out) == before
    (out / "mine.txt").write_text("notes")
    dprune("report", files[0], files[4], "-o", out, "--overwrite").ok()
    left = files_of(out).keys()
    assert "mine.txt" in left
    assert "memorization.md" not in left


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path, shards: Path) -> None:
    file = write_metrics(tmp_path / "a.json", PRUNED)
    dprune("report", file, "-o", shards).fails(3, "--overwrite")
    dprune("pack", shards, "-o", tmp_path / "packed").ok()
    dprune("report", file, "-o", tmp_path / "packed", "--overwrite").fails(3, "folder of shards")


def test_results_given_twice_count_once(tmp_path: Path) -> None:
    file = write_metrics(tmp_path / "a.json", PRUNED)
    (tmp_path / "copy.json").write_bytes(file.read_bytes())
    result = dprune("report", file, tmp_path / "copy.json", "-o", tmp_path / "report").ok()
    assert "counts once" in result.err
    (row,) = rows_of(tmp_path / "report", "quality.csv")
    assert row["trainings"] == "1"


@pytest.mark.parametrize("details", [{}, {"histograms": None}])
def test_memorization_alone_with_nothing_but_a_mean(tmp_path: Path, details: dict) -> None:
    metrics = {"nearest_distance_mean": 5.0, "copying_c_t": None}
    write_memorization(tmp_path / "a.json", PRUNED, metrics, details=details)
    dprune("report", tmp_path / "a.json", "-o", tmp_path / "report").ok()
    assert "Memorization" in page_of(tmp_path / "report").text
    assert not (tmp_path / "report" / "quality.md").exists()


def test_what_people_name_things_is_shown_as_text(tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">|=1+1'
    run = replace(PRUNED, tags={"select": {"method": f"={evil}", "note": evil}})
    file = write_metrics(tmp_path / "a.json", run, details=shares(run))
    write_metrics(tmp_path / "b.json", Run(data="other"), details=shares(PRUNED))
    rewrite(file, lambda content: content["inputs"][0].update(model=evil))
    dprune("report", file, tmp_path / "b.json", "-o", tmp_path / "report", "--title", f"</title>{evil}",
           "--format", "svg").ok()  # fmt: skip
    assert evil in " ".join(page_of(tmp_path / "report").text)
    for path in tmp_path.glob("report/*/*.svg"):
        ET.parse(path)
    assert "<img" not in (tmp_path / "report" / "quality.md").read_text()
    for name in ("quality.csv", "shares-by-group.csv"):
        cells = [cell for row in rows_of(tmp_path / "report", name) for cell in row.values()]
        assert any(cell.startswith("'=") for cell in cells)
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]


def test_no_name_of_a_group_is_run_by_a_spreadsheet(tmp_path: Path) -> None:
    details = shares(PRUNED, groups=4)
    details["shares"]["cluster"]["names"] = ["=1+1", "+1", "-1", "@a"]
    dprune("report", write_metrics(tmp_path / "a.json", PRUNED, details=details), "-o", tmp_path / "report").ok()
    found = [row["group"] for row in rows_of(tmp_path / "report", "shares-by-group.csv")]
    assert found == ["'=1+1", "'+1", "'-1", "'@a"]


def test_no_path_stands_in_a_report(tmp_path: Path) -> None:
    dprune("report", *study(tmp_path, seeds=(0,)), "-o", tmp_path / "report").ok()
    assert not [name for name, data in files_of(tmp_path / "report").items() if str(tmp_path).encode() in data]


def generated(folder: Path, run: Run, seeds: str = "0-3", bad: bool = False, labels: Sequence[int] = ()) -> Path:
    """A folder as `sample` leaves it: images that are of one colour a run."""
    record = parent(run.generated(), "shards")
    record |= {"options": {**record["options"], "seeds": seeds}}
    first, last = map(int, seeds.split("-"))
    members = [(f"{seed:08d}.png", image_bytes(seed)) for seed in range(first, last + 1)]
    if bad:
        members[0] = (members[0][0], b"no image")
    members += [(f"{first + number:08d}.cls", b"%d" % label) for number, label in enumerate(labels)]
    members.sort()
    index = build_index(str(write_tar(folder / "000000.tar", members)))
    content = {
        "kind": "shards",
        "shards": [{"name": "000000.tar", "count": len(index), "digest": index.digest}],
        "provenance": record,
    }
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def with_images(*folders: Path) -> list[object]:
    return [part for folder in folders for part in ("--images", folder)]


def test_images_are_called_as_the_lines_of_their_models(tmp_path: Path) -> None:
    """By themselves they would be one line of two clusterings, and so without their number."""
    runs = [PRUNED, replace(PRUNED, k=10), Run()]
    files = [write_metrics(tmp_path / f"{n}.json", run) for n, run in enumerate(runs)]
    folders = [generated(tmp_path / "u", Run()), generated(tmp_path / "a", PRUNED)]
    for more, label in (((), "nearest, 24 clusters"), (("--label", "nearest, 24 clusters=Ours"), "Ours")):
        dprune("report", *files, *with_images(*folders), *more, "-o", tmp_path / label).ok()
        page = page_of(tmp_path / label)
        assert {alt.partition(", seed")[0].partition(", pruned")[0] for alt in page.alts} == {"unpruned", label}


def test_images_stand_by_method_and_ratio_and_empty_cells_say_so(tmp_path: Path) -> None:
    file = write_metrics(tmp_path / "a.json", PRUNED)
    folders = [
        generated(tmp_path / "u", Run(), "0-5"),
        generated(tmp_path / "a", PRUNED, "2-9"),
        generated(tmp_path / "b", replace(PRUNED, keep="0.5"), "1-5"),
        generated(tmp_path / "c", replace(PRUNED, order="highest")),
        generated(tmp_path / "again", replace(PRUNED, seed=1), "2-9"),
    ]
    dprune("report", file, *with_images(*folders), "--image-seeds", 9, "-o", tmp_path / "report").ok()
    page = page_of(tmp_path / "report")
    # Two seeds are in all of them. Of the two trainings one is shown, the unpruned at both ratios, and (highest, 0.5)
    # has no images.
    assert len(page.images) == 2 * (2 + 3)
    assert page.text.count("no images") == 1
    assert "The seeds are 2, 3." in " ".join(page.text)
    with Image.open(tmp_path / "report" / "images" / "grid.png") as grid:
        sheet = np.asarray(grid)
    for seed, count in ((2, 5), (3, 5), (4, 0)):
        with Image.open(io.BytesIO(image_bytes(seed))) as image:
            shown = np.asarray(sized(image, SMALLEST))
        assert len(places_of(sheet, shown)) == count


def test_images_carry_the_names_of_their_classes(tmp_path: Path) -> None:
    """Above the columns where all models gave a seed the same class, else below each image."""
    file = write_metrics(tmp_path / "a.json", PRUNED)
    folders = [
        generated(tmp_path / "u", Run(), labels=[0, 1, 0, 1]),
        generated(tmp_path / "a", PRUNED, labels=[0, 1, 0, 1]),
    ]
    for folder in folders:
        (folder / "classes.txt").write_text("cats & <b>dogs</b>\nWellensittich\n")
    dprune("report", file, *with_images(*folders), "-o", tmp_path / "one").ok()
    page = page_of(tmp_path / "one")
    assert (page.text.count("cats & <b>dogs</b>"), page.text.count("Wellensittich")) == (2, 2)
    assert "unpruned, seed 0, cats & <b>dogs</b>" in page.alts
    other = generated(tmp_path / "b", replace(PRUNED, order="highest"), labels=[0, 0, 1, 1])
    (other / "classes.txt").write_text("cats & <b>dogs</b>\nWellensittich\n")
    dprune("report", file, *with_images(*folders, other), "-o", tmp_path / "two").ok()
    page = page_of(tmp_path / "two")
    assert [page.text.count(name) for name in ("cats & <b>dogs</b>", "Wellensittich")] == [6, 6]


def test_seeds_of_the_same_class_everywhere_are_shown_first(tmp_path: Path) -> None:
    """A model that was trained on nothing of a class draws another in its place."""
    file = write_metrics(tmp_path / "a.json", PRUNED)
    folders = [
        generated(tmp_path / "u", Run(), labels=[0, 1, 2, 0, 1, 2], seeds="0-5"),
        generated(tmp_path / "a", PRUNED, labels=[0, 1, 1, 0, 1, 0], seeds="0-5"),
    ]
    report = ("report", file, *with_images(*folders), "--image-seeds")
    dprune(*report, 3, "-o", tmp_path / "one").ok()
    assert "The seeds are 0, 1, 3." in " ".join(page_of(tmp_path / "one").text)
    dprune(*report, 5, "-o", tmp_path / "all").ok()
    said = " ".join(page_of(tmp_path / "all").text)
    assert "The seeds are 0 to 4." in said
    assert "its class below it" in said


def test_the_baseline_is_what_it_is_said_to_be(tmp_path: Path) -> None:
    """A file stands for all results of such a training set, whatever their kind and seed, and so does its line."""
    control = replace(PRUNED, scores="random", order="random", keep="0.9")
    files = []
    for n, run in enumerate((control, replace(control, seed=1), PRUNED, replace(PRUNED, keep="0.5"))):
        files += [write_metrics(tmp_path / f"q{n}.json", run), write_memorization(tmp_path / f"m{n}.json", run)]
    images = [generated(tmp_path / f"i{n}", run) for n, run in enumerate((control, PRUNED))]

    def report(*names: object) -> Result:
        named = [part for name in names for part in ("--baseline", name)]
        return dprune("report", *files, *with_images(*images), *named, "-o", tmp_path / "report", "--overwrite")

    assert "--baseline" in report().ok().err
    assert "none of them unpruned" in " ".join(page_of(tmp_path / "report").text)
    seen = []
    for name in (files[0], files[3], "random", "random, 0.1", "random, pruned 0.1", images[0]):
        assert "--baseline" not in report(name).ok().err
        for table in ("quality.csv", "memorization.csv"):
            rows = rows_of(tmp_path / "report", table)
            assert [(row["line"], row["trainings"]) for row in rows[:2]] == [
                ("baseline: random, pruned 0.1", "2"),
                (rows[1]["line"], "1"),
            ]
        page = page_of(tmp_path / "report")
        assert not {"no images", "random"} & set(page.text)
        seen.append(files_of(tmp_path / "report"))
    assert all(found == seen[0] for found in seen)
    report("nothing").fails(3, "--baseline nothing", "random, pruned 0.1", "nearest, pruned 0.75")
    report("nearest").fails(3, "2 pruning ratios", "'nearest, pruned 0.5'")
    assert files_of(tmp_path / "report") == seen[0]


def test_a_named_baseline_is_no_second_seed_of_another(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path / f"{n}.json", run) for n, run in enumerate((Run(), PRUNED, replace(PRUNED, k=9)))]
    dprune("report", *files, "--baseline", files[1], "-o", tmp_path / "report").ok()
    rows = rows_of(tmp_path / "report", "quality.csv")
    assert [(row["line"], row["trainings"]) for row in rows] == [
        ("baseline: nearest, pruned 0.75", "1"), ("unpruned", "1"), ("nearest", "1")
    ]  # fmt: skip


def test_plain_features_are_the_baseline_by_their_file_alone(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path / f"{n}.json", PRUNED, generated=parent_record(None, n * 64)) for n in "ab"]
    dprune("report", *files, "--baseline", files[0], "-o", tmp_path / "report").ok()
    assert [row["method"] for row in rows_of(tmp_path / "report", "quality.csv")] == ["unpruned", "external"]


def test_unpruned_images_alone(tmp_path: Path) -> None:
    file = write_metrics(tmp_path / "a.json", Run())
    dprune("report", file, *with_images(generated(tmp_path / "u", Run())), "-o", tmp_path / "report").ok()
    assert len(page_of(tmp_path / "report").images) == 4


def test_images_that_cannot_be_shown(tmp_path: Path, shards: Path) -> None:
    def report(*folders: Path):
        return dprune("report", file, *with_images(*folders), "-o", tmp_path / "report")

    file = write_metrics(tmp_path / "a.json", PRUNED)
    good = generated(tmp_path / "good", PRUNED)
    report(shards).fails(3, str(shards), "--images")
    report(tmp_path / "none").fails(3, "none", "--images")
    report(good, generated(tmp_path / "far", Run(), "7-9")).fails(3, "good", "far", "no seed in common")
    report(generated(tmp_path / "bad", PRUNED, bad=True)).fails(3, "00000000", "cannot be decoded")
    short = generated(tmp_path / "short", PRUNED)
    rewrite(short / "manifest.json", lambda content: content["provenance"]["options"].update(seeds="2-8"))
    report(short).fails(3, "short", "seed 4")
    rewrite(short / "manifest.json", lambda content: content["provenance"]["options"].update(seeds="many"))
    report(short).fails(3, "short", "which seeds")
    assert not (tmp_path / "report").exists()


@pytest.fixture
def features(tmp_path: Path):
    draw = np.random.default_rng(0)
    train = np.concatenate([draw.normal(5 * n, 1, (40, 6)) for n in range(3)]).astype(np.float32)
    np.save(tmp_path / "train.npy", train)
    np.save(tmp_path / "generated.npy", draw.normal(5, 1, (30, 6)).astype(np.float32))
    dprune("cluster", tmp_path / "train.npy", "-k", 3, "-o", tmp_path / "clusters.safetensors").ok()
    return tmp_path


@pytest.mark.parametrize("projection", ["pca", "tsne"])
@pytest.mark.parametrize("clustered", [True, False])
def test_maps_show_every_sample(features: Path, projection: str, clustered: bool) -> None:
    file = write_metrics(features / "a.json", PRUNED)
    more = ("--clusters", features / "clusters.safetensors") if clustered else ()
    inputs = ("--train", features / "train.npy", "--generated", features / "generated.npy")
    dprune("report", file, *inputs, *more, "--projection", projection, "--format", "svg", "-o",
           features / "report").ok()  # fmt: skip
    page_of(features / "report")
    outlines = [p for p in ET.parse(features / "report" / "map.svg").iter(f"{SVG}path") if p.get("stroke-width")]
    counts: dict[str, list[int]] = {}
    for path in outlines:
        counts.setdefault(path.get("stroke-width"), []).append(path.get("d").count("M"))
    assert {size: sum(found) for size, found in counts.items()} == {"3": 120, "6.4": 30, "4.4": 30}
    assert counts["3"] == ([40, 40, 40] if clustered else [120])
    rows = rows_of(features / "report", "map.csv")
    assert [sum(row["set"] == name for row in rows) for name in ("training", "generated")] == [120, 30]
    assert {row["cluster"] for row in rows if row["set"] == "training"} == (set("012") if clustered else {"-1"})


def test_maps_of_real_images_claim_no_training(tmp_path: Path, shards: Path) -> None:
    file = write_metrics(tmp_path / "a.json", PRUNED)
    dprune("embed", shards, "--model", "pixels", "-o", tmp_path / "real").ok()
    inputs = ("--train", tmp_path / "real", "--generated", tmp_path / "real", "--projection", "pca")
    dprune("report", file, *inputs, "-o", tmp_path / "report").ok()
    assert "Map of training samples and generated 1" in (tmp_path / "report" / "report.html").read_text()


def test_maps_that_cannot_be_drawn(features: Path) -> None:
    def report(**more: object):
        given = {"train": features / "train.npy", "generated": features / "generated.npy", **more}
        args = [part for name, value in given.items() if value is not None for part in (f"--{name}", value)]
        return dprune("report", file, *args, "-o", features / "report")

    file = write_metrics(features / "a.json", PRUNED)
    clusters = features / "clusters.safetensors"
    np.save(features / "wide.npy", np.zeros((5, 7), dtype=np.float32))
    np.save(features / "long.npy", np.zeros((121, 6), dtype=np.float32))
    np.save(features / "nan.npy", np.full((5, 6), np.nan, dtype=np.float32))
    np.save(features / "thin.npy", np.zeros((5, 1), dtype=np.float32))
    report(train=None, generated=None, clusters=clusters).fails(2, "--clusters", "--train")
    report(train=None, generated=None, projection="tsne").fails(2, "--projection", "--train")
    report(generated=None).fails(2, "--train", "--generated")
    report(generated=features / "wide.npy").fails(3, "wide.npy", "dimensions")
    report(train=features / "wide.npy", generated=features / "wide.npy", clusters=clusters).fails(3, "clusters", "wide")
    report(train=features / "long.npy", clusters=clusters).fails(3, "clusters", "121")
    report(generated=features / "nan.npy").fails(3, "nan.npy", "numbers")
    report(train=features / "nan.npy").fails(3, "nan.npy", "numbers")
    report(train=features / "thin.npy", generated=features / "thin.npy").fails(3, "thin.npy", "two dimensions")
    assert not (features / "report").exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[1]", "not a result"),
        ('{"kind": "run"}', "not a result"),
        ("null", "not a result"),
    ],
)
def test_what_is_no_result(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "a.json").write_text(content)
    dprune("report", tmp_path / "a.json", "-o", tmp_path / "report").fails(3, "a.json", word)
    assert not (tmp_path / "report").exists()


def test_what_is_not_there_or_not_asked_for(tmp_path: Path) -> None:
    file = write_metrics(tmp_path / "a.json", PRUNED)
    dprune("report", tmp_path / "none.json", "-o", tmp_path / "r").fails(3, "none.json")
    dprune("report", tmp_path, "-o", tmp_path / "r").fails(3, str(tmp_path))
    dprune("report", file, "--image-seeds", 4, "-o", tmp_path / "r").fails(2, "--image-seeds", "--images")
    dprune("report", file, "-o", "-").fails(2, "--output -", "folder")
    dprune("report", "-o", tmp_path / "r").fails(2, "RESULTS")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("shares", "cluster", "generated"), "most"),
        (("shares", "cluster", "reference"), [0.5, 0.5]),
        (("prd", "recall"), [0.1, None]),
        (("prd", "precision"), []),
    ],
)
def test_damaged_details_are_one_sentence(tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    details = shares(PRUNED)
    inner = details
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file = write_metrics(tmp_path / "a.json", PRUNED, details=details)
    dprune("report", file, "-o", tmp_path / "report").fails(3, "a.json", "damaged")
    assert not (tmp_path / "report").exists()


def test_damaged_histograms_are_one_sentence(tmp_path: Path) -> None:
    details = histograms(PRUNED)
    details["histograms"]["edges"].reverse()
    file = write_memorization(tmp_path / "a.json", PRUNED, details=details)
    dprune("report", file, "-o", tmp_path / "report").fails(3, "a.json", "damaged")


def test_a_dry_run_touches_nothing(tmp_path: Path) -> None:
    file = write_metrics(tmp_path / "a.json", PRUNED)
    plan = json.loads(dprune("report", file, "-o", tmp_path / "report", "--dry-run", "--json").ok().out)
    assert plan["provenance"]["command"] == "report"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_record_of_select_without_parents_is_read(tmp_path: Path) -> None:
    run = Run(subset=made(make_record("select", {"keep": "0.25"})))
    dprune("report", write_metrics(tmp_path / "a.json", run), "-o", tmp_path / "report").ok()
    (row,) = rows_of(tmp_path / "report", "quality.csv")
    assert (row["line"], row["pruned"]) == ("external", "0.75")


def test_a_report_that_was_cut_off_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("report", *study(tmp_path, seeds=(0,)), "-o")
    dprune(*args, tmp_path / "whole").ok()
    written = []

    def full(path, data):
        if len(written) == 5:
            raise DpruneError("cannot write: no space left.")
        written.append(path)
        publish_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("dprune.reporting.job.publish_bytes", full)
        dprune(*args, tmp_path / "cut").fails(1, "no space left")
    assert dprune("info", tmp_path / "cut").code == 3
    dprune(*args, tmp_path / "cut").ok()
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert dprune("info", tmp_path / "cut").code == 0
