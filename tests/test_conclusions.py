"""dprune report: what its first paragraph says, and that each number in it is one of the tables."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import dprune
from scipy import stats
from studies import Run, made, write_memorization, write_metrics

from dprune.formats.provenance import make_record, parent_record, with_findings
from dprune.formats.results import read_result
from dprune.reporting.conclusions import Conclusions
from dprune.reporting.content import Content
from dprune.reporting.study.experiments import point_of_result

NEAREST = Run(scores="cluster-distance")
FURTHEST, RANDOM = replace(NEAREST, order="highest"), Run(scores="random", order="random", grouped=False)
FID = "frechet_distance"


class Study:
    """Results in a folder, and what the report concludes from them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, list[Path]()

    def add(self, run: Run, values: float | list[float], error: float | None = 0.1, **more: Any) -> Study:
        """Measure one training for each value of the Fréchet distance."""
        for seed, value in enumerate(values if isinstance(values, list) else [values]):
            metrics = {FID: value, **({} if error is None else {f"{FID}_se": error}), **more.get("metrics", {})}
            path = self.folder / f"{len(self.files)}.json"
            options = {name: what for name, what in more.items() if name != "metrics"}
            self.files.append(write_metrics(path, replace(run, seed=seed), metrics, **options))
        return self

    def copies(self, run: Run, **metrics: Any) -> Study:
        self.files.append(write_memorization(self.folder / f"{len(self.files)}.json", run, metrics))
        return self

    def conclude(self) -> Conclusions:
        return Content("A study", [point_of_result(read_result(file)) for file in self.files]).conclusions

    def said(self) -> dict[str, str]:
        return {statement.heading: statement.text for statement in self.conclude().statements}


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path)


def test_a_planted_winner_is_found_and_held_to_the_unpruned(study) -> None:
    ours, theirs = [10.0, 10.2, 9.9], [12.0, 12.3, 11.8]
    study.add(NEAREST, ours).add(FURTHEST, [15.0, 15.2, 14.9]).add(RANDOM, [13.0, 13.3, 12.9]).add(Run(), theirs)
    text = study.said()["Fréchet distance"]
    assert text.startswith(
        "the best is 10.03 ± 0.38 for nearest, pruned 0.75, which can be told apart from both other pruned points."
    )
    difference = stats.ttest_ind(ours, theirs, equal_var=False)
    half = (difference.confidence_interval().high - difference.confidence_interval().low) / 2
    assert f"It is 2.00 ± {half:.2g} below the unpruned at 12.03 ± 0.63, " in text
    assert f"{abs(difference.statistic):.1f} standard errors: better, and the two can be told apart." in text
    assert text.endswith("Of 3 points, 1 is better than the unpruned and 2 are worse.")
    (caution,) = study.conclude().cautions
    assert caution.startswith(
        "Each metric was compared with the baseline up to 3 times: chance alone makes about 0.15 "
    )


def test_what_is_not_told_apart_is_not_the_best(study) -> None:
    study.add(NEAREST, [10.0, 12.0, 11.0]).add(FURTHEST, [11.0, 12.0, 10.5]).add(RANDOM, [20.0, 20.3, 20.1])
    study.add(Run(), [10.9, 11.2, 11.0])
    text = study.said()["Fréchet distance"]
    assert text.startswith(
        "the lowest is 11.0 ± 2.5 for nearest, pruned 0.75, which cannot be told apart from 1 of the 2 other pruned "
        "points (furthest, pruned 0.75)."
    )
    assert "best" not in text
    assert "standard errors: the two cannot be told apart" in text


def test_many_standard_errors_of_few_trainings_are_not_called_a_tie(study) -> None:
    study.add(NEAREST, [10.0, 10.6]).add(Run(), [12.0, 12.1])
    text = study.said()["Fréchet distance"]
    assert " standard errors, but too few trainings to tell the two apart" in text


@pytest.mark.parametrize(
    ("unpruned", "said"),
    [
        (5.0, "Both points are worse than the unpruned."),
        (30.0, "Both points are better than the unpruned."),
        (10.1, "Of 2 points, none is better than the unpruned, 1 is worse and 1 cannot be told apart from it."),
    ],
)
def test_points_are_counted_by_how_they_compare_with_the_unpruned(study, unpruned: float, said: str) -> None:
    study.add(NEAREST, 10.0).add(FURTHEST, 12.0).add(Run(), unpruned)
    assert said in study.said()["Fréchet distance"]


