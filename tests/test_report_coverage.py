"""dprune report: a table shows which trainings of a study are missing, as most lines go or as --expect lists them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Result, dprune
from studies import Run, write_memorization, write_metrics
from test_report_page import Tree

from dprune.reporting.study.grouping import MISSING

NEAREST = Run(scores="cluster-distance")


def trained(folder: Path, run: Run, seeds: range) -> list[Path]:
    """Results of some trainings."""
    folder.mkdir(exist_ok=True)
    files = []
    for seed in seeds:
        name = f"{run.scores or 'unpruned'}-{run.order}-{run.keep}-{seed}"
        seeded = replace(run, seed=seed)
        files += [write_metrics(folder / f"{name}.json", seeded), write_memorization(folder / f"{name}-m.json", seeded)]
    return files


def study(folder: Path) -> list[Path]:
    """Three trainings of everything, but one and none of two points."""
    runs = [replace(NEAREST, order=order, keep=keep) for order in ("lowest", "highest") for keep in ("0.5", "0.25")]
    counts = [3, 3, 1, 0]
    files = trained(folder, Run(), range(3))
    return files + [file for run, n in zip(runs, counts, strict=True) for file in trained(folder, run, range(n))]


def report(folder: Path, *args: object) -> Result:
    return dprune("report", *args, "-o", folder / "report")


def table(folder: Path) -> dict[str, dict[str, str]]:
    """The table of the page: the texts of points by line and ratio."""
    root = Tree((folder / "report" / "report.html").read_text()).root
    (section,) = root.all("section", id="trainings")
    heads, *rows = [[cell.text for cell in row.children] for row in section.all("tr")]
    return {line: dict(zip(heads[1:], cells, strict=True)) for line, *cells in rows}


def listed(folder: Path, *rows: str, heads: str = "line,pruned,result") -> Path:
    path = folder / "expected.csv"
    path.write_text("\n".join([heads, *rows]) + "\n")
    return path


def test_points_that_most_lines_have_are_missing(tmp_path: Path) -> None:
    report(tmp_path, *study(tmp_path)).ok()
    assert table(tmp_path) == {
        "unpruned": {"unpruned": "3", "pruned 0.5": MISSING, "pruned 0.75": MISSING},
        "nearest": {"unpruned": MISSING, "pruned 0.5": "3", "pruned 0.75": "3"},
        "furthest": {"unpruned": MISSING, "pruned 0.5": "1 of 3", "pruned 0.75": "missing"},
    }
    text = (tmp_path / "report" / "summary.md").read_text()
    assert "5 of 15 trainings are missing, going by what most points have." in text
    rows = list(csv.DictReader((tmp_path / "report" / "trainings.csv").read_text().splitlines()))
    assert rows[-1] == {"line": "furthest", "pruned": "0.75", "trainings": "0", "expected": "3"}
    assert len(rows) == 5


def test_a_line_of_ratios_of_its_own_lacks_nothing(tmp_path: Path) -> None:
    """As many of each cluster as the smallest has is one ratio, whatever those of others are."""
    files = [*trained(tmp_path, Run(), range(3)), *trained(tmp_path, NEAREST, range(3))]
    files += trained(tmp_path, replace(NEAREST, order="highest"), range(3))
    files += trained(tmp_path, replace(NEAREST, keep="0.37", select={"quota": "equal"}), range(3))
    summary = json.loads(report(tmp_path, *files, "--json").ok().out)
    assert not [said for said in summary["conclusions"]["cautions"] if "issing" in said]
    assert "Trainings</h2>" not in (tmp_path / "report" / "report.html").read_text()
    assert not (tmp_path / "report" / "trainings.csv").exists()


def test_a_list_says_what_should_be_there(tmp_path: Path) -> None:
    """Lines without any result have the names of the list; paths are relative to its folder."""
    runs = tmp_path / "runs"
    files = study(runs)
    rows = [f"unpruned,0,runs/unpruned-lowest-0.25-{seed}.json" for seed in range(3)]
    rows += [f"near,0.5,runs/cluster-distance-lowest-0.5-{seed}.json" for seed in range(3)]
    # The list speaks of what was meant; what was measured is what counts.
    rows += [f"near,0.7501,runs/cluster-distance-lowest-0.25-{seed}.json" for seed in range(5)]
    rows += [f"near,0.9,runs/{seed}.json" for seed in range(3)]
    rows += [f"MoSo <inverse>,0.4999,runs/moso-{seed}.json" for seed in range(2)]
    report(tmp_path, *files, "--expect", listed(tmp_path, *rows)).ok()
    found = table(tmp_path)
    assert found["nearest"] == {
        "unpruned": MISSING, "pruned 0.5": "3", "pruned 0.75": "3 of 5", "pruned 0.9": "missing"
    }  # fmt: skip
    assert found["MoSo <inverse>"]["pruned 0.5"] == "missing"
    assert found["furthest"]["pruned 0.5"] == "1", "what is there and was not expected is no gap"
    text = (tmp_path / "report" / "summary.md").read_text()
    assert "- 7 of 16 trainings are missing: nearest, pruned 0.75 (3 of 5); nearest, pruned 0.9; MoSo" in text
    assert "going by" not in text
    assert 'title="runs/moso-0.json; runs/moso-1.json"' in (tmp_path / "report" / "report.html").read_text()


def test_a_complete_list_is_shown_too(tmp_path: Path) -> None:
    files = trained(tmp_path, Run(), range(1))
    report(tmp_path, *files, "--expect", listed(tmp_path, f"all,0,{files[0]}")).ok()
    assert table(tmp_path) == {"unpruned": {"unpruned": "1"}}
    assert "0 of 1 trainings are missing." in (tmp_path / "report" / "summary.md").read_text()


def test_the_list_is_recorded(tmp_path: Path) -> None:
    files = trained(tmp_path, Run(), range(2))
    rows = [f"all,0,{file.name}" for file in files[::2]]
    report(tmp_path, *files, "--expect", listed(tmp_path, *rows)).ok()
    assert "up to date" in report(tmp_path, *files, "--expect", listed(tmp_path, *rows)).ok().err
    report(tmp_path, *files, "--expect", listed(tmp_path, *rows, "all,0,more.json")).fails(3, "made differently")
    report(tmp_path, *files).fails(3, "made differently")


@pytest.mark.parametrize(
    ("heads", "row", "said"),
    [
        ("line,ratio,result", "a,0.5,x", "must name the columns line, pruned, result"),
        ("line,pruned,result", "a,half,x", "line 2 needs"),
        ("line,pruned,result", "a,1,x", "line 2 needs"),
        ("line,pruned,result", "a,nan,x", "line 2 needs"),
        ("line,pruned,result", ",0.5,x", "line 2 needs"),
        ("line,pruned,result", "a,0.5", "line 2 needs"),
        ("line,pruned,result", '"a,0.5,x', "is no CSV"),
        ("line,pruned,result", "", "lists no training"),
    ],
)
def test_bad_lists(tmp_path: Path, heads: str, row: str, said: str) -> None:
    files = trained(tmp_path, Run(), range(1))
    report(tmp_path, *files, "--expect", listed(tmp_path, row, heads=heads)).fails(3, "--expect", "expected.csv", said)


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    files = trained(tmp_path, Run(), range(1))
    report(tmp_path, *files, "--expect", tmp_path / "none.csv").fails(3, "--expect", "none.csv", "no such file")
    (tmp_path / "odd.csv").write_bytes(b"line,pruned,result\n\xff\xfe,0,x\n")
    report(tmp_path, *files, "--expect", tmp_path / "odd.csv").fails(3, "odd.csv", "UTF-8")
