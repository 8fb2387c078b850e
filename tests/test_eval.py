"""`dprune eval`, through the real command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DATA, Result, dprune, dprune_process, sample, write_tar
from safetensors.numpy import load_file, save_file
from stores import generated_features

from dprune.formats.arrays import read_ids, write_array
from dprune.formats.provenance import make_record, parent
from dprune.formats.results import read_result
from dprune.formats.tensors import read_metadata, write_tensors
from dprune.measuring.balance import strata_of
from dprune.measuring.eval_metrics import FUNCTIONS
from dprune.measuring.groups import by_kmeans
from dprune.metrics import reading as block_reader
from dprune.metrics.catalogue import METRICS
from dprune.metrics.frechet import Moments, frechet_distance
from dprune.metrics.inception_score import inception_score
from dprune.metrics.jackknife import Blocks
from dprune.metrics.manifold import manifold
from dprune.metrics.prd import prd
from dprune.seeds import generator

ORACLE = load_file(DATA / "metrics.safetensors")
PIXELS = ("--model", "pixels", "--image-size", 4, "--workers", 0)


def value(name: str) -> float:
    return float(ORACLE[f"value.{name}"].item())


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Write an array and return where."""

    def write(name: str, values: np.ndarray) -> Path:
        np.save(tmp_path / f"{name}.npy", values)
        return tmp_path / f"{name}.npy"

    return write


@pytest.fixture
def pair(save: Any) -> tuple[Path, Path]:
    """Features of 120 generated and 90 reference samples in 6 dimensions."""
    return save("x", normal(120, 6)), save("y", normal(90, 6, seed=1) + 0.3)


def evaluate(*args: object) -> dict[str, Any]:
    """The result of an eval that succeeds."""
    found: dict[str, Any] = json.loads(dprune("eval", *args, "-o", "-").ok().out)
    return found


def embed(shards: Path, output: Path, *args: object) -> Path:
    dprune("embed", shards, *PIXELS, *args, "-o", output).ok()
    return output


def cached(folder: Path) -> list[Path]:
    return sorted(folder.glob("features/*/*.safetensors"))


# Other people's numbers, through the command.


@pytest.fixture(scope="module")
def oracle_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oracle")
    for name in ("generated", "train"):
        np.save(folder / f"{name}.npy", ORACLE[name].astype(np.float64))
    np.save(folder / "logits.npy", ORACLE["generated_logits"])
    np.save(folder / "first.npy", ORACLE["generated"][:240].astype(np.float64))
    return folder


@pytest.mark.parametrize("k", [3, 5])
def test_numbers_are_those_of_public_implementations(oracle_files: Path, k: int) -> None:
    files = oracle_files / "generated.npy", oracle_files / "train.npy"
    found = evaluate(*files, "--metrics", "fid,prdc,kid,vendi", "--k", k, "--density-k", k, "--jackknife", 0)
    metrics, vendi = found["metrics"], found["details"]["vendi"]
    assert metrics["frechet_distance"] == pytest.approx(value("frechet_distance"), rel=1e-9)
    assert metrics["kid"] == pytest.approx(value("kid_all_pairs_unbiased"), rel=1e-9)
    assert metrics["vendi"] == pytest.approx(value("vendi_q1_cosine"), rel=1e-10)
    assert metrics["vendi"] == pytest.approx(value("vendi_q1_from_kernel_matrix"), rel=1e-8)
    assert vendi["2"]["value"] == pytest.approx(value("vendi_q2_cosine"), rel=1e-10)
    assert round(metrics["precision"] * 1200) == round(value(f"prdc_precision_k{k}") * 1200)
    assert round(metrics["recall"] * 1500) == round(value(f"prdc_recall_k{k}") * 1500)
    assert round(metrics["coverage"] * 1500) == round(value(f"prdc_coverage_k{k}") * 1500)
    assert metrics["density"] == pytest.approx(value(f"prdc_density_k{k}"), rel=1e-12)
    if k == 3:
        assert metrics["precision"] == pytest.approx(value("precision_k3"), rel=1e-7)
        assert metrics["f_score"] == pytest.approx(value("f_score_k3"), rel=1e-7)


def test_the_inception_score_takes_logits_shuffled_by_the_seed(oracle_files: Path) -> None:
    files = oracle_files / "first.npy", oracle_files / "train.npy"
    args = (*files, "--metrics", "is", "--logits", oracle_files / "logits.npy", "--splits", 7, "--seed", 3)
    found, logits = evaluate(*args), torch.from_numpy(ORACLE["generated_logits"])
    expected = inception_score(logits, 7, 3, Blocks.draw(240, 3))
    assert found["metrics"]["inception_score"] == pytest.approx(expected.score.value, rel=1e-12)
    assert found["metrics"]["inception_score_se"] == pytest.approx(expected.score.error, rel=1e-12)
    assert found["details"]["inception_score"] == {"splits": 7, "deviation": pytest.approx(expected.deviation)}
    assert inception_score(logits, 7, None).score.value != found["metrics"]["inception_score"]


def test_every_metric_gets_the_same_blocks(pair: tuple[Path, Path]) -> None:
    found = evaluate(*pair, "--metrics", "prdc,prd", "--seed", 5, "--jackknife", 8)["metrics"]
    x, y = (torch.from_numpy(np.load(path)) for path in pair)
    blocks = Blocks.draw(120, 5, count=8)
    balls, curve = manifold(x, y, blocks=blocks), prd(x, y, by_kmeans, 5, blocks=blocks)
    assert found["recall_se"] == pytest.approx(balls.recall.error, rel=1e-12)
    assert found["density_se"] == pytest.approx(balls.density.error, rel=1e-12)
    assert found["prd_f_8"] == pytest.approx(curve.f_8.value, rel=1e-12)
    assert found["prd_f_8_se"] == pytest.approx(curve.f_8.error, rel=1e-12)


def test_errors_of_balanced_classes_hold_no_chance_of_classes(tmp_path: Path) -> None:
    """Classes that lie far apart, as many of each as asked for: other samples would have as many."""
    label = np.tile(np.arange(4), 100)
    x, y = (normal(400, 6, seed=seed) + 10 * label[:, None] for seed in (1, 2))
    by_chance = label.copy()
    by_chance[:2] = 3
    found = {}
    save_file({"features": y, "label": label}, tmp_path / "y.safetensors")
    for name, labels in (("asked", label), ("chance", by_chance), ("none", np.full(400, -1))):
        save_file({"features": x, "label": labels}, tmp_path / f"{name}.safetensors")
        args = (tmp_path / f"{name}.safetensors", tmp_path / "y.safetensors")
        # Of moments alone the features are read in passing.
        found[name] = [evaluate(*args, "--metrics", metrics)["metrics"] for metrics in ("fid", "fid,prdc,vendi")]
        assert found[name][0]["frechet_distance_se"] == pytest.approx(found[name][1]["frechet_distance_se"], rel=1e-6)
    asked, chance, unknown = (found[name][1] for name in ("asked", "chance", "none"))
    assert chance == unknown
    for key in ("frechet_distance", "precision", "recall", "vendi"):
        assert asked[key] == pytest.approx(chance[key], rel=1e-6), key
    for key in ("frechet_distance_se", "vendi_se"):
        assert asked[key] < 0.5 * chance[key], key


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 1] * 5 + [1], [0, 1] * 5 + [1, 1], [5] * 8, [-1, 0] * 9, None])
def test_classes_are_strata_where_none_has_more(labels: list[int] | None) -> None:
    given = None if labels is None else np.array(labels)
    assert strata_of(given) is (given if labels == [0, 1] * 5 + [1] else None)


# What the result holds.


def test_the_result_says_what_was_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    args = ("--tag", "method=mine", "--metrics", "kid,fid", "--seed", 2, "--splits", 3)
    dprune("eval", *pair, *args, "-o", tmp_path / "m.json").ok()
    result = read_result(tmp_path / "m.json")
    assert result.kind == "metrics"
    assert list(result.metrics) == ["frechet_distance", "frechet_distance_se", "kid", "kid_se"]
    assert [(side["role"], side["count"], side["dimension"], side["model"]) for side in result.inputs] == [
        ("generated", 120, 6, None), ("reference", 90, 6, None)]  # fmt: skip
    record = result.record
    assert record["command"] == "eval"
    assert record["options"] == {"metrics": ["fid", "kid"], "jackknife": 20, "fid_infinity": False}
    assert (record["seed"], record["tags"]) == (2, {"method": "mine"})
    assert {role: parent["external"] for role, parent in record["parents"].items()} == {
        "generated": True, "reference": True}  # fmt: skip
    assert record["parents"]["generated"]["digest"] == result.inputs[0]["digest"]
    terms = result.details["frechet"]
    assert terms["mean_term"] + terms["covariance_term"] == pytest.approx(result.metrics["frechet_distance"])