def test_where_nothing_can_be_told_apart_that_is_said(study) -> None:
    study.add(NEAREST, 10.0).add(FURTHEST, 10.1).add(Run(), 10.05)
    assert study.said()["Fréchet distance"].endswith("Neither of the two points can be told apart from the unpruned.")


def test_of_two_points_the_other_is_named(study) -> None:
    study.add(NEAREST, 10.0).add(FURTHEST, 10.1)
    (text,) = study.said().values()
    assert (
        text
        == "the lowest is 10.00 (± 0.20) for nearest, pruned 0.75, which cannot be told apart from furthest, pruned "
        "0.75."
    )


def test_of_many_equals_only_a_few_are_named(study) -> None:
    for run in (NEAREST, FURTHEST, replace(NEAREST, order="middle"), RANDOM):
        for keep in ("0.25", "0.5"):
            study.add(replace(run, keep=keep), 10.0, error=1.0)
    study.add(replace(NEAREST, keep="0.1"), 30.0, error=1.0)
    text = study.said()["Fréchet distance"]
    assert "cannot be told apart from 7 of the 8 other pruned points (" in text
    assert text.endswith("; 4 more).")


@pytest.mark.parametrize("winner", [NEAREST, FURTHEST])
def test_the_better_end_of_a_metric_leads(study, winner) -> None:
    for run in (NEAREST, FURTHEST):
        vendi = 20.0 if run is winner else 10.0
        study.add(run, 5.0, metrics={"vendi": vendi, "vendi_se": 0.1})
    name = "nearest" if winner is NEAREST else "furthest"
    assert study.said()["Vendi score"].startswith(
        f"the best is 20.00 (± 0.20) for {name}, pruned 0.75, which can be told apart from "
    )


def test_each_ratio_has_a_best_of_its_own(study) -> None:
    for run, low, high in ((NEAREST, 10.0, 30.0), (FURTHEST, 12.0, 20.0)):
        study.add(replace(run, keep="0.5"), low).add(replace(run, keep="0.1"), high)
    text = study.said()["Fréchet distance"]
    assert text.startswith("the best is 10.00 (± 0.20) for nearest, pruned 0.5")
    assert text.endswith(
        "Of those pruned 0.9, the best is furthest at 20.00 (± 0.20), which can be told apart from the others."
    )


def test_one_result_alone_has_nothing_to_be_compared_with(study) -> None:
    found = study.add(NEAREST, 10.0).conclude()
    assert [s.text for s in found.statements] == ["10.00 (± 0.20) for nearest, pruned 0.75, the only pruned point."]
    assert found.cautions == (
        "No result is of the unpruned training set, so nothing says what pruning cost.",
        "The model was trained once: errors are of sampling alone, and another training could turn out differently.",
    )


def test_a_single_point_is_held_to_the_unpruned(tmp_path: Path) -> None:
    study = Study(tmp_path).add(NEAREST, 10.0).add(Run(), 8.0)
    error = dprune("report", *study.files, "-o", tmp_path / "report").ok().err
    assert (
        "Fréchet distance: 10.00 (± 0.20) for nearest, pruned 0.75, the only pruned point. It is 2.00 (± 0.28) above "
        "the unpruned at 8.00 (± 0.20), 14.1 standard errors: worse, and the two can be told apart."
    ) in error


def test_the_unpruned_alone_leads_nothing(study) -> None:
    assert study.add(Run(), 10.0).conclude().statements == ()


def test_without_the_usual_metrics_others_are_judged(study) -> None:
    for n, run in enumerate((NEAREST, FURTHEST)):
        found = {"kid": 0.1 + n, "kid_se": 0.01, "cluster_entropy": 2.0}
        study.files.append(write_metrics(study.folder / f"{n}.json", run, found))
    (text,) = study.said().values()
    assert text.startswith(
        "the best is 0.100 (± 0.020) for nearest, pruned 0.75, which can be told apart from furthest"
    )


