"""Similarity of pairs: plain loops, what every such number must do, and which samples the command takes for pairs."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import dprune, write_tar
from PIL import Image
from stores import generated_features

from dprune.errors import InputError, MismatchError
from dprune.measuring.settings import EvalSettings
from dprune.metrics.jackknife import Blocks
from dprune.metrics.paired import Paired, paired
from dprune.sampling.seeds import key_of, seed_of

KEYS = [key_of(seed) for seed in range(120)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def numbers(found: Paired) -> dict[str, float]:
    """All values by the ends of their keys in results."""
    values = {}
    for name, likeness in (("cosine", found.cosine), ("distance", found.distance)):
        values |= {f"paired_{name}": likeness.pairs.value, f"shuffled_{name}": likeness.shuffled.value}
        values |= {f"class_shuffled_{name}": likeness.in_class.value} if likeness.in_class else {}
    return values | {"paired_retrieval": found.retrieval.value}


def loops(x: np.ndarray, y: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """The same by the definitions."""
    kinds = {
        "cosine": lambda a, b: float(a @ b / math.sqrt((a @ a) * (b @ b))),
        "distance": lambda a, b: math.sqrt(sum((a - b) ** 2)),
    }
    found, rows = {}, range(len(x))
    for name, like in kinds.items():
        found[f"paired_{name}"] = np.mean([like(x[i], y[i]) for i in rows])
        found[f"shuffled_{name}"] = np.mean([like(x[i], y[j]) for i in rows for j in rows if i != j])
        others = [[j for j in rows if j != i and classes[j] == classes[i] >= 0] for i in rows]
        found[f"class_shuffled_{name}"] = np.mean(
            [np.mean([like(x[i], y[j]) for j in some]) for i, some in enumerate(others) if some]
        )
    nearest = [min(rows, key=lambda j: kinds["distance"](x[i], y[j])) for i in rows]
    return found | {"paired_retrieval": np.mean([i == j for i, j in enumerate(nearest)])}


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two sets of 41 rows, of unequal classes: one has a single row, and three rows have none."""
    x = normal(41, 4)
    classes = np.concatenate([np.full(20, 3), np.full(12, 0), np.full(5, 7), [9], np.full(3, -1)])
    return x, x + 0.8 * normal(41, 4, seed=1), np.random.default_rng(2).permutation(classes)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_numbers_are_those_of_the_definitions(sets: Any, kind: Any) -> None:
    x, y, classes = sets
    assert numbers(paired(kind(x), kind(y), classes)) == pytest.approx(loops(x, y, classes), rel=1e-12)


def test_numbers_by_hand() -> None:
    x, y = np.array([[3.0, 0], [0, 1], [0, 0]]), np.array([[0.0, 4], [0, 2], [3, 1]])
    found = numbers(paired(x, y))
    assert found["paired_cosine"] == pytest.approx((0 + 1 + 0) / 3)
    assert found["shuffled_cosine"] == pytest.approx((0 + 3 / math.sqrt(10) + 1 + 1 / math.sqrt(10) + 0 + 0) / 6)
    assert found["paired_distance"] == pytest.approx((5 + 1 + math.sqrt(10)) / 3)
    assert found["shuffled_distance"] == pytest.approx((math.sqrt(13) + 1 + 3 + 3 + 4 + 2) / 6)
    assert found["paired_retrieval"] == pytest.approx(1 / 3)


def test_errors_are_those_of_leaving_out_both_samples_of_each_pair(sets: Any) -> None:
    x, y, classes = sets
    blocks = Blocks.draw(41, seed=3)
    found = paired(x, y, classes, blocks)
    left_out = [loops(x[kept], y[kept], classes[kept]) for kept in map(blocks.without, range(len(blocks)))]
    for name, likeness in (("cosine", found.cosine), ("distance", found.distance)):
        for key, own in (("paired", likeness.pairs), ("shuffled", likeness.shuffled)):
            assert own.replicates == pytest.approx([one[f"{key}_{name}"] for one in left_out], rel=1e-12)
            assert own.error > 0
        assert likeness.in_class is not None
        assert likeness.in_class.replicates == pytest.approx([one[f"class_shuffled_{name}"] for one in left_out])
    assert found.retrieval.replicates == pytest.approx([one["paired_retrieval"] for one in left_out])


