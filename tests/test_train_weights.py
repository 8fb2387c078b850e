"""What `dprune train-dit` is told of each sample: weights, noise levels, a curriculum."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result, dprune, torchrun
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from stores import latent_store

from dprune.formats.arrays import write_array
from dprune.formats.latents import open_latents
from dprune.formats.provenance import make_record, parent_record
from dprune.measuring.trained_samples import trained_samples
from dprune.models.files import ModelFile
from dprune.training.dit.noise_levels import NoiseLevels
from dprune.training.order import POOLS, Drawing, Epochs, Order, epoch_length

CPU = torch.device("cpu")
SMALL = ("--arch", "nano/2", "--batch-size", "6", "--steps", "12", "--log-every", "1", "--lr", "1e-3")
SAMPLES = 33
"""Of the store, of which the last could not be decoded."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return latent_store(tmp_path_factory.mktemp("weights") / "latents")


def train(store: object, run: object, *args: object) -> Result:
    return dprune("train-dit", store, *SMALL, "-o", run, *args)


def saved(path: Path, values: object) -> Path:
    np.save(path, np.asarray(values, np.float32))
    return path


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in log(run) if "loss" in line]


def same(one: Path, other: Path) -> bool:
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    return losses(one) == losses(other) and all(np.array_equal(first[name], second[name]) for name in first)


weights_of_samples = st.lists(
    st.one_of(st.integers(1, 4).map(float), st.floats(1e-6, 5, allow_nan=False)), min_size=1, max_size=30
).map(np.array)


@settings(max_examples=40, deadline=None)
@given(weights=weights_of_samples, seed=st.integers(0, 5))
def test_counts_of_an_epoch_are_shares_rounded_and_nothing_is_owed_for_long(weights: np.ndarray, seed: int):
    order = Epochs(len(weights), seed, weights)
    exact, taken = weights * order.length / weights.sum(), np.zeros(len(weights), int)
    for epoch in range(1, 40):
        positions = order.take((epoch - 1) * order.length, epoch * order.length).positions
        counts = np.bincount(positions, minlength=len(weights))
        assert counts.sum() == order.length
        assert ((counts >= np.floor(exact - 1e-6)) & (counts <= np.ceil(exact + 1e-6))).all()
        taken += counts
        assert np.array_equal(order.counts(epoch * order.length), taken)
        assert abs(taken - epoch * exact).max() < epoch.bit_count() + 1e-6
        if epoch.bit_count() == 1:
            assert abs(taken - epoch * exact).max() < 1 + 1e-6


@settings(max_examples=40, deadline=None)
@given(
    weights=weights_of_samples, batch=st.integers(1, 40), steps=st.integers(1, 30), hard=st.booleans(),
    weighs=st.booleans(), begin=st.integers(0, 29),
)  # fmt: skip
def test_before_is_how_often_a_sample_was_visited_wherever_a_run_goes_on(
    weights: np.ndarray, batch: int, steps: int, hard: bool, weighs: bool, begin: int
):
    size = len(weights)
    easiest = np.random.default_rng(0).permutation(size) if hard else None
    drawing = Drawing(weights if weighs else None, easiest)
    order, seen = Order(size, batch, 3, drawing, steps), np.zeros(size, int)
    for step in range(steps):
        visits = order.visits(step)
        assert len(visits.positions) == batch
        assert order.distinct(step) == len(set(visits.positions))
        for position, before in zip(*visits, strict=True):
            assert seen[position] == before
            seen[position] += 1
    again = Order(size, batch, 3, drawing, steps).visits(begin)
    assert all(np.array_equal(one, other) for one, other in zip(again, order.visits(begin), strict=True))


