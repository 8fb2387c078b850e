"""How results are grouped by the provenance that they carry: what makes a line, a cell, a comparison, an unpruned."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune, sample, write_tar
from safetensors.numpy import save_file
from scipy import stats
from studies import TOTAL, Run, made, mark, write_memorization, write_metrics

from dprune.errors import InputError
from dprune.formats.arrays import read_ids
from dprune.formats.provenance import make_record, parent, parent_record
from dprune.formats.results import read_result
from dprune.reporting.study.experiments import point_of_result
from dprune.reporting.study.factors import Factor, flatten
from dprune.reporting.study.grouping import compare

PRUNED = Run(scores="cluster-distance")


@pytest.fixture
def compared(tmp_path):
    """Compare runs, each a Run or a Run with arguments of `write_metrics`."""

    def go(*runs, write=write_metrics):
        points = []
        for number, run in enumerate(runs):
            run, more = run if isinstance(run, tuple) else (run, {})
            path = write(tmp_path / f"{number}.json", run, **more)
            points.append(point_of_result(read_result(path)))
        return compare(points)

    return go


def shape(comparison):
    """Ratios by label."""
    return {line.label: [cell.ratio for cell in line.cells] for line in comparison.lines}


def test_ratios_make_a_line_and_orders_lines_of_one_family(compared) -> None:
    runs = [replace(PRUNED, order=order, keep=keep) for order in ("lowest", "highest") for keep in ("0.1", "0.5")]
    (found,) = compared(*runs, replace(PRUNED, scores="random", order="random", keep="0.5"), Run())
    assert shape(found) == {
        "unpruned": [0.0],
        "furthest": [0.5, 0.9],
        "nearest": [0.5, 0.9],
        "random": [0.5],
    }
    assert [line.family for line in found.pruned] == ["random", "cluster-distance", "cluster-distance"]
    assert all(line.unpruned == ("unpruned",) for line in found.pruned)


def test_seeds_alone_are_averaged(compared) -> None:
    values = (10.0, 12.0, 17.0)
    runs = [
        (
            replace(PRUNED, seed=n, score={"seed": n}, sample={"seeds": f"{500 * n}-{500 * n + 499}"}),
            {"metrics": {"frechet_distance": v}},
        )
        for n, v in enumerate(values)
    ]
    (found,) = compared(*runs)
    (cell,) = found.lines[0].cells
    estimate = cell.estimate("frechet_distance")
    assert cell.samplings == estimate.samplings == (1, 1, 1)
    assert estimate.mean == pytest.approx(13)
    assert estimate.error == pytest.approx(stats.sem(values))
    assert estimate.half_width == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(values))


def test_the_standard_error_is_stated_where_there_is_one_seed(compared) -> None:
    (found,) = compared((PRUNED, {"metrics": {"kid": 2.0, "kid_se": 0.5, "cmmd": None, "cmmd_se": None}}))
    cell = found.lines[0].cells[0]
    estimate = cell.estimate("kid")
    assert (estimate.over, estimate.error, estimate.half_width) == ("sampling", 0.5, pytest.approx(0.98, rel=1e-4))
    assert cell.estimate("cmmd") is None
    assert cell.measured("cmmd")
    assert not cell.measured("vendi")


def test_the_same_samples_measured_twice_are_no_second_seed(compared) -> None:
    first, second = {"frechet_distance": 1.0}, {"frechet_distance": 3.0, "kid": 5.0}
    (found,) = compared((PRUNED, {"metrics": first}), (PRUNED, {"metrics": second, "seed": 1}))
    (cell,) = found.lines[0].cells
    estimate = cell.estimate("frechet_distance")
    assert (estimate.mean, estimate.error, estimate.samplings) == (2.0, None, (1,))
    assert cell.estimate("kid").mean == 5.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 10}, ("24 clusters", "10 clusters")),
        ({"select": {"quota": "equal"}}, ("equal quotas",)),
        ({"score": {"sigma": "0.06"}}, ("\N{GREEK SMALL LETTER SIGMA}=0.06",)),
        ({"sample": {"cfg": 4.0}}, ("guidance 2", "guidance 4")),
        ({"sample": {"seeds": "0-99"}}, ("500 samples", "100 samples")),
        ({"train": {"arch": "small/2"}}, ("nano/2", "small/2")),
        ({"tags": {"train-dit": {"note": "warm"}}}, ("note=warm",)),
    ],
)
def test_every_other_option_makes_a_line_of_its_own(compared, change, words) -> None:
    (found,) = compared(PRUNED, replace(PRUNED, keep="0.5"), replace(PRUNED, **change))
    assert len(found.lines) == 2
    assert sorted(len(line.cells) for line in found.lines) == [1, 2]
    labels = " | ".join(line.label for line in found.lines)
    assert all(word in labels for word in words), labels


def test_a_choice_inside_clusters_is_told_from_one_among_all_samples(compared) -> None:
    inside = replace(PRUNED, scores="el2n", select={"quota": "proportional"})
    (found,) = compared(inside, replace(inside, select={}, grouped=False), replace(inside, select={"quota": "equal"}))
    labels = ["EL2N, lowest", "EL2N, lowest, equal quotas", "EL2N, lowest, within clusters"]
    assert sorted(line.label for line in found.lines) == labels
    (alone,) = compared(inside)
    assert [line.label for line in alone.lines] == labels[:1]


def test_options_are_named_with_their_command_only_where_that_is_needed(compared) -> None:
    (found,) = compared(PRUNED, replace(PRUNED, train={"steps": 900}), replace(PRUNED, train={"lr": 1e-3}))
    labels = [line.label for line in found.lines]
    # `steps` is an option of three commands, `lr` of one.
    assert "nearest, 900 training steps" in labels
    assert "nearest, learning rate 0.001" in labels


@pytest.mark.parametrize(
    ("change", "more", "title"),
    [
        ({"embed": {"model": "dinov2"}}, {}, "dinov2"),
        ({"data": "faces"}, {}, mark("faces")[:8]),
        ({}, {"reference": parent_record(None, "cafe" * 16)}, "cafecafe"),
    ],
)
def test_what_was_measured_otherwise_is_another_comparison(compared, change, more, title) -> None:
    found = compared(PRUNED, (replace(PRUNED, keep="0.5", **change), more))
    assert len(found) == 2
    assert all(len(line.cells) == 1 for comparison in found for line in comparison.lines)
    assert any(title in comparison.title for comparison in found)


def test_tags_never_make_one_of_two_references(compared) -> None:
    """Tags of a result speak for generated samples without provenance, not for what they are compared with."""
    given = [
        (PRUNED, {"generated": parent_record(None, g * 64), "reference": parent_record(None, r * 64),
                  "tags": {"method": "mine", "keep": "0.25"}})
        for g, r in (("a", "c"), ("b", "c"), ("a", "d"))
    ]  # fmt: skip
    found = compared(*given)
    assert sorted(len(comparison.lines[0].cells[0].nested) for comparison in found) == [1, 2]


def test_which_metrics_were_computed_sets_nothing_apart(compared) -> None:
    few = (PRUNED, {"metrics": {"precision": 0.5}, "options": {"metrics": ["prdc"], "k": 3}})
    (found,) = compared((PRUNED, {"metrics": {"frechet_distance": 1.0}}), few)
    (cell,) = found.lines[0].cells
    assert cell.estimate("precision").mean == 0.5
    assert cell.estimate("frechet_distance").mean == 1.0


def test_options_of_a_metric_that_contradict_are_two_comparisons(compared) -> None:
    found = compared((PRUNED, {"options": {"k": 3}}), (PRUNED, {"options": {"k": 5}}))
    assert sorted(comparison.title for comparison in found) == ["k=3", "k=5"]


@pytest.fixture
def reported(tmp_path):
    """Report runs by the real command, and return its rows and what it says of them."""

    def go(*runs, write=write_metrics):
        files = [write(tmp_path / f"{number}.json", run, **more) for number, (run, more) in enumerate(runs)]
        dprune("report", *files, "-o", tmp_path / "report").ok()
        name = "quality" if write is write_metrics else "memorization"
        rows = list(csv.DictReader(io.StringIO((tmp_path / "report" / f"{name}.csv").read_text())))
        said = [(tmp_path / "report" / file).read_text() for file in (f"{name}.md", "report.html")]
        return rows, said

    return go


def external(number: int) -> dict[str, object]:
    """Arguments of what was generated elsewhere, which tags call by one name."""
    return {"generated": parent_record(None, mark(number)), "tags": {"method": "mine", "keep": "0.25"}}


def statistics_of(run: Run) -> dict[str, object]:
    """Arguments of a Fréchet distance that is of statistics alone."""
    return {"generated": made(make_record("eval statistics", {}, parents={"features": made(run.generated())}))}


MANY = replace(PRUNED, seed=1, sample={"seeds": "0-4999"})


@pytest.mark.parametrize(
    ("few", "many"),
    [
        ((PRUNED, external(0)), (PRUNED, {**external(1), "counts": {"generated": 5000}})),
        ((PRUNED, {}), (MANY, {})),
        ((PRUNED, {}), (replace(PRUNED, seed=1), {"counts": {"generated": 5000}})),
        ((PRUNED, statistics_of(PRUNED)), (MANY, statistics_of(MANY))),
        ((PRUNED, {}), (replace(PRUNED, seed=1), {"counts": {"generated": (4990, 10)}})),
    ],
    ids=["arrays", "seeds", "some of the shards", "statistics", "dropped"],
)
def test_results_of_few_and_of_many_samples_are_never_averaged(reported, few, many) -> None:
    metrics = [{"metrics": {"frechet_distance": value, "frechet_distance_se": 0.1}} for value in (10.0, 8.0)]
    rows, said = reported(*((run, more | own) for (run, more), own in zip((few, many), metrics, strict=True)))
    method = "mine" if "tags" in few[1] else "nearest"
    assert {row["line"]: (row["trainings"], float(row["frechet_distance"])) for row in rows} == {
        f"{method}, 500 samples": ("1", 10.0), f"{method}, 5,000 samples": ("1", 8.0)
    }  # fmt: skip
    for text in said:
        assert "Lines that differ in the number of samples (500, 5,000) were sampled or measured differently" in text
        assert "are not averaged" in text
    # Nor is the one of more samples better than the other.
    assert "**" not in said[0]


@pytest.mark.parametrize("role", ["generated", "train", "held_out"])
def test_memorization_by_other_counts_is_never_averaged(reported, role) -> None:
    counts = {"counts": {role: 150}, "options": {"full": True}}
    rows, said = reported((Run(), {}), (replace(Run(), seed=1), counts), write=write_memorization)
    assert [row["trainings"] for row in rows] == ["1", "1"]
    name, known = {
        "generated": ("samples", 500),
        "train": ("training samples", "2,000"),
        "held_out": ("held-out samples", 200),
    }[role]
    assert all(f"the number of {name} (150, {known})" in text for text in said)


def test_references_of_other_counts_are_never_averaged(reported) -> None:
    """Some of the shards of a dataset have its record, and are another reference."""
    rows, said = reported((PRUNED, {}), (replace(PRUNED, seed=1), {"counts": {"reference": 900}}))
    assert [(row["measurement"], row["trainings"]) for row in rows] == [
        ("2,000 reference samples", "1"),
        ("900 reference samples", "1"),
    ]
    assert all(
        "The tables differ in the number of reference samples (900, 2,000): what they hold was measured differently"
        in t
        for t in said
    )


def test_samples_that_were_dropped_set_nothing_apart(reported) -> None:
    dropped = {"counts": {"generated": (497, 3), "reference": (TOTAL - 1, 1)}}
    (row,), said = reported((PRUNED, {}), (replace(PRUNED, seed=1), dropped))
    assert (row["trainings"], row["generated"]) == ("2", "")
    assert "| 2 | 1 | 497 to 500 |" in said[0]
    assert "differ" not in said[0]


def test_what_lost_many_samples_is_of_those_that_are_left(compared) -> None:
    (found,) = compared(PRUNED, (replace(PRUNED, seed=1), {"counts": {"generated": (490, 10)}}))
    assert {line.label for line in found.lines} == {"nearest, 490 samples", "nearest, 500 samples"}


@pytest.mark.parametrize(
    "change",
    [
        {"sample": {"cfg": 4.0}},
        {"sample": {"cfg_interval": [0.2, 0.8]}},
        {"sample": {"cfg_channels": 3}},
        {"sample": {"solver": "heun"}},
        {"sample": {"steps": 60}},
        {"sample": {"quantize": False}},
        {"sample": {"precision": "bfloat16"}},
        {"sample": {"classes": "random"}},
        {"embed": {"model": "dinov2-b"}},
        {"embed": {"weights": "0" * 64}},
        {"embed": {"precision": "bfloat16"}},
        {"embed": {"image_size": 224}},
        {"options": {"k": 5}},
        {"options": {"density_k": 3}},
        {"options": {"splits": 1}},
        {"reference": parent_record(None, "cafe" * 16)},
    ],
    ids=lambda change: " ".join(f"{where} {name}" for where, what in change.items() for name in what),
)
def test_whatever_changes_what_a_metric_is_expected_to_be_is_named(compared, change) -> None:
    parts = {name: value for name, value in change.items() if name in ("sample", "embed")}
    more = {name: value for name, value in change.items() if name not in parts}
    usual = {"options": {"k": 3, "density_k": 5, "splits": 10}}
    found = compared((PRUNED, usual), (replace(PRUNED, seed=1, **parts), usual | more))
    assert all(cell.samplings == (1,) for comparison in found for _, cell in comparison.cells())
    named = " ".join(found[0].apart + found[0].beside)
    ((where, what),) = change.items()
    assert (where if where == "reference" else next(iter(what)).replace("_", " ")) in named


def test_blocks_of_the_jackknife_set_nothing_apart(compared) -> None:
    (found,) = compared(PRUNED, (replace(PRUNED, seed=1), {"options": {"jackknife": 10}}))
    assert found.lines[0].cells[0].samplings == (1, 1)


def test_tags_never_make_one_of_two_datasets(compared) -> None:
    tags = {"sample": {"method": "mine", "keep": "0.25"}}
    runs = [Run(data=data, seed=n, tags=tags) for n, data in enumerate(("digits", "faces"))]
    (found,) = compared(*((run, {"reference": parent_record(None, "cafe" * 16)}) for run in runs))
    assert [cell.samplings for _, cell in found.cells()] == [(1,), (1,)]


def test_statistics_of_samples_are_no_second_sampling(compared) -> None:
    (found,) = compared((PRUNED, {"metrics": {"kid": 1.0}}),
                        (PRUNED, {"metrics": {"frechet_distance": 2.0}, **statistics_of(PRUNED)}))  # fmt: skip
    (cell,) = found.lines[0].cells
    assert cell.samplings == (1,)


def test_the_unpruned_of_as_many_samples_is_what_a_line_is_held_to(compared) -> None:
    many = {"sample": {"seeds": "0-4999"}}
    (found,) = compared(PRUNED, replace(PRUNED, **many), Run(), Run(**many))
    assert {line.label: line.unpruned for line in found.pruned} == {
        f"nearest, {count} samples": (f"unpruned, {count} samples",) for count in ("500", "5,000")
    }


def test_each_unpruned_belongs_to_the_lines_that_were_made_alike(compared) -> None:
    strong = {"sample": {"cfg": 4.0}}
    (found,) = compared(PRUNED, replace(PRUNED, **strong), Run(), Run(**strong))
    assert {line.label: line.unpruned for line in found.pruned} == {
        "nearest, guidance 2": ("unpruned, guidance 2",),
        "nearest, guidance 4": ("unpruned, guidance 4",),
    }


def test_keeping_everything_is_unpruned(compared) -> None:
    """A selection of all that is not held out is the baseline, whatever its order and groups."""
    everything = Run(scores="random", order="random", keep="1.0", without=True)
    (found,) = compared(everything, replace(PRUNED, without=True), replace(everything, k=10, scores="el2n"))
    assert shape(found) == {"unpruned": [0.0], "nearest": [0.75]}
    assert found.pruned[0].unpruned == ("unpruned",)


def test_the_unpruned_is_held_to_what_the_pruned_are(compared) -> None:
    """To it, the samples that could be kept are its training set, and those that were are, too."""
    everything = Run(scores="random", order="random", keep="1.0", without=True)
    pruned = replace(PRUNED, without=True)
    to_all = [(run, {"subset": everything.chosen()}) for run in (everything, pruned)]
    to_own = [(run, {"subset": run.chosen()}) for run in (everything, pruned, replace(pruned, keep="0.5"))]
    (found,) = compared(*to_all)
    assert shape(found) == {"unpruned": [0.0], "nearest": [0.75]}
    (found,) = compared(*to_own)
    assert shape(found) == {"unpruned": [0.0], "nearest": [0.5, 0.75]}
    assert [len(comparison.lines) for comparison in compared(*to_all, *to_own)] == [2, 2]
    reference = made(make_record("embed", {"model": "inception", "dtype": "float16"},
                                 parents={"shards": made(everything.shards(pruned=True))}))  # fmt: skip
    (found,) = compared(*((run, {"reference": reference}) for run in (everything, pruned)))
    assert len(found.lines) == 2
    # What nothing was measured alike stays by itself.
    assert len(compared(to_all[0], (pruned, {}))) == 2


def test_one_autoencoder_of_everything_serves_the_pruned_and_the_unpruned(compared) -> None:
    """To the unpruned it is one of its own training set, which must not set the two apart."""
    everything = Run(scores="random", order="random", keep="1.0", without=True)
    shared = {"own_vae": True, "vae_of": everything}
    (found,) = compared(replace(everything, **shared), replace(PRUNED, without=True, **shared))
    assert found.pruned[0].unpruned == ("unpruned",)
    (found,) = compared(replace(everything, **shared), replace(PRUNED, without=True))
    assert found.pruned[0].unpruned == ()


def test_the_unpruned_with_the_same_candidates_comes_first(compared) -> None:
    everything = Run(scores="random", order="random", keep="1.0", without=True)
    (found,) = compared(everything, Run(), replace(PRUNED, without=True), PRUNED)
    by_label = {line.label: line for line in found.lines}
    (without,) = [line for line in found.pruned if any("without" in f.path for f in line.cells[0].points[0].selection)]
    assert {line.label for line in found.lines} == {
        "unpruned", "unpruned, some left out", "nearest", "nearest, some left out"
    }  # fmt: skip
    (named,) = without.unpruned
    assert by_label[named].cells[0].points[0].subset.given
    (other,) = [line for line in found.pruned if line is not without]
    assert not by_label[other.unpruned[0]].cells[0].points[0].subset.given


@pytest.mark.parametrize("packed", [False, True])
def test_an_autoencoder_of_the_subset_makes_no_factor(compared, packed) -> None:
    """The pruned shards occur again in its ancestry, at every ratio another; the unpruned still belongs to it."""
    runs = [replace(PRUNED, keep=keep, own_vae=True, packed=packed) for keep in ("0.1", "0.5")]
    (found,) = compared(*runs, Run())
    assert shape(found) == {"unpruned": [0.0], "nearest": [0.5, 0.9]}
    assert found.pruned[0].unpruned == ("unpruned",)
    (found,) = compared(*runs, replace(PRUNED, keep="0.75", packed=packed), Run())
    # An autoencoder of all data is another experiment.
    assert shape(found)["nearest, autoencoder of the training subset"] == [0.5, 0.9]
    assert len(found.pruned) == 2


def test_counts_are_ratios_by_what_the_model_was_trained_on(compared) -> None:
    runs = [replace(PRUNED, keep=str(count), samples=count) for count in (200, 1000)]
    assert shape(compared(*runs)[0]) == {"nearest": [0.5, 0.9]}
    capped = [replace(PRUNED, keep=None, select={"cap": cap}, samples=cap * 10) for cap in (20, 100)]
    assert shape(compared(*capped)[0]) == {"nearest": [0.5, 0.9]}
    even = replace(PRUNED, keep=None, select={"quota": "equal"}, samples=500)
    assert shape(compared(even)[0]) == {"nearest": [0.75]}


def test_seeds_that_keep_other_counts_are_averaged(compared) -> None:
    runs = [replace(PRUNED, keep=None, select={"quota": "equal"}, samples=n, seed=n) for n in (480, 520)]
    (found,) = compared(*runs)
    assert shape(found) == {"nearest": [pytest.approx(0.75)]}
    assert len(found.lines[0].cells[0].nested) == 2


def test_a_ratio_that_nothing_tells_is_none(compared) -> None:
    """A packed count says neither of how many."""
    (found,) = compared(replace(PRUNED, keep="200", samples=200, packed=True))
    assert shape(found) == {"nearest": [None]}


def test_set_algebra_over_a_choice_is_that_choice(compared) -> None:
    chosen = PRUNED.chosen()
    assert chosen is not None
    outer = make_record("select", {"order": "lowest"}, parents={"within": chosen, "without": made(Run().held_out())})
    (found,) = compared(Run(subset=made(outer), samples=450))
    assert shape(found) == {"nearest": [1 - 450 / TOTAL]}


def test_how_a_subset_was_written_sets_nothing_apart(compared) -> None:
    """As keys and back to ids, as it goes from rows of clip-retrieval to samples of shards."""
    keys = replace(PRUNED, select={"format": "keys"})
    ids = make_record("select", {"order": "lowest"}, seed=0, parents={"within": keys.chosen()})
    (found,) = compared(PRUNED, replace(PRUNED, subset=made(ids)), replace(keys, packed=True))
    assert shape(found) == {"nearest": [0.75]}


@pytest.fixture
def selected(tmp_path):
    """Choose among 20 samples in 4 clusters of 5 by the real command, and take the subset as an input."""
    np.save(tmp_path / "s.npy", np.arange(20, dtype=np.float32))
    np.save(tmp_path / "held.npy", np.array([0, 19]))
    assignment, distance = np.arange(20, dtype=np.int32) % 4, np.ones(20, np.float32)
    save_file({"assignment": assignment, "distance": distance}, tmp_path / "c.safetensors")
    files = {"S": tmp_path / "s.npy", "C": tmp_path / "c.safetensors", "HELD": tmp_path / "held.npy"}

    def select(line, samples=TOTAL, name="K", **options):
        path = files[name] = tmp_path / f"{name}.npy"
        dprune("select", *(files.get(word, word) for word in line.split()), "--overwrite", "-o", path).ok()
        return Run(subset=read_ids(path).as_parent(), samples=samples, **options)

    return select


@pytest.mark.parametrize(
    "everything",
    [
        "--clusters C --without HELD",
        "--order random --keep 1.0 --clusters C --without HELD",
        "S --order highest --keep 18 --without HELD",
        "S --prune 0 --without HELD",
        "--order random --cap 5 --clusters C --without HELD",
        "S --without HELD",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_keeps_all_its_candidates_is_unpruned(compared, selected, everything, packed) -> None:
    """Samples that were held out are no pruned ones, and no option that chose nothing makes a line."""
    lines = {
        "--order random --keep 1.0 --clusters C --without HELD": 18,
        everything: 18,
        "S --keep 9 --without HELD": 9,
    }
    (found,) = compared(*(selected(line, samples=count, packed=packed) for line, count in lines.items()))
    assert shape(found) == {"unpruned": [0.0], "external, lowest": [0.5]}
    assert found.pruned[0].unpruned == ("unpruned",)


@pytest.mark.parametrize(
    ("line", "label", "ratio"),
    [
        ("S --keep 9 --without HELD", "external, lowest", 0.5),
        ("--order random --keep 9 --clusters C --without HELD", "random", 0.5),
        ("S --order highest --cap 3 --clusters C", "external, highest", 0.4),
        ("S --order middle --keep 0.5 --cap 1 --clusters C", "external, middle", 0.8),
        ("S --keep 0.5 --or HELD", "external, lowest", 0.5),
        ("--clusters C --only 1,3", "only 1,3", 0.5),
        ("--clusters C --only 0 --without HELD", "only 0", 1 - 4 / 18),
        ("S --keep 0.5 --clusters C --only 1,3", "external, lowest", 0.5),
    ],
)
def test_the_ratio_is_of_the_candidates(compared, selected, line, label, ratio) -> None:
    (found,) = compared(selected(line, samples=1234))
    assert shape(found) == {label: [pytest.approx(ratio)]}


def test_classes_that_were_taken_whole_are_called_by_name(compared, selected, tmp_path) -> None:
    write_tar(tmp_path / "shards" / "0.tar", [p for row in range(20) for p in sample(f"{row:02d}", row, row % 4)])
    (tmp_path / "shards" / "classes.txt").write_text("cat\ndog\nemu\n")
    (found,) = compared(selected(f"--groups {tmp_path / 'shards'} --only emu,dog"))
    assert shape(found) == {"only emu, dog": [0.5]}
    (found,) = compared(selected(f"--groups {tmp_path / 'shards'} --only 3"))
    assert shape(found) == {"only 3": [0.75]}


def test_groups_of_a_dataset_can_be_all_that_there_is(compared, selected) -> None:
    (found,) = compared(selected("--order random --keep 1.0 --clusters C --only 1,3"),
                        selected("S --keep 0.5 --clusters C --only 1,3"))  # fmt: skip
    assert shape(found) == {"unpruned": [0.0], "external, lowest": [0.5]}


def test_a_choice_of_fewer_groups_than_the_unpruned_has_says_so(compared, selected) -> None:
    lines = ("--order random --keep 1.0 --clusters C", "S --keep 0.5 --clusters C --only 1,3")
    assert shape(compared(*map(selected, lines))[0]) == {"unpruned": [0.0], "external, lowest, only 1,3": [0.5]}


def test_subsets_that_are_only_intersected_are_what_they_were(compared, selected) -> None:
    """The order that select has by default says nothing where there is nothing to order."""
    (found,) = compared(selected("--within HELD", samples=500))
    assert shape(found) == {"external": [0.75]}
    selected("--order random --keep 1.0 --clusters C", name="ALL")
    (found,) = compared(selected("--within ALL --without HELD", samples=500))
    assert shape(found) == {"unpruned": [0.0]}
    selected("S --keep 0.5", name="HALF")
    (found,) = compared(selected("--within ALL --within HALF --without HELD", samples=500))
    assert shape(found) == {"external, lowest": [0.75]}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("composed", ["--tail 0.2 --clusters C", "--counts 0:5,1:3,2:3 --clusters C --seed 3"])
def test_a_composed_set_is_a_data_set_of_its_own(compared, selected, composed, packed) -> None:
    """All of it is unpruned, but no second training of all data, and what is chosen within it is held to it."""
    tailed = selected(composed, name="TAIL", samples=11, packed=packed)
    chosen = selected("S --keep 0.5 --within TAIL", samples=6, packed=packed)
    (found,) = compared(Run(), tailed, selected("--within TAIL --order random --keep 1.0", packed=packed), chosen)
    option, value = composed.split()[0].removeprefix("--"), composed.split()[1]
    name = f"long tail {value}" if option == "tail" else f"counts {value}"
    assert [line.label for line in found.unpruned] == ["unpruned", f"unpruned, {name}"]
    # Given whole or as all that is within it, it is the same set.
    assert [len(line.points) for line in found.unpruned] == [1, 2]
    assert dict(found.unpruned[1].about)["What is kept"] == f"all samples of a set with {name}"
    (line,) = found.pruned
    assert line.unpruned == (f"unpruned, {name}",)
    assert line.cells[0].ratio == 0.5
    (alone,) = compared(tailed, chosen)
    assert shape(alone) == {"unpruned": [0.0], "external, lowest": [0.5]}


def test_what_is_chosen_in_clusters_of_a_composed_set_is_held_to_all_of_that(compared, selected, tmp_path) -> None:
    """Nobody says --within where the clusters hold no other samples."""
    tailed = selected("--tail 0.2 --clusters C", name="TAIL", samples=9)
    parents = {"features": made(Run().features()), "subset": tailed.chosen()}
    record = make_record("cluster", {"k": 4}, seed=0, parents=parents)
    kept = np.load(tmp_path / "TAIL.npy")
    assignment = np.where(np.isin(np.arange(20), kept), np.arange(20) % 2, -1).astype(np.int32)
    save_file({"assignment": assignment, "distance": np.ones(20, np.float32)}, tmp_path / "c.safetensors",
              {"dprune": json.dumps(record)})  # fmt: skip
    equal = selected("S --clusters C --quota equal", name="EQUAL", samples=4)
    (found,) = compared(Run(), tailed, equal, selected("S --clusters C --as-many-as EQUAL", samples=4))
    whole = next(line for line in found.unpruned if "long tail 0.2" in line.label)
    assert len(found.unpruned) == 2
    assert [line.unpruned for line in found.pruned] == [(whole.label,), (whole.label,)]
    assert len({line.cells[0].ratio for line in found.pruned}) == 1


def test_groups_composed_by_scores_are_a_choice(compared, selected) -> None:
    (found,) = compared(selected("S --tail 0.2 --clusters C"), selected("S --counts 0:2,3:2 --clusters C"))
    # 5, 2, 1 and 1 of four clusters of five, and 2 of two.
    assert shape(found) == {"external, lowest": [pytest.approx(1 - 9 / 20), pytest.approx(1 - 4 / 20)]}


def test_as_many_as_equal_quotas_give_is_one_cell_over_clusterings(compared, selected, tmp_path) -> None:
    """How many that is hangs on the clustering: it is asked for alike, and of the same ratio."""
    runs = []
    for seed, groups in enumerate(([7, 6, 4, 3], [8, 6, 5, 1])):
        record = make_record("cluster", {"k": 4}, seed=seed, parents={"features": made(Run().features())})
        assignment = np.repeat(np.arange(4, dtype=np.int32), groups)
        save_file({"assignment": assignment, "distance": np.ones(20, np.float32)}, tmp_path / "c.safetensors",
                  {"dprune": json.dumps(record)})  # fmt: skip
        runs.append(selected("S --clusters C --quota equal", name="EQUAL", seed=seed))
        runs.append(selected("S --clusters C --as-many-as EQUAL", seed=seed))
    (found,) = compared(*runs)
    ratio = 1 - (12 / 20 + 4 / 20) / 2
    assert shape(found) == {"external, lowest, equal quotas": [pytest.approx(ratio)],
                            "external, lowest": [pytest.approx(ratio)]}  # fmt: skip


def test_tags_of_a_choice_are_kept_and_those_of_candidates_are_not(compared, selected) -> None:
    selected("S --keep 0.9 --tag keep=1 --tag method=pool", name="POOL")
    (found,) = compared(selected("S --keep 0.5 --within POOL"))
    assert shape(found) == {"external, lowest": [0.5]}
    (found,) = compared(selected("--within POOL --without HELD"))
    assert shape(found) == {"unpruned": [0.0]}
    selected("S --keep 0.25 --tag method=mine", name="MINE")
    (found,) = compared(selected("--within MINE --without HELD", samples=500))
    assert shape(found) == {"mine, lowest": [0.75]}


@pytest.mark.parametrize("where", ["select", "train-dit", "eval"])
@pytest.mark.parametrize("keep", ["1", "1.0", "100%"])
def test_a_tag_makes_anything_unpruned(compared, where, keep) -> None:
    tags = {"keep": keep}
    run = (PRUNED, {"tags": tags}) if where == "eval" else replace(PRUNED, tags={where: tags})
    (found,) = compared(run, replace(PRUNED, keep="0.5"))
    assert shape(found) == {"unpruned": [0.0], "nearest": [0.5]}


def test_what_was_pruned_before_dprune_saw_it_is_not_unpruned(compared) -> None:
    (found,) = compared(Run(tags={"train-dit": {"keep": "0.25"}}), Run())
    assert shape(found) == {"unpruned": [0.0], "external": [0.75]}


def test_standard_errors_are_no_scores_of_that_name(compared) -> None:
    (found,) = compared(replace(PRUNED, scores="el2n", score={"values": "standard error"}))
    assert shape(found) == {"EL2N standard error, lowest": [0.75]}


def test_a_subset_made_elsewhere_is_a_line_by_its_digest(compared) -> None:
    runs = [Run(subset=parent_record(None, digit * 64), samples=500) for digit in "ab"]
    (found,) = compared(*runs)
    assert shape(found) == {"external, subset aaaaaaaa": [0.75], "external, subset bbbbbbbb": [0.75]}


@pytest.mark.parametrize("where", ["train-dit", "sample", "embed"])
def test_tags_say_where_results_of_others_belong(compared, where) -> None:
    runs = [
        Run(subset=parent_record(None, mark(seed, keep)), seed=seed,
            tags={where: {"method": "mine", "keep": keep, "order": "lowest", "seed": str(seed)}})
        for seed in (1, 2) for keep in ("0.25", "0.5")
    ]  # fmt: skip
    (found,) = compared(*runs, Run())
    assert shape(found) == {"unpruned": [0.0], "mine, lowest": [0.5, 0.75]}
    assert [len(cell.nested) for cell in found.pruned[0].cells] == [2, 2]
    assert found.pruned[0].unpruned == ("unpruned",)


def test_tags_at_the_selection_and_at_the_scores(compared) -> None:
    at_select = replace(PRUNED, tags={"select": {"method": "mine"}})
    at_score = replace(PRUNED, tags={"score": {"method": "theirs"}})
    (found,) = compared(at_select, at_score)
    assert shape(found) == {"mine, lowest": [0.75], "theirs, lowest": [0.75]}


def test_tags_at_the_result_speak_for_plain_arrays(compared) -> None:
    runs = [
        (PRUNED, {"generated": parent_record(None, mark(n)), "tags": {"method": method, "keep": keep, "seed": str(n)}})
        for n, (method, keep) in enumerate([("mine", "0.25"), ("mine", "0.25"), ("mine", "0.5"), ("unpruned", "1.0")])
    ]
    (found,) = compared(*runs)
    assert shape(found) == {"unpruned": [0.0], "mine": [0.5, 0.75]}
    assert found.pruned[0].unpruned == ("unpruned",)
    assert len(found.pruned[0].cells[1].nested) == 2


def test_tags_at_the_features_speak_for_images_of_other_tools(compared) -> None:
    def features(n):
        images = {"shards": parent_record(None, mark("images", n))}
        tags = {"method": "mine", "keep": "0.25", "seed": str(n)}
        return made(make_record("embed", {"model": "inception", "dtype": "float16"}, parents=images, tags=tags))

    (found,) = compared(*((PRUNED, {"generated": features(n)}) for n in range(3)))
    assert shape(found) == {"mine": [0.75]}
    assert len(found.lines[0].cells[0].nested) == 3


def test_a_subset_without_a_digest_is_read(compared) -> None:
    chosen = PRUNED.chosen()
    del chosen["digest"]
    (found,) = compared(Run(subset=chosen))
    assert shape(found) == {"nearest": [0.75]}


def test_plain_arrays_without_tags_are_lines_by_their_digest(compared) -> None:
    runs = [(PRUNED, {"generated": parent_record(None, digit * 64)}) for digit in "ab"]
    (found,) = compared(*runs)
    assert [line.label for line in found.lines] == [
        "external, generated aaaaaaaa",
        "external, generated bbbbbbbb",
    ]
    assert [line.cells[0].ratio for line in found.lines] == [None, None]


def test_tags_of_the_autoencoder_and_the_held_out_samples_name_no_method(tmp_path: Path) -> None:
    result = read_result(write_memorization(tmp_path / "m.json", PRUNED))
    held_out = parent(result.record, "held_out")
    held_out["tags"] = {"method": "held", "keep": "0.1"}
    point = point_of_result(result)
    assert (point.subset.method, float(point.subset.ratio)) == ("cluster-distance", 0.75)


def test_a_tag_that_is_no_amount_is_an_error(tmp_path: Path) -> None:
    path = write_metrics(tmp_path / "m.json", PRUNED, tags={"keep": "most"})
    with pytest.raises(InputError, match="keep=most"):
        point_of_result(read_result(path))


def test_a_result_without_generated_samples_is_an_error(tmp_path: Path) -> None:
    result = read_result(write_metrics(tmp_path / "m.json", PRUNED))
    del result.record["parents"]["generated"]
    with pytest.raises(InputError, match="generated"):
        point_of_result(result)


def test_trainings_of_equal_epochs_make_one_line(compared) -> None:
    """--epochs is recorded as steps, of which a smaller training set has fewer."""
    runs = [replace(PRUNED, keep=keep, train={"steps": steps}) for keep, steps in (("0.25", 79), ("0.5", 157))]
    unpruned = Run(train={"steps": 313})
    (found,) = compared(*runs, unpruned)
    assert shape(found) == {"unpruned": [0.0], "nearest": [0.5, 0.75]}
    assert found.pruned[0].unpruned == ("unpruned",)
    (found,) = compared(*runs, replace(unpruned, train={"steps": 999}))
    assert len(found.pruned) == 2


def test_memorization_of_the_subset_and_of_everything_are_apart(compared) -> None:
    full = {"options": {"full": True}}
    found = compared(PRUNED, (PRUNED, full), Run(), write=write_memorization)
    assert [[line.label for line in comparison.lines] for comparison in found] == [["unpruned", "nearest"]] * 2
    assert sorted(comparison.title for comparison in found) == ["default options", "to the full training set"]


def test_eval_against_the_training_subset_is_apart(compared) -> None:
    own = [(run, {"subset": run.chosen()}) for run in (PRUNED, replace(PRUNED, keep="0.5"))]
    found = compared(*own, PRUNED, Run())
    assert sorted(shape(comparison)["nearest"] for comparison in found) == [[0.5, 0.75], [0.75]]
    assert all(comparison.unpruned for comparison in found)


def test_the_order_of_results_makes_no_difference(compared) -> None:
    def marks(*runs):
        (found,) = compared(*runs)
        return [(line.label, [point.mark for cell in line.cells for point in cell.points]) for line in found.lines]

    runs = [replace(PRUNED, keep=keep, seed=seed) for keep in ("0.25", "0.5") for seed in (0, 1)]
    assert marks(*runs, Run()) == marks(Run(), *reversed(runs)) != marks(*runs)


def test_of_steps_that_share_a_path_the_last_one_counts():
    """Shards packed from a subset stand where those that they were packed from would."""
    first = make_record("pack", {"shard_size": 100}, parents={"images": parent_record(None, mark("x"))})
    subset = parent_record(None, mark("subset"))
    again = make_record("pack", {"shard_size": 50}, parents={"shards": made(first), "subset": subset})
    found = flatten(make_record("embed", {"model": "pixels"}, parents={"shards": made(again)})).factors
    assert found[Factor(("shards",), "pack", "shard_size")] == "50"
    assert found[Factor((), "embed", "model")] == "pixels"
