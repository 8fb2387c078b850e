"""dprune report --scores --subsets: whether scores agree, what methods keep in common, what scores predict."""

from __future__ import annotations

import csv
import io
import json
import math
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune
from scipy import stats
from studies import FINGERPRINT, Run, made, write_metrics
from test_report import page_of

from dprune.formats.arrays import read_ids, write_array
from dprune.formats.provenance import make_record, parent_record, with_findings
from dprune.metrics.catalogue import QUALITY
from dprune.reporting.agreement.inputs import AgreementInputs
from dprune.reporting.agreement.kept_sets import KeptSets
from dprune.reporting.agreement.matrices import end_matrices, overlap_matrices
from dprune.reporting.agreement.predictions import LineMean, Prediction
from dprune.reporting.agreement.statements import statements
from dprune.reporting.study.estimates import CellMean
from dprune.reporting.study.grouping import MISSING, Comparison, Line

SIZE = 400
METHODS = ("el2n", "grand", "moso")


class Study:
    """Scores of a small dataset, subsets that dprune select makes of them, and results of models of these."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        draw = np.random.default_rng(3)
        base = draw.normal(size=SIZE)
        self.values = {"el2n": base, "grand": base + 0.5 * draw.normal(size=SIZE), "moso": draw.normal(size=SIZE)}
        for name, values in self.values.items():
            values[:10] = np.nan
            self.score(name, values)

    def score(self, name: str, values: np.ndarray, method: str = "", fingerprint: str = FINGERPRINT, **options) -> Path:
        record = make_record(f"score {method or name}", options, seed=0, fingerprint=fingerprint)
        halves = {"split_half": 0.81, "reliability": 0.9, "draws_for_0.8": 4}
        write_array(self.folder / f"{name}.npy", values.astype(np.float32), with_findings(record, halves))
        return self.folder / f"{name}.npy"

    def keep(self, name: str, score: str, order: str, share: str = "0.5", seed: int = 0) -> Path:
        path = self.folder / f"{name}-{share}" / str(seed) / "keep.npy"
        within = ["--within", self.folder / "scored.npy"] if not score else []
        if not (self.folder / "scored.npy").exists():
            record = make_record("select", {}, fingerprint=FINGERPRINT)
            write_array(self.folder / "scored.npy", np.arange(10, SIZE), record)
        scores = [self.folder / f"{score}.npy"] if score else []
        dprune("select", *scores, "--order", order, "--keep", share, *within, "--seed", seed, "-o", path).ok()
        return path

    def measure(self, subset: Path, distance: float, seed: int = 0) -> Path:
        run = Run(subset=read_ids(subset).as_parent(), samples=195, seed=seed)
        path = subset.with_name("metrics.json")
        return write_metrics(path, run, {"frechet_distance": distance, "frechet_distance_se": 0.1, "vendi": 3.0})

    def whole(self) -> None:
        """Six lines at a half and two at a tenth; the distance falls as the mean EL2N rises."""
        for name, score, order in (
            ("el2n", "el2n", "highest"), ("el2n-low", "el2n", "lowest"), ("grand", "grand", "highest"),
            ("grand-low", "grand", "lowest"), ("moso", "moso", "highest"), ("el2n-mid", "el2n", "middle"),
        ):  # fmt: skip
            kept = self.keep(name, score, order)
            self.measure(kept, 20 - 5 * float(self.values["el2n"][read_ids(kept).values].mean()))
        for seed in (0, 1, 2):
            self.measure(self.keep("random", "", "random", seed=seed), 20 + seed / 10, seed)
        for name, order in (("el2n", "highest"), ("el2n-low", "lowest")):
            self.measure(self.keep(name, "el2n", order, "0.1"), 30)

    def report(self, *args: object, scores=METHODS, results: str = "*/*/metrics.json"):
        named = [word for name in scores for word in ("--scores", self.folder / f"{name}.npy")]
        out = self.folder / "report"
        return dprune("report", *sorted(self.folder.glob(results)), *named, *args, "-o", out, "--overwrite", "--json")

    def rows(self, name: str) -> list[dict[str, str]]:
        text = (self.folder / "report" / "agreement" / f"{name}.csv").read_text()
        return list(csv.DictReader(io.StringIO(text)))

    @property
    def subsets(self) -> list[str]:
        return ["--subsets", str(self.folder / "*" / "*" / "keep.npy")]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A whole study, reported once."""
    found = Study(tmp_path_factory.mktemp("study"))
    found.whole()
    found.report(*found.subsets).ok()
    return found


