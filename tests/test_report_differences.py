"""dprune report: differences from the unpruned, and which value is the best."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import dprune
from scipy import stats
from studies import Run, write_metrics

from dprune.formats.provenance import parent_record
from dprune.formats.results import read_result, result_digest
from dprune.metrics.catalogue import QUALITY
from dprune.metrics.jackknife import Blocks
from dprune.reporting.study.experiments import point_of_result
from dprune.reporting.study.grouping import MISSING, compare
from dprune.reporting.tables import Table

PRUNED = Run(scores="cluster-distance")
BLOCKS = Blocks(torch.arange(500) % 10, (50,) * 10)
# What chance does to both where they share their noise, and to each by itself.
COMMON, OWN = (np.random.default_rng(seed).normal(0, deviation, 10) for seed, deviation in ((0, 0.3), (1, 0.02)))
KEY = "frechet_distance"
KEEPS = ("0.1", "0.5")


def result(path: Path, run: Run, value: float, pairing: str | None = "noise", own: float = 0.0) -> Path:
    """A result whose sampling error is mostly common to all."""
    found = BLOCKS.estimate(value, value + COMMON + own * OWN)
    kept = {"blocks": 10, "sizes": list(BLOCKS.sizes), "pairing": pairing, "replicates": {KEY: list(found.replicates)}}
    return write_metrics(path, run, {KEY: found.value, f"{KEY}_se": found.error}, details={"jackknife": kept})


def report(folder: Path, *args: object) -> list[dict[str, str]]:
    dprune("report", *sorted(folder.glob("*.json")), *args, "-o", folder / "report").ok()
    return list(csv.DictReader(io.StringIO((folder / "report" / "quality.csv").read_text())))


def difference_of(row: dict[str, str]) -> tuple[float, float, float, str, str]:
    value, error, half = (float(row[f"{KEY}_difference{name}"]) for name in ("", "_error", "_half_width"))
    return value, error, half, row[f"{KEY}_told_apart"], row[f"{KEY}_difference_kind"]


def text_of(folder: Path, name: str) -> str:
    return (folder / "report" / name).read_text()


def last_rows(folder: Path, count: int = 1) -> list[str]:
    """Rows at the end of the last table."""
    return [line for line in text_of(folder, "quality.md").splitlines() if line.startswith("|")][-count:]


def test_the_difference_of_one_training_each_is_that_of_sampling_alone(tmp_path: Path) -> None:
    result(tmp_path / "u.json", Run(), 10.0)
    result(tmp_path / "a.json", PRUNED, 10.5, own=1)
    unpruned, pruned = report(tmp_path)
    expected = BLOCKS.estimate(0.5, 0.5 + OWN).error
    value, error, half, apart, kind = difference_of(pruned)
    assert (value, apart, kind) == (0.5, "yes", "paired")
    assert (error, half) == (pytest.approx(expected, rel=1e-9), pytest.approx(1.95996 * expected, rel=1e-5))
    assert expected < 0.1 * float(pruned[f"{KEY}_se"])
    assert (unpruned["baseline"], pruned["baseline"], unpruned[f"{KEY}_difference"]) == ("", "unpruned", "")
    half = 1.95996 * expected
    assert last_rows(tmp_path)[0] == rf"| nearest | 0.75 | +0.500\* (±{half:.2g}) |"
    page = text_of(tmp_path, "report.html")
    assert "<summary>Differences from the unpruned</summary>" in page
    assert '<td class="apart">+0.500* <span class="spread" title="told apart: sampling error alone' in page


def test_without_shared_noise_both_errors_count(tmp_path: Path) -> None:
    result(tmp_path / "u.json", Run(), 10.0)
    result(tmp_path / "a.json", PRUNED, 10.5, pairing="other", own=1)
    row = report(tmp_path)[1]
    both = math.hypot(float(row[f"{KEY}_se"]), BLOCKS.estimate(0, COMMON).error)
    assert difference_of(row) == (0.5, pytest.approx(both), pytest.approx(1.95996 * both, rel=1e-5), "no", "unpaired")
    assert last_rows(tmp_path)[0].endswith("†) |")
    assert 'class="apart"' not in text_of(tmp_path, "report.html")


def test_the_difference_of_several_trainings_each_is_welchs(tmp_path: Path) -> None:
    ours, theirs = (10.0, 12.0, 11.5), (7.0, 7.5)
    for name, run, values in (("a", PRUNED, ours), ("u", Run(), theirs)):
        for seed, value in enumerate(values):
            # Two samplings inside of each training, whose own errors do not matter.
            for n, shift in enumerate((-0.1, 0.1)):
                sampled = replace(run, seed=seed, sample={"seeds": f"{500 * n}-{500 * n + 499}"})
                result(tmp_path / f"{name}{seed}{n}.json", sampled, value + shift, pairing=f"{n}")
    row = report(tmp_path)[1]
    value, error, half, apart, kind = difference_of(row)
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert (value, kind, apart) == (pytest.approx(np.mean(ours) - np.mean(theirs)), "trainings", "yes")
    assert error == pytest.approx(math.sqrt(np.var(ours, ddof=1) / 3 + np.var(theirs, ddof=1) / 2))
    assert half == pytest.approx((interval.high - interval.low) / 2, rel=1e-9)
    assert "(±" not in last_rows(tmp_path)[0]


@pytest.mark.parametrize("swapped", [False, True])
def test_of_a_single_training_the_others_tell_how_it_varies(tmp_path: Path, swapped: bool) -> None:
    """By sampling alone, which is common to all here, one was told apart from three that differ as much."""
    three, one = (Run(), PRUNED) if swapped else (PRUNED, Run())
    result(tmp_path / "one.json", one, 10.0)
    for seed in range(3):
        result(tmp_path / f"three{seed}.json", replace(three, seed=seed), 11.0 + seed, own=seed)
    value, error, half, apart, kind = difference_of(report(tmp_path)[1])
    assert (value, kind, apart) == (pytest.approx(-2 if swapped else 2), "trainings", "no")
    assert error == pytest.approx(math.sqrt(1 + 1 / 3))
    assert half == pytest.approx(stats.t.ppf(0.975, 2) * error)


def test_what_is_no_different_is_not_told_apart(tmp_path: Path) -> None:
    result(tmp_path / "u.json", Run(), 10.0)
    result(tmp_path / "a.json", PRUNED, 10.0)
    assert difference_of(report(tmp_path)[1]) == (0, 0, 0, "no", "paired")


def test_numbers_without_errors_differ_by_no_more_than_a_number(tmp_path: Path) -> None:
    for name, run, value in (("u", Run(), 3.0), ("a", PRUNED, 5.0)):
        # What is the same without any error is a baseline of both.
        found = {KEY: value, "kid": None, "recall": 0.5, "coverage": 0.5, "recall_se": 0.0}
        write_metrics(tmp_path / f"{name}.json", run, found)
    write_metrics(tmp_path / "b.json", replace(PRUNED, order="highest"), {KEY: 4.0, "coverage": 0.5})
    row = report(tmp_path)[2]
    assert [row[f"{KEY}_difference{name}"] for name in ("", "_error", "_kind")] == ["1.0", "", ""]
    assert last_rows(tmp_path, 2) == [
        "| nearest | 0.75 | +2 | 0 |",
        f"| furthest | 0.75 | +1 | {MISSING} |",
    ]


def test_without_a_baseline_there_is_no_second_table(tmp_path: Path) -> None:
    result(tmp_path / "a.json", PRUNED, 10.5)
    (row,) = report(tmp_path)
    assert row[f"{KEY}_difference"] == row["baseline"] == ""
    assert "Differences" not in text_of(tmp_path, "quality.md") + text_of(tmp_path, "report.html")


def test_the_named_baseline_is_what_lines_are_held_to(tmp_path: Path) -> None:
    result(tmp_path / "u.json", Run(), 9.0)
    result(tmp_path / "b.json", replace(PRUNED, order="highest"), 10.0)
    result(tmp_path / "a.json", PRUNED, 10.5, own=1)
    *_, row = report(tmp_path, "--baseline", tmp_path / "b.json")
    assert row["baseline"] == "baseline: furthest, pruned 0.75"
    assert difference_of(row)[0] == 0.5
    for name in ("quality.md", "report.html"):
        assert "Differences from the baseline" in text_of(tmp_path, name)


def test_the_named_baseline_comes_before_an_unpruned_with_the_same_candidates(tmp_path: Path) -> None:
    ours = replace(PRUNED, without=True)
    result(tmp_path / "u.json", Run(scores="random", order="random", keep="1.0", without=True), 9.0)
    result(tmp_path / "b.json", replace(PRUNED, order="highest"), 10.0)
    result(tmp_path / "a.json", ours, 10.5)
    *_, row = report(tmp_path, "--baseline", tmp_path / "b.json")
    assert row["baseline"] == "baseline: furthest, pruned 0.75"
    assert difference_of(row)[0] == 0.5


def test_results_that_were_held_to_a_baseline_are_measured_as_others(tmp_path: Path) -> None:
    unpruned = read_result(result(tmp_path / "u.json", Run(), 9.0))
    against = parent_record(unpruned.record, result_digest(unpruned))
    for seed, more in enumerate(({}, {"against": against})):
        write_metrics(tmp_path / f"{seed}.json", replace(PRUNED, seed=seed), {KEY: 10.0}, **more)
    _, row = report(tmp_path)
    assert (row["trainings"], row[f"{KEY}_difference"], row["measurement"]) == ("2", "1.0", "")


def test_lines_that_are_held_to_different_ones_say_to_which(tmp_path: Path) -> None:
    for cfg in (1.0, 2.0):
        result(tmp_path / f"u{cfg}.json", Run(sample={"cfg": cfg}), 10.0 - cfg)
        result(tmp_path / f"a{cfg}.json", replace(PRUNED, sample={"cfg": cfg}), 10.0)
    report(tmp_path)
    assert "| Line | Pruned | Held to |" in text_of(tmp_path, "quality.md")
    assert ">Held to</th>" in text_of(tmp_path, "report.html")


# The best.


def best(folder: Path, **values: dict[str, Any]) -> set[str]:
    """Labels of the best of one ratio, by what `result` takes for each order."""
    points = []
    for order, given in values.items():
        points.append(
            point_of_result(read_result(result(folder / f"{order}.json", replace(PRUNED, order=order), **given)))
        )
    (comparison,) = compare(points)
    table = Table.of(comparison, QUALITY)
    return {table.rows[row].line.order for row, _ in table.best}


def test_the_best_is_told_apart_from_all_others(tmp_path: Path) -> None:
    one, two, three = {"value": 10.0}, {"value": 10.2, "own": 1.0}, {"value": 13.0, "own": -1.0}
    assert best(tmp_path, lowest=one, middle=two, highest=three) == {"lowest"}
    assert best(tmp_path, lowest=one, middle=two | {"pairing": "other"}, highest=three) == set()
    assert best(tmp_path, lowest=one, middle=two | {"value": 10.001}, highest=three) == set()
    assert best(tmp_path, lowest=one, middle=one | {"own": 1.0}) == set()
    assert best(tmp_path, lowest=one) == set()


def test_one_method_at_several_ratios_has_no_best(tmp_path: Path) -> None:
    """Less pruning is no better method: there is nothing to compare at either ratio."""
    files = [result(tmp_path / f"{keep}.json", replace(PRUNED, keep=keep), 100 * (1 - float(keep))) for keep in KEEPS]
    (comparison,) = compare([point_of_result(read_result(file)) for file in files])
    assert not Table.of(comparison, QUALITY).best


def test_what_has_no_error_is_not_the_best(tmp_path: Path) -> None:
    files = [
        write_metrics(tmp_path / f"{order}.json", replace(PRUNED, order=order), {KEY: value})
        for order, value in (("lowest", 1.0), ("highest", 9.0))
    ]
    (comparison,) = compare([point_of_result(read_result(file)) for file in files])
    assert not Table.of(comparison, QUALITY).best


def test_the_page_says_what_is_best(tmp_path: Path) -> None:
    for order, value in (("lowest", 10.0), ("highest", 10.4)):
        result(tmp_path / f"{order}.json", replace(PRUNED, order=order), value)
    report(tmp_path)
    assert ">10.0</strong>" in text_of(tmp_path, "report.html")
    assert "**10.0** (±" in text_of(tmp_path, "quality.md")
    assert "told apart" in text_of(tmp_path, "report.html")