def test_errors_tell_how_much_other_seeds_would_differ() -> None:
    found, errors = [], []
    for seed in range(80):
        x = normal(100, 6, seed=seed) + np.eye(6)[np.arange(100) % 5] * 3
        y, classes = x + 0.7 * normal(100, 6, seed=1000 + seed), np.arange(100) % 5
        one = paired(x, y, classes, Blocks.draw(100, seed, strata=classes))
        every = [e for likeness in (one.cosine, one.distance) for e in (likeness.pairs, likeness.shuffled,
                                                                        likeness.in_class)]  # fmt: skip
        found.append([e.value for e in [*every, one.retrieval] if e])
        errors.append([e.error for e in [*every, one.retrieval] if e])
    ratio = np.sqrt(np.mean(np.square(errors), 0)) / np.std(found, 0, ddof=1)
    assert ((ratio > 0.75) & (ratio < 1.35)).all(), ratio
    assert ratio[-1] > 1, "that of the retrieval is on the safe side"


def test_equal_sets_are_alike_in_all(sets: Any) -> None:
    x, _, classes = sets
    found = paired(x, x, classes, Blocks.draw(41))
    assert found.cosine.pairs.value == pytest.approx(1, abs=1e-15)
    assert (found.distance.pairs.value, found.distance.pairs.error, found.retrieval.value) == (0, 0, 1)


def test_a_single_image_is_nobodys_partner() -> None:
    x = np.tile(normal(1, 300), (50, 1))
    for some in (x, x.astype(np.float32), torch.from_numpy(x)):
        found = paired(some, some)
        assert found.retrieval.value == pytest.approx(1 / 50)
        assert found.distance.shuffled.value == pytest.approx(0, abs=1e-5)
        assert found.cosine.shuffled.value == pytest.approx(1)


def test_a_row_of_zeros_is_like_nothing() -> None:
    x, y = np.zeros((3, 2)), np.ones((3, 2))
    found = numbers(paired(x, y, None, Blocks.draw(3)))
    assert (found["paired_cosine"], found["shuffled_cosine"]) == (0, 0)