def test_each_two_scores_are_correlated_and_each_beside_itself_scored_anew(told: Study) -> None:
    rows = {(row["score"], row["other"]): row for row in told.rows("correlations")}
    assert set(rows) == {(a, b) for n, a in enumerate(("EL2N", "GraNd", "MoSo")) for b in ("EL2N", "GraNd", "MoSo")[n:]}
    wanted = stats.spearmanr(told.values["el2n"][10:], told.values["grand"][10:]).statistic
    assert float(rows["EL2N", "GraNd"]["rank_correlation"]) == pytest.approx(wanted)
    assert rows["EL2N", "GraNd"]["samples"] == str(SIZE - 10)
    assert float(rows["EL2N", "EL2N"]["rank_correlation"]) == 0.9
    assert float(rows["EL2N", "GraNd"]["most"]) == pytest.approx(0.9)


def test_overlaps_are_shares_of_what_is_kept_averaged_over_seeds(told: Study) -> None:
    rows = {(row["pruned"], row["line"], row["other"]): row for row in told.rows("overlaps")}
    ids = {path.parent.parent.name + path.parent.name: read_ids(path).values
           for path in told.folder.glob("*/*/keep.npy")}  # fmt: skip
    shared = len(np.intersect1d(ids["el2n-0.50"], ids["grand-0.50"])) / 195
    assert float(rows["0.5", "EL2N, highest", "GraNd, highest"]["share"]) == pytest.approx(shared)
    assert float(rows["0.5", "EL2N, lowest", "EL2N, highest"]["share"]) == 0
    assert float(rows["0.9", "EL2N, lowest", "EL2N, highest"]["chance"]) == pytest.approx(0.1)
    random = [ids[f"random-0.5{seed}"] for seed in range(3)]
    means = np.mean([len(np.intersect1d(ids["el2n-0.50"], some)) / 195 for some in random])
    row = rows["0.5", "random", "EL2N, highest"]
    assert (float(row["share"]), row["sets"], row["other_sets"]) == (pytest.approx(means), "3", "1")
    between = [len(np.intersect1d(random[a], random[b])) / 195 for a, b in ((0, 1), (0, 2), (1, 2))]
    assert float(rows["0.5", "random", "random"]["share"]) == pytest.approx(np.mean(between))


def test_the_mean_score_of_what_was_kept_is_held_to_the_distance(told: Study) -> None:
    rows = {(row["pruned"], row["score"], row["metric"]): row for row in told.rows("predictions")}
    means = [row for row in told.rows("means") if (row["score"], row["pruned"]) == ("EL2N", "0.5")]
    scored = told.values["el2n"][10:].astype(np.float32).astype(np.float64)
    of_line = {row["line"]: row for row in means if row["metric"] == "frechet_distance"}
    kept = read_ids(told.folder / "moso-0.5" / "0" / "keep.npy").values - 10
    wanted = (scored[kept].mean() - scored.mean()) / scored.std()
    assert float(of_line["MoSo, highest"]["mean_score"]) == pytest.approx(wanted)
    seeds = [read_ids(told.folder / "random-0.5" / str(seed) / "keep.npy").values - 10 for seed in range(3)]
    wanted = np.mean([(scored[kept].mean() - scored.mean()) / scored.std() for kept in seeds])
    assert float(of_line["random"]["mean_score"]) == pytest.approx(wanted)
    x, y = ([float(row[name]) for row in of_line.values()] for name in ("mean_score", "value"))
    row = rows["0.5", "EL2N", "frechet_distance"]
    assert row["lines"] == "7"
    assert float(row["spearman"]) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert float(row["pearson"]) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert float(row["pearson"]) < -0.99
    # Two lines are too few, and a metric that is the same for all is predicted by nothing.
    assert rows["0.9", "EL2N", "frechet_distance"]["spearman"] == ""
    assert rows["0.5", "EL2N", "vendi"]["spearman_p"] == ""


