"""dprune score el2n and grand: numbers, noises, reliability, ranks, interruptions and what does not fit."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dprune, dprune_process, warm_python
from safetensors.torch import save_file
from stores import latent_store

from dprune import noise
from dprune.errors import InputError, Interrupted, UsageError
from dprune.flow import flow_loss
from dprune.formats.arrays import read_array
from dprune.formats.claims import claimed
from dprune.formats.latents import open_latents
from dprune.formats.provenance import difference, make_record, parent_record
from dprune.formats.publish import Output
from dprune.models.dit import DiT, DiTConfig
from dprune.models.dit_files import load_dit, network_metadata
from dprune.models.files import publish_model
from dprune.models.gradients import SampleGradients
from dprune.models.latents import Normalisation
from dprune.runtime import Silent
from dprune.scoring import progress as progress_module
from dprune.scoring import reliability
from dprune.scoring.el2n_grand import GrandOptions, open_grand
from dprune.scoring.noises import Noises, noise_bank
from dprune.scoring.passes import ScoredLatents
from dprune.scoring.progress import Progress
from dprune.scoring.scorer import Scorer
from dprune.scoring.settings import ScoreOptions, ScoreSettings, parse_sigmas

CPU = torch.device("cpu")
SIDE, CHANNELS, CLASSES, COUNT = 4, 3, 5, 33
CONFIG = DiTConfig(SIDE, CHANNELS, 2, 32, 2, 2, CLASSES)
SIT = ("--parametrization", "velocity")
MEAN, STD = torch.tensor([0.5, -0.5, 0.0]), torch.tensor([1.0, 2.0, 3.0])


def filled(network, seed=0):
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name != "pos_embed":
            torch.nn.init.normal_(parameter, std=1 / (parameter[0].numel() if parameter.ndim > 1 else 16) ** 0.5)
    return network.eval().requires_grad_(False)


def make_dit(path, config=CONFIG, vae="", labels=CLASSES, state=None, **header):
    encode = make_record("encode", {}, parents={"vae": {"digest": vae}} if vae else {})
    record = make_record("train-dit", {}, parents={"latents": parent_record(encode, "cafe")})
    network = network_metadata(config, torch.zeros(config.channels), torch.ones(config.channels), labels)
    network |= {"mean": MEAN.tolist()[: config.channels], "std": STD.tolist()[: config.channels], **header}
    publish_model(path, filled(DiT(config)).state_dict() if state is None else state, network, record)
    return path


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    return latent_store(folder / "latents", vae="beef"), make_dit(folder / "dit.safetensors", vae="beef")


@pytest.fixture
def score(inputs, tmp_path):
    def run(output, *args, method="grand", store=inputs[0], model=inputs[1]):
        return dprune("score", method, store, "--model", model, "-o", tmp_path / output, "--device", "cpu", *args)

    return run


def drawn_for(settings, i, level, draw, shape=(CHANNELS, SIDE, SIDE)):
    """Time [1] and noise [1, C, H, W] of a draw for sample i."""
    name = f"noise of scores at {settings.sigmas[level] if settings.sigmas else 'levels of their own'}"
    one, pair = torch.tensor([i]), draw // 2
    if settings.noise == "own":
        drawn = noise.normal(settings.seed, f"own {name}", one, pair, shape)
    else:
        drawn = noise.normal(settings.seed, name, torch.tensor([pair]), 0, shape)
    if settings.sigmas:
        t = torch.tensor([1 - settings.sigmas[level]])
    else:
        t = noise.uniform(settings.seed, "noise levels of scores", one, draw)
    return t, -drawn if draw % 2 else drawn


def loop(store, model, settings, mean=MEAN, std=STD, kind="vq", parametrization="velocity"):
    """Losses and norms [n, S, M] of the valid samples, one at a time, by plain autograd."""
    latents, network = open_latents(store), load_dit(model, CPU, parametrization).model
    if kind == "vq":
        codes = torch.from_numpy(np.concatenate(latents.mapped("codes")).astype(np.int64))
        x = torch.from_numpy(latents.codebook)[codes].transpose(1, 2).unflatten(2, (SIDE, SIDE))
    else:
        x = torch.from_numpy(np.concatenate(latents.mapped("mean")).astype(np.float32))
    x = (x - mean[:, None, None]) / std[:, None, None]
    labels = torch.from_numpy(latents.labels())
    network.requires_grad_(True)
    network.pos_embed.requires_grad_(False)
    parameters = [p for p in network.parameters() if p.requires_grad]
    found = np.zeros((COUNT - 1, settings.levels, settings.draws, 2))
    for i, s, m in np.ndindex(found.shape[:3]):
        t, drawn = drawn_for(settings, i, s, m)
        y = labels[i : i + 1] if labels[i] >= 0 else torch.tensor([CLASSES])
        loss = flow_loss(network, x[i : i + 1], drawn, t, y).sum()
        norm = torch.stack([part.double().norm() for part in torch.autograd.grad(loss, parameters)]).norm()
        found[i, s, m] = loss.item(), norm.item()
    return found[..., 0], found[..., 1]


def scores(path):
    return read_array(path).values


def written(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".npy" or path.name.startswith("."))


def test_scores_are_those_of_a_loop(score, inputs, tmp_path):
    """Against the definitions: means over draws, divided a noise level by its deviation over the samples."""
    summary = json.loads(score("g.npy", "--el2n", tmp_path / "e.npy", "--sigma", ".3,.06", "--draws", "4",
                               "--seed", "3", "--per-sigma", "--json").ok().out)  # fmt: skip
    losses, norms = loop(*inputs, ScoreSettings((0.06, 0.3), 4, 3, "float32"))
    for name, singles in (("e", losses), ("g", norms)):
        by_level = singles.mean(2)
        expected = (by_level / by_level.std(0)).mean(1)
        found = scores(tmp_path / f"{name}.npy")
        assert found.dtype == np.float32
        assert found.shape == (COUNT,)
        assert np.isnan(found[-1]), "that sample could not be decoded"
        np.testing.assert_allclose(found[:-1], expected, rtol=2e-5)
        pairs = (singles.reshape(COUNT - 1, 2, 2, 2).mean(3) / by_level.std(0)[:, None]).mean(1)
        pairs -= pairs.mean(0)
        np.testing.assert_allclose(scores(tmp_path / f"{name}.se.npy")[:-1], pairs.std(1, ddof=1) / 2**0.5, rtol=2e-3,
                                   atol=1e-5)  # fmt: skip
        for level, sigma in enumerate(("0.06", "0.3")):
            np.testing.assert_allclose(scores(tmp_path / f"{name}.s{sigma}.npy")[:-1], by_level[:, level], rtol=2e-5)
    stems = ("e", "e.s0.06", "e.s0.3", "g", "g.s0.06", "g.s0.3")
    assert written(tmp_path) == sorted([f"{stem}{end}" for stem in stems for end in (".npy", ".se.npy")])
    assert (summary["scored"], summary["not_scored"], summary["complete"]) == (32, 1, True)
    assert set(summary) >= {"EL2N", "GraNd"}


@pytest.mark.parametrize(("draws", "more"), [
    (4, {"noise": "own"}), (2, {"sigma": "uniform"}), (1, {"noise": "own", "sigma": "uniform"}),
])  # fmt: skip
def test_noises_and_levels_of_their_own_are_those_of_a_loop(score, inputs, tmp_path, draws, more):
    args = [word for name, value in more.items() for word in (f"--{name}", value)]
    score("g.npy", "--el2n", tmp_path / "e.npy", "--draws", draws, *args, "--batch-size", 5).ok()
    settings = ScoreOptions(draws=draws, precision="fp32", device="cpu", **more).resolve()
    for name, singles in zip(("e", "g"), loop(*inputs, settings), strict=True):
        np.testing.assert_allclose(scores(tmp_path / f"{name}.npy")[:-1], singles.mean((1, 2)), rtol=2e-5)
        if draws == 4:
            pairs = singles.reshape(COUNT - 1, 2, 2).mean(2)
            error = (pairs - pairs.mean(0)).std(1, ddof=1) / 2**0.5
            np.testing.assert_allclose(scores(tmp_path / f"{name}.se.npy")[:-1], error, rtol=2e-3, atol=1e-5)
    options = read_array(tmp_path / "g.npy").record["options"]
    assert (options["sigma"], options.get("noise")) == (
        "uniform" if "sigma" in more else [0.06], "own" if "noise" in more else None)  # fmt: skip


def test_what_is_a_samples_own_goes_with_its_id(score, tmp_path, monkeypatch):
    args = ("--noise", "own", "--sigma", "uniform", "--draws", 4)
    np.save(tmp_path / "keep.npy", np.array([3, 21, 7]))
    score("all.npy", *args).ok()
    monkeypatch.setattr(progress_module, "SMALLEST", 4)
    score("some.npy", *args, "--subset", tmp_path / "keep.npy", "--batch-size", 2).ok()
    whole, found = scores(tmp_path / "all.npy"), scores(tmp_path / "some.npy")
    np.testing.assert_allclose(found[[3, 7, 21]], whole[[3, 7, 21]], rtol=1e-5)
    score("again.npy", *args, "--seed", 1).ok()
    assert not np.allclose(scores(tmp_path / "again.npy")[:-1], whole[:-1], rtol=1e-3)


def test_own_noises_are_independent_antithetic_and_nested(inputs):
    settings = ScoreSettings((0.06, 0.3), 4, 0, "float32", noise="own")
    latents, ids = torch.zeros(6, 3, 4, 4), torch.arange(6)
    drawn, times = zip(*Noises(settings, (3, 4, 4), CPU).passes(latents, ids), strict=True)
    bank = torch.stack(drawn)
    torch.testing.assert_close(bank[::2], -bank[1::2], rtol=0, atol=0)
    assert abs(torch.corrcoef(bank[::2].flatten(2).flatten(0, 1)).fill_diagonal_(0)).max() < 0.7
    assert [t.unique().item() for t in times] == pytest.approx([0.94] * 4 + [0.7] * 4)
    uniform = ScoreSettings((), 2000, 0, "float32")
    times = torch.stack([t for _, t in Noises(uniform, (1, 1, 1), CPU).passes(latents[:, :1, :1, :1], ids)])
    assert len(times.unique()) > 11_900, "each sample and draw has its own"
    assert 0 < times.min() < 0.001 < 0.999 < times.max() < 1
    assert abs(times.mean(0) - 0.5).max() < 0.03


def test_el2n_alone_is_that_of_grand(score, tmp_path):
    score("g.npy", "--el2n", tmp_path / "e.npy").ok()
    score("alone.npy", method="el2n").ok()
    np.testing.assert_allclose(scores(tmp_path / "alone.npy"), scores(tmp_path / "e.npy"), rtol=1e-5)
    assert "up to date" in score("e.npy", method="el2n").ok().err


def test_a_level_alone_is_what_it_is_among_others(score, tmp_path):
    score("many.npy", "--sigma", ".06,.3", "--per-sigma").ok()
    score("one.npy", "--sigma", ".3").ok()
    np.testing.assert_array_equal(scores(tmp_path / "many.s0.3.npy"), scores(tmp_path / "one.npy"))
    assert not difference(read_array(tmp_path / "many.s0.3.npy").record, read_array(tmp_path / "one.npy").record)


def test_kl_latents_are_the_means(tmp_path, score):
    store = latent_store(tmp_path / "kl", "kl", flips=True)
    model = make_dit(tmp_path / "dit.safetensors")
    score("e.npy", "--draws", "2", method="el2n", store=store, model=model).ok()
    losses, _ = loop(store, model, ScoreSettings((0.06,), 2, 0, "float32"), kind="kl")
    np.testing.assert_allclose(scores(tmp_path / "e.npy")[:-1], losses.mean((1, 2)), rtol=1e-5)


def test_noises_are_shared_antithetic_and_nested():
    def settings(draws, sigmas=(0.06, 0.3), seed=0):
        return ScoreSettings(sigmas, draws, seed, "float32")

    bank = noise_bank(settings(8), (3, 4, 4), CPU)
    assert bank.shape == (2, 8, 3, 4, 4)
    torch.testing.assert_close(bank[:, ::2], -bank[:, 1::2], rtol=0, atol=0)
    assert abs(torch.corrcoef(bank[:, ::2].flatten(0, 1).flatten(1)).fill_diagonal_(0)).max() < 0.5
    torch.testing.assert_close(noise_bank(settings(32), (3, 4, 4), CPU)[:, :8], bank, rtol=0, atol=0)
    torch.testing.assert_close(noise_bank(settings(1), (3, 4, 4), CPU), bank[:, :1], rtol=0, atol=0)
    torch.testing.assert_close(noise_bank(settings(8, (0.3,)), (3, 4, 4), CPU), bank[1:], rtol=0, atol=0)
    assert not torch.equal(noise_bank(settings(8, seed=1), (3, 4, 4), CPU), bank)
    expected = noise.normal(0, "noise of scores at 0.3", torch.tensor([2]), 0, (3, 4, 4))[0]
    torch.testing.assert_close(bank[1, 4], expected, rtol=0, atol=0)


def test_a_subset_is_scored_alone(score, tmp_path):
    np.save(tmp_path / "keep.npy", np.array([3, 21, 7, 32]))
    score("all.npy").ok()
    score("some.npy", "--subset", tmp_path / "keep.npy").ok()
    found = scores(tmp_path / "some.npy")
    assert np.flatnonzero(~np.isnan(found)).tolist() == [3, 7, 21]
    np.testing.assert_allclose(found[[3, 7, 21]], scores(tmp_path / "all.npy")[[3, 7, 21]], rtol=1e-5)


def test_neither_batches_nor_workers_change_a_score(score, tmp_path, monkeypatch):
    score("one.npy").ok()
    monkeypatch.setattr(progress_module, "SMALLEST", 4)
    for batch in (1, 3, 100):
        score(f"batch{batch}.npy", "--batch-size", batch).ok()
        np.testing.assert_allclose(scores(tmp_path / f"batch{batch}.npy"), scores(tmp_path / "one.npy"), rtol=1e-5)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in ("2", "0"):
        monkeypatch.setenv("RANK", rank)
        result = score("shared.npy", "--json").ok()
        assert "other workers" in result.err
        assert json.loads(result.out)["complete"] is False
        assert not (tmp_path / "shared.npy").exists()
    monkeypatch.setenv("RANK", "1")
    assert json.loads(score("shared.npy", "--json").ok().out)["complete"] is True
    monkeypatch.setenv("RANK", "2")
    assert "up to date" in score("shared.npy").ok().err
    np.testing.assert_allclose(scores(tmp_path / "shared.npy"), scores(tmp_path / "one.npy"), rtol=1e-5)
    assert ".shared.npy.progress" not in written(tmp_path)


class StopsAfter(Silent):
    """Asks to stop after a number of questions."""

    def __init__(self, questions):
        self.left, self.done = questions, 0

    def advance(self, count=1):
        self.done += count

    def stop_requested(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("questions", [0, 1, 9, 25, 70])
def test_a_scoring_that_was_stopped_goes_on(inputs, tmp_path, monkeypatch, questions):
    monkeypatch.setattr(progress_module, "SMALLEST", 8)
    whole, output = str(tmp_path / "whole.npy"), str(tmp_path / "g.npy")

    def job(output):
        return open_grand(*map(str, inputs), GrandOptions(device="cpu", batch_size=3), Output(output))

    everything = StopsAfter(10**9)
    job(whole).run(everything)
    assert everything.done == 32
    first, second = StopsAfter(questions), StopsAfter(10**9)
    with pytest.raises(Interrupted):
        job(output).run(first)
    assert not (tmp_path / "g.npy").exists()
    assert sum(portion.done for portion in job(output).progress().portions()) == first.done < 32
    job(output).run(second)
    assert second.done == 32 - first.done
    np.testing.assert_allclose(scores(output), scores(whole), rtol=1e-5)
    for path in (whole, output):
        job(path).tidy()
    assert written(tmp_path) == ["g.npy", "g.se.npy", "whole.npy", "whole.se.npy"]


def catches_sigterm(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return int(mask, 16) >> (signal.SIGTERM - 1) & 1


@pytest.mark.slow
def test_a_signal_stops_and_the_same_command_goes_on(inputs, tmp_path):
    command = ["score", "grand", inputs[0], "--model", inputs[1], "-o", tmp_path / "g.npy", "--device", "cpu",
               "--batch-size", "1", "--draws", "24"]  # fmt: skip
    process = subprocess.Popen([warm_python(), "-m", "dprune", *map(str, command)], stderr=subprocess.PIPE)
    # A signal would kill a process that does not listen yet; the mask of those that it catches tells.
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not catches_sigterm(process.pid):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert b"run the same command again" in err
    dprune_process(*command).ok()
    assert np.isfinite(scores(tmp_path / "g.npy")[:-1]).all()
    assert written(tmp_path) == ["g.npy", "g.se.npy"]


def test_progress_of_another_scoring_counts_as_missing(tmp_path):
    mine, other = (Progress(tmp_path / "p", 600, (1, 2, 1), mark) for mark in ("a", "b"))
    assert [(portion.begin, portion.end) for portion in mine.portions()] == [(0, 256), (256, 512), (512, 600)]
    assert mine.values() is None
    for portion in mine.portions():
        mine.write(portion, np.full((portion.end - portion.begin, 1, 2, 1), portion.number, np.float32))
    assert [portion.done for portion in other.portions()] == [0, 0, 0]
    assert mine.values()[:, 0, 0, 0].tolist() == [0] * 256 + [1] * 256 + [2] * 88
    (tmp_path / "p" / "000001.safetensors").write_bytes(b"cut")
    assert [portion.whole for portion in mine.portions()] == [True, False, True]
    assert [portion.number for portion in mine.portions([1])] == [1]
    assert Progress(tmp_path, 1_281_167, (1, 8, 2), "").size == 2048


def test_progress_that_cannot_be_trusted_is_measured_again(tmp_path):
    progress, draw = Progress(tmp_path / "p", 200, (1, 2, 1), "a"), random.Random(0)
    values = np.arange(400, dtype=np.float32).reshape(200, 1, 2, 1)
    progress.write(progress.portions()[0], values)
    path = tmp_path / "p" / "000000.safetensors"
    whole = path.read_bytes()
    flips = [(place, 1 << draw.randrange(8)) for place in draw.sample(range(len(whole)), 60)]
    damaged = [whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :] for place, bit in flips]
    for data in (*damaged, *(whole[: draw.randrange(len(whole))] for _ in range(10)), b"[" * 100_000):
        path.write_bytes(data)
        [portion] = progress.portions()
        # Spaces that fill up a header say nothing.
        assert portion.done == 0 or np.array_equal(progress.read(portion), values)


def test_progress_that_a_kill_left_beside_finished_scores_goes(score, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("dprune.scoring.sharing.shutil.rmtree", lambda *_, **__: None)
        score("s.npy").ok()
    assert ".s.npy.progress" in written(tmp_path)
    left = tmp_path / ".s.npy.0-of-2.tmp"
    with claimed(left, "s.npy", Silent()):
        # Another worker may still read it.
        assert "up to date" in score("s.npy").ok().err
        assert ".s.npy.progress" in written(tmp_path)
    left.touch()
    assert "up to date" in score("s.npy").ok().err
    assert written(tmp_path) == ["s.npy", "s.se.npy"]


def rng_singles(count, levels, draws, spread):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 1, 1)) + spread * rng.normal(size=(count, levels, draws))


def test_reliability_is_that_of_its_definition():
    from scipy.stats import spearmanr

    values = np.round(rng_singles(400, 1, 8, 2.0), 1)
    found = reliability.rank_correlation(values[:, 0, 0], values[:, 0, 1])
    assert math.isclose(found, spearmanr(values[:, 0, 0], values[:, 0, 1]).statistic, rel_tol=1e-12)
    pairs = reliability.pair_scores(values)
    np.testing.assert_allclose(pairs, values[:, 0].reshape(400, 4, 2).mean(2))
    centred = pairs - pairs.mean(0)
    np.testing.assert_allclose(reliability.standard_errors(pairs), centred.std(1, ddof=1) / 2)
    splits = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    halves = [[pairs[:, list(part)].mean(1) for part in split] for split in splits]
    half = np.mean([spearmanr(one, other).statistic for one, other in halves])
    assert math.isclose(reliability.split_half(pairs, 0), half, rel_tol=1e-12)
    found = reliability.reliability(pairs, 0)
    assert found["split_half"] == round(half, 6)
    assert found["reliability"] == round(2 * half / (1 + half), 6)


def rescored(inputs, sigmas, seeds):
    """EL2N's pairs of draws [n, 4] with other noise for each seed."""
    store, model = inputs
    latents, network = open_latents(store), load_dit(model, CPU).model
    data = ScoredLatents(latents, np.arange(COUNT - 1), Normalisation(latents, MEAN, STD), CPU)
    [(_, span)] = data.spans(Progress(store, COUNT - 1, (1, 1, 1), "").portions())
    [(*batch, _)] = data.batches(span, COUNT - 1)
    for seed in range(seeds):
        scorer = Scorer(network, ScoreSettings(sigmas, 8, seed, "float32"), gradients=False)
        yield reliability.pair_scores(scorer.measure(*batch)[..., 0].numpy())