def test_nothing_changes_by_reading_in_parts(sets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, classes = sets
    whole = paired(x, y, classes, Blocks.draw(41))
    monkeypatch.setattr("dprune.metrics.rows.CHUNK_BYTES", 41 * 8 * 3)
    parts = paired(x, y, classes, Blocks.draw(41))
    assert numbers(parts) == pytest.approx(numbers(whole), rel=1e-13)
    assert parts.retrieval == whole.retrieval


def test_without_two_of_a_class_there_is_no_baseline_of_classes() -> None:
    x = normal(6, 3)
    assert paired(x, x + 1, np.arange(6)).cosine.in_class is None
    assert paired(x, x + 1, np.full(6, -1)).cosine.in_class is None


def test_what_cannot_be_paired() -> None:
    x = normal(6, 3)
    with pytest.raises(MismatchError, match="dimensions"):
        paired(x, normal(6, 4))
    with pytest.raises(InputError, match="too few"):
        paired(x[:1], x[:1])


# Which samples are pairs.


@pytest.mark.parametrize(
    ("key", "seed"),
    [("00000012", 12), ("0", 0), ("000/000123", 123), ("cat/7", 7), ("s012", None), ("1.5", None), ("-3", None),
     ("", None), ("9223372036854775807", (1 << 63) - 1), ("9223372036854775808", None),
     ("\N{ARABIC-INDIC DIGIT TWO}", None)],
)  # fmt: skip
def test_the_seed_of_a_key(key: str, seed: int | None) -> None:
    assert seed_of(key) == seed


def measured(*args: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dprune("eval", *args, "--metrics", "paired", "-o", "-").ok().out)
    return found


def values(found: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in found["metrics"].items() if not key.endswith("_se")}


@pytest.fixture
def two(tmp_path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, Path, Path]:
    """Features of what two models made of the same 120 seeds, their classes, and stores of both."""
    x, label = normal(120, 6).astype(np.float32), np.arange(120) % 3
    y = x + 0.3 * normal(120, 6, seed=1).astype(np.float32)
    stores = [generated_features(tmp_path / name, values, label, model=name, keys=KEYS) for name, values in
              (("first", x), ("second", y))]  # fmt: skip
    return x, y, label, *stores


def test_pairs_are_known_by_their_keys_and_not_by_their_rows(two: Any, tmp_path: Path) -> None:
    x, y, label, first, second = two
    found = measured(first, second)
    assert values(found) == pytest.approx(loops(x.astype(np.float64), y.astype(np.float64), label), rel=1e-9)
    assert all(found["metrics"][f"{key}_se"] > 0 for key in values(found))
    assert found["details"]["paired"] == {
        "pairs": 120, "without_partner": [0, 0], "of_other_classes": 0, "classes": 3
    }  # fmt: skip
    order = np.random.default_rng(3).permutation(120)
    moved = generated_features(tmp_path / "moved", y[order], label[order], keys=[KEYS[row] for row in order],
                               shard_size=37)  # fmt: skip
    assert values(measured(first, moved)) == pytest.approx(values(found), rel=1e-12)
    assert measured(first, moved)["metrics"] == pytest.approx(found["metrics"], rel=1e-9)


def test_shuffled_keys_give_the_baseline(two: Any, tmp_path: Path) -> None:
    _, y, _, first, second = two
    alike = values(measured(first, second))
    order = np.random.default_rng(3).permutation(120)
    wrong = generated_features(tmp_path / "wrong", y, keys=[KEYS[row] for row in order])
    found = measured(first, wrong)["metrics"]
    for name in ("cosine", "distance"):
        apart = abs(found[f"paired_{name}"] - found[f"shuffled_{name}"])
        assert apart < 3 * found[f"paired_{name}_se"]
        assert abs(alike[f"paired_{name}"] - alike[f"shuffled_{name}"]) > 20 * found[f"paired_{name}_se"]
    assert found["paired_retrieval"] < 0.05 < 0.9 < alike["paired_retrieval"]


def test_equal_sets_through_the_command(two: Any) -> None:
    *_, first, _ = two
    found = values(measured(first, first))
    assert (found["paired_cosine"], found["paired_distance"]) == (pytest.approx(1), 0)


def test_seeds_that_one_side_lacks_are_left_out_and_told(two: Any, tmp_path: Path) -> None:
    x, y, label, first, _ = two
    some = generated_features(
        tmp_path / "some", y[40:], label[40:], keys=[*KEYS[40:100], *map(key_of, range(900, 920))]
    )
    run = dprune("eval", first, some, "--metrics", "paired,fid", "-o", tmp_path / "m.json").ok()
    assert f"pairs are the 60 seeds that both have; left out are 60 samples of {first} and 20 of {some}." in run.err
    found = json.loads((tmp_path / "m.json").read_text())
    expected = loops(*(v[40:100].astype(np.float64) for v in (x, y)), label[40:100])
    assert {key: found["metrics"][key] for key in expected} == pytest.approx(expected, rel=1e-9)
    assert found["details"]["paired"]["without_partner"] == [60, 20]
    # Blocks of the pairs are others than those of all samples, with which another result could be compared.
    assert list(found["details"]["jackknife"]["replicates"]) == ["frechet_distance"]
    assert found["metrics"]["paired_cosine_se"] > 0


def test_rows_that_are_not_finite_have_no_partner(two: Any, tmp_path: Path) -> None:
    x, y, label, first, _ = two
    y = y.copy()
    y[[3, 50]] = np.nan
    found = measured(first, generated_features(tmp_path / "bad", y, label, keys=KEYS))
    kept = np.isfinite(y).all(1)
    expected = loops(*(v[kept].astype(np.float64) for v in (x, y)), label[kept])
    assert values(found) == pytest.approx(expected, rel=1e-9)


def test_pairs_of_other_classes_are_none(two: Any, tmp_path: Path) -> None:
    x, y, label, first, _ = two
    other = np.where(np.arange(120) < 30, (label + 1) % 3, label)
    run = dprune("eval", first, generated_features(tmp_path / "o", y, other, keys=KEYS), "--metrics", "paired", "-o",
                 tmp_path / "m.json").ok()  # fmt: skip
    assert "left out are 30 pairs of which different classes were asked for" in run.err
    found = json.loads((tmp_path / "m.json").read_text())
    expected = loops(*(v[30:].astype(np.float64) for v in (x, y)), label[30:])
    assert values(found) == pytest.approx(expected, rel=1e-9)
    assert found["details"]["paired"]["of_other_classes"] == 30


def test_stores_of_an_older_dprune_are_paired_by_the_seeds_that_were_asked_for(two: Any, tmp_path: Path) -> None:
    x, _, label, first, second = two
    old = generated_features(tmp_path / "old", x, label, model="first")
    assert values(measured(old, second)) == pytest.approx(values(measured(first, second)), rel=1e-12)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("packed", [True, False], ids=["shards", "folder"])
def test_images_that_are_named_after_their_seeds(tmp_path: Path, packed: bool) -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (12, 4, 4, 3)).astype(np.uint8)
    for name, seeds in (("a", range(12)), ("b", [5, 4, *range(6, 12), 0, 1, 2, 3])):
        named = [(f"{seed:05d}.png", png(pixels[seed])) for seed in seeds]
        if packed:
            write_tar(tmp_path / name / "000000.tar", named)
            continue
        (tmp_path / name).mkdir()
        for file, content in named:
            (tmp_path / name / file).write_bytes(content)
    run = dprune("eval", tmp_path / "a", tmp_path / "b", "--model", "pixels", "--image-size", 4, "--metrics", "paired",
                 "-o", tmp_path / "m.json").ok()  # fmt: skip
    assert "the names of the samples are taken for the seeds that they were drawn with" in run.err
    found = values(json.loads((tmp_path / "m.json").read_text()))
    assert (found["paired_cosine"], found["paired_distance"], found["paired_retrieval"]) == (pytest.approx(1), 0, 1)