def test_without_errors_nothing_is_told_apart(study) -> None:
    study.add(NEAREST, 10.0, error=None).add(FURTHEST, 30.0, error=None).add(Run(), 5.0, error=None)
    text = study.said()["Fréchet distance"]
    assert "the lowest is 10 for nearest, pruned 0.75, which cannot be told apart from furthest, pruned 0.75." in text
    assert "It is 5 above the unpruned at 5, and no error is known." in text
    assert "points" not in text


def test_points_that_were_sampled_differently_are_judged_by_themselves(study) -> None:
    for cfg, shift in ((2.0, 0.0), (4.0, -5.0)):
        for run, value in ((NEAREST, 10.0), (FURTHEST, 15.0), (Run(), 12.0)):
            study.add(replace(run, sample={"cfg": cfg}), value + shift)
    said = study.said()
    assert list(said) == ["Fréchet distance (guidance 2)", "Fréchet distance (guidance 4)"]
    assert said["Fréchet distance (guidance 4)"].startswith(
        "the best is 5.00 (± 0.20) for nearest, guidance 4, pruned 0.75, which can be told apart from furthest, "
        "guidance 4, pruned 0.75. It is 2.00 (± 0.28) below unpruned, guidance 4 at 7.00 (± 0.20)"
    )


def test_of_many_ways_of_sampling_those_with_most_points_are_told(study) -> None:
    for n, cfg in enumerate((1.0, 1.5, 2.0, 3.0, 4.0)):
        for run in (NEAREST, FURTHEST, RANDOM)[: 1 if n < 2 else 3]:
            study.add(replace(run, sample={"cfg": cfg}), 10.0)
    said = study.said()
    assert list(said) == [*(f"Fréchet distance (guidance {cfg})" for cfg in (2, 3, 4)), "Other points"]
    assert said["Other points"] == "2 more ways of sampling or measuring are in the tables alone."


def test_other_measurements_are_named(study) -> None:
    for model in ("inception", "dinov2-b"):
        study.add(replace(NEAREST, embed={"model": model}), 10.0)
    said = study.said()
    assert list(said) == ["Fréchet distance (dinov2-b)", "Measured with inception"]
    assert said["Measured with inception"] == "Fréchet distance of nearest, pruned 0.75: 10.00 (± 0.20)."


def test_another_backbone_is_told_in_a_sentence_for_each_metric_and_folded(study, tmp_path: Path) -> None:
    values = ((NEAREST, 10.0), (FURTHEST, 15.0), (replace(FURTHEST, keep="0.5"), 10.1), (Run(), 12.0))
    for run, value in values:
        for model in ("pixels", "timm:resnet10t"):
            study.add(replace(run, embed={"model": model}), value, metrics={"f_score": value / 20})
    said = study.said()
    assert list(said) == ["Fréchet distance (resnet10t)", "F-score (resnet10t)", "Measured with pixels"]
    assert said["Measured with pixels"] == (
        "Fréchet distance is lowest for nearest, pruned 0.75: 10.00 (± 0.20), from which 1 point cannot be told apart. "
        "Of 3 points, 2 are better than the unpruned and 1 is worse. F-score is highest for furthest, pruned 0.75: "
        "0.7500, from which 2 points cannot be told apart."
    )
    dprune("report", *study.files, "-o", tmp_path / "report").ok()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<h3>Measured with resnet10t</h3>" in page
    assert "<summary>Measured with pixels</summary>" in page


def test_few_points_that_were_sampled_differently_are_told_in_brief_by_their_baseline(study) -> None:
    """Of another backbone, only the largest group is told."""
    for model in ("timm:resnet10t", "pixels"):
        for keep in ("0.5", "0.25", "0.1"):
            study.add(replace(NEAREST, keep=keep, embed={"model": model}), 10.0)
        for run in (FURTHEST, Run()):
            study.add(replace(run, embed={"model": model}), 12.0)
        for run, value in ((NEAREST, 10.0), (Run(), 12.0)):
            study.add(replace(run, sample={"cfg": 4.0}, embed={"model": model}), value)
    said = study.said()
    assert list(said) == [
        "Fréchet distance (resnet10t)", "Held to unpruned, guidance 4", "Measured with pixels", "Other points"
    ]  # fmt: skip
    assert (
        said["Held to unpruned, guidance 4"] == "Fréchet distance of nearest, guidance 4, pruned 0.75: 10.00 (± 0.20)."
    )
    assert said["Measured with pixels"].startswith("Fréchet distance is lowest for nearest, pruned 0.")
    assert said["Other points"] == "1 more way of sampling or measuring is in the tables alone."