@pytest.mark.parametrize("sigmas", [(0.3,), (0.06, 0.3)])
def test_errors_are_the_deviation_of_scores_among_the_others(inputs, sigmas):
    """What rescoring with other noise does to a sample's place, and not what it does to all samples alike."""
    every = np.stack(list(rescored(inputs, sigmas, 32)))
    found = every.mean(2)
    deviation = (found - found.mean(1, keepdims=True)).std(0, ddof=1)
    errors = np.stack([reliability.standard_errors(pairs) for pairs in every])
    ratio = np.sqrt((errors**2).mean() / (deviation**2).mean())
    assert 0.85 < ratio < 1.15
    raw = np.sqrt((every.std(2, ddof=1) ** 2 / 4).mean() / (deviation**2).mean())
    assert raw > 1.5, "most of it is common"


def test_spearman_and_brown_foretell_more_draws():
    """What few draws foretell is what many draws find."""
    values = rng_singles(4000, 1, 256, 3.0)
    found = reliability.reliability(reliability.pair_scores(values[..., :8]), 0)
    draws = found["draws_for_0.8"]
    assert draws % 2 == 0
    assert 20 < draws < 60
    one, other = (part.mean((1, 2)) for part in (values[..., 64 : 64 + draws], values[..., 160 : 160 + draws]))
    assert abs(reliability.rank_correlation(one, other) - 0.8) < 0.04
    eight = reliability.rank_correlation(values[..., :8].mean((1, 2)), values[..., 8:16].mean((1, 2)))
    assert abs(found["reliability"] - eight) < 0.04