def test_lines_that_were_trained_for_other_steps_are_no_evidence_for_others(study: Study) -> None:
    """Three of the same subsets with a hundredth of the steps are much worse, whatever their scores are."""
    study.whole()
    study.report(*study.subsets).ok()
    before = study.rows("predictions")
    for subset in sorted(study.folder.glob("*-0.5/0/keep.npy"))[:3]:
        run = Run(subset=read_ids(subset).as_parent(), samples=195, train={"steps": 5})
        write_metrics(subset.with_name("short.json"), run, {"frechet_distance": 90.0})
    study.report(*study.subsets, *study.folder.glob("*/*/short.json")).ok()
    assert study.rows("predictions") == before


def test_it_is_said_in_words_on_the_page_and_in_the_summary(told: Study) -> None:
    said = (told.folder / "report" / "summary.md").read_text()
    assert "EL2N and GraNd order the samples much alike" in said
    assert "MoSo orders them like none of the others" in said
    assert "EL2N, lowest, and EL2N, highest, the least: 0.00" in said
    assert "**Fréchet distance by mean score**: 2 of 3 rank correlations" in said
    assert "no file of --subsets" not in said
    manifest = json.loads((told.folder / "report" / "manifest.json").read_text())
    assert any(words.startswith("Scores: EL2N and GraNd") for words in manifest["conclusions"]["statements"])
    page = " ".join(page_of(told.folder / "report").text)
    for words in ("Rank correlation of scores", "Kept in common, pruned 0.5", "What the mean score predicts"):
        assert words in page
    tables = (told.folder / "report" / "agreement.md").read_text()
    assert "| EL2N | 0.90 |" in tables
    assert tables.count("### Kept in common") == 2


def test_each_score_has_its_density(told: Study) -> None:
    """All scored samples count, those beyond the axis and without those that were not scored."""
    rows = told.rows("spreads")
    for title, name in (("EL2N", "el2n"), ("MoSo", "moso")):
        own = [[float(row[key]) for key in ("begin", "end", "density")] for row in rows if row["score"] == title]
        scored = told.values[name][10:].astype(np.float32)
        for begin, end, density in own[5:35:5]:
            inside = np.mean((scored >= begin) & (scored < end))
            assert density * (end - begin) == pytest.approx(inside, abs=1e-6)
        assert own[0][0] == pytest.approx(np.quantile(scored, 0.005), abs=1e-6)
        assert 0.98 < sum(density * (end - begin) for begin, end, density in own) <= 1
    assert "How each score is spread (3 charts)" in " ".join(page_of(told.folder / "report").text)


def test_charts_of_what_scores_predict_are_folded_with_their_legend(told: Study) -> None:
    """Each score has one at each ratio, so that they are many, and the table above them has their numbers."""
    page = (told.folder / "report" / "report.html").read_text()
    heading = "<details><summary>Fréchet distance over the mean score of what is kept (6 charts)</summary>"
    folded = page.partition(heading)[2].partition("</details>")[0]
    assert folded.startswith('<ul class="legend lines">')
    assert folded.count("<figure") == 6


def test_constants_and_what_was_never_scored_have_no_density(study: Study) -> None:
    study.whole()
    study.score("moso", np.full(SIZE, 2.0))
    study.score("grand", np.where(np.arange(SIZE) % 2, np.inf, study.values["grand"]))
    study.report().ok()
    assert {row["score"] for row in study.rows("spreads")} == {"EL2N", "GraNd"}
    study.score("el2n", np.full(SIZE, np.nan))
    study.report(scores=("el2n", "moso"), results="random-0.5/0/metrics.json").ok()
    assert "is spread" not in " ".join(page_of(study.folder / "report").text)


def test_charts_are_files_where_these_are_asked_for(told: Study) -> None:
    told.report(*told.subsets, "--format", "svg").ok()
    found = {path.name for path in (told.folder / "report" / "agreement").glob("*.svg")}
    # The first metric over the mean of each score, at both ratios.
    scatters = {f"prediction-{n:02d}.svg" for n in range(1, 7)}
    spreads = {f"spread-{n:02d}.svg" for n in range(1, 4)}
    assert found == {"correlations.svg", "overlap-0.5.svg", "overlap-0.9.svg"} | scatters | spreads


