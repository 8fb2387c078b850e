"""dprune score monotonicity and moso: numbers, folds, checkpoints, ranks, interruptions and what does not fit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import DATA, dprune, dprune_process, warm_python
from safetensors.torch import load_file
from stores import latent_store
from test_score_models import StopsAfter, catches_sigterm, drawn_for
from test_slurm import EXAMPLES, cluster, submit  # noqa: F401 - cluster is a fixture

from dprune.errors import InputError, Interrupted, UsageError
from dprune.flow import flow_loss
from dprune.formats.arrays import read_array, write_array
from dprune.formats.claims import free
from dprune.formats.latents import open_latents
from dprune.formats.provenance import make_record, parent
from dprune.formats.publish import Output
from dprune.models.architectures import ARCHITECTURES
from dprune.models.dit import DiT, DiTConfig
from dprune.models.dit_files import load_dit
from dprune.models.files import ModelFile, publish_model
from dprune.models.gradients import SampleGradients
from dprune.scoring import progress as progress_module
from dprune.scoring.monotonicity import MonotonicityJob, rises, rises_of_mean
from dprune.scoring.moso import MosoOptions, moso, open_moso, standardized
from dprune.scoring.reliability import half_sample_errors, split_half
from dprune.scoring.settings import ScoreOptions, ScoreSettings
from dprune.training.checkpoints import Wanted, _expected, open_run
from dprune.training.dit.settings import Fold

CPU = torch.device("cpu")
COUNT, FOLDS = 33, 3
SMALL = ("--arch", "pico/2", "--batch-size", "6", "--lr", "3e-3", "--save-every", "epoch", "--device", "cpu")


def train(store, run, *args):
    with pytest.MonkeyPatch.context() as patch:
        # The numbers hold at any size, and nano's gradients in float64 are a hundred times as many.
        patch.setitem(ARCHITECTURES, "pico", (32, 2, 2))
        dprune("train-dit", store, *SMALL, "-o", run, *args).ok()
    return run


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return latent_store(tmp_path_factory.mktemp("dynamics") / "latents", vae="beef")


@pytest.fixture(scope="session")
def run(store):
    return train(store, store.with_name("run"), "--epochs", "4")


@pytest.fixture(scope="session")
def folds(store):
    return [train(store, store.with_name(f"fold{i}"), "--epochs", "2", "--fold", f"{i}/{FOLDS}", "--seed", i)
            for i in range(FOLDS)]  # fmt: skip


@pytest.fixture(scope="session")
def cosine(store):
    args = ("--steps", "16", "--schedule", "cosine", "--warmup", "2", "--log-every", "1")
    return train(store, store.with_name("cosine"), *args)


@pytest.fixture
def score(store, tmp_path):
    def scored(method, runs, output, *args, latents=store):
        runs = runs if isinstance(runs, list) else [runs]
        return dprune("score", method, latents, *runs, "-o", tmp_path / output, "--device", "cpu", *args)

    return scored


def scores(path):
    return read_array(path).values


def written(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".npy" or path.name.startswith("."))


def steps(run):
    return sorted((run / "checkpoints").iterdir())


def network_of(path, weights):
    """A checkpoint's network in float64."""
    network = load_dit(path, CPU).model
    if weights == "raw":
        network.load_state_dict(ModelFile.open(path).state("raw."))
    network = network.double().requires_grad_(True)
    network.pos_embed.requires_grad_(False)
    return network


def samples(store):
    """Normalised latents [N, 3, 4, 4] in float64, and labels."""
    latents = open_latents(store)
    codes = torch.from_numpy(np.concatenate(latents.mapped("codes")).astype(np.int64))
    table = (torch.from_numpy(latents.codebook) - torch.from_numpy(latents.mean)) / torch.from_numpy(latents.std)
    return table[codes].transpose(1, 2).unflatten(2, (4, 4)).double(), torch.from_numpy(latents.labels())


def draws_of(settings, ids):
    """Times [n] and noise [n, 3, 4, 4] of samples for each draw, S * M of them, in float64."""
    for level, draw in np.ndindex(settings.levels, settings.draws):
        each = [drawn_for(settings, i, level, draw, (3, 4, 4)) for i in ids]
        yield tuple(torch.cat(column).double() for column in zip(*each, strict=True))


def losses_of(store, path, settings, weights="raw"):
    """Losses [N, S * M] of all samples."""
    (x, labels), network = samples(store), network_of(path, weights)
    with torch.no_grad():
        found = [flow_loss(network, x, drawn, t, labels) for t, drawn in draws_of(settings, range(len(x)))]
    return torch.stack(found, 1).numpy()


def gradients_of(store, path, ids, settings, weights="ema"):
    """Gradients [n, S * M, parameters] in float64, one sample and draw at a time by plain autograd."""
    (x, labels), network = samples(store), network_of(path, weights)
    parameters = [p for p in network.parameters() if p.requires_grad]
    rows = []
    for i in ids:
        for t, drawn in draws_of(settings, [i]):
            loss = flow_loss(network, x[i : i + 1], drawn, t, labels[i : i + 1]).sum()
            rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]))
    return torch.stack(rows).unflatten(0, (len(ids), -1)).numpy()


def moso_of(gradients, form="exact"):
    """DESIGN's formula, a draw at a time: [n, S * M]."""
    count, mean = len(gradients), gradients.mean((0, 1))
    if form == "first-order":
        return gradients @ mean
    norms = np.einsum("...p,...p->...", gradients, gradients)
    dots = gradients @ mean - norms / count
    return ((2 * count - 3) * (mean @ mean) - norms + (2 * count - 4) * dots) / (count - 1) ** 2