@pytest.mark.parametrize("pairs", [2, 3, 5, 7, 16])
def test_halves_are_disjoint_and_equal(pairs):
    splits = list(reliability._splits(pairs, 0))
    assert splits
    assert len(splits) == len(set(splits)) or pairs > 6
    for one, other in splits:
        assert len(one) == len(other) == pairs // 2
        assert not set(one) & set(other)


def test_reliability_of_what_does_not_vary():
    assert reliability.reliability(np.ones((5, 1)), 0) == {}
    assert reliability.reliability(np.ones((5, 4)), 0)["split_half"] is None
    assert reliability.reliability(np.ones((0, 4)), 0)["reliability"] is None
    assert reliability.draws_for(0.8, -0.1, 8) is None
    assert reliability.draws_for(0.8, 0.8, 8) == 8
    assert np.isfinite(reliability.pair_scores(np.ones((5, 2, 4)))).all()


def test_noise_is_warned_of(score, tmp_path, monkeypatch):
    monkeypatch.setattr("dprune.scoring.outputs.reliability", lambda pairs, seed, score: reliability.reliability(
        rng_singles(500, 1, 4, 3.0)[:, 0], seed))  # fmt: skip
    result = score("g.npy").ok()
    assert "mostly noise" in result.err
    assert "would reach 0.8" in result.err
    found = read_array(tmp_path / "g.npy").record["findings"]
    assert 0 < found["split_half"] < 0.5
    assert f"{found['draws_for_0.8']:,} draws" in result.err
    assert "up to date" in score("g.npy").ok().err, "what was found makes no difference"