def test_whole_numbers_are_counts_and_halves_come_in_every_other_epoch():
    order = Epochs(4, 0, np.array([1.0, 2, 3, 1]))
    assert order.length == 7
    for epoch in range(5):
        assert np.bincount(order.take(epoch * 7, epoch * 7 + 7).positions).tolist() == [1, 2, 3, 1]
    order = Epochs(4, 0, np.array([0.5, 0.5, 1.5, 1.5]))
    assert order.length == 4
    first, second = (np.bincount(order.take(at, at + 4).positions, minlength=4) for at in (0, 4))
    assert (first + second).tolist() == [1, 1, 3, 3]
    assert first.max() == 2


def test_weights_that_are_alike_are_none_whatever_they_are():
    plain, weighed = (Epochs(50, 4, weights) for weights in (None, np.full(50, 0.1)))
    for one, other in zip(plain.take(30, 333), weighed.take(30, 333), strict=True):
        assert np.array_equal(one, other)
    assert epoch_length(np.full(50, 0.1)) == 50
    assert epoch_length(np.full(50, 2.0)) == 100
    # 4.5 visits stay five where samples are weighed by their noise levels, too.
    for seed in range(40):
        levels = NoiseLevels(np.random.default_rng(seed).random(3), np.arange(3), np.full(3, 1.5), "uniform", CPU)
        assert epoch_length(levels.weights) == epoch_length(np.full(3, 1.5)) == 5


def test_weights_of_two_visit_as_two_epochs_do_and_as_a_set_with_every_sample_twice():
    """Each sample has the visits 0 and 1 in the first epoch of twos, 2 and 3 in the second, and so on."""
    twos, plain = Epochs(9, 0, np.full(9, 2.0)), Epochs(9, 0)
    assert twos.length == 18
    for epoch in range(4):
        begin, end = 18 * epoch, 18 * epoch + 18
        found, wanted = (set(zip(*order.take(begin, end), strict=True)) for order in (twos, plain))
        assert found == wanted == {(n, visit) for n in range(9) for visit in (2 * epoch, 2 * epoch + 1)}
        twice = Epochs(18, 0).take(begin, end).positions // 2
        assert np.array_equal(np.sort(twos.take(begin, end).positions), np.sort(twice))
        # The very same order: an epoch is one permutation of the samples as often as they come.
        assert np.array_equal(twos.take(begin, end).positions, twice)


