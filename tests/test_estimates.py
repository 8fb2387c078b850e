"""What a cell of a report says by ±: over trainings where there are several, of sampling alone where there is one."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import dprune
from scipy import stats
from studies import Run, made, mark, write_metrics

from dprune.formats.provenance import make_record, parent_record
from dprune.reporting.study.estimates import NORMAL, Sampling, nested_mean, nested_means, t_quantile
from dprune.reporting.study.trainings import Origin, Training

PRUNED = Run(scores="cluster-distance")


@dataclass
class Reported:
    """What `report` wrote of some results, each of a run and its Fréchet distance."""

    folder: Path
    rows: list[dict[str, str]]

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture
def reported(tmp_path):
    def go(*results: tuple[Any, ...]) -> Reported:
        files = []
        for number, (run, value, *more) in enumerate(results):
            metrics = {"frechet_distance": value, "frechet_distance_se": 0.5}
            given = {"metrics": metrics, **(more[0] if more else {})}
            files.append(write_metrics(tmp_path / f"{number}.json", run, **given))
        dprune("report", *files, "--format", "svg", "-o", tmp_path / "report", "--overwrite").ok()
        table = (tmp_path / "report" / "quality.csv").read_text()
        return Reported(tmp_path / "report", list(csv.DictReader(io.StringIO(table))))

    return go


def sampled(run: Run, number: int) -> Run:
    return replace(run, sample={"seeds": f"{500 * number}-{500 * number + 499}"})


def known(row: dict[str, str]) -> tuple[float, ...]:
    return tuple(float(row[f"frechet_distance{name}"]) for name in ("", "_se", "_half_width"))


def test_two_samplings_of_two_trainings_are_two(reported) -> None:
    """The error is that of the trainings' means: four values of one deviation would make it half as large."""
    values = {(0, 0): 10.0, (0, 1): 10.4, (1, 0): 12.0, (1, 1): 11.6}
    found = reported(*((sampled(replace(PRUNED, seed=t), s), value) for (t, s), value in values.items()), (Run(), 9.0))
    _, row = found.rows
    assert (row["trainings"], row["samplings"], row["frechet_distance_over"]) == ("2", "4", "trainings")
    means = [10.2, 11.8]
    error = stats.sem(means)
    assert known(row) == pytest.approx((11.0, error, stats.t.ppf(0.975, 1) * error))
    assert "| nearest | 0.75 | 2 | 2 | 500 | 11 ±10 |" in found.read("quality.md")
    page = found.read("report.html")
    assert 'title="95% t interval over 2 trainings"' in page
    assert "Every ± is half of a 95% interval" in page
    assert "2 trainings, 2 samplings each" in page


def test_of_one_training_the_error_is_of_sampling_alone(reported) -> None:
    found = reported(*((sampled(PRUNED, number), value) for number, value in enumerate((10.0, 14.0))), (Run(), 9.0))
    unpruned, row = found.rows
    assert (row["trainings"], row["samplings"], row["frechet_distance_over"]) == ("1", "2", "sampling")
    error = 0.5 / 2**0.5
    assert known(row) == pytest.approx((12.0, error, NORMAL * error))
    assert known(unpruned) == pytest.approx((9.0, 0.5, NORMAL * 0.5))
    assert "12.00 (±0.69)" in found.read("quality.md")
    assert "sampling error alone, one training" in found.read("report.html")
    drawn = found.read("curves/frechet_distance.svg")
    assert 'stroke-dasharray="2,2"' in drawn
    assert "95% interval of sampling alone" in drawn