def test_by_default_all_that_the_inputs_allow_is_computed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    said = dprune("eval", *pair, "-o", tmp_path / "m.json").ok().err
    metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
    usual = [key for metric in METRICS.values() if metric.by_default for key in metric.keys]
    assert list(metrics) == [f"{key}{suffix}" for key in usual for suffix in ("", "_se")]
    assert [key for key, number in metrics.items() if number is None] == ["inception_score", "inception_score_se"]
    assert said.count("no Inception score: ") == 1
    assert said.count("no shares: ") == 1
    assert "dprune: Fréchet distance: " in said


def test_every_metric_of_the_catalogue_is_computed_and_named(pair: tuple[Path, Path]) -> None:
    assert list(FUNCTIONS) == list(METRICS)
    # Lines end behind hyphens, too.
    shown = " ".join(dprune("eval", "--help-all").ok().out.decode().split()).replace("- ", "-")
    assert f"Metrics: {','.join(METRICS)}." in shown
    dprune("eval", *pair, "--metrics", "all", "-o", "-").fails(2, f"choose from {','.join(METRICS)}.")


def test_the_curve_is_short_and_what_is_read_from_it_exact(pair: tuple[Path, Path]) -> None:
    found = evaluate(*pair, "--metrics", "prd", "--jackknife", 0)
    curve, (x, y) = found["details"]["prd"], (torch.from_numpy(np.load(path)) for path in pair)
    expected = prd(x, y, by_kmeans)
    for name, values in (("precision", expected.precision), ("recall", expected.recall)):
        assert curve[name] == [round(number, 6) for number in values.tolist()]
    assert found["metrics"]["prd_f_8"] == expected.f_8.value


def test_without_a_jackknife_there_are_no_errors(pair: tuple[Path, Path]) -> None:
    metrics = evaluate(*pair, "--metrics", "fid,prdc,kid,cmmd,prd,vendi", "--jackknife", 0)["metrics"]
    assert all((number is None) == key.endswith("_se") for key, number in metrics.items())


def test_orders_of_the_vendi_score(pair: tuple[Path, Path]) -> None:
    found = evaluate(*pair, "--metrics", "vendi", "--orders", "3,inf")
    scores = found["details"]["vendi"]
    assert list(scores) == ["1", "3", "inf"]
    assert found["metrics"]["vendi"] == scores["1"]["value"] > scores["3"]["value"] > scores["inf"]["value"]
    assert found["provenance"]["options"]["orders"] == ["1", "3", "inf"]


def infinity(*args: object, output: Path) -> tuple[dict[str, Any], Any, str]:
    """Metrics, details of the extrapolation, and what is said."""
    said = dprune("eval", *args, "--metrics", "fid", "--fid-infinity", "-o", output, "--overwrite").ok().err
    found = json.loads(output.read_text())
    return found["metrics"], found["details"]["frechet"]["infinity"], " ".join(said.split())


def test_the_extrapolation_stands_beside_the_distance(pair: tuple[Path, Path], tmp_path: Path) -> None:
    metrics, made, said = infinity(*pair, output=tmp_path / "m.json")
    assert 0 < metrics["frechet_infinity"] < metrics["frechet_distance"]
    assert metrics["frechet_infinity"] == made["height"] == 2 * metrics["frechet_distance"] - made["halves"]
    assert metrics["frechet_infinity_se"] > 0
    assert made["sides"] == ["generated", "reference"]
    replicates = json.loads((tmp_path / "m.json").read_text())["details"]["jackknife"]["replicates"]
    assert len(replicates["frechet_infinity"]) == 20
    assert "warning" not in said


def test_few_samples_of_either_side_give_no_extrapolation(save: Any, tmp_path: Path) -> None:
    """At 200 samples of 128 dimensions a line over 1/n ended at -9.7, where the distance is .64."""
    few, many = save("few", normal(200, 128)), save("many", normal(640, 128, seed=1))
    for sides, role in (((few, many), "generated"), ((many, few), "reference")):
        metrics, _, said = infinity(*sides, output=tmp_path / "m.json")
        assert metrics["frechet_infinity"] is metrics["frechet_infinity_se"] is None
        assert metrics["frechet_distance"] > 1
        assert said.count("no Fréchet distance of infinitely many samples: ") == 1
        assert f"200 {role} samples are fewer than 5 for each of the 128 dimensions" in said


def test_an_extrapolation_below_zero_is_none_and_one_from_few_samples_is_warned_of(save: Any, tmp_path: Path) -> None:
    x, y, z = (save(name, normal(60, 8, seed=seed)) for name, seed in (("x", 2), ("y", 1), ("z", 5)))
    ends = {}
    for name, generated in (("x", x), ("z", z)):
        metrics, made, said = infinity(generated, y, output=tmp_path / "m.json")
        ends[name] = made["height"] > 0
        assert (metrics["frechet_infinity"] is not None) == ends[name]
        assert ("ends below zero" in said) != ends[name]
        assert ("60 generated samples are fewer than 10 for each of the 8 dimensions" in said) == ends[name]
    assert set(ends.values()) == {True, False}


def test_of_statistics_the_generated_side_alone_is_extrapolated(pair: tuple[Path, Path], tmp_path: Path) -> None:
    stats = tmp_path / "stats.safetensors"
    both, _, _ = infinity(*pair, "--save-stats", stats, output=tmp_path / "m.json")
    one, made, said = infinity(pair[0], stats, output=tmp_path / "n.json")
    assert both["frechet_infinity"] < one["frechet_infinity"] < one["frechet_distance"]
    assert one["frechet_distance"] == pytest.approx(both["frechet_distance"], rel=1e-9)
    assert made["sides"] == ["generated"]
    assert said.count("cannot be halved") == 1


def test_json_summary_holds_the_headline_numbers(pair: tuple[Path, Path], tmp_path: Path) -> None:
    summary = json.loads(dprune("eval", *pair, "--json", "-o", tmp_path / "m.json").ok().out)
    assert (summary["generated"], summary["reference"]) == (120, 90)
    assert summary["frechet_distance"] == json.loads((tmp_path / "m.json").read_text())["metrics"]["frechet_distance"]


# What later results take the difference to.


def jackknife(*args: object) -> dict[str, Any]:
    found: dict[str, Any] = evaluate(*args)["details"]["jackknife"]
    return found


def test_the_result_keeps_what_errors_of_differences_are_made_of(pair: tuple[Path, Path], tmp_path: Path) -> None:
    dprune("eval", *pair, "--jackknife", 7, "-o", tmp_path / "m.json").ok()
    result = read_result(tmp_path / "m.json")
    kept = result.details["jackknife"]
    assert (kept["blocks"], sum(kept["sizes"]), kept["pairing"]) == (7, 120, None)
    known = [key for key in result.metrics if result.metrics.get(f"{key}_se") is not None]
    assert list(kept["replicates"]) == known
    blocks = Blocks(torch.arange(120) % 7, tuple(kept["sizes"]))
    for key in known:
        again = blocks.estimate(result.metrics[key], kept["replicates"][key])
        assert again.error == pytest.approx(result.metrics[f"{key}_se"], rel=1e-6, abs=1e-9)
    assert len(json.dumps(kept)) < 400 * len(known)
    assert "jackknife" not in evaluate(*pair, "--jackknife", 0)["details"]
    moments = evaluate(*pair, "--metrics", "fid", "--jackknife", 7)["details"]["jackknife"]
    assert moments["replicates"]["frechet_distance"] == pytest.approx(kept["replicates"]["frechet_distance"], rel=1e-9)


def test_what_is_paired_has_noise_classes_blocks_and_reference_in_common(save: Any, tmp_path: Path) -> None:
    x, label, y = normal(120, 6), np.arange(120) % 3, save("y", normal(90, 6, seed=1))
    base = generated_features(tmp_path / "base", x, label)
    known = jackknife(base, y, "--metrics", "fid,prdc")["pairing"]
    assert isinstance(known, str)
    (tmp_path / "elsewhere").mkdir()

    def paired(store: Path, *args: object) -> bool:
        return (
            jackknife(store, *(args or (y,)), *(() if "--metrics" in args else ("--metrics", "fid")))["pairing"]
            == known
        )

    other = generated_features(tmp_path / "elsewhere" / "other", x + 1, label, model="pruned", cfg=4.0, steps=60,
                               solver="heun", precision="bfloat16", shard_size=120)  # fmt: skip
    assert paired(other)
    assert paired(other, y, "--metrics", "kid,vendi", "--orders", "3")
    stats = tmp_path / "stats.safetensors"
    dprune("eval", other, y, "--metrics", "fid", "--save-stats", stats, "-o", tmp_path / "m.json").ok()
    assert paired(base, stats)
    unlike = {
        "seeds": (generated_features(tmp_path / "seeds", x, label, seeds="1-120"), y),
        "classes": (generated_features(tmp_path / "classes", x, label[::-1]), y),
        "reference": (other, save("z", normal(90, 6, seed=2))),
        "subset": (other, y, "--subset", save("keep", np.arange(80))),
        "blocks": (other, y, "--jackknife", 10),
        "seed": (other, y, "--seed", 1),
        "neighbours": (other, y, "--k", 4),
    }
    assert [name for name, args in unlike.items() if paired(*args)] == []
    x[7] = np.nan
    dropped = generated_features(tmp_path / "dropped", x, label), generated_features(tmp_path / "again", x + 1, label)
    assert not paired(dropped[0])
    assert (
        jackknife(dropped[0], y, "--metrics", "kid")["pairing"]
        == jackknife(dropped[1], y, "--metrics", "fid")["pairing"]
    )


