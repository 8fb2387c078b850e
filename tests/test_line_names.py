"""dprune report: what its lines are called, in which order they stand, and what else is said of them."""

from __future__ import annotations

import csv
import io
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import dprune
from studies import Run, made, mark, write_memorization, write_metrics

from dprune.formats.provenance import make_record, parent_record, with_findings
from dprune.formats.results import read_result
from dprune.reporting.line_table import line_table
from dprune.reporting.study.experiments import point_of_result
from dprune.reporting.study.grouping import Comparison, compare

NEAREST = Run(scores="cluster-distance")
EL2N = replace(NEAREST, scores="el2n", grouped=False)
RANDOM = Run(scores="random", order="random", grouped=False)
EQUAL = {"select": {"quota": "equal"}}


@pytest.fixture
def named(tmp_path):
    """Compare runs, each a Run or a Run with arguments of `write_metrics`."""

    def go(*runs) -> Comparison:
        points = []
        for number, run in enumerate(runs):
            run, more = run if isinstance(run, tuple) else (run, {})
            points.append(point_of_result(read_result(write_metrics(tmp_path / f"{number}.json", run, **more))))
        (found,) = compare(points)
        return found

    return go


def labels(comparison: Comparison) -> list[str]:
    return [line.label for line in comparison.lines]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([NEAREST], ["nearest"]),
        ([NEAREST, replace(NEAREST, order="highest"), replace(NEAREST, order="middle"), RANDOM, Run()],
         ["unpruned", "random", "nearest", "midway", "furthest"]),
        ([EL2N, replace(EL2N, order="highest"), replace(EL2N, scores="grand", order="highest")],
         ["EL2N, lowest", "EL2N, highest", "GraNd, highest"]),
        ([NEAREST, replace(NEAREST, **EQUAL)], ["nearest", "nearest, equal quotas"]),
        # One of two ways to be unlike the others is enough, and what most are goes without saying.
        ([NEAREST, replace(NEAREST, **EQUAL, k=10)], ["nearest", "nearest, equal quotas"]),
        ([NEAREST, replace(NEAREST, sample={"cfg": 4.0, "steps": 60}), Run()],
         ["unpruned", "nearest", "nearest, guidance 4"]),
        ([replace(NEAREST, k=k) for k in (100, 24, 9)],
         ["nearest, 9 clusters", "nearest, 24 clusters", "nearest, 100 clusters"]),
        # Of two methods, too, equal quotas are no quotas in proportion; of one alone they go without saying.
        ([NEAREST, replace(NEAREST, scores="el2n", **EQUAL)], ["nearest", "EL2N, lowest, equal quotas"]),
        ([EL2N, replace(NEAREST, **EQUAL)], ["nearest", "EL2N, lowest"]),
        ([replace(NEAREST, scores="moso", score={"draws": n}) for n in (1, 8)],
         ["MoSo, lowest, 1 draw", "MoSo, lowest, 8 draws"]),
        ([replace(NEAREST, scores="k-center"), replace(NEAREST, scores="k-center", order="highest")],
         ["k-center", "k-center, highest"]),
        ([EL2N, replace(EL2N, order="highest"), replace(EL2N, order="interval")],
         ["EL2N, lowest", "EL2N, highest", "EL2N, interval"]),
        ([replace(EL2N, scores=name) for name in ("k-center", "herding", "duplicates")],
         ["duplicates removed", "herding", "k-center"]),
        ([replace(EL2N, scores="influence", order="highest"), EL2N], ["EL2N, lowest", "influence, highest"]),
        # What a value bounds has no order and no share.
        ([replace(EL2N, scores="duplicates", keep=None, select={"below": 0.95}, samples=9)], ["duplicates below 0.95"]),
        ([replace(EL2N, keep=None, select=bounds, samples=9)
          for bounds in ({"below": 3}, {"above": 1, "below": 3}, {"above": 2})],
         ["EL2N above 1 and below 3", "EL2N above 2", "EL2N below 3"]),
        ([EL2N, replace(EL2N, select={"below": 3})], ["EL2N, lowest", "EL2N, lowest, below 3"]),
        # The first ranks are the same, however many follow them.
        ([replace(EL2N, scores="k-center"), replace(EL2N, scores="k-center", score={"up_to": "0.1"}, seed=1)],
         ["k-center"]),
        ([replace(EL2N, scores="duplicates", score={"prefer": end}) for end in ("nearest", "furthest")],
         ["duplicates removed, furthest first", "duplicates removed, nearest first"]),
    ],
)  # fmt: skip
def test_names_are_the_shortest_that_tell_lines_apart(named, runs, expected) -> None:
    assert labels(named(*runs)) == expected


