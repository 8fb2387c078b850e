"""`dprune memorization`, through the real command."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, dprune, image_bytes, places_of, write_tar
from PIL import Image
from safetensors.numpy import load_file, save_file
from stores import generated_features

from dprune.console import TerminalMonitor
from dprune.formats.arrays import digest_array, read_array, read_ids, write_array
from dprune.formats.provenance import make_record, parent, parent_record
from dprune.formats.results import Result, read_result
from dprune.formats.stores import Store
from dprune.measuring import pair_sheet as p
from dprune.measuring.cells import Cells, components, default_cells
from dprune.measuring.sides import TrainingRows
from dprune.metrics.catalogue import MEMORIZATION
from dprune.metrics.copying import authenticity, calibrated_ratios, copying_test_in_cells, mann_whitney_z
from dprune.metrics.jackknife import Blocks
from dprune.metrics.nearest import nearest
from dprune.metrics.reading import SIZES, Sizes
from dprune.runtime import Silent

DISTANCES = ("nearest_distance_mean", "nearest_distance_median", "zero_count", "authpct", "calibrated_copies",
             "calibrated_copies_pct", "held_out_nearest_distance_mean", "held_out_nearest_distance_median",
             "held_out_authpct", "held_out_calibrated_copies_pct", "nearest_distance_ratio")  # fmt: skip
WITH_ERRORS = {"nearest_distance_mean", "held_out_nearest_distance_mean", "nearest_distance_ratio", "zero_count",
               "authpct", "held_out_authpct", "calibrated_copies", "calibrated_copies_pct",
               "held_out_calibrated_copies_pct"}  # fmt: skip


@pytest.fixture(scope="module")
def oracle() -> dict[str, np.ndarray]:
    return load_file(DATA / "metrics.safetensors")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def normal(rows: int, columns: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def blobs(rows: int, seed: int) -> np.ndarray:
    """Points of four groups far from each other."""
    return normal(rows, 8, seed) + 30 * np.eye(8, dtype=np.float32)[np.arange(rows) % 4]


def save(**arrays: np.ndarray) -> None:
    for name, values in arrays.items():
        np.save(f"{name}.npy", values)


def measure(*args: object, output: str = "m.json") -> Result:
    """Measure gen.npy against train.npy."""
    dprune("memorization", "gen.npy", "train.npy", "-o", output, "--overwrite", *args).ok()
    return read_result(output)


def store(folder: str, x: np.ndarray, parents: dict | None = None, members: str = "", **options: object) -> str:
    """A feature store of one shard, as `embed` makes it."""
    made = Store(Path(folder), "features", ("000000.tar",), (),
                 make_record("embed", {"model": "pixels", **options}, parents=parents))  # fmt: skip
    made.publish_manifest()
    made.publish_part("000000.tar", {"features": x, "label": np.full(len(x), -1)}, members or folder, len(x), [])
    return folder


def generated_from(subset: dict | None, **roles: dict) -> dict:
    """The parents of features of images by a model that was trained on a subset."""
    dit = make_record("train-dit", {}, parents={"subset": subset, **roles} if subset else roles)
    sampled = make_record("sample", {}, parents={"model": parent_record(dit, "cafe")})
    return {"shards": parent_record(sampled, "feed")}


def test_the_reference_numbers_are_met(here: Path, oracle) -> None:
    save(gen=oracle["generated"], train=oracle["train"], held=oracle["held_out"])
    found = measure("--held-out", "held.npy", "--pairs", "pairs.npy").metrics
    for key in ("nearest_distance_mean", "nearest_distance_median", "held_out_nearest_distance_mean"):
        name = key.replace("nearest_distance", "nearest_training_distance")
        assert found[key] == pytest.approx(oracle[f"value.{name}"].item(), abs=1e-6)
    pairs = np.load("pairs.npy")
    assert pairs.dtype.descr == [("generated", "<i8"), ("train", "<i8"), ("distance", "<f8")]
    wanted = np.lexsort((np.arange(1200), oracle["nearest_training_distance"]))
    assert np.array_equal(pairs["generated"], wanted)
    assert np.array_equal(pairs["train"], oracle["nearest_training_id"][wanted])
    np.testing.assert_allclose(pairs["distance"], oracle["nearest_training_distance"][wanted], rtol=0, atol=1e-6)
    x, train = torch.from_numpy(oracle["generated"]), torch.from_numpy(oracle["train"])
    near = nearest(x, train, 50)
    assert found["authpct"] == authenticity(near, train)[0]
    assert found["calibrated_copies"] == (calibrated_ratios(near.distance) < 1).sum() == 200
    # 200 of the generated samples are near copies.
    assert found["copying_c_t"] < -2
    assert found["copying_p"] < 1e-6


def test_a_result_holds_what_a_report_reads(here: Path) -> None:
    save(gen=normal(300, seed=1), train=normal(500), held=normal(200, seed=2))
    found = measure("--held-out", "held.npy", "--neighbours", "20", "--alpha", "0.4", "--tag", "method=mine")
    assert found.kind == "memorization"
    assert set(found.metrics) == {
        *DISTANCES, *(f"{key}_se" for key in WITH_ERRORS), "nearest_distance_quantiles",
        "train_nearest_distance_mean", "copying_c_t", "copying_z", "copying_p"}  # fmt: skip
    assert {measure.key for measure in MEMORIZATION} <= set(found.metrics)
    assert found.metrics["nearest_distance_quantiles"]["0.5"] == found.metrics["nearest_distance_median"]
    mean, held = found.metrics["nearest_distance_mean"], found.metrics["held_out_nearest_distance_mean"]
    assert found.metrics["nearest_distance_ratio"] == mean / held
    tables = found.details["histograms"]
    assert [sum(tables[role]) for role in ("generated", "held_out", "train")] == [300, 200, 300]
    gen, held = (nearest(torch.from_numpy(np.load(f"{name}.npy")), normal(500)).distance for name in ("gen", "held"))
    for role, distances in (("generated", gen), ("held_out", held)):
        assert tables[role] == np.histogram(distances.numpy(), tables["edges"])[0].tolist()
    assert found.details["copying"]["z_u"] == mann_whitney_z(gen[:, 0], held[:, 0])
    assert found.details["calibrated"] == {"neighbours": 20, "alpha": 0.4}
    assert found.details["copying"]["of_cells"] == 4
    assert found.details["copying"]["weight"] > 0.9
    assert [(side["role"], side["count"], side["dimension"]) for side in found.inputs] == [
        ("generated", 300, 8), ("train", 500, 8), ("held_out", 200, 8)]  # fmt: skip
    record = found.record
    assert record["options"] == {"neighbours": 20, "alpha": 0.4, "jackknife": 20}
    assert (record["seed"], record["tags"]) == (0, {"method": "mine"})
    assert set(record["parents"]) == {"generated", "train", "held_out"}
    assert record["parents"]["train"] == {"digest": digest_array(np.load("train.npy")), "external": True}


def test_without_held_out_samples_their_keys_are_null(here: Path) -> None:
    save(gen=normal(60, seed=1), train=normal(90))
    done = dprune("memorization", "gen.npy", "train.npy", "-o", "-").ok()
    assert "--held-out" in done.err
    content = json.loads(done.out)
    for key, value in content["metrics"].items():
        baseline = key.startswith(("held_out", "copying", "nearest_distance_ratio"))
        assert (value is None) == baseline, key
    assert content["details"]["copying"] is None
    assert "held_out" not in content["details"]["histograms"]


def test_identical_sets_are_all_copies(here: Path) -> None:
    save(gen=blobs(400, 1), train=blobs(400, 1), held=blobs(400, 2))
    found = measure("--held-out", "held.npy").metrics
    assert (found["zero_count"], found["nearest_distance_mean"], found["authpct"]) == (400, 0, 0)
    assert found["calibrated_copies"] == 400
    assert found["nearest_distance_ratio"] == 0
    assert found["copying_c_t"] < -8


def test_disjoint_sets_have_no_copies(here: Path) -> None:
    save(gen=normal(400, seed=1) + 100, train=normal(400), held=normal(400, seed=2))
    found = measure("--held-out", "held.npy").metrics
    assert (found["zero_count"], found["authpct"], found["calibrated_copies"]) == (0, 100, 0)
    assert found["nearest_distance_ratio"] > 50
    assert found["copying_c_t"] > 8
    assert found["copying_p"] > 0.999


def test_copies_drive_the_copying_test_below_zero_and_half_of_them_half_way(here: Path) -> None:
    train, fresh = blobs(1200, 1), blobs(600, 3)
    near = train[:300] + 0.05 * normal(300, 8, 4)
    save(train=train, held=blobs(400, 2))
    z = {}
    groups = [torch.arange(rows) % 4 for rows in (600, 400, 1200)]
    for name, gen in {"copies": train[:600], "half": np.concatenate([near, fresh[300:]]), "fresh": fresh}.items():
        save(gen=gen)
        found = measure("--held-out", "held.npy", "--cells", "4")
        z[name] = found.metrics["copying_z"]
        # The cells that it finds are the four groups.
        x, held, rows = (torch.from_numpy(x) for x in (gen, blobs(400, 2), train))
        wanted = copying_test_in_cells(x, held, rows, tuple(groups))
        assert found.metrics["copying_c_t"] == pytest.approx(wanted.c_t, rel=1e-12)
        assert (found.details["copying"]["cells"], found.details["copying"]["weight"]) == (4, 1)
    assert z["copies"] < z["half"] < -6
    assert abs(z["fresh"]) < 4


def test_the_order_of_samples_plays_no_role(here: Path) -> None:
    gen, train, held = normal(300, seed=1), normal(400), normal(200, seed=2)
    gen[:7] = train[100:107]
    save(gen=gen, train=train, held=held)
    first = measure("--held-out", "held.npy").metrics
    shuffle = np.random.default_rng(5).permutation
    save(gen=gen[shuffle(300)], train=train[shuffle(400)], held=held[shuffle(200)])
    second = measure("--held-out", "held.npy").metrics
    assert first["zero_count"] == 7
    for key in DISTANCES:
        assert second[key] == pytest.approx(first[key], rel=1e-12), key


def test_a_rotation_plays_no_role(here: Path) -> None:
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0]
    gen, train, held = blobs(300, 1).astype(np.float64), blobs(400, 2), blobs(200, 3)
    gen[:150] = train[:150] + 0.2 * normal(150, 8, 4)
    save(gen=gen, train=train, held=held)
    first = measure("--held-out", "held.npy").metrics
    save(gen=gen @ turn, train=train @ turn, held=held @ turn)
    second = measure("--held-out", "held.npy").metrics
    for key in (*DISTANCES, "train_nearest_distance_mean", "copying_c_t", "copying_z"):
        assert second[key] == pytest.approx(first[key], rel=1e-6), key


def test_planted_duplicates_are_found_by_their_ids(here: Path) -> None:
    gen, train = normal(50, seed=1), normal(300)
    gen[[40, 3, 11]] = train[[299, 7, 150]]
    save(gen=gen, train=train)
    assert measure("--pairs", "pairs.npy").metrics["zero_count"] == 3
    assert np.load("pairs.npy")[:3].tolist() == [(3, 7, 0.0), (11, 150, 0.0), (40, 299, 0.0)]
    # Ids stay those of the dataset when a subset of it was trained on, and what was left out is no copy.
    save(keep=np.setdiff1d(np.arange(300), [7, 8, 20]))
    found = measure("--subset", "keep.npy", "--pairs", "pairs.npy")
    assert found.metrics["zero_count"] == 2
    assert np.load("pairs.npy")[:2].tolist() == [(11, 150, 0.0), (40, 299, 0.0)]
    assert 7 not in np.load("pairs.npy")["train"]
    assert found.inputs[1]["count"] == 297
    assert found.record["parents"]["subset"]["digest"] == read_ids("keep.npy").as_parent()["digest"]


def test_pairs_carry_their_provenance(here: Path) -> None:
    save(gen=normal(20, seed=1), train=normal(30))
    found = measure("--pairs", "pairs.npy")
    assert read_array("pairs.npy").record == found.record
    assert "memorization" in dprune("info", "pairs.npy").ok().out.decode()


def test_the_baseline_is_the_training_set_to_itself(here: Path) -> None:
    train = normal(200)
    save(gen=normal(500, seed=1), train=train)
    other = nearest(torch.from_numpy(train), train, exclude=torch.arange(200)).distance
    # There are more generated samples, so all training samples are compared.
    assert measure().metrics["train_nearest_distance_mean"] == pytest.approx(float(other.mean()), rel=1e-12)
    save(gen=normal(40, seed=1))
    few = [measure("--seed", seed) for seed in (0, 0, 1)]
    baselines = [found.metrics["train_nearest_distance_mean"] for found in few]
    assert baselines[0] == baselines[1] != baselines[2]
    assert sum(few[0].details["histograms"]["train"]) == 40
    assert baselines[0] == pytest.approx(float(other.mean()), rel=0.3)
    # Of a subset, as if there were nothing else.
    save(train=np.concatenate([train + 100, train]), keep=np.arange(200, 400))
    assert measure("--subset", "keep.npy").metrics == few[0].metrics


def test_the_standard_error_is_the_jackknifes(here: Path) -> None:
    save(gen=normal(205, seed=1), train=normal(300))
    found = measure("--pairs", "pairs.npy", "--jackknife", "10").metrics
    pairs = np.load("pairs.npy")
    distance = pairs["distance"][np.argsort(pairs["generated"])]
    labels = Blocks.draw(205, 0, count=10).labels
    pseudo = []
    for block in range(10):
        times = 205 / (labels == block).sum()
        pseudo.append((times, times * distance.mean() - (times - 1) * distance[labels != block].mean()))
    centre = 10 * distance.mean() - sum((1 - 1 / h) * (h * distance.mean() - p) / (h - 1) for h, p in pseudo)
    wanted = np.sqrt(np.mean([(p - centre) ** 2 / (h - 1) for h, p in pseudo]))
    assert found["nearest_distance_mean_se"] == pytest.approx(wanted, rel=1e-9)
    assert found["nearest_distance_mean_se"] == pytest.approx(distance.std() / 205**0.5, rel=0.6)
    assert measure("--jackknife", "0").metrics["nearest_distance_mean_se"] is None


def test_errors_of_balanced_classes_hold_no_chance_of_classes(here: Path) -> None:
    label = np.repeat(np.arange(5), 40)
    gen = np.random.default_rng(1).normal(size=(200, 4))
    gen[:, 0] += 50 * label
    np.save("train.npy", normal(300, 4))
    found = []
    for labels in (label, np.full(200, -1)):
        save_file({"features": gen, "label": labels}, "gen.safetensors")
        dprune("memorization", "gen.safetensors", "train.npy", "-o", f"{labels[-1]}.json").ok()
        found.append(read_result(f"{labels[-1]}.json").metrics)
    asked, unknown = found
    assert asked["nearest_distance_mean"] == unknown["nearest_distance_mean"]
    assert asked["nearest_distance_mean_se"] < 0.1 * unknown["nearest_distance_mean_se"]


def test_results_keep_what_errors_of_differences_are_made_of(here: Path) -> None:
    """Each model has a training set of its own, and its samples the noise of the others."""
    save(train=normal(80, seed=1), other=normal(50, seed=2), held=normal(40, seed=3))
    x = normal(60)
    ours, theirs = (generated_features(here / name, values, model=name) for name, values in (("a", x), ("b", x + 0.1)))

    def kept_of(generated: Path, train: str, *args: object) -> dict:
        dprune("memorization", generated, train, *args, "-o", "m.json", "--overwrite").ok()
        return read_result("m.json").details.get("jackknife", {})

    more = ("--held-out", "held.npy", "--jackknife", 6)
    other, moved = kept_of(theirs, "other.npy", *more), kept_of(ours, "train.npy", *more, "--seed", 1)
    kept, one = kept_of(ours, "train.npy", *more), read_result("m.json")
    assert kept["pairing"] == other["pairing"] != moved["pairing"]
    assert kept["pairing"] is not None
    assert kept_of(ours, "train.npy", "--jackknife", 0) == {}
    assert set(kept["replicates"]) == {key for key in WITH_ERRORS if not key.startswith("held_out_")} - {
        "nearest_distance_ratio"}  # fmt: skip
    blocks = Blocks(torch.arange(60) % 6, tuple(kept["sizes"]))
    for key, replicates in kept["replicates"].items():
        again = blocks.estimate(one.metrics[key], replicates)
        assert again.error == pytest.approx(one.metrics[f"{key}_se"], rel=1e-9, abs=1e-9)


def test_held_out_samples_get_all_that_generated_ones_get(here: Path) -> None:
    gen, train, held = normal(240, 4, seed=1), normal(300, 4), normal(180, 4, seed=2)
    gen[:40] = train[:40] + 1e-3
    save(gen=gen, train=train, held=held)
    found = measure("--held-out", "held.npy", "--neighbours", "20", "--alpha", "0.6").metrics
    save(gen=held, held=gen)
    turned = measure("--held-out", "held.npy", "--neighbours", "20", "--alpha", "0.6").metrics
    for key in ("authpct", "calibrated_copies_pct", "nearest_distance_mean"):
        for suffix in ("", "_se"):
            assert found[f"held_out_{key}{suffix}"] == pytest.approx(turned[f"{key}{suffix}"], rel=1e-12)
            assert turned[f"held_out_{key}{suffix}"] == pytest.approx(found[f"{key}{suffix}"], rel=1e-12)
    assert found["authpct"] < found["held_out_authpct"] - 5
    assert found["calibrated_copies_pct"] == pytest.approx(100 * found["calibrated_copies"] / 240)
    assert found["calibrated_copies"] >= 40
    assert found["calibrated_copies_se"] == pytest.approx(2.4 * found["calibrated_copies_pct_se"])
    share = found["authpct"] / 100
    assert found["authpct_se"] == pytest.approx(100 * (share * (1 - share) / 240) ** 0.5, rel=0.4)
    near, far = found["nearest_distance_mean"], found["held_out_nearest_distance_mean"]
    errors = [found[f"{key}nearest_distance_mean_se"] for key in ("", "held_out_")]
    relative = ((errors[0] / near) ** 2 + (errors[1] / far) ** 2) ** 0.5
    assert found["nearest_distance_ratio_se"] == pytest.approx(near / far * relative, rel=1e-9)
    none = measure("--held-out", "held.npy", "--jackknife", "0").metrics
    assert all(none[f"{key}_se"] is None for key in WITH_ERRORS)


@pytest.mark.slow
def test_fresh_samples_are_as_held_out_ones_and_vary_as_their_errors_say(here: Path) -> None:
    """The training set is held; generated and held-out samples are drawn anew from what it was drawn from."""
    keys = ("authpct", "held_out_authpct", "calibrated_copies_pct", "held_out_calibrated_copies_pct",
            "nearest_distance_ratio", "nearest_distance_mean")  # fmt: skip
    levels = {}
    for dimension in (2, 24):
        found: dict[str, list[tuple[float, float]]] = {key: [] for key in keys}
        save(train=normal(400, dimension))
        for seed in range(100):
            save(gen=normal(300, dimension, 2 * seed + 1), held=normal(200, dimension, 2 * seed + 2))
            metrics = measure("--held-out", "held.npy", "--cells", "1", "--seed", seed).metrics
            for key in keys:
                found[key].append((metrics[key], metrics[f"{key}_se"]))
        value, error = ({key: np.array(pairs)[:, n] for key, pairs in found.items()} for n in (0, 1))
        for key in keys[:4:2]:
            difference = value[key] - value[f"held_out_{key}"]
            assert abs(difference.mean()) <= 3 * difference.std() / 10, (key, dimension)
        assert abs(value["nearest_distance_ratio"].mean() - 1) < 3 * value["nearest_distance_ratio"].std() / 10
        for key in keys:
            if value[key].std():
                assert np.sqrt((error[key] ** 2).mean()) == pytest.approx(value[key].std(ddof=1), rel=0.25), key
        levels[dimension] = [value[key].mean() for key in keys[:4:2]]
    # What is usual hangs on the dimension, so that neither number says anything alone.
    assert levels[2][0] < levels[24][0] - 8
    assert levels[2][1] > 5 > levels[24][1] == 0


def test_blocks_smaller_than_the_training_set_change_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(gen=normal(130, seed=1), train=normal(700), held=normal(110, seed=2), keep=np.arange(0, 700, 2)[:340])
    args = ("--held-out", "held.npy", "--subset", "keep.npy", "--pairs", "pairs.npy")
    first, pairs = measure(*args).metrics, np.load("pairs.npy")
    monkeypatch.setitem(SIZES, "cpu", Sizes(60 * 4 * 8, 128, 128 * 50, 24 * 40, 100))
    second = measure(*args).metrics
    assert first == second
    assert np.array_equal(pairs, np.load("pairs.npy"))


def test_samples_without_features_are_left_out_on_every_side(here: Path) -> None:
    gen, train, held = normal(120, seed=1), normal(200), normal(110, seed=2)
    keep = [np.setdiff1d(np.arange(len(x)), out) for x, out in ((gen, [0, 60]), (train, [5, 199]), (held, [109]))]
    save(gen=gen[keep[0]], train=train[keep[1]], held=held[keep[2]])
    clean = measure("--held-out", "held.npy", "--pairs", "clean.npy").metrics
    gen[[0, 60]], train[5], train[199, 3], held[109, 0] = np.nan, np.nan, np.inf, -np.inf
    save(gen=gen, train=train, held=held)
    done = dprune("memorization", "gen.npy", "train.npy", "--held-out", "held.npy", "--pairs", "pairs.npy",
                  "-o", "m.json", "--overwrite").ok()  # fmt: skip
    for words in ("2 of the generated", "2 of the training", "1 of the held-out"):
        assert words in done.err
    found = read_result("m.json")
    for key in DISTANCES:
        assert found.metrics[key] == pytest.approx(clean[key], rel=1e-12), key
    assert found.metrics["copying_c_t"] is not None
    counts = {side["role"]: (side["count"], side["dropped"]) for side in found.inputs}
    assert counts == {"generated": (118, 2), "train": (198, 2), "held_out": (109, 1)}
    pairs, wanted = np.load("pairs.npy"), np.load("clean.npy")
    assert np.array_equal(pairs["generated"], keep[0][wanted["generated"]])
    assert np.array_equal(pairs["train"], keep[1][wanted["train"]])


@pytest.mark.parametrize("side", ["gen", "train", "held"])
def test_a_side_without_any_features_is_refused(here: Path, side: str) -> None:
    save(gen=normal(20, seed=1), train=normal(30), held=normal(20, seed=2))
    save(**{side: np.full((20, 8), np.nan, dtype=np.float32)})
    role = {"gen": "generated", "train": "training", "held": "held-out"}[side]
    dprune("memorization", "gen.npy", "train.npy", "--held-out", "held.npy", "-o", "m.json").fails(3, side, role)
    assert not Path("m.json").exists()


def test_features_beyond_float32_are_told(here: Path) -> None:
    gen = normal(20, seed=1)
    save(gen=gen[1:], train=normal(30))
    wanted = measure("--pairs", "pairs.npy").metrics["nearest_distance_mean"]
    gen[0] = 1e30
    save(gen=gen)
    done = dprune("memorization", "gen.npy", "train.npy", "-o", "m.json", "--pairs", "pairs.npy", "--overwrite").ok()
    assert "1 generated samples have features too large" in done.err
    assert read_result("m.json").metrics["nearest_distance_mean"] == pytest.approx(wanted, rel=1e-12)
    assert np.load("pairs.npy")["generated"].min() == 1
    save(train=np.full((30, 8), 1e30, dtype=np.float32))
    dprune("memorization", "gen.npy", "train.npy", "-o", "n.json").fails(3, "too large")


def test_half_precision_and_double_precision_are_exact(here: Path) -> None:
    gen, train = normal(50, seed=1).astype(np.float16), normal(80).astype(np.float16)
    gen[0] = train[5]
    save(gen=gen, train=train)
    half = measure().metrics
    save(gen=gen.astype(np.float64), train=train.astype(np.float64))
    assert measure().metrics == half
    assert half["zero_count"] == 1
    # A difference that float32 would not hold.
    x = normal(80).astype(np.float64)
    save(gen=x[:10] + 1e-12, train=x)
    fine = measure().metrics
    assert fine["zero_count"] == 0
    assert fine["nearest_distance_mean"] == pytest.approx(1e-12 * 8**0.5, rel=1e-3)


def test_few_training_samples(here: Path) -> None:
    save(gen=normal(30, seed=1), train=normal(10), held=normal(30, seed=2))
    done = dprune("memorization", "gen.npy", "train.npy", "--held-out", "held.npy", "-o", "m.json").ok()
    assert "10 neighbours" in done.err
    found = read_result("m.json")
    assert found.details["calibrated"]["neighbours"] == 10
    ratios = calibrated_ratios(nearest(torch.from_numpy(normal(30, seed=1)), normal(10), 10).distance)
    assert found.metrics["calibrated_copies"] == (ratios < 1).sum()
    save(train=normal(1))
    one = measure("--held-out", "held.npy")
    assert one.metrics["nearest_distance_mean"] > 0
    for key in ("authpct", "calibrated_copies", "train_nearest_distance_mean"):
        assert one.metrics[key] is None
    assert one.details["copying"]["of_cells"] == 1
    save(train=np.concatenate([normal(1), np.full((2, 8), np.nan, dtype=np.float32)]))
    assert measure("--held-out", "held.npy").metrics == one.metrics


def test_too_few_samples_for_the_copying_test_are_told(here: Path) -> None:
    save(gen=normal(20, seed=1), train=normal(60), held=normal(20, seed=2))
    done = dprune("memorization", "gen.npy", "train.npy", "--held-out", "held.npy", "-o", "m.json").ok()
    assert "warning: the copying test has no result" in done.err
    assert read_result("m.json").metrics["copying_c_t"] is None


def test_held_out_samples_that_were_trained_on_are_told(here: Path) -> None:
    save(gen=normal(40, seed=1), train=normal(60), held=normal(70)[50:])
    done = dprune("memorization", "gen.npy", "train.npy", "--held-out", "held.npy", "-o", "m.json").ok()
    assert "10 held-out samples are exact copies" in done.err
    save(held=normal(60))
    assert measure("--held-out", "held.npy").metrics["nearest_distance_ratio"] is None


def test_held_out_ids_are_rows_of_the_training_features(here: Path) -> None:
    gen, train = normal(200, seed=1), normal(600)
    held = np.random.default_rng(1).permutation(600)[:150]
    save(gen=gen, train=train, ids=held, keep=np.setdiff1d(np.arange(600), held), held=train[np.sort(held)])
    by_ids = measure("--held-out", "ids.npy", "--subset", "keep.npy")
    apart = measure("--held-out", "held.npy", "--subset", "keep.npy")
    assert by_ids.metrics == apart.metrics
    assert by_ids.metrics["held_out_nearest_distance_mean"] > 0
    assert by_ids.record["parents"]["held_out"]["digest"] == digest_array(np.sort(held))
    stdin = dprune("memorization", "gen.npy", "train.npy", "--held-out", "-", "--subset", "keep.npy", "-o", "-",
                   stdin=Path("ids.npy").read_bytes()).ok()  # fmt: skip
    assert json.loads(stdin.out)["metrics"] == by_ids.metrics


def test_held_out_ids_that_were_trained_on_are_refused(here: Path) -> None:
    save(gen=normal(20, seed=1), train=normal(60), keep=np.arange(50), ids=np.arange(45, 60), far=np.arange(50, 70))
    args = ("memorization", "gen.npy", "train.npy", "-o", "m.json", "--held-out")
    dprune(*args, "ids.npy", "--subset", "keep.npy").fails(3, "ids.npy", "5 of its ids", "45", "--subset")
    dprune(*args, "ids.npy").fails(3, "15 of its ids", "--subset")
    dprune(*args, "ids.npy", "--full").fails(3, "15 of its ids")
    dprune(*args, "far.npy", "--subset", "keep.npy").fails(3, "far.npy", "69", "60")
    save(none=np.arange(0))
    dprune(*args, "none.npy").fails(3, "none.npy", "no ids")
    x = store("x", normal(60))
    dprune("memorization", "gen.npy", x, "--held-out", x, "-o", "m.json").fails(3, "the same dataset", "--held-out")


def test_the_subset_that_the_model_was_trained_on_is_asked_for(here: Path) -> None:
    x = store("x", normal(60))
    made_from = Store.open(x, "features").fingerprint
    for name, ids in (("keep", np.arange(40)), ("other", np.arange(20))):
        write_array(f"{name}.npy", ids, make_record("select", {"keep": "40"}, fingerprint=made_from))
    named = read_ids("keep.npy").as_parent()
    gen = store("gen", normal(20, seed=1), generated_from(named))
    args = ("memorization", gen, x, "-o", "m.json", "--overwrite")
    dprune(*args).fails(3, named["digest"], "--subset", "--full")
    dprune(*args, "--subset", "other.npy").fails(3, "other.npy", named["digest"][:12],
                                                 read_ids("other.npy").as_parent()["digest"][:12])  # fmt: skip
    dprune(*args, "--subset", "keep.npy").ok()
    found = read_result("m.json")
    assert found.inputs[1]["count"] == 40
    assert "full" not in found.record["options"]
    dprune(*args, "--full").ok()
    found = read_result("m.json")
    assert (found.inputs[1]["count"], found.record["options"]["full"]) == (60, True)
    # The same ids without provenance are the same subset.
    save(keep=np.arange(40)[::-1])
    dprune(*args, "--subset", "keep.npy").ok()
    # A model of the whole set may be held against any part of it.
    whole = store("whole", normal(20, seed=1), generated_from(None))
    dprune("memorization", whole, x, "-o", "w.json").ok()
    dprune("memorization", whole, x, "--subset", "other.npy", "-o", "o.json").ok()
    assert read_result("o.json").inputs[1]["count"] == 20


def test_shards_packed_from_the_subset_need_none(here: Path) -> None:
    named = parent_record(make_record("select", {"keep": "40"}), digest_array(np.arange(40)))
    packed = make_record("pack", {}, parents={"subset": named})
    train = store("x", normal(40), {"shards": parent_record(packed, "abc")})
    latents = make_record("encode", {}, parents={"shards": parent_record(packed, "abc")})
    gen = store("gen", normal(20, seed=1), generated_from(None, latents=parent_record(latents, "def")))
    save(keep=np.arange(40))
    dprune("memorization", gen, train, "-o", "m.json").ok()
    dprune("memorization", gen, train, "-o", "n.json", "--subset", "keep.npy").fails(3, "leave --subset out")
    # The set that it was packed from is another.
    dprune("memorization", gen, store("all", normal(60)), "-o", "n.json").fails(3, named["digest"])


def test_subsets_of_other_data_are_refused(here: Path) -> None:
    x = store("x", normal(60))
    write_array("keep.npy", np.arange(9), make_record("select", {}, fingerprint="0" * 64))
    args = ("memorization", store("gen", normal(20, seed=1)), x, "-o", "m.json")
    dprune(*args, "--subset", "keep.npy").fails(3, "keep.npy", "different datasets")
    dprune(*args, "--held-out", "keep.npy").fails(3, "keep.npy", "different datasets")
    save(far=np.array([3, 60]), none=np.arange(0))
    dprune(*args, "--subset", "far.npy").fails(3, "far.npy", "60")
    dprune(*args, "--subset", "none.npy").fails(3, "none.npy", "no ids")


def test_features_of_different_spaces_are_refused(here: Path) -> None:
    save(gen=normal(20), train=normal(30, 9), held=normal(20, 9))
    dprune("memorization", "gen.npy", "train.npy", "-o", "m.json").fails(3, "gen.npy", "train.npy", "8", "9")
    save(gen=normal(20, 9), held=normal(20, 7))
    dprune("memorization", "gen.npy", "train.npy", "--held-out", "held.npy", "-o", "m.json").fails(3, "held.npy", "7")
    a, b = store("a", normal(20), image_size=8), store("b", normal(20, seed=1), image_size=16)
    dprune("memorization", a, b, "-o", "m.json").fails(3, "different spaces", "image_size")


def test_features_may_be_safetensors(here: Path) -> None:
    save(gen=normal(20, seed=1), train=normal(30))
    save_file({"features": normal(30)}, "train.safetensors")
    dprune("memorization", "gen.npy", "train.safetensors", "-o", "s.json").ok()
    assert read_result("s.json").metrics == measure().metrics


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--full", "--subset", "keep.npy"), ("--full", "--subset")),
        (("--cells", "3"), ("--cells", "--held-out")),
        (("--pairs", "m.json"), ("--pairs", "same file")),
        (("--pairs", "-"), ("--pairs", "file")),
        (("--figure", "p.png"), ("--generated-shards",)),
        (("--figure", "p.png", "--generated-shards", "s"), ("--train-shards",)),
        (("--train-shards", "s"), ("--figure",)),
        (("--neighbours", "1"), ("--neighbours",)),
        (("--alpha", "0"), ("--alpha",)),
        (("--model", "pixels"), ("--model",)),
    ],
)
def test_options_that_contradict_each_other(here: Path, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    save(gen=normal(20, seed=1), train=normal(30), keep=np.arange(5))
    dprune("memorization", "gen.npy", "train.npy", "-o", "m.json", *args).fails(2, *words)
    assert not Path("m.json").exists()


def test_more_cells_than_training_samples_are_refused(here: Path) -> None:
    save(gen=normal(20, seed=1), train=normal(30), held=normal(20, seed=2))
    args = ("memorization", "gen.npy", "train.npy", "--held-out", "held.npy", "-o", "m.json", "--cells")
    dprune(*args, "31").fails(3, "--cells 31", "30")
    dprune(*args, "30").ok()


def test_a_result_is_made_once(here: Path) -> None:
    save(gen=normal(20, seed=1), train=normal(30))
    args = ("memorization", "gen.npy", "train.npy", "-o", "m.json", "--pairs", "pairs.npy")
    dprune(*args).ok()
    first, pairs = Path("m.json").read_bytes(), Path("pairs.npy").read_bytes()
    assert "up to date" in dprune(*args).ok().err
    Path("pairs.npy").unlink()
    assert "up to date" not in dprune(*args).ok().err
    assert (Path("m.json").read_bytes(), Path("pairs.npy").read_bytes()) == (first, pairs)
    dprune(*args, "--alpha", "0.7").fails(3, "m.json", "alpha", "--overwrite")
    dprune(*args, "--alpha", "0.7", "--overwrite").ok()
    assert read_array("pairs.npy").record["options"]["alpha"] == 0.7
    plan = json.loads(dprune(*args, "--alpha", "0.7", "--dry-run", "--json").ok().out)
    assert plan["provenance"]["command"] == "memorization"


def test_pairs_replace_no_other_file(here: Path) -> None:
    save(gen=normal(20, seed=1), train=normal(30), keep=np.arange(30))
    args = ("memorization", "gen.npy", "train.npy", "-o", "m.json", "--pairs")
    dprune(*args, "keep.npy").fails(3, "keep.npy", "not written by dprune", "another --pairs")
    dprune(*args, ".").fails(2, "--pairs", "name a file")
    dprune(*args, "..").fails(3, "not written by dprune", "another --pairs")
    dprune(*args, "pairs.npy").ok()
    save(gen=normal(20, seed=2))
    other = ("memorization", "gen.npy", "train.npy", "-o", "o.json", "--pairs", "pairs.npy")
    dprune(*other).fails(3, "pairs.npy", "--overwrite")
    assert not Path("o.json").exists()
    dprune(*other, "--overwrite").ok()
    dprune("memorization", "gen.npy", "train.npy", "-o", "n.json", "--pairs", "m.json").fails(3, "m.json")


def test_a_stop_leaves_nothing_behind(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(gen=normal(20, seed=1), train=normal(30))
    before = set(os.listdir())
    monkeypatch.setattr(TerminalMonitor, "stop_requested", lambda self: True)
    dprune("memorization", "gen.npy", "train.npy", "-o", "m.json", "--pairs", "p.npy").fails(75, "stopped")
    assert set(os.listdir()) == before


def write_shards(folder: str, seeds: range) -> str:
    write_tar(Path(folder) / "000000.tar", [(f"s{i:03d}.png", image_bytes(i, (16, 16))) for i in seeds])
    return folder


@pytest.fixture
def images(here: Path) -> tuple[str, str]:
    """Forty generated and sixty training images, of which the last ten are the same."""
    return write_shards("gen", range(40)), write_shards("train", range(30, 90))


PIXELS = ("--model", "pixels", "--image-size", "4")


def test_shards_are_embedded_and_their_copies_found(images) -> None:
    dprune("memorization", *images, *PIXELS, "-o", "m.json", "--pairs", "pairs.npy").ok()
    found = read_result("m.json")
    assert found.metrics["zero_count"] == 10
    assert {side["model"] for side in found.inputs} == {"pixels"}
    assert np.load("pairs.npy")[:10].tolist() == [(30 + i, i, 0.0) for i in range(10)]
    assert parent(found.record, "train")["command"] == "embed"
    again = dprune("memorization", *images, *PIXELS, "-o", "m.json", "--pairs", "pairs.npy").ok()
    assert "up to date" in again.err
    # The features that embed writes are the same inputs.
    for name in images:
        dprune("embed", name, *PIXELS, "-o", f"{name}-features").ok()
    features = ("memorization", "gen-features", "train-features", "-o", "m.json", "--pairs", "pairs.npy")
    assert "up to date" in dprune(*features).ok().err


def pair_in(sheet: np.ndarray, generated: int, train: int) -> tuple[int, int]:
    """Where a sheet shows two images side by side."""
    found = []
    for seed in (generated, train):
        with Image.open(io.BytesIO(image_bytes(seed, (16, 16)))) as image:
            found.append(places_of(sheet, np.asarray(image.resize((96, 96), Image.Resampling.NEAREST))))
    ((top, left),) = [place for place in found[0] if (place[0], place[1] + 96 + p.BETWEEN) in found[1]]
    return top, left


def test_the_figure_shows_the_closest_pairs(images) -> None:
    args = ("memorization", *images, *PIXELS, "-o", "m.json", "--pairs", "p.npy", "--figure", "f.png",
            "--figure-count", "12")  # fmt: skip
    dprune(*args).ok()
    with Image.open("f.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    red = (sheet == (179, 38, 30)).all(2)
    generated, train, _ = np.load("p.npy")[10].tolist()
    # The first pair is of two images that are the same, the eleventh is not.
    first, eleventh = pair_in(sheet, 30, 30), pair_in(sheet, generated, 30 + train)
    # Ten pairs are framed, and said to be copies.
    for (y, x), framed in ((first, True), (eleventh, False)):
        assert bool(red[y - 2, x : x + 2 * 96].all()) == framed
        assert bool(red[y + 100 : y + 120, x : x + 2 * 96].any()) == framed
    # Below both images stand their keys.
    assert (sheet[first[0] + 118 : first[0] + 150, first[1] : first[1] + 2 * 96] < 128).any()
    first = Path("f.png").read_bytes()
    assert "up to date" in dprune(*args).ok().err
    Path("f.png").unlink()
    dprune(*args).ok()
    assert Path("f.png").read_bytes() == first
    dprune(*args[:-1], "4").fails(3, "f.png", "made differently", "--overwrite", "another --figure")
    assert Path("f.png").read_bytes() == first
    dprune(*args[:-1], "4", "--overwrite").ok()
    assert Path("f.png").read_bytes() != first


def test_pairs_and_their_figure_are_two_files(images) -> None:
    args = ("memorization", *images, *PIXELS, "-o", "m.json", "--figure", "p.png")
    dprune(*args, "--pairs", "./p.png").fails(2, "--pairs and --figure name the same file, p.png")
    assert not Path("m.json").exists()


def test_a_figure_of_features_wants_their_shards(images) -> None:
    for name in images:
        dprune("embed", name, *PIXELS, "-o", f"{name}-f").ok()
    args = ("memorization", "gen-f", "train-f", "-o", "m.json", "--figure", "f.png", "--train-shards", "train")
    dprune(*args, "--generated-shards", "train").fails(3, "gen-f", "train", "different datasets")
    dprune(*args, "--generated-shards", "nowhere").fails(3, "nowhere")
    dprune(*args, "--generated-shards", "gen").ok()
    # Features without a fingerprint are held to the number of images.
    np.save("gen.npy", normal(39, 48))
    other = ("memorization", "gen.npy", "train-f", "-o", "n.json", "--figure", "g.png", "--train-shards", "train")
    dprune(*other, "--generated-shards", "gen").fails(3, "39", "40", "--generated-shards")
    np.save("gen.npy", normal(40, 48))
    Path("g.png").write_bytes(image_bytes(1))
    dprune(*other, "--generated-shards", "gen").fails(3, "g.png", "not written by dprune", "another --figure")


def rows(x: np.ndarray) -> TrainingRows:
    class Memory:
        name, shape = "x", x.shape

        @staticmethod
        def take(ids: np.ndarray) -> np.ndarray:
            return x[ids]

    return TrainingRows(Memory(), np.arange(len(x)), Silent())  # type: ignore[arg-type]


def test_cells_are_those_of_the_nearest_centroid() -> None:
    x = blobs(1000, 1)
    cells = Cells.fit(rows(x), 4, 0, torch.device("cpu"), Silent())
    found = cells.of_training(rows(x))
    assert cells.basis is None
    assert torch.equal(found, cells.of(torch.from_numpy(x)))
    # Each group is a cell of its own.
    groups = torch.arange(1000) % 4
    assert len({(int(a), int(b)) for a, b in zip(groups, found, strict=True)}) == 4
    distances = torch.cdist(torch.from_numpy(x) - cells.centre, cells.centroids)
    assert torch.equal(distances.argmin(1), found)


def test_cells_of_many_dimensions_are_made_in_principal_components() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(3000, 100)).astype(np.float32) * (30 * 0.85 ** np.arange(100, dtype=np.float32)) + 5
    x = x @ np.linalg.qr(draw.normal(size=(100, 100)))[0].astype(np.float32)
    centred = torch.from_numpy(x - x.mean(0))
    basis = components(centred, 0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(64), rtol=0, atol=1e-4)
    exact = torch.linalg.eigvalsh(centred.double().T @ centred.double()).flip(0)
    kept = (centred.double() @ basis.double()).square().sum(0).sort(descending=True).values
    torch.testing.assert_close(kept[:40], exact[:40], rtol=1e-3, atol=0)
    assert kept.sum() > 0.9999 * exact[:64].sum()
    cells = Cells.fit(rows(x), 5, 0, torch.device("cpu"), Silent())
    assert cells.centroids.shape == (5, 64)
    assert len(cells.of_training(rows(x)).unique()) == 5


def test_cells_are_as_many_as_samples_fill() -> None:
    assert default_cells(5000, 1000, 9000) == 20
    assert default_cells(49, 1000, 9000) == 1
    assert default_cells(10**6, 10**6, 10**7) == 1000