def test_a_line_without_its_subset_has_empty_cells_and_a_caution(study: Study) -> None:
    study.whole()
    (study.folder / "grand-0.5" / "0" / "keep.npy").unlink()
    study.report(*study.subsets).ok()
    rows = {(row["line"], row["other"]) for row in study.rows("overlaps") if row["pruned"] == "0.5"}
    assert not any("GraNd, highest" in pair for pair in rows)
    table = (study.folder / "report" / "agreement.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| GraNd, highest |"))
    assert set(row.split("|")[2:-1]) == {f" {MISSING} "}
    assert "no file of --subsets is of GraNd, highest, pruned 0.5." in (study.folder / "report/summary.md").read_text()
    lines = {row["line"] for row in study.rows("means")}
    assert "GraNd, highest" not in lines
    assert "GraNd, lowest" in lines


def test_without_subsets_the_ends_of_scores_are_compared_at_the_ratios_of_the_results(study: Study) -> None:
    study.measure(study.keep("el2n", "el2n", "highest", "0.25"), 9)
    study.report(scores=("el2n", "moso")).ok()
    rows = {(row["line"], row["other"]): row for row in study.rows("overlaps")}
    assert {row["pruned"] for row in rows.values()} == {"0.75"}
    order = {name: np.argsort(study.values[name][10:], kind="stable") for name in ("el2n", "moso")}
    shared = len(np.intersect1d(order["el2n"][-97:], order["moso"][-97:])) / 97
    assert float(rows["EL2N, highest", "MoSo, highest"]["share"]) == pytest.approx(shared)
    assert float(rows["EL2N, lowest", "EL2N, highest"]["share"]) == 0
    assert not (study.folder / "report" / "agreement" / "predictions.csv").exists()


def test_overlaps_weigh_by_how_far_they_are_from_chance_on_either_side(study: Study) -> None:
    """The colours of the squares: of a quarter, the same samples are as far from chance as none in common."""
    files = [study.score(name, values) for name, values in (("a", study.values["el2n"]), ("b", -study.values["el2n"]))]
    inputs = AgreementInputs.open([str(file) for file in files], [], {str(file): file.stem for file in files})
    (matrix,) = end_matrices(inputs.scores, [0.75])
    weights = {(matrix.names[a], matrix.names[b]): cell.weight for (a, b), cell in matrix.pairs.items()}
    assert weights["a, lowest", "b, highest"] == weights["a, highest", "b, lowest"] == pytest.approx(1)
    assert weights["a, lowest", "a, highest"] == weights["a, lowest", "b, lowest"] == pytest.approx(-1)


def test_subsets_alone_have_overlaps_and_those_that_nobody_trained_on_have_names(study: Study) -> None:
    study.measure(study.keep("el2n", "el2n", "highest"), 9)
    study.keep("el2n-low", "el2n", "lowest")
    np.save(study.folder / "mine.npy", np.arange(150, 345))
    study.report(*study.subsets, "--subsets", study.folder / "mine.npy", scores=()).ok()
    rows = {(row["pruned"], row["line"], row["other"]) for row in study.rows("overlaps")}
    assert ("0.5", "EL2N, lowest", "EL2N, highest") in rows
    assert not (study.folder / "report" / "agreement" / "correlations.csv").exists()
    # Of what numpy wrote, only the number of samples in the dataset tells the ratio.
    study.report(*study.subsets, "--subsets", study.folder / "mine.npy", scores=("el2n",)).ok()
    means = study.rows("means")
    assert [row["line"] for row in means] == ["EL2N, highest"] * len(means)


def test_subsets_made_elsewhere_are_named_by_their_files(study: Study) -> None:
    study.measure(study.keep("el2n", "el2n", "highest"), 9)
    for name, start in (("ours", 0), ("theirs", 100)):
        np.save(study.folder / f"{name}.npy", np.arange(start, start + 200))
    study.report("--subsets", study.folder / "ours.npy", "--subsets", study.folder / "theirs.npy").ok()
    rows = {(row["line"], row["other"]): row for row in study.rows("overlaps") if row["pruned"] == "0.5"}
    assert float(rows["ours", "theirs"]["share"]) == 0.5