@pytest.mark.parametrize("draws", [1, 2])
def test_one_pair_has_no_error(score, tmp_path, draws):
    result = score("g.npy", "--draws", draws).ok()
    assert "--draws 4 or more" in result.err
    assert written(tmp_path) == ["g.npy"]
    assert "findings" not in read_array(tmp_path / "g.npy").record


def test_files_beside_are_missed_and_kept(score, tmp_path):
    score("g.npy", "--el2n", tmp_path / "e.npy").ok()
    (tmp_path / "g.se.npy").unlink()
    assert "wrote" in score("g.npy", "--el2n", tmp_path / "e.npy").ok().err
    assert "up to date" in score("g.npy").ok().err
    np.save(tmp_path / "mine.npy", np.ones(3))
    for overwrite in ((), ("--overwrite",)):
        result = score("h.npy", "--el2n", tmp_path / "mine.npy", *overwrite)
        result.fails(3, "mine.npy", "not written by dprune", "another --el2n")
        assert np.load(tmp_path / "mine.npy").tolist() == [1, 1, 1]
    score("h.npy", "--seed", 1, "--el2n", tmp_path / "e.npy").fails(3, "e.npy", "seed: 0, not 1", "--overwrite")
    score("h.npy", "--seed", 1, "--el2n", tmp_path / "e.npy", "--overwrite").ok()
    score("g.npy", "--draws", 4).fails(3, "g.npy", "draws: 8, not 4")
    for name in ("same.npy", "same.se.npy"):
        score("same.npy", "--el2n", tmp_path / name).fails(2, "--el2n", name)
    score("same.npy", "--el2n", "-").fails(2, "--el2n -")