def test_a_named_baseline_is_what_the_leader_is_held_to(tmp_path: Path) -> None:
    study = Study(tmp_path).add(NEAREST, 10.0).add(RANDOM, 12.0)
    dprune("report", *study.files, "--baseline", "random", "-o", tmp_path / "report").ok()
    text = (tmp_path / "report" / "summary.md").read_text()
    assert "below baseline: random, pruned 0.75 at 12.00 (± 0.20)" in text


# Memorization.


def test_copies_and_nearness_are_told(study) -> None:
    usual = {"zero_count": 0, "nearest_distance_ratio_se": 0.01}
    study.copies(Run(), **usual, nearest_distance_ratio=1.2)
    study.copies(NEAREST, **usual | {"zero_count": 7}, nearest_distance_ratio=0.9)
    study.copies(FURTHEST, **usual, nearest_distance_ratio=0.99)
    assert study.said() == {
        "Memorization": "exact copies of training samples are in 1 of 3 points, most for nearest, pruned 0.75 (7). The "
        "distance to the nearest training sample, over that of held-out samples, is lowest for nearest, pruned 0.75: "
        "0.900 (± 0.020), beside 1.200 (± 0.020) of the unpruned. Of 3 points, 1 is below 1 by more than the error, "
        "where generated samples are nearer than unseen ones."
    }


@pytest.mark.parametrize(("ratio", "said"), [(1.2, "not below 1"), (0.9, "below 1")])
def test_the_nearness_of_a_single_point_is_ranked_among_none(study, ratio: float, said: str) -> None:
    study.copies(NEAREST, nearest_distance_ratio=ratio, nearest_distance_ratio_se=0.01)
    assert study.said()["Memorization"] == (
        f"The distance to the nearest training sample, over that of held-out samples, is {ratio:.3f} (± 0.020) for "
        f"nearest, pruned 0.75, which is {said} by more than the error: below it, generated samples are nearer than "
        "unseen ones."
    )


def test_memorization_without_copies_or_held_out_samples(study) -> None:
    study.copies(NEAREST, zero_count=0).copies(Run(), zero_count=0)
    assert study.said() == {"Memorization": "no generated sample is an exact copy of a training sample."}


# Cautions.


def cautions(study: Study) -> str:
    return "\n".join(study.conclude().cautions)


def test_single_trainings_are_told(study) -> None:
    study.add(Run(), [10.0, 11.0, 12.0]).add(NEAREST, [10.0, 11.0, 12.0]).add(FURTHEST, 9.0)
    assert "1 of 3 points was trained once" in cautions(study)
    assert "Most points have 3 trainings. Fewer: furthest, pruned 0.75 (1)." in cautions(study)
    assert "Missing" not in cautions(study)


@pytest.mark.parametrize(("trainings", "told"), [(2, True), (3, False)])
def test_two_trainings_are_few(study, trainings: int, told: bool) -> None:
    study.add(NEAREST, [10.0, 11.0, 12.0][:trainings])
    found = "With two trainings, half of a 95% interval is 12.7 standard errors; with three it is 4.3, with five 2.8"
    assert (found in cautions(study)) == told


def test_unequal_counts_are_told(study) -> None:
    study.add(NEAREST, 10.0).add(replace(NEAREST, sample={"seeds": "0-4999"}), 8.0)
    assert "Points have 500 or 5,000 generated samples" in cautions(study)


def test_missing_points_and_metrics_are_told(study) -> None:
    for run in (NEAREST, FURTHEST, RANDOM):
        for keep in ("0.5", "0.1") if run is not RANDOM else ("0.5",):
            more = {} if (run, keep) == (NEAREST, "0.1") else {"vendi": 3.0}
            study.add(replace(run, keep=keep), 10.0, metrics=more)
    found = cautions(study)
    assert "Missing: no result of random, pruned 0.9." in found
    assert "Missing: no Vendi score of nearest, pruned 0.9." in found