def test_what_is_not_all_of_one_sampling_is_paired_with_nothing(save: Any, tmp_path: Path) -> None:
    x, y = normal(120, 6), save("y", normal(90, 6, seed=1))
    stores = {
        "fewer": {"seeds": "0-199"},
        "other order": {"shards": ("000001.tar", "000000.tar", "000002.tar")},
        "no seeds": {"seeds": "all"},
    }
    for name, options in stores.items():
        store = generated_features(tmp_path / name, x, **options)
        assert jackknife(store, y, "--metrics", "fid")["pairing"] is None, name
    assert jackknife(save("x", x), y, "--metrics", "fid")["pairing"] is None


@pytest.fixture
def two_models(tmp_path: Path, save: Any) -> tuple[Path, Path, Path]:
    """Features of what two models made of the same noise, and of the reference."""
    x = normal(120, 6)
    stores = (generated_features(tmp_path / name, values, np.arange(120) % 3, model=name)
              for name, values in (("all", x), ("pruned", x * 1.1 + 0.2)))  # fmt: skip
    return (*stores, save("y", normal(90, 6, seed=1)))


def test_a_result_is_held_to_a_baseline(two_models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    unpruned, pruned, y = two_models
    base, out = tmp_path / "base.json", tmp_path / "m.json"
    dprune("eval", unpruned, y, "-o", base).ok()
    done = dprune("eval", pruned, y, "--against", base, "--json", "-o", out).ok()
    ours, theirs = read_result(out), read_result(base)
    found = ours.details["against"]
    assert json.loads(done.out)["against"] == found
    known = [key for key in theirs.metrics if theirs.metrics[key] is not None and not key.endswith("_se")]
    assert list(found) == known
    sizes = ours.details["jackknife"]["sizes"]
    for key in known:
        value = ours.metrics[key] - theirs.metrics[key]
        replicates = [result.details["jackknife"]["replicates"][key] for result in (ours, theirs)]
        expected = Blocks(torch.arange(120) % 20, tuple(sizes)).estimate(value, np.subtract(*replicates))
        assert found[key] == {
            "difference": pytest.approx(value),
            "error": pytest.approx(expected.error, rel=1e-6, abs=1e-12),
            "half_width": pytest.approx(1.959964 * expected.error, rel=1e-5, abs=1e-12),
            "told_apart": abs(value) > 1.959964 * expected.error,
            "kind": "paired",
        }
    assert found["frechet_distance"]["told_apart"]
    assert found["frechet_distance"]["error"] < 0.7 * ours.metrics["frechet_distance_se"]
    (line,) = (line for line in done.err.splitlines() if "difference to" in line)
    assert f"{base}: frechet distance +" in line
    assert "(told apart)" in line
    assert done.err.count("told apart: yes") == 0
    without = evaluate(pruned, y)
    assert without["metrics"] == ours.metrics
    assert "up to date" in dprune("eval", pruned, y, "--against", base, "-o", out).ok().err


def test_a_result_held_to_itself_differs_by_nothing(two_models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    store, _, y = two_models
    dprune("eval", store, y, "-o", tmp_path / "base.json").ok()
    found = evaluate(store, y, "--against", tmp_path / "base.json")["details"]["against"]
    assert {(one["difference"], one["error"], one["told_apart"], one["kind"]) for one in found.values()} == {
        (0, 0, False, "paired")}  # fmt: skip


def test_what_shares_no_noise_is_held_to_a_baseline_by_both_errors(pair: tuple[Path, Path], tmp_path: Path) -> None:
    dprune("eval", *pair, "--metrics", "kid,fid", "-o", tmp_path / "base.json").ok()
    base = read_result(tmp_path / "base.json").metrics
    found = evaluate(*pair, "--metrics", "kid,vendi", "--against", tmp_path / "base.json", "--seed", 1)
    assert list(found["details"]["against"]) == ["kid"]
    (one,) = found["details"]["against"].values()
    assert one["kind"] == "unpaired"
    assert one["error"] == pytest.approx(np.hypot(base["kid_se"], found["metrics"]["kid_se"]))


def test_what_was_measured_otherwise_is_no_baseline(pair: tuple[Path, Path], save: Any, tmp_path: Path) -> None:
    x, y = pair
    base, args = tmp_path / "base.json", ("--metrics", "fid,prdc", "--against", tmp_path / "base.json")
    dprune("eval", x, y, "--metrics", "fid,prdc", "-o", base).ok()

    def refused(code: int, *given: object, words: tuple[str, ...]) -> None:
        dprune("eval", *given, "-o", tmp_path / "m.json").fails(code, "--against", "base.json", *words)

    refused(3, x, save("z", normal(90, 6, seed=5)), *args, words=("another reference",))
    refused(3, x, y, *args, "--subset", save("keep", np.arange(60)), words=("another subset",))
    refused(3, x, y, *args, "--k", 4, words=("--k 3, not 4",))
    refused(3, x, y, *args, "--held-out", save("held", normal(80, 6, seed=6)), words=("another --held-out",))
    refused(3, save("few", normal(100, 6)), y, *args, words=("120 generated samples", "are 100"))
    refused(3, x, y, "--metrics", "kid", "--against", base, words=("none of the metrics kid",))
    dprune("eval", x, y, *args, "-o", base, "--overwrite").fails(2, "--against", "-o", "same file")
    assert read_result(base).metrics
    dprune("memorization", x, y, "-o", base, "--overwrite").ok()
    refused(3, x, y, *args, words=("holds memorization",))
    dprune("eval", x, y, "--against", tmp_path / "none", "-o", tmp_path / "m.json").fails(3, "none")
    assert not (tmp_path / "m.json").exists()


# Samples that take part.


@pytest.mark.parametrize("count", [120, 30], ids=["N above d", "N below d"])
def test_reading_in_passing_gives_what_holding_gives(save: Any, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    # On different scales, so that a loss of digits would show.
    scales = 10.0 ** np.linspace(-1, 1, 40)
    x, y = normal(count, 40) * scales, normal(150, 40, seed=1) * scales
    x[[3, 17]], y[[0, 149, 70]] = np.nan, np.inf
    files = save("x", x), save("y", y)
    sizes = block_reader.SIZES["cpu"]
    monkeypatch.setitem(block_reader.SIZES, "cpu", type(sizes)(40 * 4 * 32, *list(vars(sizes).values())[1:]))
    streamed, held = evaluate(*files, "--metrics", "fid"), evaluate(*files, "--metrics", "fid,kid")
    for key in ("frechet_distance", "frechet_distance_se"):
        assert streamed["metrics"][key] == pytest.approx(held["metrics"][key], rel=1e-9)
    assert streamed["inputs"] == held["inputs"]
    assert [(side["count"], side["dropped"]) for side in streamed["inputs"]] == [(count - 2, 2), (147, 3)]


def test_samples_that_are_not_finite_are_left_out(save: Any, tmp_path: Path) -> None:
    x, y = normal(60, 5), normal(50, 5, seed=1)
    broken = x.copy()
    broken[7], broken[20, 2] = np.nan, np.inf
    files = save("broken", broken), save("y", y)
    result = dprune("eval", *files, "-o", tmp_path / "m.json").ok()
    assert result.err.count("2 of the generated samples") == 1
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["metrics"] == evaluate(save("kept", np.delete(x, [7, 20], 0)), files[1])["metrics"]


def test_a_subset_narrows_the_reference(pair: tuple[Path, Path], save: Any) -> None:
    ids = np.array([80, 3, 5, 9, 22, 23, 24, 60])
    found = evaluate(*pair, "--metrics", "fid,kid", "--subset", save("keep", ids))
    narrowed = evaluate(pair[0], save("narrow", np.load(pair[1])[np.sort(ids)]), "--metrics", "fid,kid")
    assert found["metrics"] == narrowed["metrics"]
    assert found["inputs"][1]["count"] == 8
    assert "subset" in found["provenance"]["parents"]


def test_float16_features_are_taken_as_they_are(save: Any) -> None:
    x, y = normal(50, 4).astype(np.float16), normal(40, 4, seed=1).astype(np.float16)
    half = evaluate(save("x", x), save("y", y), "--metrics", "fid,prdc,vendi")
    wide = evaluate(save("x", x.astype(np.float64)), save("y", y.astype(np.float64)), "--metrics", "fid,prdc,vendi")
    assert half["metrics"] == pytest.approx(wide["metrics"], rel=1e-9)


def test_fewer_samples_than_dimensions_is_said_once_for_each_side(save: Any, tmp_path: Path) -> None:
    files = save("x", normal(20, 30)), save("y", normal(25, 30, seed=1))
    said = dprune("eval", *files, "--metrics", "fid,kid", "-o", tmp_path / "m.json").ok().err
    assert said.count("20 generated samples are fewer than the 30 dimensions") == 1
    assert said.count("25 reference samples are fewer than the 30 dimensions") == 1


def test_constant_features(save: Any) -> None:
    y = normal(80, 3)
    found = evaluate(save("x", np.ones((30, 3))), save("y", y), "--metrics", "fid,prdc,kid,cmmd,prd,vendi")["metrics"]
    expected = np.square(1 - y.mean(0)).sum() + np.trace(np.cov(y.T))
    assert found["frechet_distance"] == pytest.approx(expected, rel=1e-9)
    assert found["recall"] == 0
    assert found["vendi"] == pytest.approx(1)


def test_a_set_held_against_itself(pair: tuple[Path, Path]) -> None:
    found = evaluate(pair[0], pair[0])["metrics"]
    assert found["frechet_distance"] == pytest.approx(0, abs=1e-12)
    assert [found[key] for key in ("precision", "recall", "coverage", "prd_f_8")] == [1, 1, 1, pytest.approx(1)]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_handful_of_samples(save: Any, count: int) -> None:
    found = evaluate(save("x", normal(count, 5)), save("y", normal(40, 5, seed=1)))["metrics"]
    assert found["frechet_distance"] > 0
    assert (found["precision"] is None) == (count < 4)


# Real samples beside the generated ones.


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    sides = (Moments.of(torch.from_numpy(side)) for side in (x, y))
    return frechet_distance(*sides).distance.value


def test_a_part_of_the_reference_is_measured_as_the_generated_samples_are(save: Any) -> None:
    x, y = normal(50, 4) + 0.5, normal(100, 4, seed=1)
    files = save("x", x), save("y", y)
    found = evaluate(*files, "--metrics", "fid")
    chosen = generator(0, "reference samples as a yardstick").choice(100, 50, replace=False, shuffle=False)
    rest = np.delete(y, chosen, 0)
    metrics, made = found["metrics"], found["details"]["frechet"]["real_baseline"]
    assert metrics["real_frechet_distance"] == pytest.approx(frechet(y[np.sort(chosen)], rest), rel=1e-9)
    assert made["generated"] == pytest.approx(frechet(x, rest), rel=1e-9)
    assert metrics["frechet_distance_ratio"] == pytest.approx(frechet(x, rest) / metrics["real_frechet_distance"])
    assert (made["real"], made["count"], made["reference"]) == ("reference", 50, 50)
    assert metrics["frechet_distance"] == pytest.approx(frechet(x, y), rel=1e-9)
    # Whatever else is measured, and whether the samples are held or read in passing.
    held = evaluate(*files, "--metrics", "fid,kid")["metrics"]
    assert {key: held[key] for key in metrics} == {
        key: number and pytest.approx(number) for key, number in metrics.items()
    }
    assert metrics["real_frechet_distance_se"] is None
    # No half of the reference is as many.
    few = evaluate(files[0], save("few", y[:99]), "--metrics", "fid")
    assert "real_frechet_distance" not in few["metrics"]
    assert "real_baseline" not in few["details"]["frechet"]


@pytest.mark.parametrize(("count", "dimension"), [(60, 5), (60, 50)], ids=["N above d", "N below d"])
def test_held_out_samples_are_taken_out_of_the_reference_and_measured_at_equal_count(
    save: Any, count: int, dimension: int
) -> None:
    x, y = normal(count, dimension) + 0.2, normal(100, dimension, seed=1)
    x[7] = np.nan
    ids = np.random.default_rng(2).permutation(100)[:30]
    files = save("x", x), save("y", y)
    by_ids = evaluate(*files, "--metrics", "fid", "--held-out", save("ids", ids))
    apart = (files[0], save("rest", np.delete(y, ids, 0)), "--held-out", save("held", y[np.sort(ids)]))
    metrics, made = by_ids["metrics"], by_ids["details"]["frechet"]["real_baseline"]
    assert (made["real"], made["count"], made["reference"]) == ("held-out", 30, 70)
    assert metrics["real_frechet_distance"] == pytest.approx(frechet(y[np.sort(ids)], np.delete(y, ids, 0)), rel=1e-9)
    for names in ("fid", "fid,kid"):
        found = evaluate(*apart, "--metrics", names)["metrics"]
        for key in ("real_frechet_distance", "frechet_distance_ratio"):
            for suffix in ("", "_se"):
                assert found[f"{key}{suffix}"] == pytest.approx(metrics[f"{key}{suffix}"], rel=1e-7), key
    # What stands at the head knows nothing of it.
    plain = evaluate(*files, "--metrics", "fid")["metrics"]
    assert {key: metrics[key] for key in plain} == plain
    sides = [(side["role"], side["count"], side["dropped"]) for side in by_ids["inputs"]]
    assert sides == [("generated", count - 1, 1), ("reference", 100, 0), ("held_out", 30, 0)]
    assert by_ids["provenance"]["parents"]["held_out"]["external"]
    # The ratio's error is of both, and of blocks of its own, which no other result's are paired with.
    relative = [metrics["real_frechet_distance_se"] / metrics["real_frechet_distance"],
                made["generated_se"] / made["generated"]]  # fmt: skip
    assert metrics["frechet_distance_ratio_se"] == pytest.approx(
        metrics["frechet_distance_ratio"] * np.hypot(*relative), rel=1e-9
    )
    assert set(by_ids["details"]["jackknife"]["replicates"]) == {"frechet_distance"}
    none = evaluate(*files, "--metrics", "fid", "--held-out", save("ids", ids), "--jackknife", 0)["metrics"]
    assert none["frechet_distance_ratio"] == pytest.approx(metrics["frechet_distance_ratio"], rel=1e-9)
    assert none["frechet_distance_ratio_se"] is None


def test_held_out_samples_may_be_outside_the_subset_or_more_than_were_generated(save: Any) -> None:
    x, y = normal(20, 3), normal(120, 3, seed=1)
    args = (save("x", x), save("y", y), "--metrics", "fid", "--subset", save("keep", np.arange(40)), "--held-out")
    made = evaluate(*args, save("ids", np.arange(30, 80)))["details"]["frechet"]["real_baseline"]
    assert (made["count"], made["reference"]) == (20, 30)
    outside = evaluate(*args, save("ids", np.arange(60, 80)))
    made = outside["details"]["frechet"]["real_baseline"]
    assert (made["count"], made["reference"]) == (20, 40)
    assert made["generated"] == pytest.approx(outside["metrics"]["frechet_distance"], rel=1e-12)
    assert outside["metrics"]["real_frechet_distance"] == pytest.approx(frechet(y[60:80], y[:40]), rel=1e-9)


def test_held_out_samples_of_shards_or_beside_statistics(shards: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(6), sigma=np.eye(6))
    found = evaluate(pair[0], tmp_path / "s.npz", "--held-out", pair[1])
    made = found["details"]["frechet"]["real_baseline"]
    assert made["count"] == 90
    assert found["metrics"]["frechet_distance_ratio"] > 0
    other = generated_shards(tmp_path / "other")
    args = (generated_shards(tmp_path / "generated", 10), shards, *PIXELS, "--metrics", "fid")
    found = evaluate(*args, "--held-out", other)
    assert found["details"]["frechet"]["real_baseline"]["count"] == 10
    assert parent(found["provenance"], "held_out")["command"] == "embed"
    said = dprune("eval", *args, "--held-out", other, "-o", tmp_path / "m.json").ok().err
    assert "10 real samples, fewer than the 48 dimensions" in " ".join(said.split())


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("{x}", "{y}", "--metrics", "kid", "--held-out", "{h}"), 2, ("--held-out", "'fid'")),
        (("{x}", "{y}", "--held-out", "{wide}"), 3, ("wide.npy", "7 dimensions", "6")),
        (("{x}", "{y}", "--held-out", "{one}"), 3, ("one.npy", "1 usable held-out")),
        (("{x}", "{y}", "--held-out", "{far}"), 3, ("far.npy", "the id 95")),
        (("{x}", "{y}", "--held-out", "{all}"), 3, ("all.npy", "1 samples", "hold fewer out")),
        (("{x}", "{y}", "--held-out", "{none}"), 3, ("none.npy", "no ids")),
        (("{s}", "{y}", "--held-out", "{h}"), 2, ("--held-out", "s.npz", "statistics")),
        (("{x}", "{s}", "--held-out", "{far}"), 2, ("--held-out", "s.npz", "statistics")),
        (("{x}", "{store}", "--held-out", "{store}"), 3, ("the same dataset", "--held-out")),
    ],
)
def test_held_out_samples_that_will_not_do(
    pair: tuple[Path, Path], shards: Path, save: Any, tmp_path: Path, args: tuple[str, ...], code: int,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    np.savez(tmp_path / "s.npz", mu=np.zeros(6), sigma=np.eye(6))
    files = {"x": pair[0], "y": pair[1], "h": save("h", normal(9, 6)), "wide": save("wide", normal(9, 7)),
             "one": save("one", normal(1, 6)), "far": save("far", np.arange(90, 96)), "s": tmp_path / "s.npz",
             "all": save("all", np.arange(89)), "none": save("none", np.arange(0))}  # fmt: skip
    if "{store}" in args:
        files |= {"store": embed(shards, tmp_path / "store"), "x": save("x16", normal(9, 16))}
    given = (arg.format(**files) for arg in args)
    dprune("eval", *given, "-o", tmp_path / "m.json").fails(code, *words)


@pytest.mark.slow
def test_fresh_samples_are_as_near_as_real_ones_and_their_errors_are_on_the_safe_side(save: Any) -> None:
    y, found = save("y", normal(600, 12)), []
    for seed in range(80):
        files = (
            save("x", normal(120, 12, seed=2 * seed + 1)),
            y,
            "--held-out",
            save("h", normal(120, 12, seed=2 * seed + 2)),
        )
        found.append(evaluate(*files, "--metrics", "fid", "--seed", seed))
    table = {key: np.array([one["metrics"][key] for one in found]) for key in found[0]["metrics"]}
    made = np.array([one["details"]["frechet"]["real_baseline"]["generated"] for one in found])
    difference = made - table["real_frechet_distance"]
    assert abs(difference.mean()) < 3 * difference.std() / 80**0.5
    assert table["frechet_distance_ratio"].mean() == pytest.approx(1, abs=0.1)
    for key in ("real_frechet_distance", "frechet_distance_ratio"):
        assert 1.0 < np.sqrt((table[f"{key}_se"] ** 2).mean()) / table[key].std(ddof=1) < 1.6


def test_a_report_shows_the_real_baselines_beside_what_they_measure(
    three_classes: tuple[Path, np.ndarray], save: Any, tmp_path: Path
) -> None:
    reference, centres = three_classes
    label = np.array([2, 5, 9])[np.arange(60) % 3]
    made = generated_features(tmp_path / "x", normal(60, 6, seed=1) + centres[np.arange(60) % 3], label)
    held = ("--held-out", save("held", normal(40, 6, seed=2) + centres[np.arange(40) % 3]))
    dprune("eval", made, reference, "--metrics", "fid,shares", *held, "-o", tmp_path / "m.json").ok()
    dprune("memorization", made, reference, *held, "-o", tmp_path / "n.json").ok()
    dprune("report", tmp_path / "m.json", tmp_path / "n.json", "-o", tmp_path / "report").ok()
    for name, shown in (
        ("quality", ("real to real", "generated / real")),
        ("shares", ("Class accuracy ↑", "Class accuracy, real")),
        ("memorization", ("AuthPct, held-out", "Calibrated copies, held-out, %")),
    ):
        table = (tmp_path / "report" / f"{name}.md").read_text()
        assert all(words in table for words in shown), table
    page = (tmp_path / "report" / "report.html").read_text()
    assert "a sample is of the class that most of its nearest reference samples have" in page


# Statistics.


def test_statistics_stand_for_the_reference(pair: tuple[Path, Path], save: Any, tmp_path: Path) -> None:
    stats, keep = tmp_path / "stats.safetensors", save("keep", np.arange(10, 80))
    args = (*pair, "--subset", keep, "--save-stats", stats)
    whole = evaluate(*args)
    y = np.load(pair[1])[10:80]
    found = load_file(stats)
    np.testing.assert_allclose(found["covariance"], np.cov(y.T), rtol=1e-12)
    np.testing.assert_allclose(found["mean"], y.mean(0), rtol=1e-12)
    np.savez(tmp_path / "stats.npz", mu=y.mean(0), sigma=np.cov(y.T))
    for path, count in ((stats, 70), (tmp_path / "stats.npz", None)):
        again = evaluate(pair[0], path)
        for key in ("frechet_distance", "frechet_distance_se"):
            assert again["metrics"][key] == pytest.approx(whole["metrics"][key], rel=1e-9)
        assert again["metrics"]["kid"] is None
        assert again["inputs"][1]["count"] == count
    said = dprune("eval", pair[0], tmp_path / "stats.npz", "-o", tmp_path / "m.json").ok().err
    assert "statistics allow only the Fréchet distance" in said
    assert "fewer" not in said
    turned = evaluate(stats, pair[0])["metrics"]
    assert turned["frechet_distance"] == pytest.approx(whole["metrics"]["frechet_distance"], rel=1e-9)
    assert turned["frechet_distance_se"] is None


def test_statistics_are_made_again_when_missing_and_replaced_only_when_told(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    output, stats = tmp_path / "m.json", tmp_path / "s.safetensors"
    args = ("--metrics", "kid", "--save-stats", stats)
    dprune("eval", *pair, *args, "-o", output).ok()
    assert "up to date" in dprune("eval", *pair, *args, "-o", output).ok().err
    stats.unlink()
    assert "wrote" in dprune("eval", *pair, *args, "-o", output).ok().err
    before = stats.read_bytes()
    other = (pair[1], pair[0], *args, "-o", tmp_path / "other.json")
    dprune("eval", *other).fails(3, str(stats), "--overwrite")
    assert stats.read_bytes() == before
    dprune("eval", *other, "--overwrite").ok()
    assert stats.read_bytes() != before
    dprune("eval", *pair, "--save-stats", pair[0], "-o", tmp_path / "new.json").fails(
        3, "not written by dprune", "another --save-stats"
    )
    assert not (tmp_path / "new.json").exists()


def test_statistics_remember_the_network(shards: Path, tmp_path: Path) -> None:
    store, stats = embed(shards, tmp_path / "store"), tmp_path / "s.safetensors"
    one = evaluate(shards, store, "--save-stats", stats, "--workers", 0)
    again = evaluate(shards, stats, "--workers", 0)
    assert again["inputs"][1]["model"] == "pixels"
    assert again["metrics"]["frechet_distance"] == pytest.approx(one["metrics"]["frechet_distance"], abs=1e-9)
    other = embed(shards, tmp_path / "other", "--color", "grey", "--overwrite")
    dprune("eval", other, stats, "-o", tmp_path / "m.json").fails(3, "different spaces", "color")


# Shares.


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_generated_samples_get_the_nearest_centroid(save: Any, tmp_path: Path, metric: str) -> None:
    x, y = normal(200, 3) + 5, normal(300, 3, seed=1) * 2 + 5
    files = save("x", x), save("y", y)
    dprune("cluster", files[1], "-k", 7, "--metric", metric, "-o", tmp_path / "c.safetensors").ok()
    found = evaluate(*files, "--metrics", "shares", "--clusters", tmp_path / "c.safetensors")
    centroids = load_file(tmp_path / "c.safetensors")["centroids"].astype(np.float64)
    shares = found["details"]["shares"]["cluster"]
    for side, rows in (("generated", x), ("reference", y)):
        if metric == "cosine":
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        nearest = np.linalg.norm(rows[:, None] - centroids, axis=2).argmin(1)
        assert shares[side] == pytest.approx((np.bincount(nearest, minlength=7) / len(rows)).tolist())
    difference = np.abs(np.subtract(shares["generated"], shares["reference"])).sum() / 2
    assert found["metrics"]["cluster_total_variation"] == pytest.approx(difference)
    assert "class_entropy" not in found["metrics"]


def test_the_reference_keeps_the_clusters_that_it_was_given(shards: Path, tmp_path: Path) -> None:
    store, path = embed(shards, tmp_path / "store"), tmp_path / "c.safetensors"
    dprune("cluster", store, "-k", 3, "-o", path).ok()
    tensors, nearest = load_file(path), load_file(path)["assignment"]
    # Another assignment than that by the centroids tells which one is used.
    write_tensors(path, {**tensors, "assignment": (nearest + 1) % 3}, read_metadata(path) or {})
    np.save(tmp_path / "keep.npy", np.arange(3, 15))
    args = (store, store, "--clusters", path, "--subset", tmp_path / "keep.npy", "--metrics", "shares")
    shares = evaluate(*args)["details"]["shares"]
    given = np.bincount((nearest[3:15] + 1) % 3, minlength=3) / 12
    assert shares["cluster"]["reference"] == pytest.approx(given.tolist())
    assert shares["cluster"]["generated"] == pytest.approx((np.bincount(nearest, minlength=3) / 18).tolist())
    assert shares["class"]["names"] == [0, 1, 2]
    assert shares["class"]["reference"] == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_an_assignment_of_another_dataset_is_not_used(save: Any, tmp_path: Path) -> None:
    """As many samples make no dataset the same."""
    x, y = save("x", normal(60, 3)), save("y", normal(60, 3, seed=1))
    dprune("cluster", x, "-k", 3, "-o", tmp_path / "c.safetensors").ok()
    shares = evaluate(x, y, "--metrics", "shares", "--clusters", tmp_path / "c.safetensors")["details"]["shares"]
    centroids = load_file(tmp_path / "c.safetensors")["centroids"]
    nearest = np.linalg.norm(np.load(y)[:, None] - centroids, axis=2).argmin(1)
    given = np.bincount(nearest, minlength=3) / 60
    assert (
        given.tolist() != (np.bincount(load_file(tmp_path / "c.safetensors")["assignment"], minlength=3) / 60).tolist()
    )
    assert shares["cluster"]["reference"] == pytest.approx(given.tolist())


@pytest.fixture
def clustered(shards: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A store of 18 samples of three classes, and three clusters of it of 9, 6 and 3."""
    store, path = embed(shards, tmp_path / "store"), tmp_path / "c.safetensors"
    dprune("cluster", store, "-k", 3, "-o", path).ok()
    assignment = np.repeat(np.arange(3, dtype=np.int32), [9, 6, 3])
    write_tensors(path, {**load_file(path), "assignment": assignment}, read_metadata(path) or {})
    return store, path


def drawn_from(folder: Path, store: Path, rows: np.ndarray, **made: Any) -> Path:
    features = np.concatenate([load_file(part)["features"] for part in sorted(store.glob("*.safetensors"))])
    space = json.loads((store / "manifest.json").read_text())["provenance"]["options"] | {"dtype": "float32"}
    return generated_features(folder, features.astype(np.float32)[rows], space=space, **made)


def test_shares_of_the_training_set_stand_beside_those_of_its_samples(
    clustered: tuple[Path, Path], tmp_path: Path
) -> None:
    store, clusters = clustered
    np.save(tmp_path / "keep.npy", [0, 1, 2, 3, 4, 5, 9, 10, 15])
    subset = read_ids(str(tmp_path / "keep.npy")).as_parent()
    pruned = drawn_from(tmp_path / "x", store, np.arange(18) % 7, subset=subset)
    args = (pruned, store, "--clusters", clusters, "--metrics", "shares")
    # What nobody names is not known.
    assert "training" not in evaluate(*args)["details"]["shares"]["cluster"]
    found = evaluate(*args, "--trained-on", tmp_path / "keep.npy")
    metrics, shares = found["metrics"], found["details"]["shares"]
    assert shares["cluster"]["training"] == pytest.approx([6 / 9, 2 / 9, 1 / 9])
    assert shares["cluster"]["reference"] == pytest.approx([9 / 18, 6 / 18, 3 / 18])
    slope = np.polyfit(shares["cluster"]["training"], shares["cluster"]["generated"], 1)[0]
    assert metrics["cluster_training_slope"] == pytest.approx(slope)
    apart = np.abs(np.subtract(shares["cluster"]["training"], shares["cluster"]["generated"])).sum() / 2
    assert metrics["cluster_training_variation"] == pytest.approx(apart)
    assert metrics["cluster_training_variation_se"] > 0
    errors = shares["cluster"]["generated_se"]
    for share, error in zip(shares["cluster"]["generated"], errors, strict=True):
        assert error == pytest.approx(np.sqrt(share * (1 - share) / 17))
    labels = np.concatenate([load_file(part)["label"] for part in sorted(store.glob("*.safetensors"))])
    kept = np.bincount(labels[[0, 1, 2, 3, 4, 5, 9, 10, 15]], minlength=3) / 9
    assert shares["class"]["training"] == pytest.approx(kept.tolist())
    # As the reference, the training set needs no second name.
    own = evaluate(*args, "--subset", tmp_path / "keep.npy")["details"]["shares"]["cluster"]
    assert own["training"] == own["reference"] == pytest.approx([6 / 9, 2 / 9, 1 / 9])


def test_a_model_of_all_samples_says_so_itself(clustered: tuple[Path, Path], tmp_path: Path) -> None:
    store, clusters = clustered
    own = read_metadata(clusters)["fingerprint"]
    made = drawn_from(tmp_path / "x", store, np.arange(18) % 7, fingerprint=own)
    args = ("--clusters", clusters, "--metrics", "shares")
    shares = evaluate(made, store, *args)["details"]["shares"]
    assert shares["cluster"]["training"] == pytest.approx([9 / 18, 6 / 18, 3 / 18])
    assert shares["class"]["training"] == shares["class"]["reference"]
    # Held to other samples, the training set is that which was clustered.
    other = labelled(tmp_path / "other.safetensors", normal(20, 48), np.arange(20) % 3)
    shares = evaluate(made, other, *args)["details"]["shares"]
    assert shares["cluster"]["training"] == pytest.approx([9 / 18, 6 / 18, 3 / 18])
    assert shares["class"]["training"] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    elsewhere = drawn_from(tmp_path / "z", store, np.arange(18) % 7, fingerprint="e" * 64)
    assert "training" not in evaluate(elsewhere, store, *args)["details"]["shares"]["cluster"]


def test_what_was_not_trained_on_is_no_training_set(clustered: tuple[Path, Path], tmp_path: Path) -> None:
    store, clusters = clustered
    for name, ids in (("keep", [0, 1, 2]), ("other", [0, 1, 3]), ("far", [0, 18])):
        np.save(tmp_path / f"{name}.npy", ids)
    subset = read_ids(str(tmp_path / "keep.npy")).as_parent()
    pruned = drawn_from(tmp_path / "x", store, np.arange(18), subset=subset)
    everything, foreign = drawn_from(tmp_path / "z", store, np.arange(18)), tmp_path / "foreign.npy"
    np.save(foreign, normal(18, 48))
    asked = ("--clusters", clusters, "--metrics", "shares", "-o", tmp_path / "m.json", "--trained-on")
    dprune("eval", pruned, store, *asked, tmp_path / "other.npy").fails(3, "other.npy", "trained on another subset")
    dprune("eval", everything, store, *asked, tmp_path / "keep.npy").fails(3, "keep.npy", "on all samples")
    dprune("eval", foreign, store, *asked, tmp_path / "far.npy").fails(3, "far.npy", "18 samples")
    write_array(str(tmp_path / "else.npy"), np.arange(3), make_record("select", {}, fingerprint="e" * 64))
    dprune("eval", foreign, store, *asked, tmp_path / "else.npy").fails(3, "else.npy", "different datasets")
    asked = ("--metrics", "fid", "-o", tmp_path / "m.json", "--trained-on", tmp_path / "keep.npy")
    dprune("eval", pruned, store, *asked).fails(2, "--trained-on", "'shares'")


@pytest.mark.parametrize("by", ["--weights", "--fold 0/2"])
def test_samples_that_weights_or_a_fold_left_are_held_to_their_number(
    clustered: tuple[Path, Path], tmp_path: Path, by: str
) -> None:
    store, clusters = clustered
    fingerprint = read_metadata(clusters)["fingerprint"]
    for name, ids in (("drawn", [0, 1, 9]), ("more", [0, 1, 2, 9])):
        np.save(tmp_path / f"{name}.npy", ids)
    told = {"weights": {"digest": "w" * 64, "external": True}} if by == "--weights" else {}
    fold = {} if told else {"fold": "0/2"}

    def drawn(name: str, samples: int) -> Path:
        trained = {**fold, "samples": samples, "of": 18}
        rows = np.arange(18) % 7
        return drawn_from(tmp_path / name, store, rows, fingerprint=fingerprint, trained=trained, told=told)

    some = drawn("some", 3)
    args = (store, "--clusters", clusters, "--metrics", "shares")
    assert "training" not in evaluate(some, *args)["details"]["shares"]["cluster"]
    found = evaluate(some, *args, "--trained-on", tmp_path / "drawn.npy")["details"]["shares"]
    assert found["cluster"]["training"] == pytest.approx([2 / 3, 1 / 3, 0])
    refused = dprune("eval", some, *args, "-o", tmp_path / "m.json", "--trained-on", tmp_path / "more.npy")
    refused.fails(3, "more.npy", "4 samples", "on the 3 that", by)
    if told:
        every = evaluate(drawn("every", 18), *args)["details"]["shares"]
        assert every["cluster"]["training"] == pytest.approx([9 / 18, 6 / 18, 3 / 18])


@pytest.mark.parametrize(
    ("ours", "warns"),
    [((50, 30, 20), ""), ((45, 30, 25), ""), ((34, 33, 33), "0.16"), ((60, 0, 40), "0.30; no sample of the class 1")],
)
def test_classes_of_other_shares_are_told_whatever_is_measured(
    ours: tuple[int, ...], warns: str, tmp_path: Path
) -> None:
    for name, counts in (("x", ours), ("y", (50, 30, 20))):
        rows = {"features": normal(100, 3), "label": np.repeat(np.arange(3), counts)}
        write_tensors(tmp_path / f"{name}.safetensors", rows, {})
    args = (tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--metrics", "fid")
    said = " ".join(dprune("eval", *args, "-o", tmp_path / "m.json").ok().err.split())
    assert said.count("warning: ") == bool(warns)
    assert ("have different shares (total variation " in said) == ("--classes proportional" in said) == bool(warns)
    assert warns in said


def labelled(path: Path, x: np.ndarray, label: np.ndarray) -> Path:
    save_file({"features": x.astype(np.float32), "label": label}, path)
    return path


@pytest.fixture
def three_classes(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A reference of 40, 30 and 20 samples of classes 2, 5 and 9 far apart, and the centres of these."""
    centres = 20 * np.eye(3, 6)
    label = np.repeat([2, 5, 9], [40, 30, 20])
    return labelled(tmp_path / "y.safetensors", normal(90, 6) + centres[label // 4], label), centres


def test_classes_that_were_asked_for_are_told_by_the_features(
    three_classes: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    """A model that was asked for three classes equally often and draws what it likes."""
    reference, centres = three_classes
    asked, drawn = np.array([2, 5, 9])[np.arange(60) % 3], np.arange(60) % 3
    drawn[:18] = 0
    made = generated_features(tmp_path / "x", normal(60, 6, seed=1) + centres[drawn], asked, classes="balanced")
    found = evaluate(made, reference, "--metrics", "shares")
    metrics, classes = found["metrics"], found["details"]["shares"]["class"]
    share = np.bincount(drawn) / 60
    assert classes["by"] == "5 nearest neighbours"
    assert classes["names"] == [2, 5, 9]
    assert classes["generated"] == pytest.approx(share.tolist())
    assert classes["reference"] == pytest.approx([4 / 9, 3 / 9, 2 / 9])
    assert metrics["class_entropy"] == pytest.approx(-(share * np.log(share)).sum()) != np.log(3)
    assert metrics["class_entropy_se"] > 0
    assert metrics["class_accuracy"] == pytest.approx(48 / 60)
    assert metrics["class_accuracy_se"] == pytest.approx(np.sqrt(0.8 * 0.2 / 60), rel=0.4)
    assert metrics["reference_class_accuracy"] == 1
    assert classes["reference_predicted"] == 60
    assert found["provenance"]["options"]["class_by"] == "5 nearest neighbours"


def test_how_well_classes_can_be_told_is_told_by_the_reference_itself(tmp_path: Path) -> None:
    x, label = normal(80, 4), np.arange(80) % 2
    x[:, 0] += 1.5 * label
    reference = labelled(tmp_path / "y.safetensors", x, label)
    made = generated_features(tmp_path / "x", x + 1e-3, label, classes="balanced")
    found = evaluate(made, reference, "--metrics", "shares")["metrics"]
    distance = np.linalg.norm(x[:, None].astype(np.float32) - x.astype(np.float32), axis=2)
    np.fill_diagonal(distance, np.inf)
    near = label[distance.argsort(1)[:, :5]]
    assert found["reference_class_accuracy"] == pytest.approx(((near.sum(1) > 2) == label).mean())
    # Which no generated sample here does worse than, since its own image is among its neighbours.
    assert 0.6 < found["reference_class_accuracy"] < found["class_accuracy"] < 1


def test_generated_samples_without_labels_get_classes_and_those_of_others_keep_theirs(
    three_classes: tuple[Path, np.ndarray], save: Any, tmp_path: Path
) -> None:
    reference, centres = three_classes
    x = normal(40, 6, seed=1) + centres[1]
    for source in (save("x", x), generated_features(tmp_path / "unconditional", x)):
        found = evaluate(source, reference, "--metrics", "shares")
        assert found["details"]["shares"]["class"]["generated"] == [0, 1, 0]
        assert "class_accuracy" not in found["metrics"]
    found = evaluate(labelled(tmp_path / "z", x, np.full(40, 9)), reference, "--metrics", "shares")
    assert found["details"]["shares"]["class"]["generated"] == [0, 0, 1]
    assert found["details"]["shares"]["class"]["by"] == "labels"
    assert "class_accuracy" not in found["metrics"]


def test_class_shares_need_labels_of_the_reference(tmp_path: Path) -> None:
    x, label = normal(40, 4).astype(np.float32), np.array([7, 7, 10**12, -1] * 10)
    save_file({"features": x, "label": label}, tmp_path / "x.safetensors")
    save_file({"features": x, "label": np.full(40, 7)}, tmp_path / "y.safetensors")
    found = evaluate(tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--metrics", "shares")
    shares = found["details"]["shares"]["class"]
    assert shares["names"] == [7, 10**12]
    assert shares["generated"] == pytest.approx([2 / 3, 1 / 3])
    assert shares["unlabelled"] == 10
    assert found["metrics"]["class_total_variation"] == pytest.approx(1 / 3)
    np.save(tmp_path / "z.npy", x)
    args = (tmp_path / "x.safetensors", tmp_path / "z.npy", "-o", tmp_path / "m.json")
    dprune("eval", *args, "--metrics", "shares").fails(3, "--metrics shares", "labels of the reference")
    assert "class_entropy" not in evaluate(*args[:2])["metrics"]


def test_clusters_of_another_space_are_refused(shards: Path, tmp_path: Path) -> None:
    store, grey = embed(shards, tmp_path / "store"), embed(shards, tmp_path / "grey", "--color", "grey")
    dprune("cluster", grey, "-k", 2, "-o", tmp_path / "c.safetensors").ok()
    args = ("--clusters", tmp_path / "c.safetensors", "-o", tmp_path / "m.json")
    dprune("eval", store, store, *args).fails(3, "c.safetensors", "another space", "a separate eval", "pixels")
    np.save(tmp_path / "x.npy", normal(30, 5))
    dprune("eval", tmp_path / "x.npy", tmp_path / "x.npy", *args).fails(3, "16 dimensions", "5")


# Shards.


def generated_shards(folder: Path, count: int = 14) -> Path:
    for number in range(2):
        rows = range(number * count // 2, (number + 1) * count // 2)
        members = [part for row in rows for part in sample(f"g{row:03d}", 100 + row, row % 3)]
        write_tar(folder / f"{number:06d}.tar", members)
    return folder


def test_features_of_shards_are_made_once(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("DPRUNE_CACHE", str(cache))
    made = generated_shards(tmp_path / "generated")
    first = dprune("eval", made, shards, *PIXELS, "-o", tmp_path / "a.json").ok()
    assert first.err.count("embedding ") == 2
    times = {path: path.stat().st_mtime_ns for path in cached(cache)}
    assert len(times) == 5
    again = dprune("eval", made, shards, *PIXELS, "--metrics", "kid", "-o", tmp_path / "b.json").ok()
    assert "embedding " not in again.err
    lost = next(iter(times))
    lost.unlink()
    dprune("eval", made, shards, *PIXELS, "--metrics", "fid", "-o", tmp_path / "c.json").ok()
    assert {path for path in cached(cache) if path.stat().st_mtime_ns != times[path]} == {lost}
    stores = [embed(folder, tmp_path / f"store {folder.name}") for folder in (made, shards)]
    result, of_stores = read_result(tmp_path / "a.json"), evaluate(*stores)
    assert result.metrics == of_stores["metrics"]
    assert result.inputs == of_stores["inputs"]
    assert "class_entropy" in result.metrics


@pytest.mark.parametrize("bad", ["cache", "cache/features"])
def test_a_cache_that_cannot_be_used_is_left_alone(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    command = ("eval", generated_shards(tmp_path / "generated"), shards, *PIXELS, "-o")
    dprune(*command, tmp_path / "a.json").ok()
    monkeypatch.setenv("DPRUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / bad).parent.mkdir(exist_ok=True)
    (tmp_path / bad).write_bytes(b"mine")
    found = dprune(*command, tmp_path / "b.json").ok()
    assert "cache/features" in found.err
    assert "is not kept" in found.err
    assert (tmp_path / bad).read_bytes() == b"mine"
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_shards_follow_the_model_of_the_other_side(shards: Path, tmp_path: Path) -> None:
    store = embed(shards, tmp_path / "store", "--color", "grey")
    found = evaluate(generated_shards(tmp_path / "generated"), store, "--workers", 0, "--metrics", "fid,kid")
    assert [side["dimension"] for side in found["inputs"]] == [16, 16]
    assert parent(found["provenance"], "generated")["options"]["color"] == "grey"
    args = ("--image-size", 5, "-o", tmp_path / "m.json")
    dprune("eval", shards, store, *args).fails(3, "different spaces", "image_size")


def test_missing_weights_are_named_with_the_places_searched(shards: Path, tmp_path: Path) -> None:
    env = {"DPRUNE_WEIGHTS_DIR": str(tmp_path / "none"), "TORCH_HOME": str(tmp_path / "hub")}
    result = dprune_process("eval", shards, shards, "--workers", 0, "-o", tmp_path / "m.json", env=env)
    result.fails(3, "inception", "pt_inception-2015-12-05", "DPRUNE_WEIGHTS_DIR", "--weights")


def test_a_dry_run_touches_nothing(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPRUNE_CACHE", str(tmp_path / "cache"))
    args = (shards, shards, *PIXELS, "--save-stats", tmp_path / "s", "-o", tmp_path / "m.json")
    plan = json.loads(dprune("eval", *args, "--dry-run", "--json").ok().out)
    assert parent(plan["provenance"], "generated")["command"] == "embed"
    assert not cached(tmp_path / "cache")
    assert not (tmp_path / "m.json").exists()
    assert not (tmp_path / "s").exists()
    dprune("eval", *args).ok()
    assert json.loads((tmp_path / "m.json").read_text())["provenance"] == plan["provenance"]


def test_a_stopped_run_writes_nothing_and_goes_on(shards: Path, tmp_path: Path) -> None:
    args = ("eval", shards, shards, *PIXELS, "-o", tmp_path / "m.json")
    dprune(*args, "--stop-after", "0s").fails(75, "run the same command again")
    assert not (tmp_path / "m.json").exists()
    dprune(*args).ok()


# The output.


def test_the_same_command_gives_the_same_bytes_and_is_recognised(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    dprune("eval", *pair, "-o", first).ok()
    dprune("eval", *pair, "-o", second).ok()
    assert first.read_bytes() == second.read_bytes()
    assert "up to date" in dprune("eval", *pair, "-o", first).ok().err
    dprune("eval", *pair, "--k", 4, "-o", first).fails(3, "options k: 3, not 4", "--overwrite")
    dprune("eval", *pair, "--k", 4, "-o", first, "--overwrite").ok()
    assert first.read_bytes() != second.read_bytes()


def test_other_labels_beside_the_same_features_are_another_input(tmp_path: Path) -> None:
    x, label = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    both = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    for path in both:
        save_file({"features": x, "label": label}, path)
    asked = ("eval", *both, "--metrics", "shares", "-o", tmp_path / "m.json")
    dprune(*asked).ok()
    save_file({"features": x, "label": label[::-1].copy()}, both[1])
    dprune(*asked).fails(3, "made differently")


def test_the_seed_moves_the_errors_and_not_the_distances(pair: tuple[Path, Path]) -> None:
    one, other = (evaluate(*pair, "--metrics", "fid,kid", "--seed", seed)["metrics"] for seed in (0, 1))
    for key in ("frechet_distance", "kid"):
        assert one[key] == pytest.approx(other[key], rel=1e-12)
        assert one[f"{key}_se"] != pytest.approx(other[f"{key}_se"], rel=1e-6)


# What cannot be done.


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--metrics", "fid,bogus"), 2, ("'bogus'", "vendi")),
        (("--orders", "1,x"), 2, ("--orders", "0.5,1,2,inf")),
        (("--orders=-1",), 2, ("--orders", "0 or more")),
        (("--jackknife", 1), 2, ("--jackknife 1",)),
        (("--metrics", "kid", "--fid-infinity"), 2, ("--fid-infinity", "fid")),
        (("--metrics", "is"), 3, ("--metrics is", "--logits")),
        (("--metrics", "shares"), 3, ("--metrics shares", "--clusters")),
        (("--metrics", "prdc", "--k", 120), 3, ("120 generated samples", "--k")),
        (("--metrics", "prdc", "--density-k", 90), 3, ("90 reference samples", "--density-k")),
        (("--model", "pixels"), 2, ("--model", "all sides are features")),
        (("--save-stats", "-"), 2, ("--save-stats",)),
        (("--device", "cuda:99"), 2, ("--device",)),
        (("--metrics", "fid", "--logits", "{x}"), 2, ("--logits", "'is'")),
        (("--metrics", "is", "--logits", "{y}"), 3, ("90 rows", "120 samples")),
        (("--metrics", "is", "--logits", "{ids}"), 3, ("logits are floats",)),
        (("--metrics", "fid", "--clusters", "{c}"), 2, ("--clusters", "'shares'")),
        (("--clusters", "{bare}"), 3, ("no centroids",)),
        (("--subset", "{none}"), 3, ("no ids",)),
        (("--subset", "{ids}"), 3, ("the id 200", "90 samples")),
        (("--subset", "{one}", "--metrics", "fid"), 3, ("1 usable reference samples",)),
    ],
)
def test_bad_options_are_one_sentence(
    pair: tuple[Path, Path], save: Any, tmp_path: Path, args: tuple[object, ...], code: int, words: tuple[str, ...]
) -> None:
    files = {"x": pair[0], "y": pair[1], "none": save("none", np.arange(0)), "one": save("one", np.arange(1))}
    files |= {"ids": save("ids", np.arange(201)), "c": tmp_path / "c", "bare": tmp_path / "bare"}
    assignment = np.zeros(90, dtype=np.int32)
    save_file({"assignment": assignment}, files["bare"])
    save_file({"assignment": assignment, "centroids": normal(2, 6)}, files["c"])
    given = (arg.format(**files) if isinstance(arg, str) else arg for arg in args)
    dprune("eval", *pair, *given, "-o", tmp_path / "m.json").fails(code, *words)
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (normal(1, 6), ("1 usable generated samples are too few",)),
        (np.full((4, 6), np.nan), ("no generated sample has features that are numbers",)),
        (normal(20, 7), ("7 dimensions", "the reference 6")),
        (np.ones((20, 6), dtype=int), ("floats of shape [n, d]",)),
    ],
)
def test_features_that_will_not_do(
    pair: tuple[Path, Path], save: Any, tmp_path: Path, values: np.ndarray, words: tuple[str, ...]
) -> None:
    dprune("eval", save("bad", values), pair[1], "-o", tmp_path / "m.json").fails(3, *words)


def test_statistics_allow_the_frechet_distance_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(6), sigma=np.eye(6))

    def refused(code: int, *args: object) -> Result:
        return dprune("eval", *args, "-o", tmp_path / "m.json").fails(code, "s.npz", "statistics")

    refused(3, pair[0], tmp_path / "s.npz", "--metrics", "fid,kid")
    refused(2, tmp_path / "s.npz", pair[0], "--fid-infinity")
    refused(2, pair[0], tmp_path / "s.npz", "--save-stats", tmp_path / "t")
    np.save(tmp_path / "ids.npy", np.arange(5))
    refused(2, pair[0], tmp_path / "s.npz", "--subset", tmp_path / "ids.npy")


def test_logits_of_samples_without_features_do_not_matter(pair: tuple[Path, Path], save: Any, tmp_path: Path) -> None:
    logits, x = normal(120, 9), np.load(pair[0])
    logits[4] = np.nan
    args = ("--metrics", "is", "--logits", save("l", logits), "-o", tmp_path / "m.json")
    dprune("eval", *pair, *args).fails(3, "l.npy", "logits of 1 samples")
    x[4] = np.nan
    dprune("eval", save("x4", x), pair[1], *args).ok()


def test_models_that_give_no_logits_are_known_before_anything_is_made(shards: Path, tmp_path: Path) -> None:
    args = (shards, shards, *PIXELS, "--metrics", "is", "-o", tmp_path / "m.json")
    dprune("eval", *args, "--dry-run").fails(3, "pixels", "--logits")


def test_a_result_that_is_up_to_date_needs_no_torch(pair: tuple[Path, Path], tmp_path: Path) -> None:
    import subprocess
    import sys

    dprune("eval", *pair, "--metrics", "fid", "-o", tmp_path / "m.json").ok()
    code = (
        "import sys\nfrom dprune.cli import cli\n"
        f"sys.argv = ['dprune', 'eval', {str(pair[0])!r}, {str(pair[1])!r}, '--metrics', 'fid', '-o', "
        f"{str(tmp_path / 'm.json')!r}]\n"
        "try:\n    cli()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "up to date" in done.stderr
    assert done.stdout.strip() == "False"