def repeats(k: int = 24, within: str = "") -> dict[str, object]:
    """Weights of `select --repeat`, of all samples or of a share."""
    parents = {"clusters": made(replace(NEAREST, k=k).clusters())}
    parents |= {"within": made(make_record("select", {"order": "random", "keep": within}, seed=0))} if within else {}
    return made(make_record("select", {"order": "random", "quota": "equal", "repeat": True}, seed=0, parents=parents))


def score_of(method: str) -> dict[str, object]:
    """Scores by a model that was trained on a subset."""
    return made(make_record(f"score {method}", {"draws": 8}, parents=replace(NEAREST, keep="0.5").networks()))


@pytest.mark.parametrize(
    ("drawn", "name"),
    [
        ({"weights": repeats()}, "balanced oversampling"),
        ({"weights": score_of("el2n")}, "weighted by EL2N"),
        ({"weights": parent_record(None, "a" * 64)}, "weighted by aaaaaaaa"),
        ({"sigma_min": score_of("grand")}, "noise from a level of each sample by GraNd"),
        ({"curriculum": score_of("el2n")}, "curriculum by EL2N"),
    ],
)
def test_what_a_training_was_told_of_its_samples_makes_another_line(named, drawn, name) -> None:
    """It is of no subset, though the scores may be by a model that is, and no line has results of both."""
    runs = [Run(), Run(drawn=drawn), Run(seed=1), Run(drawn=drawn, seed=1), NEAREST, replace(NEAREST, drawn=drawn)]
    found = named(*runs)
    assert labels(found) == ["unpruned", f"all samples, {name}", "nearest", f"nearest, {name}"]
    assert [len(line.points) for line in found.lines] == [2, 2, 1, 1]
    # What it does is told by the unpruned.
    assert [line.unpruned for line in found.lines] == [(), *[("unpruned",)] * 3]
    assert [line.cells[0].ratio for line in found.lines] == [0, 0, 0.75, 0.75]


def test_networks_that_take_part_in_drawing_are_told_from_the_model(named) -> None:
    """What their trainings were told of the samples is not what that of the model was."""
    coarse = [Run(sample={"until": 0.7}, beside={"coarse": Run(train={"arch": arch})}) for arch in ("nano/4", "nano/8")]
    weaker = [Run(train={"steps": 50}), Run(train={"steps": 50}, drawn={"weights": repeats()})]
    guided = [Run(sample={"guide_scale": 2.0}, beside={"guide": run}) for run in weaker]
    found = named(Run(), *coarse, *guided)
    guidance = "unpruned, autoguidance 2"
    assert set(labels(found)) == {
        "unpruned", "unpruned, coarse model nano/4", "unpruned, coarse model nano/8", guidance,
        f"{guidance}, weaker model balanced oversampling",
    }  # fmt: skip
    assert "a coarse model until 0.7, coarse model nano/4" in [dict(line.about)["Differs in"] for line in found.lines]


def test_of_which_samples_weights_are_goes_without_saying(named) -> None:
    runs = [Run(drawn={"weights": repeats(within="1.0")}), replace(NEAREST, drawn={"weights": repeats(within="0.25")})]
    names = ["unpruned", "all samples, balanced oversampling", "nearest, balanced oversampling"]
    assert labels(named(Run(), *runs)) == names


def test_weights_of_other_clusters_are_others(named) -> None:
    found = named(Run(), *(Run(drawn={"weights": repeats(k)}) for k in (9, 100)))
    assert labels(found) == [
        "unpruned",
        "all samples, weighted by 9 clusters",
        "all samples, weighted by 100 clusters",
    ]


@pytest.mark.parametrize(
    ("options", "kept", "ratio", "text"),
    [
        ({"below": 0.95}, 700, 0.3, "those below 0.95 by the largest similarity"),
        # Half of what the bound leaves is less than half of all.
        ({"below": 0.95, "keep": "0.5", "order": "lowest"}, 350, 0.65, "the lowest by the largest similarity"),
        ({"order": "interval", "keep": "0.25"}, 250, 0.75, "every m-th by the largest similarity"),
    ],
)
def test_how_much_a_bound_leaves_is_found_in_the_subset(named, options, kept, ratio, text) -> None:
    record = replace(EL2N, scores="duplicates", keep=None, order=options.get("order", "lowest"), select=options)
    chosen = record.chosen()["provenance"]
    counts = {"candidates": 700 if "below" in options else 1000, "kept": kept}
    counts |= {"scored": 1000} if "below" in options else {}
    (line,) = named(Run(subset=made(with_findings(chosen, counts)))).lines
    assert line.cells[0].ratio == pytest.approx(ratio)
    assert dict(line.about)["What is kept"].startswith(text)