def test_sides_without_pairs(two: Any, shards: Path, tmp_path: Path) -> None:
    x, y, label, first, second = two
    ask = ("--metrics", "paired", "-o", tmp_path / "m.json")
    np.save(tmp_path / "y.npy", y)
    dprune("eval", first, tmp_path / "y.npy", *ask).fails(3, "y.npy was not drawn by dprune sample as the other side")
    np.save(tmp_path / "x.npy", x)
    dprune("eval", tmp_path / "x.npy", tmp_path / "y.npy", *ask).fails(3, "x.npy holds no keys")
    elsewhere = generated_features(tmp_path / "elsewhere", y, label, keys=[key_of(seed) for seed in range(500, 620)])
    dprune("eval", first, elsewhere, *ask).fails(3, "share 0 seeds, and 2 pairs are the fewest: sample both with")
    named = generated_features(tmp_path / "named", y, label, keys=[f"s{number}" for number in range(120)])
    dprune("eval", first, named, *ask).fails(3, "the key 's0' of", "is no seed")
    twice = generated_features(tmp_path / "twice", y, label, keys=[*KEYS[:119], KEYS[0]])
    dprune("eval", first, twice, *ask).fails(3, "has 2 samples of the seed 0")
    dprune("embed", shards, "--model", "pixels", "--image-size", 2, "-o", tmp_path / "real").ok()
    dprune("eval", tmp_path / "real", tmp_path / "real", *ask).fails(3, "the key 's000' of")
    one_class = generated_features(tmp_path / "classes", y, (label + 1) % 3, keys=KEYS)
    dprune("eval", first, one_class, *ask).fails(3, "share 120 seeds, and 120 of them with different classes")
    dprune("eval", first, second, "--save-stats", tmp_path / "s.safetensors", "--metrics", "fid", "-o",
           tmp_path / "f.json").ok()  # fmt: skip
    dprune("eval", first, tmp_path / "s.safetensors", *ask).fails(3, "holds statistics, which allow only fid")
    dprune("eval", first, second, "--held-out", tmp_path / "y.npy", *ask).fails(2, "--held-out is for the metric 'fid'")
    assert not (tmp_path / "m.json").exists()


def test_pairs_are_measured_only_where_they_are_asked_for() -> None:
    # Else results that were made before would count as made differently.
    assert EvalSettings().options()["metrics"] == ["fid", "is", "prdc", "kid", "cmmd", "prd", "vendi", "shares"]
    assert EvalSettings(metrics="paired,fid").options() == {
        "metrics": ["fid", "paired"], "jackknife": 20, "fid_infinity": False
    }  # fmt: skip


def test_a_difference_of_two_results_is_paired(two: Any, tmp_path: Path) -> None:
    x, _, label, first, second = two
    third = generated_features(tmp_path / "third", x + 0.5 * normal(120, 6, seed=2), label, model="third", keys=KEYS)
    dprune("eval", first, second, "--metrics", "paired", "-o", tmp_path / "m.json").ok()
    found = measured(third, second, "--against", tmp_path / "m.json")["details"]["against"]["paired_distance"]
    assert found["kind"] == "paired"
    assert found["told_apart"]
    assert found["difference"] > 0


def test_stores_are_measured_without_torch(two: Any, tmp_path: Path) -> None:
    *_, first, second = two
    code = ("import sys; from dprune.cli import cli; cli(sys.argv[1:], standalone_mode=False); "
            "assert 'torch' not in sys.modules, 'torch was imported'")  # fmt: skip
    subprocess.run([sys.executable, "-c", code, "eval", first, second, "--metrics", "paired", "--device", "cpu", "-o",
                    tmp_path / "m.json"], check=True)  # fmt: skip