def fold_ids(number):
    ids = np.arange(COUNT - 1)
    return ids[Fold(number, FOLDS).holds(ids)]


# Numbers


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_moso_is_that_of_the_oracle(dtype, tolerance):
    oracle = load_file(DATA / "flow.safetensors")
    network = DiT(DiTConfig(input_size=8, channels=4, patch=2, width=64, depth=3, heads=4, classes=10)).to(dtype)
    network.load_state_dict({name.removeprefix("weights."): value.to(dtype) for name, value in oracle.items()
                             if name.startswith("weights.")})  # fmt: skip
    data, noise, y = oracle["x1"].to(dtype), oracle["x0"].to(dtype), oracle["y"]
    t = oracle["score_time"].to(dtype).expand(len(y))
    gradients = SampleGradients(network.eval(), data[:1], t[:1], y[:1])
    sums = gradients.zeros()
    gradients.add_gradients(lambda: flow_loss(network, data, noise, t, y), sums)
    gradients.aim({name: value / len(y) for name, value in sums.items()})
    measures = torch.stack(gradients.measure(lambda: flow_loss(network, data, noise, t, y), len(y)), 1)
    found = moso(measures[:, None, None].numpy(), "exact")[:, 0, 0]
    np.testing.assert_allclose(found, oracle["moso_exact"].numpy(), rtol=tolerance)


@pytest.mark.parametrize(("form", "weights", "sigma"), [
    pytest.param("exact", "ema", ".3", marks=pytest.mark.slow), ("first-order", "raw", ".3"),
    pytest.param("exact", "ema", ".06,.3", marks=pytest.mark.slow),
])  # fmt: skip
def test_moso_is_that_of_a_loop(score, store, folds, tmp_path, form, weights, sigma):
    args = ("--form", form, "--weights", weights, "--sigma", sigma, "--draws", 4, "--normalize", "none")
    score("moso", folds[::-1], "m.npy", *args, "--batch-size", 5).ok()
    settings = ScoreOptions(sigma=sigma, draws=4).resolve()
    expected = np.full((COUNT, len(settings.sigmas), 4), np.nan)
    for number, run in enumerate(folds):
        ids = fold_ids(number)
        each = [moso_of(gradients_of(store, path, ids, settings, weights), form) for path in steps(run)]
        assert len(each) == 2
        expected[ids] = np.mean(each, 0).reshape(len(ids), -1, 4)
    if len(settings.sigmas) > 1:
        expected /= expected[:-1].mean(2).std(0)[:, None]
    found, error = scores(tmp_path / "m.npy"), scores(tmp_path / "m.se.npy")
    assert found.dtype == np.float32
    assert np.isnan(found[-1]), "that sample could not be decoded"
    largest = np.abs(expected[:-1].mean((1, 2))).max()
    np.testing.assert_allclose(found[:-1], expected[:-1].mean((1, 2)), rtol=1e-5, atol=1e-6 * largest)
    pairs = expected.mean(1).reshape(COUNT, 2, 2).mean(2)[:-1]
    centred = pairs - pairs.mean(0)
    np.testing.assert_allclose(error[:-1], centred.std(1, ddof=1) / 2**0.5, rtol=1e-3, atol=1e-5 * largest)