def test_a_bound_that_leaves_nothing_out_prunes_nothing(named) -> None:
    chosen = replace(EL2N, keep=None, select={"below": 9}).chosen()["provenance"]
    counts = {"candidates": 1000, "kept": 1000, "scored": 1000}
    assert labels(named(Run(subset=made(with_findings(chosen, counts))))) == ["unpruned"]


def test_a_chain_never_stands_in_a_name(named) -> None:
    """`cluster-distance lowest, quota=proportional, clusters cluster, model latents vae select, vae select` was one."""
    own = replace(NEAREST, select={"quota": "proportional"}, own_vae=True, packed=True)
    everything = replace(RANDOM, keep="1.0", without=True)
    found = named(own, replace(NEAREST, order="highest", **EQUAL), EL2N, replace(EL2N, own_vae=True, vae_of=everything))
    assert labels(found) == [
        "nearest, autoencoder of the training subset",
        "furthest, equal quotas",
        "EL2N, lowest",
        "EL2N, lowest, autoencoder of a subset",
    ]


def test_what_is_trained_on_pixels_is_told_where_there_are_latents_too(named) -> None:
    pixels, codes = (
        {"kind": kind, "channels": channels, "size": size, "codes": count, "image_size": 32}
        for kind, channels, size, count in (("pixels", 3, 32, 0), ("vq", 4, 8, 512))
    )
    on_pixels, on_codes = (replace(NEAREST, network=network) for network in (pixels, codes))
    assert labels(named(on_pixels, replace(on_pixels, order="highest"))) == ["nearest", "furthest"]
    found = named(on_pixels, on_codes)
    assert labels(found) == ["nearest, on codes", "nearest, on pixels"]
    assert "on pixels" in dict(found.lines[1].about)["Differs in"]


def test_strata_and_other_peoples_groups_are_told(named) -> None:
    groups = {"groups": parent_record(None, "a" * 64)}
    plain, strata, others = (chosen(NEAREST, more) for more in ({}, groups, {"groups": parent_record(None, "b" * 64)}))
    assert labels(named(plain, strata)) == ["nearest", "nearest, within groups"]
    assert labels(named(strata, others)) == ["nearest, groups aaaaaaaa", "nearest, groups bbbbbbbb"]
    about = dict(named(plain, strata).lines[1].about)
    assert about["Chosen"] == "inside each cluster and group, proportional quotas"


def chosen(run: Run, more: dict[str, dict[str, object]]) -> Run:
    """The same run, its subset chosen with more inputs."""
    record = run.chosen()["provenance"]
    return Run(subset=made({**record, "parents": {**record["parents"], **more}}))


def test_names_are_unique_and_do_not_depend_on_the_order_of_files(named) -> None:
    orders, quotas, sampled = ("lowest", "middle", "highest"), ({}, EQUAL), ({}, {"cfg": 4.0})
    runs = [
        replace(NEAREST, scores=scores, order=order, sample=sample, **quota)
        for scores, order, quota, sample in itertools.product(("el2n", "grand", "moso"), orders, quotas, sampled)
    ] + [Run(sample=sample) for sample in sampled]
    found = labels(named(*runs))
    assert len(set(found)) == len(found) == len(runs)
    assert labels(named(*reversed(runs))) == found
    assert found[:2] == ["unpruned, guidance 2", "unpruned, guidance 4"]


def test_what_has_no_words_is_numbered(named) -> None:
    """Two records of one method that differ in a step of which nothing but its digest is known."""
    runs = [(NEAREST, {"generated": parent_record(None, "a" * 8 + end * 56)}) for end in "bc"]
    assert labels(named(*runs)) == ["external, generated aaaaaaaa (1)", "external, generated aaaaaaaa (2)"]


def test_a_named_baseline_says_what_it_is(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path / f"{n}.json", run) for n, run in enumerate((RANDOM, NEAREST))]
    dprune("report", *files, "--baseline", "random", "-o", tmp_path / "report").ok()
    assert lines_of(tmp_path / "report") == ["baseline: random, pruned 0.75", "nearest"]