@pytest.mark.parametrize(("moved", "told"), [(0.0, False), (0.2, True)])
def test_classes_that_are_not_the_references_are_told(study, moved: float, told: bool) -> None:
    reference = np.full(10, 0.1)
    table = {"names": list(range(10)), "generated": reference.tolist(), "reference": reference.tolist()}
    study.add(NEAREST, 10.0, metrics={"class_total_variation": 0.05 + moved}, details={"shares": {"class": table}})
    assert ("Class shares differ from the reference's for nearest, pruned 0.75 (total" in cautions(study)) == told


def test_differences_of_classes_that_chance_makes_are_not_told(study) -> None:
    """With five samples of a hundred classes, the shares are far apart whatever the model is."""
    few = [1 / 100] * 100
    table = {"names": list(range(100)), "generated": few, "reference": few}
    run = replace(NEAREST, sample={"seeds": "0-4"})
    study.add(run, 10.0, metrics={"class_total_variation": 0.97}, details={"shares": {"class": table}})
    assert "Class" not in cautions(study)


@pytest.mark.parametrize(("half", "told"), [(0.21, True), (0.93, False)])
def test_rankings_that_are_mostly_noise_are_told(study, half: float, told: bool) -> None:
    scores = make_record("score el2n", {"draws": 1}, parents={"model": parent_record(None, "a" * 64)})
    scores = with_findings(scores, {"split_half": half})
    subset = make_record("select", {"order": "highest", "keep": "0.25"}, parents={"scores": made(scores)})
    study.add(Run(subset=made(subset)), 10.0)
    found = "The ranking by EL2N is mostly noise: its halves correlate by 0.21 only."
    assert (found in cautions(study)) == told


# By the real command.


def test_every_number_is_one_of_the_tables(tmp_path: Path) -> None:
    study = Study(tmp_path)
    draw = np.random.default_rng(0)
    for run in (Run(), NEAREST, FURTHEST, RANDOM):
        for keep in ("0.5", "0.1") if run.scores else (None,):
            values = (10 + 10 * (keep == "0.1") + draw.normal(0, 1, 3)).tolist()
            study.add(replace(run, keep=keep), values, metrics={"f_score": 0.5, "vendi": float(draw.normal(5, 1))})
    dprune("report", *study.files, "-o", tmp_path / "report").ok()
    tables = (tmp_path / "report" / "quality.md").read_text().replace("\\", "")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report" / "quality.csv").read_text())))
    for statement in study.conclude().statements:
        (standard_errors,) = re.findall(r"([\d.]+) standard errors", statement.text) or [None]
        for number in re.findall(r"(\d+\.\d{3,}|± [\d.]*\d)", statement.text):
            assert number.replace("± ", "±") in tables, (number, statement)
        if standard_errors and statement.heading == "Fréchet distance":
            found = [
                abs(float(r[f"{FID}_difference"]) / float(r[f"{FID}_difference_error"])) for r in rows if r["baseline"]
            ]
            assert any(f"{value:.1f}" == standard_errors for value in found)


def test_json_holds_the_conclusions_and_stderr_the_short_of_them(tmp_path: Path) -> None:
    study = Study(tmp_path).add(NEAREST, [10.0, 10.1]).add(FURTHEST, [19.0, 19.2]).add(Run(), [8.0, 8.1])
    result = dprune("report", *study.files, "-o", tmp_path / "report", "--json").ok()
    found = json.loads(result.out)["conclusions"]
    (best,) = found["best"][FID]
    assert (best["line"], best["pruned"], best["value"], best["baseline"]) == ("nearest", 0.75, 10.05, "unpruned")
    assert best["difference"] == pytest.approx(2)
    assert found["statements"] == [f"{s.heading}: {s.text}" for s in study.conclude().statements]
    assert "told apart from furthest, pruned 0.75" in result.err
    assert "better than" not in result.err
    page = (tmp_path / "report" / "report.html").read_text()
    summary = (tmp_path / "report" / "summary.md").read_text()
    for text in (page, summary):
        assert "for nearest, pruned 0.75, which can be told apart from furthest, pruned 0.75." in text
    assert "the best is 10.05&nbsp;±&nbsp;0.64 for nearest" in page
    assert summary.startswith("# What pruning did\n\n- **Fréchet distance**: ")
    assert "| nearest | the lowest by distance to the centre of its cluster (cluster-distance) |" in summary