def test_results_that_name_no_subset_are_matched_by_how_theirs_was_chosen(study: Study) -> None:
    """Models trained by other tools say by tags what they were trained on."""
    for method, order in (("mine", "lowest"), ("yours", "highest"), ("lost", "lowest")):
        run = Run(scores="", tags={"train-dit": {"method": method, "order": order, "keep": "0.5"}})
        write_metrics(study.folder / f"{method}.json", run, {"frechet_distance": 9.0})
    dprune("select", study.folder / "el2n.npy", "--keep", "0.5", "--tag", "method=mine",
           "-o", study.folder / "a.npy").ok()  # fmt: skip
    np.save(study.folder / "yours.npy", np.argsort(study.values["el2n"])[190:390])
    files = [word for name in ("a", "yours") for word in ("--subsets", study.folder / f"{name}.npy")]
    study.report(*files, results="*.json").ok()
    rows = [row for row in study.rows("means") if row["score"] == "EL2N"]
    assert {row["line"]: float(row["mean_score"]) > 0 for row in rows} == {
        "mine, lowest": False,
        "yours, highest": True,
    }
    assert "no file of --subsets is of lost, lowest, pruned 0.5" in (study.folder / "report/summary.md").read_text()


def test_scores_are_named_by_method_options_files_and_labels(study: Study) -> None:
    study.measure(study.keep("el2n", "el2n", "highest"), 9)
    noisy = study.score("noisy", np.random.default_rng(0).normal(size=SIZE), "el2n", sigma=[0.29])
    study.score("el2n", study.values["el2n"], sigma=[0.06])
    np.save(study.folder / "mine.npy", np.random.default_rng(1).normal(size=SIZE))
    (study.folder / "table.csv").write_text("id,loss,gain\n0,1,3\n1,2,5\n2,3,4\n3,5,9\n")
    study.report("--scores", f"{study.folder / 'table.csv'}:loss", "--label", f"{noisy}=Noisy EL2N",
                 scores=("el2n", "noisy", "mine")).ok()  # fmt: skip
    names = {row["score"] for row in study.rows("correlations")} | {row["other"] for row in study.rows("correlations")}
    assert names >= {"Noisy EL2N", "EL2N, \N{GREEK SMALL LETTER SIGMA}=0.06", "mine"}
    study.report(scores=("el2n", "noisy")).ok()
    assert {row["score"] for row in study.rows("correlations")} == {
        "EL2N, \N{GREEK SMALL LETTER SIGMA}=0.06",
        "EL2N, \N{GREEK SMALL LETTER SIGMA}=0.29",
    }


def test_scores_inside_clusters_are_told_from_those_among_all(study: Study) -> None:
    clusters = made(make_record("cluster", {"k": 3}, fingerprint=FINGERPRINT))
    for name, parents, like in (("among-all", {}, "el2n"), ("inside", {"clusters": clusters}, "grand")):
        record = make_record("score herding", {}, parents=parents, fingerprint=FINGERPRINT)
        write_array(study.folder / f"{name}.npy", study.values[like].astype(np.float32), record)
    study.measure(study.keep("el2n", "el2n", "highest"), 9)
    study.report(scores=("among-all", "inside")).ok()
    names = {row[side] for row in study.rows("correlations") for side in ("score", "other")}
    assert names == {"herding", "herding, within clusters"}


def test_lines_that_keep_all_are_no_sets_that_overlap(study: Study) -> None:
    paths = [study.keep(name, "el2n", order) for name, order in (("el2n", "highest"), ("low", "lowest"))]
    for path in paths:
        study.measure(path, 9)
    everything = study.keep("all", "", "random", "1.0")
    for name in ("weighted", "easy-first"):
        drawn = {"curriculum" if name == "easy-first" else "weights": parent_record(None, name[0] * 64)}
        run = Run(subset=read_ids(everything).as_parent(), samples=390, drawn=drawn)
        write_metrics(study.folder / name / "0" / "metrics.json", run, {"frechet_distance": 8, "vendi": 3.0})
    study.report(*study.subsets).ok()
    assert {row["pruned"] for row in study.rows("overlaps")} == {"0.5"}