def test_a_named_baseline_is_told_apart_by_being_one(tmp_path: Path) -> None:
    """Other candidates go without saying: nothing else is called so."""
    runs = (Run(scores="random", order="random", keep="1.0", without=True), RANDOM, replace(RANDOM, keep="0.5"))
    files = [write_metrics(tmp_path / f"{n}.json", run) for n, run in enumerate(runs)]
    dprune("report", *files, "--baseline", files[1], "-o", tmp_path / "report").ok()
    assert lines_of(tmp_path / "report") == ["baseline: random, pruned 0.75", "unpruned", "random"]


@pytest.mark.parametrize("ratio", ["", ", pruned 0.75"])
@pytest.mark.parametrize("several", [False, True])
def test_a_baseline_goes_by_the_name_that_label_gives(tmp_path: Path, ratio: str, several: bool) -> None:
    runs = [RANDOM, NEAREST, *([replace(RANDOM, keep="0.5")] if several else [])]
    files = [write_metrics(tmp_path / f"{n}.json", run) for n, run in enumerate(runs)]
    found = dprune("report", *files, "--label", "random=By chance", "--baseline", f"By chance{ratio}",
                   "-o", tmp_path / "report")  # fmt: skip
    if several and not ratio:
        found.fails(3, "2 pruning ratios", "random, pruned 0.5")
        return
    found.ok()
    others = ["By chance", "nearest"] if several else ["nearest"]
    assert lines_of(tmp_path / "report") == ["baseline: random, pruned 0.75" if several else "By chance", *others]


def test_a_baseline_goes_by_the_name_that_label_gives_a_file(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path / f"{n}.json", run) for n, run in enumerate((RANDOM, NEAREST))]
    dprune("report", *files, "--label", f"{files[0]}=By chance", "--baseline", "By chance",
           "-o", tmp_path / "report").ok()  # fmt: skip
    assert lines_of(tmp_path / "report") == ["By chance", "nearest"]


def test_tags_name_methods_and_set_lines_apart(named) -> None:
    tagged = [{"method": "mine", "keep": "0.5"}, {"method": "mine", "keep": "0.5", "note": "warm"},
              {"method": "cluster-distance", "order": "lowest", "keep": "0.5"}]  # fmt: skip
    runs = [(NEAREST, {"generated": parent_record(None, mark(n)), "tags": tags}) for n, tags in enumerate(tagged)]
    assert labels(named(*runs)) == ["nearest", "mine", "mine, note=warm"]


def test_a_line_says_what_it_is(named) -> None:
    found = named(NEAREST, replace(EL2N, order="highest", score={"sigma": [0.06]}), Run())
    table = line_table([found])
    assert table.heads == ("Line", "What is kept", "Chosen", "Pruned", "Results")
    assert table.rows == (
        ("unpruned", "all samples", "", "0", "1"),
        ("nearest", "the lowest by distance to the centre of its cluster (cluster-distance)",
         "inside each of 24 clusters, proportional quotas", "0.75", "1"),
        ("EL2N, highest", "the highest by EL2N, the error of the model (el2n)", "among all samples", "0.75", "1"),
    )  # fmt: skip
    # What all share is said once.
    assert table.shared == (("Model", "nano/2, 500 training steps, batch size 64"),)
    assert [line.is_baseline for line in found.lines] == [True, False, False]
    assert found.lines[1].description.startswith("the lowest by distance to the centre of its cluster")


def test_all_that_sets_a_line_apart_is_in_the_table(named) -> None:
    """Its name says one of two ways in which it differs."""
    found = line_table([named(NEAREST, replace(NEAREST, sample={"cfg": 4.0, "steps": 60}), Run())])
    column = found.heads.index("Differs in")
    assert [row[column] for row in found.rows] == ["", "", "guidance 4, 60 sampling steps"]
    # What most lines have is said once.
    assert found.usual == "guidance 2, 20 sampling steps"
    pair = line_table([named(NEAREST, replace(NEAREST, sample={"cfg": 4.0}))])
    assert [row[pair.heads.index("Differs in")] for row in pair.rows] == ["guidance 2", "guidance 4"]
    assert not pair.usual


