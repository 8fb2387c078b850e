"""Shares of clusters and classes in the report: generated beside training, of lines that may differ in quotas."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import dprune
from safetensors.numpy import save_file
from scipy import stats
from studies import Run, made, mark, write_metrics

from dprune.charts.scatter import scatter
from dprune.formats.provenance import make_record, parent_record

TAIL = np.array([0.5, 0.3, 0.15, 0.05])
EQUAL = np.full(4, 0.25)
NEAREST = Run(scores="cluster-distance", keep=None, samples=200)
BALANCED = replace(NEAREST, select={"quota": "equal"})
PROPORTIONAL = replace(NEAREST, keep="200")


def measured(path: Path, run: Run, generated: np.ndarray, training: np.ndarray | None, **more: Any) -> Path:
    """A result with shares of four clusters, as eval leaves it."""
    table = {"names": list(range(len(generated))), "generated": generated.tolist(), "reference": TAIL.tolist(),
             "generated_se": [0.01] * len(generated), "unlabelled": 0}  # fmt: skip
    apart = {} if training is None else {"cluster_training_variation": float(np.abs(generated - training).sum() / 2)}
    if training is not None:
        table["training"] = training.tolist()
        if np.ptp(training):
            apart["cluster_training_slope"] = float(np.polyfit(training, generated, 1)[0])
    table |= more.pop("table", {})
    errors = {f"{key}_se": 0.02 for key in apart}
    metrics = {"frechet_distance": 12.0, "cluster_smallest_share": float(generated.min()), **apart, **errors}
    return write_metrics(path, run, metrics, details={"shares": {"cluster": table}}, **more)


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    """Two trainings each of equal and proportional quotas, and one of everything."""
    files = []
    for seed, shift in enumerate((0.02, -0.02)):
        moved = np.array([shift, 0, 0, -shift])
        for name, run, training in (("b", BALANCED, EQUAL), ("p", PROPORTIONAL, TAIL)):
            files.append(measured(tmp_path / f"{name}{seed}.json", replace(run, seed=seed), training + moved, training))
    return [*files, measured(tmp_path / "all.json", Run(), TAIL, TAIL)]


def report(folder: Path, *args: object) -> Path:
    dprune("report", *args, "-o", folder / "report").ok()
    return folder / "report"


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "shares-by-group.csv").read_text().splitlines()))


def test_every_share_stands_beside_that_of_the_training_set(study: list[Path], tmp_path: Path) -> None:
    folder = report(tmp_path, *study)
    rows = {(row["line"], row["group"]): row for row in rows_of(folder)}
    assert len(rows) == 12
    lines = {line for line, _ in rows}
    (balanced,) = [line for line in lines if "equal" in line]
    row = rows[balanced, "0"]
    assert (float(row["generated"]), float(row["training"]), float(row["reference"])) == (0.25, 0.25, 0.5)
    half = stats.t.ppf(0.975, 1) * stats.sem([0.27, 0.23])
    assert float(row["half_width"]) == pytest.approx(half)
    assert (row["over"], row["units"], float(row["images"])) == ("trainings", "2", 125)
    # One training has the error of its samples alone.
    assert (float(rows["unpruned", "3"]["se"]), rows["unpruned", "3"]["over"]) == (0.01, "sampling")
    table = (folder / "shares.md").read_text().split("## Shares of each group")[1]
    assert "Share of each cluster in %" in table
    assert "Share of each cluster in %, pruned 0.9" in table
    assert f"| {balanced}: trained on |" in table
    assert "| 3 | 5.0 | 5.0 | 5.0 (\u00b12.0) |" in table
    page = (folder / "report.html").read_text()
    assert "<details open><summary>Share of each cluster in %, pruned 0.9</summary>" in page
    assert page.count(": trained on</th>") == 3


def test_words_say_whether_shares_follow_the_training_set(study: list[Path], tmp_path: Path) -> None:
    said = " ".join((report(tmp_path, *study) / "summary.md").read_text().split())
    assert "**Balance of clusters**: the slope of generated cluster shares over those of the training set" in said
    assert "1.000 (\u00b1 0.039) for unpruned; 1.00 \u00b1 0.99 for nearest, pruned 0.9." in said
    assert "trained on as many samples of each cluster, generated shares differ from equal ones by 0.020" in said
    assert "the one that is generated least has the largest share for" in said


def test_results_that_know_of_no_training_set_show_what_they_have(tmp_path: Path) -> None:
    """As those of an older dprune."""
    old = {"generated_se": None}
    files = [
        measured(tmp_path / f"{n}.json", run, TAIL, None, table=old) for n, run in enumerate((Run(), PROPORTIONAL))
    ]
    folder = report(tmp_path, *files)
    rows = rows_of(folder)
    assert {(row["training"], row["se"], row["half_width"]) for row in rows} == {("", "", "")}
    assert ": trained on" not in (folder / "report.html").read_text()
    assert "Balance" not in (folder / "summary.md").read_text()


def test_clusters_of_two_clusterings_are_never_averaged(tmp_path: Path) -> None:
    """Their numbers are the same, but not what they are of."""
    files = []
    for seed in (0, 1):
        clusters = make_record("cluster", {"k": 4}, seed=seed, parents={"features": made(Run().features())})
        shares = TAIL if seed else TAIL[::-1]
        given = parent_record(clusters, mark("clusters", seed))
        files.append(measured(tmp_path / f"{seed}.json", replace(NEAREST, seed=seed), shares, TAIL, clusters=given))
    folder = report(tmp_path, *files)
    assert sorted(float(row["generated"]) for row in rows_of(folder)) == sorted([*TAIL, *TAIL])
    text = (folder / "shares.md").read_text()
    assert "Share of each cluster in %, clustering 1" in text
    assert "Share of each cluster in %, clustering 2" in text


def test_the_largest_and_the_smallest_of_many_groups_are_shown(tmp_path: Path) -> None:
    many = np.arange(1, 101) / np.arange(1, 101).sum()
    table = {"names": [f"g{n}" for n in range(100)], "reference": many.tolist()}
    folder = report(tmp_path, measured(tmp_path / "m.json", Run(), many, many, table=table))
    text = (folder / "shares.md").read_text().split("## Shares of each group")[1]
    shown = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| g")]
    assert shown == [*(f"g{n}" for n in range(99, 79, -1)), *(f"g{n}" for n in range(19, -1, -1))]
    assert "60 more in shares-by-group.csv" in text
    assert len(rows_of(folder)) == 100


def test_many_lines_stand_in_a_table_for_each_ratio(tmp_path: Path) -> None:
    runs = [Run(), *(Run(scores="cluster-distance", order=order, keep=keep) for keep in ("0.5", "0.25", "0.1")
                     for order in ("lowest", "highest"))]  # fmt: skip
    folder = report(tmp_path, *(measured(tmp_path / f"{n}.json", run, TAIL, None) for n, run in enumerate(runs)))
    text = (folder / "shares.md").read_text()
    for ratio in ("0.5", "0.75", "0.9"):
        lines = text.split(f"in %, pruned {ratio}")[1].splitlines()
        head = next(line for line in lines if line.startswith("| Cluster"))
        assert head == "| Cluster | Reference | unpruned | nearest | furthest |"


@pytest.mark.parametrize(
    "table", [{"training": [0.5, 0.5]}, {"training": "most"}, {"generated_se": [0.1]}, {"reference": [1.0]}]
)
def test_damaged_shares_are_one_sentence(tmp_path: Path, table: dict[str, object]) -> None:
    file = measured(tmp_path / "a.json", NEAREST, TAIL, None, table=table)
    dprune("report", file, "-o", tmp_path / "report").fails(3, "a.json", "damaged")
    assert not (tmp_path / "report").exists()


def test_maps_show_what_was_clustered_with_rare_clusters_on_top(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    save_file({"features": draw.normal(size=(60, 4)).astype(np.float32)}, tmp_path / "x.safetensors")
    np.save(tmp_path / "made.npy", draw.normal(size=(20, 4)).astype(np.float32))
    np.save(tmp_path / "tailed.npy", np.arange(0, 60, 2))
    clusters = ("cluster", tmp_path / "x.safetensors", "-k", 3, "--subset", tmp_path / "tailed.npy")
    dprune(*clusters, "-o", tmp_path / "c.safetensors").ok()
    result = write_metrics(tmp_path / "a.json", NEAREST)
    folder = report(tmp_path, result, "--train", tmp_path / "x.safetensors", "--generated", tmp_path / "made.npy",
                    "--clusters", tmp_path / "c.safetensors")  # fmt: skip
    rows = list(csv.DictReader((folder / "map.csv").read_text().splitlines()))
    assert sum(row["set"] == "training" for row in rows) == 30
    assert {row["cluster"] for row in rows} == {"0", "1", "2"}
    common, rare = [(x, 0.0) for x in range(5)], [(0.0, 1.0)]
    figure = scatter("a", "s", [*rare, *common], [0, *[1] * 5], [(1, 1)], [0], ((0, 0), (4, 1)))
    numbered = scatter("a", "s", common, [1] * 5, [(1, 1)], [1], ((0, 0), (4, 1)), {1: (2.0, 0.5)})
    assert "1" in [element.text for element in ET.fromstring(numbered.picture).iter("{http://www.w3.org/2000/svg}text")]
    order = [layer["colour"] for layer in figure.data["dots"]]
    assert order.index("var(--chart-c1)") < order.index("var(--chart-c0)")