def test_curves_say_which_intervals_they_show(reported) -> None:
    """With two trainings t is 12.7: such a bar leaves the axis, which follows the means, and has no cap there."""
    trained = [(replace(PRUNED, seed=n), 10.0 + 2 * n) for n in range(2)]
    found = reported(*trained, (replace(PRUNED, order="highest"), 14.0), (Run(), 9.0))
    drawn = found.read("curves/frechet_distance.svg")
    told = [title.split("\n") for title in re.findall("<title>(.*?)</title>", drawn, re.DOTALL)]
    assert ["unpruned", "2,000 training samples", "9.00 ± 0.98",
            "95% interval of the sampling error alone, one training", "1 training, 1 sampling"] in told  # fmt: skip
    assert ["nearest", "pruned 0.75, 500 training samples", "11 ± 13", "95% t interval over 2 trainings",
            "2 trainings, 1 sampling each"] in told  # fmt: skip
    for said in ("95% interval over trainings", "95% interval of sampling alone"):
        assert said in drawn
        assert said in found.read("report.html")


def test_the_same_samples_measured_twice_are_one_sampling(reported) -> None:
    (row,) = reported((PRUNED, 10.0), (PRUNED, 12.0, {"seed": 1})).rows
    assert (row["trainings"], row["samplings"]) == ("1", "1")
    assert known(row) == pytest.approx((11.0, 0.5, NORMAL * 0.5))


def test_two_trainings_of_each_of_two_autoencoders_are_two_units(reported) -> None:
    values = {(0, 0): 10.0, (0, 1): 11.0, (1, 2): 14.0, (1, 3): 15.0}
    runs = {key: replace(PRUNED, seeds={"train-vae": key[0], "train-dit": key[1]}) for key in values}
    found = reported(*((runs[key], value) for key, value in values.items()))
    (row,) = found.rows
    assert (row["trainings"], row["samplings"], row["frechet_distance_units"]) == ("4", "4", "2")
    assert row["frechet_distance_over"] == "autoencoders"
    assert known(row)[:2] == pytest.approx((12.5, stats.sem([10.5, 14.5])))
    said = "4 trainings of 2 autoencoders; ± is over the autoencoders"
    assert row["drawn_anew"].startswith(said)
    for name in ("quality.md", "report.html"):
        assert f"nearest: {said}" in found.read(name)


def test_other_seeds_that_choose_the_same_are_one_choice(reported) -> None:
    """No scores were tied: the seeds that would break ties made one subset, and with one seed one model."""
    chosen = [replace(PRUNED, seeds={"select": n}).chosen() for n in range(2)]
    runs = [
        Run(subset={**subset, "digest": "5" * 64}, seed=seed) for seed in range(4) for subset in chosen[seed % 2 :][:1]
    ]
    (row,) = reported(*((run, 10.0 + n) for n, run in enumerate(runs))).rows
    assert (row["trainings"], row["frechet_distance_over"], row["drawn_anew"]) == ("4", "trainings", "")
    same = [Run(subset={**subset, "digest": "5" * 64}, seeds={"train-dit": 0}) for subset in chosen]
    (row,) = reported(*((run, 10.0) for run in same)).rows
    assert (row["trainings"], row["frechet_distance_over"]) == ("1", "sampling")


def test_what_each_training_has_of_its_own_is_said(reported) -> None:
    results = [(replace(run, seed=n), 10.0 + n) for run in (PRUNED, replace(PRUNED, order="highest")) for n in range(3)]
    found = reported(*results)
    assert {row["frechet_distance_over"] for row in found.rows} == {"trainings"}
    said = "3 trainings, each with clustering, scoring and selection of its own"
    assert f"nearest; furthest: {said}." in found.read("quality.md")


def test_trainings_that_share_all_that_came_before_say_nothing(reported) -> None:
    shared = {"cluster": 0, "score": 0, "select": 0}
    found = reported(*((replace(PRUNED, seed=n, seeds=shared), 10.0 + n) for n in range(2)))
    assert found.rows[0]["drawn_anew"] == ""
    assert "of its own" not in found.read("quality.md")


@pytest.mark.parametrize(("seeds", "trainings"), [((3, 3), 1), ((3, 4), 2), ((None, None), 2)])
def test_a_tag_names_the_training_of_plain_features(reported, seeds, trainings) -> None:
    """Without one, each set is a training of its own."""
    tags = [{"method": "mine", "keep": "0.25"} | ({} if seed is None else {"seed": str(seed)}) for seed in seeds]
    given = [{"generated": parent_record(None, mark(n)), "tags": said} for n, said in enumerate(tags)]
    (row,) = reported(*((PRUNED, 10.0 + n, more) for n, more in enumerate(given))).rows
    assert (row["trainings"], row["samplings"]) == (str(trainings), "2")