def test_text_files_of_scores_and_ids_will_do(study: Study) -> None:
    kept = study.keep("el2n", "el2n", "highest")
    study.measure(kept, 9)
    ids = read_ids(kept).values
    (study.folder / "kept.csv").write_text("id\n" + "".join(f"{number}\n" for number in ids))
    values = study.values["grand"]
    (study.folder / "grand.csv").write_text("id,score\n" + "".join(f"{n},{values[n]}\n" for n in range(10, SIZE)))
    study.report("--scores", study.folder / "grand.csv", "--subsets", study.folder / "kept.csv", scores=("el2n",)).ok()
    found = next(row for row in study.rows("correlations") if row["other"] != row["score"])
    wanted = stats.spearmanr(study.values["el2n"][10:], values[10:]).statistic
    assert float(found["rank_correlation"]) == pytest.approx(wanted, abs=1e-6)
    assert {row["line"] for row in study.rows("means")} == {"EL2N, highest"}


def test_what_was_not_scored_is_in_no_mean_and_no_correlation(study: Study) -> None:
    study.measure(study.keep("el2n", "el2n", "highest"), 9)
    unscored = np.full(SIZE, np.nan)
    unscored[:5] = np.arange(5.0)
    study.score("half", unscored, "monotonicity")
    study.report(*study.subsets, scores=("el2n", "half")).ok()
    assert not any(row["other"] != row["score"] for row in study.rows("correlations"))
    assert {row["score"] for row in study.rows("means")} == {"EL2N"}


@pytest.mark.parametrize(
    ("sign", "noise", "words"),
    [
        (1, 0.3, "EL2N and MoSo order the samples much alike"),
        (1, 1.7, "EL2N and MoSo order the samples somewhat alike"),
        (1, 30, "EL2N and MoSo order the samples hardly alike"),
        (-1, 1.4, "EL2N and MoSo order the samples somewhat the other way round"),
        (-1, 0.2, "EL2N and MoSo order the samples much the other way round"),
    ],
)
def test_words_follow_the_correlation(study: Study, sign: int, noise: float, words: str) -> None:
    study.measure(study.keep("el2n", "el2n", "highest"), 9)
    base = study.values["el2n"]
    study.score("moso", sign * base + noise * np.random.default_rng(5).normal(size=SIZE))
    summary = json.loads(study.report(scores=("el2n", "moso")).ok().out)
    assert any(said.startswith(f"Scores: {words}") for said in summary["conclusions"]["statements"])


def predicted(values: Sequence[float]) -> Prediction:
    """The Fréchet distance of lines whose mean scores are 0, 1, 2 and so on."""
    estimates = [CellMean(value, None, None, "sampling", 1, (1,)) for value in values]
    means = tuple(LineMean(Line("", "", "", ()), float(n), estimate) for n, estimate in enumerate(estimates))
    return Prediction(Comparison("", (), {}), "", "0.5", "EL2N", QUALITY[0], means, ())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 4, 2, 3, 0], "no mean score of what is kept predicts it beyond chance: of 1 rank correlation, none has"),
        ([0, 1, 2, 3, 4], "1 of 1 rank correlation with the mean score of what is kept has p below 0.05, where chance"),
    ],
)
def test_what_chance_makes_is_no_prediction(values: list[float], words: str) -> None:
    (statement,) = statements(None, [], [predicted(values)])
    assert statement.heading == "Fréchet distance by mean score"
    assert statement.sentences[0].startswith(words)
    assert "over 5 lines pruned 0.5" in statement.sentences[1]
    assert not [*statements(None, [], [predicted([1, 2, 3])])], "three lines are too few"


def test_names_of_others_do_nothing(study: Study) -> None:
    """Whatever a score or a file is called, it is text."""
    study.measure(study.keep("el2n", "el2n", "highest"), 9)
    for name, start in (("<b>a", 0), ("=1|2", 100)):
        np.save(study.folder / f"{name}.npy", np.arange(start, start + 200))
    study.report("--label", f"{study.folder / 'el2n.npy'}=<script>1</script>|*", "--format", "svg",
                 "--subsets", study.folder / "<b>a.npy", "--subsets", study.folder / "=1|2.npy",
                 scores=("el2n", "moso")).ok()  # fmt: skip
    page = page_of(study.folder / "report")
    assert "<script>1</script>|*" in " ".join(page.text)
    tables = (study.folder / "report" / "agreement.md").read_text()
    assert "&lt;script&gt;1&lt;/script&gt;\\|\\*" in tables
    assert {row["line"] for row in study.rows("overlaps")} >= {"'=1|2", "<b>a"}