def test_a_long_tail_halves_and_models_without_classes_are_told_in_words(named) -> None:
    tail = make_record("select", {"order": "random", "tail": "0.1"}, parents={"groups": made(NEAREST.pack())})
    whole = make_record("select", {"order": "random", "keep": "1.0"}, parents={"within": made(tail)})
    tailed = Run(subset=made(whole), train={"unconditional": True}, sample={"cfg": 1.0})
    found = named(Run(train={"label_dropout": 0.1}), replace(NEAREST, train={"label_dropout": 0.1}), tailed)
    assert labels(found) == ["unpruned", "unpruned, long tail 0.1, unconditional", "nearest"]
    told = dict(found.lines[1].about)
    assert told["What is kept"] == "all samples of a set with long tail 0.1"
    assert told["Differs in"] == "long tail 0.1, guidance 1, unconditional"
    # What is chosen within it says the tail, and not that candidates had groups.
    chosen_in = make_record("select", {"order": "random", "keep": "0.5"}, parents={"within": made(tail)})
    inside = replace(tailed, subset=made(chosen_in))
    told = dict(named(RANDOM, inside, tailed, Run()).lines[-1].about)
    assert "long tail 0.1" in told["Differs in"]
    assert "groups" not in told["Differs in"]
    halves = [Run(train={"fold": fold}) for fold in ("0/2", "1/2")]
    assert labels(named(*halves)) == ["unpruned, half 1 of 2", "unpruned, half 2 of 2"]
    assert labels(named(*(Run(train={"fold": f"{n}/3"}) for n in (0, 2)))) == [
        "unpruned, part 1 of 3", "unpruned, part 3 of 3"
    ]  # fmt: skip


# By the real command.


def lines_of(folder: Path) -> list[str]:
    return [row["Line"] for row in csv.DictReader(io.StringIO((folder / "lines.csv").read_text()))]


def study(folder: Path) -> list[Path]:
    """Quality of two guidances, and memorization of one."""
    runs = [replace(NEAREST, keep="0.5"), NEAREST, Run(), replace(NEAREST, sample={"cfg": 4.0})]
    files = [write_metrics(folder / f"q{n}.json", run) for n, run in enumerate(runs)]
    return files + [write_memorization(folder / f"m{n}.json", run) for n, run in enumerate(runs[:3])]


def test_a_line_has_one_name_in_all_tables(tmp_path: Path) -> None:
    files = study(tmp_path)
    files += [write_memorization(tmp_path / "m4.json", replace(NEAREST, sample={"cfg": 4.0}))]
    dprune("report", *files[:4], files[-1], "-o", tmp_path / "report").ok()
    for name in ("quality", "memorization"):
        rows = csv.DictReader(io.StringIO((tmp_path / "report" / f"{name}.csv").read_text()))
        assert {row["line"] for row in rows} <= {"unpruned", "nearest", "nearest, guidance 4"}
    assert lines_of(tmp_path / "report") == ["unpruned", "nearest", "nearest, guidance 4"]


@pytest.mark.parametrize("by", ["line", "file"])
def test_a_label_renames_a_line_everywhere(tmp_path: Path, by: str) -> None:
    files, out = study(tmp_path), tmp_path / "report"
    result = "nearest" if by == "line" else files[1]
    dprune("report", *files, "--label", f"{result}=Near = dear", "--label", "unpruned=All", "-o", out).ok()
    assert lines_of(out) == ["All", "Near = dear", "nearest, guidance 4"]
    for name in ("quality.csv", "quality.md", "memorization.csv", "report.html"):
        text = (out / name).read_text()
        assert "Near = dear" in text
        assert not [old for old in ("| nearest |", "| unpruned |", ">nearest<", "\n,nearest,") if old in text]
    assert "up to date" in dprune("report", *files, "--label", "nearest=Near = dear", "--label",
                                  f"{files[2]}=All", "-o", out).ok().err  # fmt: skip
    dprune("report", *files, "-o", out).fails(3, "label")


def test_a_file_whose_name_holds_an_equals_sign_is_named(tmp_path: Path) -> None:
    file = write_metrics(tmp_path / "cfg=2.json", NEAREST)
    dprune("report", file, "--label", f"{file}=Mine", "-o", tmp_path / "report").ok()
    assert lines_of(tmp_path / "report") == ["Mine"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["nearest"], ("no name", "RESULT=NAME")),
        (["nearest="], ("empty",)),
        (["furthest=X"], ("'furthest'", "nearest; nearest, guidance 4; unpruned")),
        (["nearest=unpruned"], ("2 lines", "'unpruned'")),
        (["nearest=X", "unpruned=X"], ("2 lines", "'X'")),
        (["nearest=X", "nearest=Y"], ("'nearest'", "'X'", "one name")),
    ],
)
def test_labels_that_name_nothing_are_one_sentence(tmp_path: Path, given, words) -> None:
    more = [part for text in given for part in ("--label", text)]
    dprune("report", *study(tmp_path), *more, "-o", tmp_path / "report").fails(3, "--label", *words)
    assert not (tmp_path / "report").exists()