def test_samplings_of_a_model_made_elsewhere_are_of_one_training(reported) -> None:
    networks = {"model": parent_record(None, mark("theirs")), "vae": parent_record(None, mark("vae"))}
    results = []
    for n in range(2):
        options = {"seeds": f"{500 * n}-{500 * n + 499}", "steps": 20}
        images = make_record("sample", options, parents=networks, tags={"method": "theirs", "keep": "0.25"})
        features = make_record("embed", {"model": "inception", "dtype": "float16"}, parents={"shards": made(images)})
        results.append((PRUNED, 10.0 + n, {"generated": made(features)}))
    (row,) = reported(*results).rows
    assert (row["line"], row["trainings"], row["samplings"]) == ("theirs", "1", "2")


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 30, 1000])
def test_quantiles_are_those_of_student(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def training(name: str, **origins: int) -> Training:
    return Training(name, tuple((command, Origin(f"{command} {n}", str(n))) for command, n in origins.items()))


def test_crossed_draws_take_the_fewest_units() -> None:
    """Two autoencoders, each with the same three clusterings: six trainings, and none independent of all others."""
    trainings = [training(f"{a}{c}", **{"train-vae": a, "cluster": c}) for a in range(2) for c in range(3)]
    found = nested_mean({t: [Sampling(float(n), None)] for n, t in enumerate(trainings)})
    assert (found.over, found.units, found.trainings) == ("autoencoders", 2, 6)
    assert found.error == pytest.approx(stats.sem([1.0, 4.0]))


def test_a_baseline_that_all_share_keeps_its_error() -> None:
    """It was measured once, however many models stand beside it."""
    for trainings, samplings in ((1, 3), (3, 1)):
        known = {training(str(n)): [Sampling(0.47, 0.02)] * samplings for n in range(trainings)}
        found = nested_mean(known)
        assert (found.mean, found.error, found.half_width, found.over) == (0.47, 0.02, NORMAL * 0.02, "sampling")
        assert found.samplings == (samplings,) * trainings


def test_without_stated_errors_one_training_has_no_interval() -> None:
    found = nested_mean({training("a"): [Sampling(1.0, None), Sampling(3.0, 0.5)]})
    assert (found.mean, found.error, found.half_width, found.over) == (2.0, None, None, "sampling")


@pytest.mark.parametrize("trained", [1, 3])
def test_many_numbers_at_once_are_what_each_is_alone(trained: int) -> None:
    draw = np.random.default_rng(trained)
    known = {training(str(n)): [(draw.normal(size=5), draw.random(5)) for _ in range(n + 1)] for n in range(trained)}
    known[training("0")][0][1][4] = np.nan
    for place, found in enumerate(nested_means(known)):
        alone = nested_mean({
            t: [Sampling(x[place], None if np.isnan(e[place]) else e[place]) for x, e in samplings]
            for t, samplings in known.items()
        })  # fmt: skip
        assert (found.over, found.units, found.samplings) == (alone.over, alone.units, alone.samplings)
        assert (found.mean, found.error, found.half_width) == pytest.approx((alone.mean, alone.error, alone.half_width))
    assert (found.error is None) == (trained == 1)


def test_the_interval_covers_nested_draws() -> None:
    """Two samplings of each of three trainings, both of deviation 1: in 95% of studies the mean of all is inside."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(2000, 3, 1)) + draw.normal(size=(2000, 3, 2))
    trainings = [training(str(n)) for n in range(3)]
    held = 0
    for study in values:
        known = {t: [Sampling(float(v), 1.0) for v in samplings] for t, samplings in zip(trainings, study, strict=True)}
        found = nested_mean(known)
        held += abs(found.mean) < found.half_width
    assert held / len(values) == pytest.approx(0.95, abs=0.015)