@pytest.mark.parametrize(("size", "batch", "steps"), [(40, 8, 100), (40, 8, 5), (3, 8, 50), (1, 1, 3), (100, 4, 7)])
def test_the_pool_grows_by_tenths_to_all_at_half_of_the_run(size: int, batch: int, steps: int):
    hardness = np.random.default_rng(1).permutation(size)
    easiest = hardness.argsort()
    order = Order(size, batch, 0, Drawing(None, easiest), steps)
    taken = np.concatenate([order.visits(step).positions for step in range(steps)])
    half = steps * batch // 2
    for visit, position in enumerate(taken[:half]):
        stage = next(s for s in range(POOLS) if half * (s + 1) // (POOLS - 1) > visit)
        assert hardness[position] < -(-size * (stage + 1) // POOLS)
    assert np.array_equal(taken[half:], Order(size, 1, 0)._sequence.take(0, len(taken) - half).positions)
    assert order.epochs(steps) == steps * batch / size
    if half > 3 * size and size >= POOLS:
        counts = np.bincount(taken, minlength=size)[easiest]
        assert counts[: size // 10].sum() > 2 * counts[-size // 10 :].sum()


@pytest.mark.parametrize("time", ["uniform", "logit-normal"])
def test_times_are_those_of_the_sample_and_all_of_them_together_are_as_ever(time: str):
    draw = np.random.default_rng(0)
    least = np.where(draw.random(300) < 0.8, 0.9 * draw.random(300), 0).astype(np.float32)
    least[7] = 0.999999
    ids, weights = np.arange(300) * 2 + 1, draw.random(300) + 0.5
    levels = NoiseLevels(least, ids, weights, time, CPU)
    assert levels.weights.sum() == pytest.approx(weights.sum())
    taken = Epochs(300, 0, levels.weights).take(0, 400_000).positions
    uniform = torch.from_numpy(draw.random(len(taken), np.float32)).clamp(1e-7, 1 - 1e-7)
    times = levels.times(uniform, torch.from_numpy(ids[taken])).double()
    assert ((1 - times).numpy() >= least[taken] - 1.2e-7).all()
    quantiles = times if time == "uniform" else torch.special.ndtr(times.logit())
    np.testing.assert_allclose(np.histogram(quantiles, 20, (0, 1))[0] / len(taken), 0.05, atol=2e-3)
    # At a level the visits go to those that may have it, by their weights.
    there = (quantiles > 0.4).numpy() & (quantiles < 0.5).numpy()
    limit = 1 - least if time == "uniform" else torch.special.ndtr(torch.from_numpy(1.0 - least).logit()).numpy()
    may, counts = limit >= 0.5, np.bincount(taken[there], minlength=300)
    assert not counts[limit < 0.4].any()
    low, high = may & (weights < 1), may & (weights >= 1)
    ratio = counts[low].sum() / counts[high].sum()
    assert ratio == pytest.approx(weights[low].sum() / weights[high].sum(), rel=0.05)


def test_a_time_follows_the_density_of_the_share_of_those_that_may_have_it():
    """Half of the samples from noise level .5 on: good ones get t > .5 to themselves, and share the rest."""
    levels = NoiseLevels(np.array([0, 0.5]), np.arange(2), None, "uniform", CPU)
    np.testing.assert_allclose(levels.weights, [1.5, 0.5])
    uniform = torch.tensor([1 / 6, 1 / 3, 2 / 3, 0.9])
    np.testing.assert_allclose(levels.times(uniform, torch.zeros(4, dtype=torch.int64)), [0.25, 0.5, 0.75, 0.925],
                               rtol=1e-6)  # fmt: skip
    np.testing.assert_allclose(levels.times(uniform, torch.ones(4, dtype=torch.int64)), uniform / 2, rtol=1e-6)


@pytest.mark.parametrize("time", ["uniform", "logit-normal"])
def test_ones_and_levels_of_zero_change_not_a_byte(store: Path, tmp_path: Path, time: str):
    train(store, tmp_path / "plain", "--time", time).ok()
    ones, zeros = saved(tmp_path / "w.npy", np.ones(SAMPLES)), saved(tmp_path / "s.npy", np.zeros(SAMPLES))
    train(store, tmp_path / "told", "--time", time, "--weights", ones, "--sigma-min", zeros).ok()
    assert same(tmp_path / "plain", tmp_path / "told")
    parents = ModelFile.open(tmp_path / "told" / "model.safetensors").record["parents"]
    assert set(parents) == {"latents", "weights", "sigma_min"}
    record = ModelFile.open(tmp_path / "plain" / "model.safetensors").record
    assert set(record["parents"]) == {"latents"}
    assert record["options"] == ModelFile.open(tmp_path / "told" / "model.safetensors").record["options"]
    levels = saved(tmp_path / "l.npy", np.arange(SAMPLES) % 2 * 0.5)
    train(store, tmp_path / "noisy", "--time", time, "--sigma-min", levels).ok()
    assert losses(tmp_path / "noisy") != losses(tmp_path / "plain")


def test_weights_of_zero_and_one_are_a_subset(store: Path, tmp_path: Path):
    keep = np.arange(SAMPLES) % 3 == 1
    np.save(tmp_path / "keep.npy", np.flatnonzero(keep))
    train(store, tmp_path / "subset", "--subset", tmp_path / "keep.npy").ok()
    weights = saved(tmp_path / "w.npy", np.where(keep, 1, np.where(np.arange(SAMPLES) % 2, np.nan, 0)))
    done = train(store, tmp_path / "weighed", "--weights", weights).ok()
    assert "21 of 32 samples have no weight" in done.err
    assert same(tmp_path / "subset", tmp_path / "weighed")
    train(store, tmp_path / "both", "--weights", weights, "--subset", tmp_path / "keep.npy", "--fold", "1/2").ok()
    assert log(tmp_path / "both")[0]["samples"] < 11


@pytest.mark.parametrize("option", ["weights", "sigma-min", "curriculum"])
def test_a_run_goes_on_exactly_and_another_file_is_another_run(store: Path, tmp_path: Path, option: str):
    values = np.random.default_rng(3).random(SAMPLES) * 0.9
    args = (f"--{option}", saved(tmp_path / "v.npy", values))
    train(store, tmp_path / "whole", *args).ok()
    for _ in range(4):
        train(store, tmp_path / "parts", *args, "--stop-after", "0s").fails(75, "again")
    train(store, tmp_path / "parts", *args).ok()
    for name in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "up to date" in train(store, tmp_path / "whole", *args).ok().err
    other = (f"--{option}", saved(tmp_path / "other.npy", values[::-1]))
    train(store, tmp_path / "whole", *other).fails(3, option.replace("-", "_"), "--overwrite")
    train(store, tmp_path / "whole").fails(3, "--overwrite")
    train(store, tmp_path / "plain").ok()
    assert not same(tmp_path / "plain", tmp_path / "whole")


def test_a_finished_run_is_extended_but_not_by_a_curriculum_whose_half_it_would_move(store: Path, tmp_path: Path):
    values = saved(tmp_path / "v.npy", np.random.default_rng(3).random(SAMPLES) * 0.9)
    args = ("--weights", values, "--sigma-min", values)
    train(store, tmp_path / "whole", *args).ok()
    train(store, tmp_path / "grown", *args, "--steps", "5").ok()
    train(store, tmp_path / "grown", *args).ok()
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "grown"))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    train(store, tmp_path / "easy", "--curriculum", values, "--steps", "5").ok()
    train(store, tmp_path / "easy", "--curriculum", values).fails(3, "steps", "--overwrite")


@pytest.mark.slow
def test_two_ranks_follow_the_loss_of_one(store: Path, tmp_path: Path):
    draw = np.random.default_rng(3)
    told = {"weights": draw.random(SAMPLES) * 3, "sigma-min": draw.random(SAMPLES) * 0.9, "curriculum": np.arange(33)}
    given = [
        part for option, values in told.items() for part in (f"--{option}", saved(tmp_path / f"{option}.npy", values))
    ]
    args = ["train-dit", store, *SMALL, "--batch-size", "7", "--steps", "40", *given, "-o"]
    dprune(*args, tmp_path / "one").ok()
    torchrun(*args, tmp_path / "two", fresh=True).ok()
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    assert [line.get("distinct") for line in log(tmp_path / "two")] == [
        line.get("distinct") for line in log(tmp_path / "one")
    ]


@pytest.mark.parametrize(
    ("option", "values", "words"),
    [
        ("weights", [-1], ["weight of sample 0 is -1", "from 0"]),
        ("weights", [np.inf], ["weight of sample 0 is inf"]),
        ("weights", np.zeros(SAMPLES), ["draws none", "above 0"]),
        ("weights", np.full(SAMPLES, 1e30), ["divide them all"]),
        ("weights", np.ones(SAMPLES - 1), ["has 32 values", "33 samples"]),
        ("weights", np.ones((SAMPLES, 2)), ["is a matrix", "weights of samples"]),
        ("sigma-min", [np.nan], ["noise level of sample 0 is nan", "--subset"]),
        ("sigma-min", [1], ["noise level of sample 0 is 1", "below 1"]),
        ("sigma-min", [-0.1, -0.2], ["sample 0 is -0.1 and 1 more"]),
        ("sigma-min", np.zeros(SAMPLES + 1), ["has 34 values"]),
        ("curriculum", [np.nan], ["score of sample 0 is nan", "--subset"]),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(store: Path, tmp_path: Path, option: str, values, words: list[str]):
    values = np.asarray(values, np.float32)
    if values.ndim == 1 and len(values) < 5:
        values = np.concatenate((values, np.full(SAMPLES - len(values), 0.5, np.float32)))
    done = train(store, tmp_path / "run", f"--{option}", saved(tmp_path / "v.npy", values))
    done.fails(3, *words)
    assert not (tmp_path / "run").exists()


def test_values_of_another_dataset_and_of_no_dataset(store: Path, tmp_path: Path):
    values = np.full(SAMPLES, 0.5, np.float32)
    write_array(tmp_path / "other.npy", values, make_record("score el2n", {}, fingerprint="0" * 32))
    train(store, tmp_path / "run", "--curriculum", tmp_path / "other.npy").fails(3, "different datasets")
    found = open_latents(str(store)).fingerprint
    write_array(tmp_path / "ours.npy", values, make_record("score el2n", {}, fingerprint=found))
    train(store, tmp_path / "run", "--curriculum", tmp_path / "ours.npy", "--steps", "1").ok()
    rows = "\n".join(f"{n},{n % 3}" for n in range(SAMPLES))
    (tmp_path / "w.csv").write_text(f"id,score\n{rows}\n")
    done = train(store, tmp_path / "table", "--weights", tmp_path / "w.csv", "--dry-run", "--json").ok()
    assert json.loads(done.out)["work"]["visits_per_epoch"] == sum(n % 3 for n in range(SAMPLES - 1))


def test_weights_leave_open_whether_a_model_was_trained_on_all():
    def generated(samples: int = 8, **parents: dict[str, object]) -> dict[str, object]:
        model = make_record("train-dit", {"samples": samples, "of": 9}, fingerprint="f" * 32,
                            parents={"latents": {"digest": "l"}, **parents})  # fmt: skip
        return make_record("sample", {}, parents={"model": parent_record(model, "m")})

    found = trained_samples(generated(), None, None)
    assert found is not None
    assert (found.subset, found.fingerprint) == (None, "f" * 32)
    assert trained_samples(generated(sigma_min={"digest": "s"}), None, None) == found
    assert trained_samples(generated(weights={"digest": "w"}), None, None) is None
    assert trained_samples(generated(9, weights={"digest": "w"}), None, None) == found


def test_a_level_that_no_sample_has_is_said(store: Path, tmp_path: Path):
    levels = saved(tmp_path / "s.npy", np.full(SAMPLES, 0.25))
    done = train(store, tmp_path / "run", "--sigma-min", levels, "--steps", "1").ok()
    assert "no sample is trained on below a noise level of 0.25" in " ".join(done.err.split())


def test_the_log_and_the_plan_say_what_is_drawn(store: Path, tmp_path: Path):
    weights, scores = saved(tmp_path / "w.npy", np.arange(SAMPLES)), saved(tmp_path / "c.npy", np.arange(SAMPLES))
    args = ("--weights", weights, "--curriculum", scores, "--sigma-min", saved(tmp_path / "s.npy", scores_of_half()))
    plan = train(store, tmp_path / "run", *args, "--dry-run", "--json").ok()
    work = json.loads(plan.out)["work"]
    assert work["visits_per_epoch"] == sum(range(32))
    assert (work["samples"], work["all_samples_from_step"], work["samples_of_all_noise_levels"]) == (31, 6, 15)
    assert not (tmp_path / "run").exists()
    done = train(store, tmp_path / "run", *args, "--batch-size", "40").ok()
    start = log(tmp_path / "run")[0]
    assert (start["samples"], start["epoch_visits"], start["all_from_step"]) == (31, sum(range(32)), 6)
    assert log(tmp_path / "run")[-1]["epoch"] == pytest.approx(12 * 40 / sum(range(32)))
    assert "31 samples on average 1.29 times" in " ".join(done.err.split())


def scores_of_half() -> np.ndarray:
    return np.arange(SAMPLES) % 2 * 0.5