def test_results_and_subsets_of_unknown_ratios_are_told_so(study: Study) -> None:
    study.measure(study.keep("el2n", "el2n", "highest"), 9)
    for name in ("ours", "theirs"):
        np.save(study.folder / f"{name}.npy", np.arange(len(name), 200))
    files = [word for name in ("ours", "theirs") for word in ("--subsets", study.folder / f"{name}.npy")]
    study.report(*files, "--format", "svg", scores=()).ok()
    assert {(row["pruned"], row["chance"]) for row in study.rows("overlaps")} == {(MISSING, "")}
    assert (study.folder / "report" / "agreement" / "overlap-unknown.svg").exists()
    assert "pruning ratio not known" in (study.folder / "report" / "report.html").read_text()


def test_inputs_that_do_not_belong_together_are_refused(study: Study) -> None:
    kept = study.keep("el2n", "el2n", "highest")
    study.measure(kept, 9)
    other = study.score("other", np.arange(float(SIZE)), fingerprint="e" * 64)
    study.report(scores=("el2n", "other")).fails(3, "el2n.npy", "other.npy", "different datasets")
    short = study.score("short", np.arange(SIZE - 1.0))
    study.report(scores=("el2n", "short")).fails(3, "el2n.npy", "short.npy", "399")
    study.report("--subsets", kept, scores=("other",)).fails(3, str(other), "different datasets")
    study.report("--subsets", study.folder / "none-*.npy").fails(3, "none-*.npy", "matches no file")
    study.report("--subsets", study.folder / "none.npy").fails(3, "none.npy", "no such file")
    study.report("--subsets", short).fails(3, "short.npy", "scores, not a subset")
    study.report("--scores", kept).fails(3, "keep.npy", "--subsets")
    np.save(study.folder / "far.npy", np.array([SIZE]))
    study.report("--subsets", study.folder / "far.npy").fails(3, "far.npy", str(SIZE))
    np.save(study.folder / "further.npy", np.array([1 << 55]))
    study.report("--subsets", study.folder / "further.npy", scores=()).fails(3, "further.npy", "memory")
    study.report("--label", f"{study.folder / 'el2n.npy'}=GraNd").fails(3, "GraNd", "--label")
    study.report("--label", f"{study.folder / 'el2n.npy'}= ").fails(3, "name is empty")


def test_neither_order_nor_repetition_makes_another_report_but_other_scores_do(study: Study) -> None:
    kept = study.keep("el2n", "el2n", "highest")
    study.measure(kept, 9)
    command = ["report", kept.with_name("metrics.json"), "--subsets", kept, "-o", study.folder / "report"]
    one, other = (["--scores", study.folder / f"{name}.npy"] for name in ("el2n", "grand"))
    dprune(*command, *one, *other).ok()
    files = {path: path.read_bytes() for path in (study.folder / "report").rglob("*") if path.is_file()}
    copied = shutil.copy(study.folder / "el2n.npy", study.folder / "copied.npy")
    again = dprune(*command, *other, *one, "--subsets", kept, *one, "--scores", copied).ok()
    assert "up to date" in again.err
    assert "counts once" in again.err
    assert files == {path: path.read_bytes() for path in files}
    dprune(*command, *one).fails(3, "--overwrite")
    dprune(*command, *one, *other, "--label", f"{one[1]}=Loss").fails(3, "--overwrite")
    dprune("report", *command[1:2], "-o", study.folder / "bare").ok()
    record = json.loads((study.folder / "bare" / "manifest.json").read_text())["provenance"]
    assert set(record["options"]) == {"title"}
    assert set(record["parents"]) == {"result"}


def test_many_large_subsets_take_a_bit_a_sample(study: Study) -> None:
    draw = np.random.default_rng(0)
    for number in range(40):
        ids = np.flatnonzero(draw.random(1_000_000) < 0.25)
        np.save(study.folder / f"large-{number:02d}.npy", ids)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inputs = AgreementInputs.open([], [str(study.folder / "large-*.npy")], {})
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 60_000
    matrices = overlap_matrices(KeptSets(inputs, [], []).by_ratio())
    assert len(matrices[0].pairs) == 40 * 39 / 2
    assert all(math.isclose(cell.value, 0.25, abs_tol=0.01) for cell in matrices[0].pairs.values())