def test_provenance(score, tmp_path, inputs):
    score("g.npy", "--tag", "method=mine", "--sigma", ".06,.3", "--draws", 4, "--seed", 2).ok()
    record = read_array(tmp_path / "g.npy").record
    assert record["command"] == "score grand"
    assert record["options"] == {"sigma": [0.06, 0.3], "draws": 4, "precision": "float32"}
    assert (record["seed"], record["tags"]) == (2, {"method": "mine"})
    assert record["fingerprint"] == open_latents(inputs[0]).fingerprint
    assert set(record["parents"]) == {"latents", "model"}
    assert set(record["findings"]) == {"split_half", "reliability", "draws_for_0.8"}
    error = read_array(tmp_path / "g.se.npy").record
    assert error["options"]["values"] == "centred standard error"
    dprune("select", tmp_path / "g.npy", "--keep", "0.5", "-o", tmp_path / "keep.npy").ok()
    assert len(np.load(tmp_path / "keep.npy")) == 16


def test_raw_and_averaged_weights_of_a_checkpoint(score, tmp_path):
    states = {prefix: filled(DiT(CONFIG), seed).state_dict() for prefix, seed in (("raw", 1), ("ema", 2))}
    both = {f"{prefix}.{name}": value for prefix, state in states.items() for name, value in state.items()
            if prefix == "raw" or name != "pos_embed"}  # fmt: skip
    kept = make_dit(tmp_path / "step.safetensors", state=both, step=10)
    for name in states:
        alone = make_dit(tmp_path / f"{name}.safetensors", state=states[name])
        score(f"{name}-alone.npy", model=alone).ok()
        score(f"{name}.npy", "--weights", name, model=kept).ok()
        np.testing.assert_array_equal(scores(tmp_path / f"{name}.npy"), scores(tmp_path / f"{name}-alone.npy"))
        assert read_array(tmp_path / f"{name}.npy").record["options"]["weights"] == name
    assert not np.allclose(scores(tmp_path / "raw.npy")[:-1], scores(tmp_path / "ema.npy")[:-1], rtol=0.01)
    score("x.npy", "--weights", "raw", model=tmp_path / "raw.safetensors").fails(2, "--weights raw", "not a checkpoint")


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_lower_precisions_rank_alike(score, tmp_path, precision):
    score("exact.npy", "--el2n", tmp_path / "e.npy").ok()
    score("low.npy", "--el2n", tmp_path / "el.npy", "--precision", precision).ok()
    for a, b in (("exact", "low"), ("e", "el")):
        pair = [scores(tmp_path / f"{name}.npy")[:-1] for name in (a, b)]
        assert reliability.rank_correlation(*pair) > 0.99
        np.testing.assert_allclose(*pair, rtol=0.03)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_state_dict_of_sit_scores(score, tmp_path):
    state = filled(DiT(DiTConfig(SIDE, CHANNELS, 2, 384, 1, 6, 10, learn_sigma=True))).state_dict()
    torch.save({"ema": state}, tmp_path / "sit.pt")
    score("g.npy", "--draws", 2, model=tmp_path / "sit.pt").fails(2, "sit.pt: does not say what it predicts")
    score("g.npy", "--draws", 2, *SIT, model=tmp_path / "sit.pt").ok()
    assert np.isfinite(scores(tmp_path / "g.npy")[:-1]).all()