def test_moso_of_the_authors_is_that_of_a_loop(score, store, cosine, tmp_path):
    """Noise levels by chance, each sample its own noise, checkpoints weighted by learning rates."""
    args = ("--sigma", "uniform", "--noise", "own", "--checkpoint-weights", "lr", "--draws", 1, "--normalize", "none")
    score("moso", cosine, "m.npy", *args, "--batch-size", 5).ok()
    settings = ScoreOptions(sigma="uniform", noise="own", draws=1).resolve()
    singles = [moso_of(gradients_of(store, path, range(COUNT - 1), settings))[:, 0] for path in steps(cosine)]
    rates = [3e-3 * min(1, step / 3) * (1 + np.cos(np.pi * (step - 1) / 16)) / 2 for step in (6, 11, 16)]
    expected, found = np.average(singles, 0, rates), scores(tmp_path / "m.npy")[:-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    options = read_array(tmp_path / "m.npy").record["options"]
    assert {name: options[name] for name in ("sigma", "noise", "checkpoint_weights")} == {
        "sigma": "uniform", "noise": "own", "checkpoint_weights": "lr"}  # fmt: skip
    assert not np.allclose(found, np.mean(singles, 0), rtol=1e-3, atol=0)


def test_rates_of_checkpoints_are_those_of_their_steps(cosine, run):
    logged = {line["step"]: line["lr"] for line in map(json.loads, (cosine / "log.jsonl").read_text().splitlines())
              if "lr" in line}  # fmt: skip
    trained = open_run(cosine)
    assert logged.keys() >= {6, 11, 16}
    assert [trained.rate(step) for step in (6, 11, 16)] == pytest.approx([logged[step] for step in (6, 11, 16)])
    assert open_run(run).rate(22) == 3e-3


def test_options_that_are_not_given_are_not_recorded(score, run, tmp_path):
    args = ("--draws", 2, "--checkpoints", 1)
    score("moso", run, "m.npy", *args).ok()
    assert not read_array(tmp_path / "m.npy").record["options"].keys() & {"noise", "checkpoint_weights"}
    said = ("--noise", "shared", "--checkpoint-weights", "equal")
    assert "up to date" in score("moso", run, "m.npy", *args, *said).ok().err
    score("moso", run, "m.npy", *args, "--checkpoint-weights", "lr").fails(3, "m.npy", "checkpoint_weights")
    score("moso", run, "m.npy", *args, "--noise", "own").fails(3, "m.npy", "noise")


def test_folds_are_scaled_alike(score, folds, tmp_path):
    score("moso", folds, "z.npy").ok()
    score("moso", folds, "n.npy", "--normalize", "none").ok()
    scaled, plain = scores(tmp_path / "z.npy"), scores(tmp_path / "n.npy")
    for number in range(FOLDS):
        ids = fold_ids(number)
        expected = (plain[ids] - plain[ids].mean()) / plain[ids].std()
        np.testing.assert_allclose(scaled[ids], expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(standardized(np.ones((4, 1, 2)))).all()


def test_errors_of_folds_are_within_them(score, folds, tmp_path):
    """What a draw does to all samples of a fold moves none of them where folds are scaled alike."""
    draw = np.random.default_rng(0)
    truth, own = draw.normal(size=(2, 60, 1, 1)), 0.1 * draw.normal(size=(2, 60, 1, 8))
    common = 5 * draw.normal(size=(2, 1, 1, 8))
    scaled, plain = (np.concatenate([standardized(fold) for fold in truth + own + noise]) for noise in (common, 0))
    np.testing.assert_allclose(scaled, plain, atol=1e-12)
    errors = {}
    for normalize in ("zscore", "none"):
        score("moso", folds, f"{normalize}.npy", "--normalize", normalize, "--draws", 4).ok()
        errors[normalize] = scores(tmp_path / f"{normalize}.se.npy")
    deviation = scores(tmp_path / "none.npy")[fold_ids(1)].std()
    ratio = errors["zscore"][fold_ids(1)] * deviation / errors["none"][fold_ids(1)]
    assert np.median(np.abs(ratio - 1)) > 0.05, "without, what moves a fold among the others is part of it"


def test_one_shared_draw_is_no_mean_gradient(score, folds, tmp_path):
    for sigma in (".06", "uniform"):
        score("moso", folds, "m.npy", "--draws", 1, "--sigma", sigma).fails(2, "--draws 1", "--draws 2", "--noise own")
    assert written(tmp_path) == []
    score("moso", folds, "m.npy", "--draws", 1, "--noise", "own").ok()


def test_one_run_scores_all_that_it_was_trained_on(score, store, run, tmp_path):
    score("moso", run, "m.npy", "--draws", 2, "--checkpoints", 1, "--normalize", "none", "--sigma", ".3").ok()
    settings = ScoreOptions(sigma=".3", draws=2).resolve()
    gradients = gradients_of(store, steps(run)[-1], range(COUNT - 1), settings)
    expected = moso_of(gradients).mean(1)
    found = scores(tmp_path / "m.npy")[:-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert written(tmp_path) == ["m.npy"], "one pair of draws gives no standard error"


def test_first_order_ranks_like_the_exact_form():
    """For many samples they differ by a scale and a constant."""
    draw = np.random.default_rng(0)
    gradients = draw.normal(0.1, 1, (3000, 1, 20))
    mean = gradients.mean((0, 1))
    measures = np.stack((gradients[..., 0], (gradients**2).sum(-1), gradients @ mean), -1)[:, None]
    exact, first = (moso(measures, form)[:, 0, 0] for form in ("exact", "first-order"))
    np.testing.assert_allclose(exact, moso_of(gradients)[:, 0], rtol=1e-9)
    np.testing.assert_allclose(first, moso_of(gradients, "first-order")[:, 0], rtol=1e-9)
    assert np.corrcoef(exact, first)[0, 1] > 0.999


def test_monotonicity_is_that_of_a_loop(score, store, run, tmp_path):
    args = ("--losses", tmp_path / "l.npy", "--sigma", ".3", "--draws", 4, "--seed", 2)
    summary = json.loads(score("monotonicity", run, "m.npy", *args, "--json").ok().out)
    settings = ScoreSettings((0.3,), 4, 2, "float32")
    singles = np.stack([losses_of(store, path, settings) for path in steps(run)], 2)
    assert singles.shape == (COUNT, 4, 4)
    losses, found = singles.mean(1), scores(tmp_path / "m.npy")
    np.testing.assert_allclose(scores(tmp_path / "l.npy")[:-1], losses[:-1], rtol=1e-5)
    assert np.isnan(scores(tmp_path / "l.npy")[-1]).all()
    expected = np.mean([losses[:, k + 1] > losses[:, k] for k in range(3)], 0)
    assert np.isnan(found[-1])
    np.testing.assert_allclose(found[:-1], expected[:-1])
    assert len(np.unique(found[:-1])) > 1
    pairs = singles.reshape(COUNT, 2, 2, 4).mean(2)
    shares = (np.diff(pairs[:-1], axis=2) > 0).mean(2)
    error = (shares - shares.mean(0)).std(1, ddof=1)
    np.testing.assert_allclose(scores(tmp_path / "m.se.npy")[:-1], error, atol=1e-7)
    half = split_half(pairs[:-1], 2, lambda some: rises(some.mean(1)))
    assert summary["loss monotonicity"]["split_half"] == pytest.approx(half, abs=2e-6)
    assert read_array(tmp_path / "m.npy").record["findings"]["split_half"] == pytest.approx(half, abs=2e-6)


@pytest.mark.parametrize("sigma", [".3", "uniform"])
def test_monotonicity_of_own_noise_is_that_of_a_loop(score, store, run, tmp_path, sigma):
    """The noise and its level stay a sample's own at every checkpoint."""
    args = ("--losses", tmp_path / "l.npy", "--sigma", sigma, "--noise", "own", "--draws", 2)
    score("monotonicity", run, "m.npy", *args).ok()
    settings = ScoreOptions(sigma=sigma, draws=2, noise="own").resolve()
    losses = np.stack([losses_of(store, path, settings).mean(1) for path in steps(run)], 1)[:-1]
    np.testing.assert_allclose(scores(tmp_path / "l.npy")[:-1], losses, rtol=1e-5)
    np.testing.assert_allclose(scores(tmp_path / "m.npy")[:-1], rises(losses))


@pytest.mark.parametrize("pairs", [2, 4, 5, 8])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_errors_of_shares_are_their_deviation(pairs, spread):
    """Of the share by the mean loss, among the others', whose noise is partly their own."""
    draw, checkpoints = np.random.default_rng(0), 8
    losses = (spread * draw.normal(size=(200, checkpoints))).cumsum(1)[:, None]
    found, errors, of_pairs = [], [], []
    for seed in range(40):
        noise = draw.normal(size=(200, pairs, checkpoints)) + draw.normal(size=(200, pairs, 1))
        drawn = losses + noise + draw.normal(size=(1, pairs, checkpoints))
        found.append(rises_of_mean(drawn))
        if seed < 8:
            errors.append(half_sample_errors(drawn, seed, rises_of_mean))
            of_pairs.append(rises(drawn).std(1, ddof=1) / pairs**0.5)
    centred = np.array(found) - np.mean(found, 1, keepdims=True)
    deviation = (centred.var(0, ddof=1)).mean() ** 0.5
    assert 0.85 < np.mean(np.square(errors)) ** 0.5 / deviation < 1.15
    # What the pairs' own shares deviate says less the more there are.
    assert np.mean(np.square(of_pairs)) ** 0.5 / deviation < 0.85


def test_a_loss_that_stays_has_not_risen():
    np.testing.assert_array_equal(rises(np.array([[1, 1, 2], [2, 1, 1], [1, 2, 3]])), [0.5, 0, 1])


def test_weights_are_raw_unless_asked(score, store, run, tmp_path):
    for weights in ((), ("--weights", "ema")):
        losses = tmp_path / f"l{len(weights)}.npy"
        score("monotonicity", run, f"m{len(weights)}.npy", "--losses", losses, "--draws", 2, *weights).ok()
        kind = "ema" if weights else "raw"
        expected = losses_of(store, steps(run)[1], ScoreOptions(draws=2).resolve(), kind).mean(1)
        np.testing.assert_allclose(scores(losses)[:-1, 1], expected[:-1], rtol=1e-5)
        assert read_array(losses).record["options"]["weights"] == kind


def test_ties_are_broken_by_the_selection(score, run, tmp_path):
    score("monotonicity", run, "m.npy", "--draws", 2).ok()
    kept = []
    for seed in (0, 1):
        keep = tmp_path / f"k{seed}.npy"
        dprune("select", tmp_path / "m.npy", "--keep", "5", "--order", "highest", "--seed", seed, "-o", keep).ok()
        kept.append(np.load(keep))
    assert not np.array_equal(*kept)


# Which samples and checkpoints


def test_a_subset_is_scored_alone(score, run, tmp_path):
    np.save(tmp_path / "ids.npy", np.array([2, 7, 32]))
    score("monotonicity", run, "all.npy", "--losses", tmp_path / "la.npy").ok()
    score("monotonicity", run, "some.npy", "--losses", tmp_path / "ls.npy", "--subset", tmp_path / "ids.npy").ok()
    found = scores(tmp_path / "ls.npy")
    assert np.flatnonzero(~np.isnan(found[:, 0])).tolist() == [2, 7]
    np.testing.assert_allclose(found[[2, 7]], scores(tmp_path / "la.npy")[[2, 7]], rtol=1e-5)


def test_runs_on_a_subset_score_it(score, store, tmp_path):
    keep, other = tmp_path / "keep.npy", tmp_path / "other.npy"
    write_array(keep, np.arange(4, 24), make_record("select", {}, fingerprint=open_latents(store).fingerprint))
    np.save(other, np.arange(4, 25))
    runs = [train(store, tmp_path / f"r{i}", "--epochs", "1", "--subset", keep, "--fold", f"{i}/2") for i in (0, 1)]
    score("moso", runs, "m.npy", "--subset", keep).ok()
    assert np.flatnonzero(np.isfinite(scores(tmp_path / "m.npy"))).tolist() == list(range(4, 24))
    score("moso", runs, "x.npy").fails(3, "a subset", "with --subset")
    score("moso", runs, "x.npy", "--subset", other).fails(3, "another subset", "--subset")


def test_runs_with_weights_of_zero_score_what_they_drew(score, store, tmp_path):
    weights = np.zeros(len(open_latents(store)), np.float32)
    weights[4:24] = 2
    np.save(tmp_path / "w.npy", weights)
    np.save(tmp_path / "drawn.npy", np.arange(4, 24))
    run = train(store, tmp_path / "r", "--epochs", "1", "--weights", tmp_path / "w.npy")
    score("moso", run, "x.npy").fails(3, "on 20 samples, those of a weight above 0", "with --subset")
    score("moso", run, "m.npy", "--subset", tmp_path / "drawn.npy").ok()
    assert np.flatnonzero(np.isfinite(scores(tmp_path / "m.npy"))).tolist() == list(range(4, 24))


def test_checkpoints_are_chosen(run, score, tmp_path):
    trained = open_run(run)
    every = [checkpoint.step for checkpoint in trained.checkpoints]
    assert every == [6, 11, 16, 22]
    chosen = {"all": every, "2": [16, 22], "2:3": [11, 16], ":2": [6, 11], "3:": [16, 22]}
    for text, expected in chosen.items():
        assert [checkpoint.step for checkpoint in trained.chosen(Wanted.parse(text))] == expected
    losses = []
    for name, text in (("a", "all"), ("b", "2:4")):
        args = ("--losses", tmp_path / f"l{name}.npy", "--checkpoints", text)
        score("monotonicity", run, f"{name}.npy", *args).ok()
        losses.append(scores(tmp_path / f"l{name}.npy"))
    np.testing.assert_array_equal(losses[0][:, 1:], losses[1])
    assert read_array(tmp_path / "b.npy").record["options"]["steps"] == [11, 16, 22]


@pytest.mark.parametrize("text", ["0", "-1", "", ":", "3:1", "a:b", "1.5", "last 3", "1:2:3", "²"])
def test_checkpoints_that_cannot_be(text):
    with pytest.raises(UsageError, match="--checkpoints"):
        Wanted.parse(text)


def test_steps_that_are_expected():
    assert _expected(Fraction(32, 6), 22) == {6, 11, 16, 22}
    assert _expected(Fraction(5), 22) == {5, 10, 15, 20}
    assert _expected(Fraction(1, 3), 4) == {1, 2, 3, 4}
    assert _expected(Fraction(5), 4) == set()


def test_a_run_that_was_extended_is_one(store, score, tmp_path):
    run = train(store, tmp_path / "run", "--steps", "11")
    train(store, run, "--steps", "22")
    score("monotonicity", run, "m.npy", "--losses", tmp_path / "l.npy").ok()
    assert scores(tmp_path / "l.npy").shape == (COUNT, 4)


# Shared and interrupted work


def test_folds_alone_make_the_scores_of_all(score, folds, tmp_path):
    score("moso", folds, "whole.npy").ok()
    for number in (2, 0, 1):
        result = score("moso", folds[number], "m.npy", "--only-fold", number, "--json").ok()
        assert f"fold {number} is measured" in result.err
        assert json.loads(result.out)["complete"] is False
        assert not (tmp_path / "m.npy").exists()
    seen = StopsAfter(10**9)
    job(folds, tmp_path / "m.npy").run(seen)
    assert seen.done == 0, "nothing was left to measure"
    assert (tmp_path / "m.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert (tmp_path / "m.se.npy").read_bytes() == (tmp_path / "whole.se.npy").read_bytes()
    assert "up to date" in score("moso", folds, "m.npy").ok().err
    assert "up to date" in score("moso", folds, "m.npy", "--only-fold", 1).ok().err
    assert written(tmp_path) == ["m.npy", "m.se.npy", "whole.npy", "whole.se.npy"]


def test_a_fold_that_was_filled_otherwise_is_made_again(score, folds, tmp_path):
    score("moso", folds, "whole.npy").ok()
    score("moso", folds, "m.npy", "--only-fold", 1, "--seed", 5).ok()
    score("moso", folds, "m.npy").ok()
    assert (tmp_path / "m.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("method", ["moso", "monotonicity"])
def test_workers_make_the_bytes_of_one(score, folds, run, tmp_path, monkeypatch, method):
    runs = folds if method == "moso" else run
    score(method, runs, "whole.npy").ok()
    monkeypatch.setattr(progress_module, "SMALLEST", 16)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    result = score(method, runs, "m.npy", "--json").ok()
    assert "other workers" in result.err
    assert json.loads(result.out)["complete"] is False
    assert not (tmp_path / "m.npy").exists()
    monkeypatch.setenv("RANK", "0")
    assert json.loads(score(method, runs, "m.npy", "--json").ok().out)["complete"] is True
    monkeypatch.setenv("RANK", "1")
    assert "up to date" in score(method, runs, "m.npy").ok().err
    np.testing.assert_allclose(scores(tmp_path / "m.npy"), scores(tmp_path / "whole.npy"), rtol=1e-4, atol=1e-5)
    assert written(tmp_path) == ["m.npy", "m.se.npy", "whole.npy", "whole.se.npy"]


@pytest.mark.parametrize(
    ("method", "piece"),
    [("moso", "fold-1-step-00000004/.piece.0-of-1.tmp"), ("monotonicity", "step-00000016/.piece.1-of-2.tmp")],
)
def test_tasks_of_an_array_make_the_bytes_of_one(score, folds, run, tmp_path, monkeypatch, method, piece):
    runs = folds if method == "moso" else run
    monkeypatch.setattr(progress_module, "SMALLEST", 16)
    score(method, runs, "whole.npy").ok()
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    progress = tmp_path / ".m.npy.progress"
    with free(progress / piece):
        result = score(method, runs, "m.npy", "--json").ok()
        assert "other workers" in result.err
        assert json.loads(result.out)["complete"] is False
        assert not (tmp_path / "m.npy").exists()
        made = {path: path.stat().st_mtime_ns for path in progress.rglob("0*.safetensors")}
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with monkeypatch.context() as patch:
        patch.setattr("dprune.scoring.sharing.shutil.rmtree", lambda *_, **__: None)
        assert json.loads(score(method, runs, "m.npy", "--json").ok().out)["complete"] is True
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len(list(progress.rglob("0*.safetensors"))) == len(made) + 1
    assert "up to date" in score(method, runs, "m.npy").ok().err
    np.testing.assert_allclose(scores(tmp_path / "m.npy"), scores(tmp_path / "whole.npy"), rtol=1e-4, atol=1e-5)
    assert written(tmp_path) == ["m.npy", "m.se.npy", "whole.npy", "whole.se.npy"]


def test_a_task_measures_no_other_fold_than_that_which_it_is_told(score, folds, tmp_path, monkeypatch):
    score("moso", folds, "whole.npy").ok()
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    asked = set()
    for fold in (1, 0, 2):
        asked.add(f"fold-{fold}")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(fold))
        said = score("moso", folds[fold], "m.npy", "--only-fold", fold).ok().err
        assert f"fold {fold} is measured, and the command without --only-fold makes the scores of all" in said
        measured = {path.name.partition("-step")[0] for path in (tmp_path / ".m.npy.progress").glob("fold-*")}
        assert measured == asked
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    monkeypatch.setattr("dprune.scoring.mean_gradient.measure_folds", None)
    score("moso", folds, "m.npy").ok()
    assert (tmp_path / "m.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_task_whose_progress_another_removes_is_done(score, run, tmp_path, monkeypatch):
    score("monotonicity", run, "m.npy").ok()
    whole = (tmp_path / "m.npy").read_bytes()
    (tmp_path / "m.npy").unlink()
    values = MonotonicityJob.values

    def late(self):
        found = values(self)
        self.write(found)
        raise InputError("has vanished or changed")

    monkeypatch.setattr(MonotonicityJob, "values", late)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert json.loads(score("monotonicity", run, "m.npy", "--json").ok().out)["complete"] is True
    assert (tmp_path / "m.npy").read_bytes() == whole


@pytest.mark.slow
def test_workers_at_once(store, folds, tmp_path):
    command = ["score", "moso", store, *folds, "--device", "cpu", "-o"]
    dprune(*command, tmp_path / "whole.npy").ok()
    started = [
        subprocess.Popen([warm_python(), "-m", "dprune", *map(str, command), str(tmp_path / "m.npy")],
                         stderr=subprocess.PIPE, env={**environment(), "RANK": str(rank), "WORLD_SIZE": "2"})
        for rank in (0, 1)
    ]  # fmt: skip
    for process in started:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert (tmp_path / "m.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def environment():
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}


def job(runs, output, latents=None, **options):
    latents = str(latents or runs[0].with_name("latents"))
    return open_moso(latents, [str(run) for run in runs], MosoOptions(device="cpu", **options), Output(str(output)))


@pytest.fixture(scope="session")
def whole(folds):
    """The bytes of MoSo that was not stopped."""
    output, everything = folds[0].with_name("whole.npy"), StopsAfter(10**9)
    short(folds, output).run(everything)
    assert everything.done == 2 * 2 * 32, "twice by two checkpoints"
    return output.read_bytes()


def short(folds, output):
    return job(folds, output, batch_size=4, draws=4)


@pytest.mark.parametrize("questions", [0, 1, 3, 12, 20, 43, 60])
def test_moso_that_was_stopped_goes_on_to_the_same_bytes(folds, tmp_path, whole, questions):
    output, first, second = tmp_path / "m.npy", StopsAfter(questions), StopsAfter(10**9)
    with pytest.raises(Interrupted):
        short(folds, output).run(first)
    assert not output.exists()
    job = short(folds, output)
    job.run(second)
    job.tidy()
    assert first.done + second.done == 2 * 2 * 32, "nothing was done twice"
    assert output.read_bytes() == whole
    assert written(tmp_path) == ["m.npy", "m.se.npy"]


def test_a_damaged_sum_of_gradients_is_made_again(folds, tmp_path, whole):
    output = tmp_path / "m.npy"
    with pytest.raises(Interrupted):
        short(folds, output).run(StopsAfter(3))
    (kept,) = tmp_path.glob(".m.npy.progress/*/gradient.safetensors")
    kept.write_bytes(kept.read_bytes()[:-7])
    short(folds, output).run(StopsAfter(10**9))
    assert output.read_bytes() == whole


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 5, 100])
def test_batches_do_not_change_scores(score, folds, run, tmp_path, batch):
    for method, runs in (("moso", folds), ("monotonicity", run)):
        score(method, runs, f"{method}.npy", "--draws", 2).ok()
        score(method, runs, f"{method}{batch}.npy", "--draws", 2, "--batch-size", batch).ok()
        np.testing.assert_allclose(scores(tmp_path / f"{method}{batch}.npy"), scores(tmp_path / f"{method}.npy"),
                                   rtol=1e-4, atol=1e-5)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moso", "monotonicity"])
def test_a_signal_stops_and_the_same_command_goes_on(store, folds, run, tmp_path, method):
    runs = folds if method == "moso" else [run]
    draws = "4" if method == "moso" else "12"
    command = ["score", method, store, *runs, "--device", "cpu", "--batch-size", "1", "--draws", draws, "-o"]
    dprune_process(*command, tmp_path / "whole.npy").ok()
    process = subprocess.Popen([warm_python(), "-m", "dprune", *map(str, command), str(tmp_path / "m.npy")],
                               stderr=subprocess.PIPE)  # fmt: skip
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not catches_sigterm(process.pid):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert b"run the same command again" in err
    dprune_process(*command, tmp_path / "m.npy").ok()
    assert (tmp_path / "m.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_provenance(score, run, folds, tmp_path):
    score("monotonicity", run, "a.npy", "--losses", tmp_path / "l.npy", "--tag", "x=y").ok()
    record = read_array(tmp_path / "a.npy").record
    assert (record["command"], record["tags"]) == ("score monotonicity", {"x": "y"})
    assert record["options"] == {"sigma": [0.06], "draws": 8, "precision": "float32", "weights": "raw",
                                 "steps": [6, 11, 16, 22]}  # fmt: skip
    assert set(record["parents"]) == {"latents", "run"}
    assert read_array(tmp_path / "l.npy").record["options"]["values"] == "loss"
    assert "up to date" in score("monotonicity", run, "a.npy", "--losses", tmp_path / "l.npy", "--tag", "x=y").ok().err
    (tmp_path / "l.npy").unlink()
    assert "wrote" in score("monotonicity", run, "a.npy", "--losses", tmp_path / "l.npy", "--tag", "x=y").ok().err
    score("moso", folds, "b.npy").ok()
    record = read_array(tmp_path / "b.npy").record
    assert set(record["parents"]) == {"latents", "fold 0", "fold 1", "fold 2"}
    assert parent(record, "fold 1")["options"]["fold"] == "1/3"
    assert (record["options"]["form"], record["options"]["normalize"], record["options"]["checkpoints"]) == (
        "exact", "zscore", 2)  # fmt: skip
    score("moso", folds, "b.npy", "--form", "first-order").fails(3, "b.npy", "form: exact, not first-order")


FOLDS_SCRIPT = EXAMPLES / "folds.sbatch"


@pytest.mark.slow
def test_an_array_trains_and_measures_the_folds(score, store, tmp_path, cluster):  # noqa: F811
    script, out = tmp_path / "folds.sbatch", tmp_path / "out"
    text = FOLDS_SCRIPT.read_text()
    assert "#SBATCH --array=0-11\n" in text
    script.write_text(text.replace("--array=0-11", "--array=0-1"))
    options = ("--arch", "nano/2", "--batch-size", "6", "--epochs", "4", "--device", "cpu")
    submit(script, cluster, store, out, *options).ok()
    runs = [out / "fold-000", out / "fold-001"]
    assert not (out / "moso.npy").exists()
    seen = StopsAfter(10**9)
    job(runs, out / "moso.npy", store, checkpoints="4").run(seen)
    assert seen.done == 0, "the array measured everything"
    score("moso", runs, "again.npy", "--checkpoints", 4).ok()
    assert (out / "moso.npy").read_bytes() == (tmp_path / "again.npy").read_bytes()


@pytest.mark.slow
def test_a_stopped_task_of_the_array_is_requeued(store, tmp_path, cluster):  # noqa: F811
    environment = {**cluster, "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    command = ["bash", FOLDS_SCRIPT, store, tmp_path / "out", "--arch", "nano/2", "--batch-size", "6", "--epochs", "4",
               "--device", "cpu"]  # fmt: skip
    for stopped in ("DPRUNE_TRAIN_DIT_STOP_AFTER", "DPRUNE_SCORE_MOSO_STOP_AFTER"):
        done = subprocess.run(command, capture_output=True, text=True, env={**environment, stopped: "0s"}, check=False)
        assert done.returncode == 75, done.stderr
    assert (tmp_path / "spool" / "requeued").read_text() == "77_1\n77_1\n"
    assert (tmp_path / "out" / "fold-001" / "model.safetensors").exists()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "fold 1 is measured" in done.stderr


def test_the_usage_of_the_array(cluster):  # noqa: F811
    environment = {**cluster, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "12"}
    done = subprocess.run(["bash", FOLDS_SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode
    assert "usage: sbatch folds.sbatch LATENTS FOLDER" in done.stderr


# What does not fit


@pytest.fixture
def copied(run, folds, tmp_path):
    """Copies of the runs, to be damaged."""
    found = [shutil.copytree(each, tmp_path / each.name) for each in (run, *folds)]
    return found[0], found[1:]


def test_runs_that_are_none_are_refused(score, store, run, tmp_path):
    for method in ("moso", "monotonicity"):
        score(method, tmp_path / "gone", "x.npy").fails(3, "gone", "no such folder")
        score(method, run / "model.safetensors", "x.npy").fails(3, "is a file", "folder of a run")
        score(method, store, "x.npy").fails(3, "is a latent store", "takes the run of a DiT's training")
        score(method, tmp_path, "x.npy").fails(3, "not a run of dprune train-dit")
        score(method, run, "x.npy", latents=run).fails(3, "run")
    assert written(tmp_path) == []


def test_runs_without_checkpoints_or_end_are_refused(score, store, copied, tmp_path):
    run, _ = copied
    bare = tmp_path / "bare"
    dprune("train-dit", store, "--arch", "nano/2", "--batch-size", 6, "--steps", 2, "-o", bare, "--device", "cpu").ok()
    (run / "model.safetensors").unlink()
    for method in ("moso", "monotonicity"):
        score(method, bare, "x.npy").fails(3, "bare", "no checkpoints", "--save-every epoch")
        score(method, run, "x.npy").fails(3, "not finished", "train-dit again")


def test_missing_epochs_are_named(score, copied):
    run, folds = copied
    steps(run)[1].unlink()
    for method in ("moso", "monotonicity"):
        score(method, run, "x.npy").fails(3, "steps 11 (epochs 2.06)", "--checkpoints A:B")
    score("monotonicity", run, "x.npy", "--checkpoints", "3:4").ok()
    steps(folds[0])[1].unlink()
    score("moso", folds, "x2.npy").fails(3, "fold0", "--checkpoints")


def test_the_last_epochs_are_missed(score, copied):
    run, _ = copied
    steps(run)[3].unlink()
    score("monotonicity", run, "x.npy").fails(3, "steps 22 (epochs 4.12)")
    score("monotonicity", run, "x.npy", "--checkpoints", ":3").ok()


def test_missing_steps_are_named(score, store, tmp_path):
    run = train(store, tmp_path / "run", "--steps", "12", "--save-every", "3")
    steps(run)[1].unlink()
    score("monotonicity", run, "x.npy").fails(3, "steps 6 (", "--checkpoints")


def test_one_epoch_is_too_few(score, run, tmp_path):
    for which in ("1", "2:2"):
        score("monotonicity", run, "x.npy", "--checkpoints", which).fails(
            3, "run", "a rise needs two", "--save-every epoch"
        )
    score("monotonicity", run, "x.npy", "--checkpoints", "9").fails(3, "4 checkpoints", "last 9")
    score("moso", run, "x.npy", "--checkpoints", "7:").fails(3, "no checkpoint of these epochs", "1.12 to 4.12")
    score("moso", run, "x.npy", "--checkpoints", "some").fails(2, "--checkpoints some")
    assert written(tmp_path) == []


def test_checkpoints_of_another_run_are_refused(score, store, copied, tmp_path):
    run, folds = copied
    shutil.copy(steps(folds[0])[0], run / "checkpoints" / "step-00000011.safetensors")
    for method in ("moso", "monotonicity"):
        score(method, run, "x.npy").fails(3, "step-00000011.safetensors", "not a checkpoint of this run")
    other = train(store, tmp_path / "other", "--epochs", "2", "--fold", "0/3", "--arch", "nano/1")
    score("moso", [other, *folds[1:]], "x.npy").fails(3, "trained differently", "arch", "nano/1")


def test_a_checkpoint_of_another_shape_is_refused(score, copied):
    """One whose header was copied from this run's."""
    run, _ = copied
    file = ModelFile.open(steps(run)[2])
    state = file.state()
    state["raw.y_embedder.embedding_table.weight"] = torch.zeros(9, 9)
    state["ema.y_embedder.embedding_table.weight"] = torch.zeros(9, 9)
    publish_model(file.path, state, file.network, file.record)
    score("monotonicity", run, "x.npy").fails(3, file.path.name, "does not fit")
    file.path.write_bytes(file.path.read_bytes()[:-100])
    score("monotonicity", run, "x.npy").fails(3, file.path.name, "not a whole safetensors file")


def test_folds_that_overlap_or_are_missing_are_refused(score, store, folds, run, tmp_path):
    score("moso", [*folds, folds[1]], "x.npy").fails(3, "overlap", "fold 1/3")
    score("moso", folds[:2], "x.npy").fails(3, "fold 2 of 3 is missing")
    score("moso", folds[0], "x.npy").fails(3, "folds 1, 2 of 3 are missing")
    half = train(store, tmp_path / "half", "--epochs", "2", "--fold", "1/2")
    score("moso", [folds[0], half], "x.npy").fails(3, "overlap", "0/3", "1/2", "half")
    score("moso", [*folds, run], "x.npy").fails(3, "run", "trained on all samples", "--fold I/N")
    score("moso", folds, "x.npy", "--only-fold", 3).fails(2, "--only-fold 3", "folds 0 to 2")
    score("moso", folds[:2], "x.npy", "--only-fold", 2).fails(3, "--only-fold 2", "--fold 2/3")
    score("moso", run, "x.npy", "--only-fold", 0).fails(2, "--only-fold 0", "not trained on a fold")
    assert written(tmp_path) == []


def test_folds_that_were_trained_otherwise_are_refused(score, store, folds, tmp_path):
    other = train(store, tmp_path / "other", "--epochs", "2", "--fold", "2/3", "--lr", "1e-4")
    score("moso", [*folds[:2], other], "x.npy").fails(3, "other", "trained differently", "lr")
    longer = train(store, tmp_path / "longer", "--epochs", "3", "--fold", "2/3")
    score("moso", [*folds[:2], longer], "x.npy").fails(3, "longer has 3 checkpoints", "--save-every")


def test_latents_of_another_autoencoder_or_dataset_are_refused(score, run, folds, tmp_path):
    other = latent_store(tmp_path / "other", vae="cafe")
    for method, runs in (("moso", folds), ("monotonicity", run)):
        score(method, runs, "x.npy", latents=other).fails(3, "another autoencoder", "beef", "cafe")
    flipped = latent_store(tmp_path / "flipped", vae="beef", flips=True)
    score("moso", folds, "x.npy", latents=flipped).fails(3, "other latents than", "flipped")


@pytest.mark.parametrize("method", ["moso", "monotonicity"])
def test_numbers_that_are_not_finite_are_refused(score, copied, tmp_path, method):
    run, _ = copied
    file = ModelFile.open(steps(run)[2])
    state = file.state()
    for name in ("raw", "ema"):
        state[f"{name}.y_embedder.embedding_table.weight"][:] = torch.nan
    publish_model(file.path, state, file.network, file.record)
    score(method, run, "x.npy").fails(3, f"{file.path.name} in float32", "not finite", "--precision fp32")
    assert not (tmp_path / "x.npy").exists()


def test_options_that_cannot_be(score, run, tmp_path):
    score("monotonicity", run, "x.npy", "--sigma", ".06,.3").fails(2, "--sigma", "one noise level")
    score("monotonicity", run, "x.npy", "--losses", tmp_path / "x.se.npy").fails(
        2, "--losses", "x.se.npy", "give each its own"
    )
    score("monotonicity", run, "x.npy", "--losses", "-").fails(2, "--losses -")
    for method in ("moso", "monotonicity"):
        score(method, run, "x.npy", "--compile").fails(2, "--compile")
        score(method, run, "x.npy", "--draws", 3).fails(2, "--draws 3")
        dprune("score", method, run.with_name("latents"), run, "-o", "-").fails(2, "--output -", "-o FILE")
    assert written(tmp_path) == []


def test_a_dry_run_touches_nothing(score, folds, tmp_path):
    plan = json.loads(score("moso", folds, "x.npy", "--dry-run", "--json").ok().out)
    assert plan["provenance"]["options"]["checkpoints"] == 2
    assert written(tmp_path) == []