def test_a_state_dict_of_dit_scores_by_the_velocity_of_its_noise(score, inputs, tmp_path):
    state = filled(DiT(DiTConfig(SIDE, CHANNELS, 2, 384, 1, 6, 10, learn_sigma=True))).state_dict()
    torch.save(state, tmp_path / "dit.pt")
    args = ("--el2n", tmp_path / "l.npy", "--sigma", ".3", "--draws", 2, "--parametrization", "noise")
    score("g.npy", *args, model=tmp_path / "dit.pt").ok()
    assert read_array(tmp_path / "g.npy").record["options"]["parametrization"] == "noise"
    scale = torch.zeros(3), torch.full((3,), 1 / 0.18215)
    settings = ScoreSettings((0.3,), 2, 0, "float32")
    losses, norms = loop(inputs[0], tmp_path / "dit.pt", settings, *scale, parametrization="noise")
    np.testing.assert_allclose(scores(tmp_path / "l.npy")[:-1], losses.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(scores(tmp_path / "g.npy")[:-1], norms.mean((1, 2)), rtol=1e-4)
    score("x.npy", "--parametrization", "noise").fails(2, "--parametrization noise", "predicts velocity")


@pytest.mark.parametrize(
    ("recorded", "scale"),
    [([0.13025, 0.5], (0.13025, 0.5)), ([True, 0.5], (0.18215, 0.0)), ([0.0, 0.5], (0.18215, 0.0)),
     ("wide", (0.18215, 0.0))],
)  # fmt: skip
def test_networks_of_others_see_latents_as_the_autoencoder_says(score, tmp_path, recorded, scale):
    torch.save(filled(DiT(DiTConfig(SIDE, CHANNELS, 2, 384, 1, 6, 10))).state_dict(), tmp_path / "sit.pt")
    store = latent_store(tmp_path / "scaled", latent_scale=recorded)
    score("l.npy", "--sigma", ".3", "--draws", 2, *SIT, method="el2n", model=tmp_path / "sit.pt", store=store).ok()
    factor, shift = (torch.full((3,), value) for value in scale)
    losses, _ = loop(store, tmp_path / "sit.pt", ScoreSettings((0.3,), 2, 0, "float32"), shift, 1 / factor)
    np.testing.assert_allclose(scores(tmp_path / "l.npy")[:-1], losses.mean((1, 2)), rtol=1e-4)


def test_an_unconditional_model_takes_no_labels_and_a_conditional_one_none(score, tmp_path):
    free = make_dit(tmp_path / "free.safetensors", DiTConfig(SIDE, CHANNELS, 2, 32, 1, 2, 0), labels=0)
    score("free.npy", method="el2n", model=free).ok()
    store = latent_store(tmp_path / "unlabelled", labels=False)
    model = make_dit(tmp_path / "dit.safetensors")
    result = score("none.npy", "--draws", 4, method="el2n", store=store, model=model).ok()
    assert "has no labels" in result.err
    losses, _ = loop(store, model, ScoreSettings((0.06,), 4, 0, "float32"))
    np.testing.assert_allclose(scores(tmp_path / "none.npy")[:-1], losses.mean((1, 2)), rtol=1e-5)


def test_labels_that_the_model_was_not_trained_on_are_told(score, inputs, tmp_path):
    pruned = make_dit(tmp_path / "pruned.safetensors", vae="beef", class_counts=[3, 0, 3, 3, 3])
    labels = open_latents(inputs[0]).labels()[:-1]
    said = score("a.npy", "--draws", 2, "--sigma", ".3", method="el2n", model=pruned).ok().err
    assert f"{(labels == 1).sum()} of the samples have labels that" in " ".join(said.split())


def test_models_that_do_not_fit_are_refused(score, tmp_path):
    other = make_dit(tmp_path / "other.safetensors", vae="cafe")
    score("x.npy", model=other).fails(3, "other.safetensors", "another autoencoder", "cafe", "beef")
    wide = make_dit(tmp_path / "wide.safetensors", DiTConfig(SIDE, 2, 2, 32, 1, 2, CLASSES))
    score("x.npy", model=wide).fails(3, "2 x 4 x 4", "3 x 4 x 4")
    few = make_dit(tmp_path / "few.safetensors", DiTConfig(SIDE, CHANNELS, 2, 32, 1, 2, 3), labels=3)
    score("x.npy", model=few).fails(3, "label 4", "labels 0 to 2")
    torch.save(filled(DiT(DiTConfig(8, CHANNELS, 2, 384, 1, 6, 10))).state_dict(), tmp_path / "sit.pt")
    score("x.npy", *SIT, model=tmp_path / "sit.pt").fails(3, "3 x 8 x 8", "3 x 4 x 4")
    torch.save(filled(DiT(DiTConfig(SIDE, CHANNELS, 2, 384, 1, 6, 2))).state_dict(), tmp_path / "few.pt")
    score("x.npy", *SIT, model=tmp_path / "few.pt").fails(3, "label 4", "labels 0 to 1")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    score("x.npy", *SIT, model=tmp_path / "x.safetensors").fails(3, "not a DiT or SiT")
    score("x.npy", model=tmp_path / "gone.safetensors").fails(3, "gone.safetensors", "no such file")
    score("x.npy", model=tmp_path).fails(3, "is a folder")
    score("x.npy", store=tmp_path / "gone").fails(3, "gone", "no such folder")
    assert written(tmp_path) == []


@pytest.mark.parametrize("method", ["el2n", "grand"])
def test_losses_that_are_not_finite_are_refused(score, tmp_path, inputs, method):
    state = filled(DiT(CONFIG)).state_dict()
    state["y_embedder.embedding_table.weight"][2] = torch.nan
    broken = make_dit(tmp_path / "nan.safetensors", vae="beef", state=state)
    first = open_latents(inputs[0]).labels().tolist().index(2)
    result = score("x.npy", method=method, model=broken)
    result.fails(3, "nan.safetensors in float32", f"sample {first} a loss that is not finite", "--precision fp32")
    assert not (tmp_path / "x.npy").exists()


def test_codes_beyond_the_codebook_are_refused(score, tmp_path, inputs):
    latents = open_latents(inputs[0])
    data = ScoredLatents(latents, np.arange(3), Normalisation(latents, MEAN, STD), CPU)
    latents.network["codes"] = 10
    with pytest.raises(InputError, match=r"\.safetensors: holds the code \d+, and there are 10"):
        next(data.spans(Progress(tmp_path, 3, (1, 1, 1), "").portions()))


@pytest.mark.parametrize("args", [
    ("--draws", "3"), ("--draws", "0"), ("--sigma", "0"), ("--sigma", "1.5"), ("--sigma", "x"), ("--sigma", ".1,.1"),
    ("--sigma", "nan"), ("--sigma", ""), ("--compile",), ("--batch-size", "0"), ("--device", "gpu"),
    ("--precision", "fp16"), ("--weights", "raw"), ("--noise", "mine"), ("--per-sigma", "--sigma", "uniform"),
    ("--sigma", "uniform,.1"),
])  # fmt: skip
def test_options_that_cannot_be(score, tmp_path, args):
    score("x.npy", *args).fails(2, args[0])
    assert written(tmp_path) == []


def test_subsets_that_do_not_fit(score, tmp_path):
    for name, ids, words in (("far", [40], ["40", "33 samples"]), ("bad", [32], ["no sample is left"])):
        np.save(tmp_path / f"{name}.npy", np.array(ids))
        score("x.npy", "--subset", tmp_path / f"{name}.npy").fails(3, *words)


def test_stdout_has_no_place_for_errors(inputs):
    dprune("score", "el2n", inputs[0], "--model", inputs[1], "-o", "-").fails(2, "--output -", "-o FILE")


def test_a_dry_run_touches_nothing(score, tmp_path):
    plan = json.loads(score("x.npy", "--dry-run", "--json").ok().out)
    assert plan["provenance"]["options"]["draws"] == 8
    assert written(tmp_path) == []


def test_levels_are_read():
    assert parse_sigmas(".29,0.06") == (0.06, 0.29)
    with pytest.raises(UsageError):
        parse_sigmas(".06,")


def test_the_scorer_takes_other_weights_and_directions(inputs):
    """What the methods that read many checkpoints build on."""
    settings = ScoreSettings((0.06, 0.3), 2, 0, "float32")
    scorer = Scorer(load_dit(inputs[1], CPU).model, settings, gradients=True)
    x, y = torch.randn(6, CHANNELS, SIDE, SIDE), torch.arange(6) % CLASSES
    assert scorer.measure(x, y).shape == (6, *scorer.shape) == (6, 2, 2, 2)
    scorer.network.load_state_dict(filled(DiT(CONFIG), 5).state_dict())
    sums = scorer.gradients.zeros()
    scorer.add_gradients(torch.cat((x, x[:2])), torch.cat((y, y[:2])), sums, count=6)
    mean = {name: value / (6 * 4) for name, value in sums.items()}
    scorer.gradients.aim(mean)
    found = scorer.measure(x, y)
    assert found.shape == (6, *scorer.shape) == (6, 2, 2, 3)
    # The mean of all dots is the squared norm of the mean.
    whole = sum(value.square().sum() for value in mean.values())
    torch.testing.assert_close(found[..., 2].mean(), whole, rtol=1e-4, atol=0)
    other = filled(DiT(CONFIG), 5).requires_grad_(True)
    other.pos_embed.requires_grad_(False)
    plain = SampleGradients(other, x[:1], torch.zeros(1), y[:1])
    bank = noise_bank(settings, x.shape[1:], CPU)
    expected = plain.measure(lambda: flow_loss(other, x, bank[1, 1].expand_as(x), torch.full((6,), 0.7), y), 6)
    torch.testing.assert_close(found[:, 1, 1, 1], expected.squared_norm)


def test_draws_that_would_correlate_as_wanted():
    assert [reliability.draws_for(0.8, correlation, 8) for correlation in (0.5, 0.6, 0.8, 0.999)] == [32, 22, 8, 2]
    # By Spearman and Brown they do, and two fewer do not.
    assert reliability.lengthened(0.6, 22 / 8) >= 0.8 > reliability.lengthened(0.6, 20 / 8)
    assert [reliability.draws_for(0.8, correlation, 8) for correlation in (0.0, -0.2, math.nan)] == [None] * 3
