"""dprune score influence: numbers, targets, ranks, interruptions, what does not fit, and what a step does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import dprune
from stores import latent_store
from test_score_models import CLASSES, COUNT, CPU, MEAN, STD, StopsAfter, drawn_for, make_dit, scores
from test_status import status, stopped_after, worker

from dprune.errors import Interrupted
from dprune.flow import flow_loss
from dprune.formats.arrays import read_array
from dprune.formats.latents import open_latents
from dprune.formats.publish import Output
from dprune.models.dit_files import load_dit
from dprune.models.files import ModelFile
from dprune.scoring import progress as progress_module
from dprune.scoring.influence import InfluenceOptions, open_influence
from dprune.scoring.progress import progress_folder
from dprune.scoring.settings import ScoreSettings

VALID, HELD_OUT = COUNT - 1, (7, 4)
WANTED = [2, 3, 21]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("influence")
    latent_store(folder / "held-out", vae="beef", counts=HELD_OUT)
    np.save(folder / "wanted.npy", np.array(WANTED))
    return latent_store(folder / "latents", vae="beef"), make_dit(folder / "dit.safetensors", vae="beef")


@pytest.fixture(scope="session")
def wanted(inputs):
    return inputs[0].with_name("wanted.npy")


@pytest.fixture
def score(inputs, wanted, tmp_path):
    def run(output, *args, store=inputs[0], model=inputs[1], target=wanted):
        return dprune("score", "influence", store, "--model", model, "--target", target, "-o", tmp_path / output,
                      "--device", "cpu", *args)  # fmt: skip

    return run


def network_of(path):
    network = load_dit(path, CPU).model.double().requires_grad_(True)
    network.pos_embed.requires_grad_(False)
    return network, [p for p in network.parameters() if p.requires_grad]


def samples(store):
    """Latents [n, 3, 4, 4] as the network takes them, in float64, and labels of the valid samples."""
    latents = open_latents(store)
    codes = torch.from_numpy(np.concatenate(latents.mapped("codes")).astype(np.int64))
    x = torch.from_numpy(latents.codebook)[codes].transpose(1, 2).unflatten(2, (4, 4))
    valid = torch.from_numpy(latents.valid())
    return ((x - MEAN[:, None, None]) / STD[:, None, None]).double()[valid], torch.from_numpy(latents.labels())[valid]


def loss_of(network, x, y, settings, place, level, draw, first=0):
    t, drawn = drawn_for(settings, first + place, level, draw)
    return flow_loss(network, x[place : place + 1], drawn.double(), t.double(), y[place : place + 1]).sum()


def gradients_of(store, model, settings, first=0):
    """Gradients [n, S, M, parameters] in float64, one sample and draw at a time by plain autograd."""
    network, parameters = network_of(model)
    x, y = samples(store)
    rows = []
    for place, level, draw in np.ndindex(len(x), settings.levels, settings.draws):
        found = torch.autograd.grad(loss_of(network, x, y, settings, place, level, draw, first), parameters)
        rows.append(torch.cat([part.flatten() for part in found]))
    return torch.stack(rows).unflatten(0, (len(x), settings.levels, settings.draws)).numpy()


def mean_of(gradients):
    return gradients.mean((0, 1, 2))


@pytest.mark.parametrize("more", [{}, {"noise": "own", "sigmas": ()}])
def test_scores_are_those_of_a_loop(score, inputs, wanted, tmp_path, more):
    """Of targets in the store, and of held-out ones, whose own noises are no other sample's."""
    settings = ScoreSettings(**{"sigmas": (0.06,), "draws": 4, "seed": 3, "precision": "float32", **more})
    args = ["--draws", 4, "--seed", 3, *(["--noise", "own", "--sigma", "uniform"] if more else [])]
    gradients, held_out = gradients_of(*inputs, settings), inputs[0].with_name("held-out")
    others = gradients_of(held_out, inputs[1], settings, COUNT)
    for target, mean in ((wanted, mean_of(gradients[WANTED])), (held_out, mean_of(others))):
        summary = json.loads(score("i.npy", *args, "--json", "--overwrite", target=target).ok().out)
        singles = (gradients @ mean)[:, 0]
        found, errors = scores(tmp_path / "i.npy"), scores(tmp_path / "i.se.npy")
        assert (found.dtype, found.shape) == (np.float32, (COUNT,))
        assert np.isnan(found[-1]), "that sample could not be decoded"
        scale = np.abs(singles).max()
        np.testing.assert_allclose(found[:-1], singles.mean(1), rtol=1e-4, atol=1e-5 * scale)
        pairs = singles.reshape(VALID, 2, 2).mean(2)
        expected = (pairs - pairs.mean(0)).std(1, ddof=1) / 2**0.5
        np.testing.assert_allclose(errors[:-1], expected, rtol=2e-3, atol=1e-5 * scale)
        assert (summary["scored"], summary["not_scored"]) == (VALID, 1)
        assert summary["targets"] == (3 if target == wanted else sum(HELD_OUT))
        assert set(summary["influence"]) == {"split_half", "reliability", "draws_for_0.8"}


def test_levels_are_divided_by_their_deviation_and_share_the_mean_gradient(score, inputs, tmp_path):
    score("i.npy", "--sigma", ".06,.3", "--draws", 4, "--per-sigma").ok()
    gradients = gradients_of(*inputs, ScoreSettings((0.06, 0.3), 4, 0, "float32"))
    by_level = (gradients @ mean_of(gradients[WANTED])).mean(2)
    expected = (by_level / by_level.std(0)).mean(1)
    np.testing.assert_allclose(scores(tmp_path / "i.npy")[:-1], expected, rtol=1e-4, atol=1e-4)
    for level, sigma in enumerate((0.06, 0.3)):
        found = read_array(tmp_path / f"i.s{sigma}.npy")
        np.testing.assert_allclose(found.values[:-1], by_level[:, level], rtol=1e-4, atol=1e-4)
        # It is not what that level would give alone, and does not say so.
        assert (found.record["options"]["sigma"], found.record["options"]["level"]) == ([0.06, 0.3], sigma)


@pytest.mark.parametrize("noise", ["own", "shared"])
def test_influence_of_a_sample_on_itself_is_its_squared_norm(score, inputs, tmp_path, noise):
    np.save(tmp_path / "one.npy", np.array([5]))
    score("i.npy", "--noise", noise, "--draws", 4, target=tmp_path / "one.npy").ok()
    gradients = gradients_of(*inputs, ScoreSettings((0.06,), 4, 0, "float32", noise=noise))
    assert scores(tmp_path / "i.npy")[5] == pytest.approx(np.square(gradients[5].mean((0, 1))).sum(), rel=1e-5)


def test_by_one_noise_of_its_own_it_is_grand_squared(score, inputs, tmp_path):
    np.save(tmp_path / "one.npy", np.array([5]))
    args = ("--noise", "own", "--draws", 1)
    score("i.npy", *args, target=tmp_path / "one.npy").ok()
    dprune("score", "grand", inputs[0], "--model", inputs[1], *args, "--device", "cpu", "-o", tmp_path / "g.npy").ok()
    assert scores(tmp_path / "i.npy")[5] == pytest.approx(scores(tmp_path / "g.npy")[5] ** 2, rel=1e-5)


def test_the_mean_over_the_targets_is_the_squared_norm_of_their_mean_gradient(score, inputs, tmp_path):
    score("i.npy", "--draws", 4).ok()
    gradients = gradients_of(*inputs, ScoreSettings((0.06,), 4, 0, "float32"))
    found = scores(tmp_path / "i.npy")
    assert found[WANTED].mean() == pytest.approx(np.square(mean_of(gradients[WANTED])).sum(), rel=1e-4)
    # Of the whole store as target it is MoSo's first order, whose targets are all.
    score("all.npy", "--draws", 4, target=inputs[0]).ok()
    expected = (gradients @ mean_of(gradients))[:, 0].mean(1)
    np.testing.assert_allclose(scores(tmp_path / "all.npy")[:-1], expected, rtol=1e-4, atol=1e-4)


def test_a_step_on_the_highest_lowers_the_loss_of_the_targets_and_one_on_the_lowest_less(score, inputs, tmp_path):
    """What the score is for: steps of plain descent on a quarter of the samples, at the noises of the score."""
    held_out = inputs[0].with_name("held-out")
    score("i.npy", "--draws", 4, target=held_out).ok()
    found, settings = scores(tmp_path / "i.npy")[:-1], ScoreSettings((0.06,), 4, 0, "float32")
    order, gradients = np.argsort(found), gradients_of(*inputs, settings)
    rate, quarter = 1e-4, VALID // 4

    def loss_after(chosen):
        network, parameters = network_of(inputs[1])
        step = rate * torch.from_numpy(mean_of(gradients[chosen]) if len(chosen) else np.zeros(gradients.shape[-1]))
        with torch.no_grad():
            for parameter, part in zip(parameters, step.split([p.numel() for p in parameters]), strict=True):
                parameter -= part.view_as(parameter)
            x, y = samples(held_out)
            found = [loss_of(network, x, y, settings, *place) for place in np.ndindex(len(x), 1, 4)]
        return torch.stack(found).mean().item()

    before, highest, lowest = (loss_after(chosen) for chosen in ([], order[-quarter:], order[:quarter]))
    assert before - highest == pytest.approx(rate * found[order[-quarter:]].mean(), rel=0.05)
    assert before - lowest == pytest.approx(rate * found[order[:quarter]].mean(), rel=0.05)
    assert highest < lowest


def test_a_subset_is_scored_alone_and_targets_may_lie_outside(score, tmp_path):
    score("all.npy").ok()
    np.save(tmp_path / "some.npy", np.array([3, 7, 30]))
    score("some.npy.npy", "--subset", tmp_path / "some.npy").ok()
    found = scores(tmp_path / "some.npy.npy")
    assert np.flatnonzero(~np.isnan(found)).tolist() == [3, 7, 30]
    np.testing.assert_allclose(found[[3, 7, 30]], scores(tmp_path / "all.npy")[[3, 7, 30]], rtol=1e-4, atol=1e-4)


def test_a_mask_is_the_same_target(score, tmp_path):
    np.save(tmp_path / "mask.npy", np.isin(np.arange(COUNT), WANTED))
    score("i.npy", "--draws", 2).ok()
    assert "up to date" in score("i.npy", "--draws", 2, target=tmp_path / "mask.npy").ok().err


@pytest.mark.parametrize("batch", [5, 100])
def test_neither_batches_nor_workers_change_a_score(score, tmp_path, monkeypatch, batch):
    args = ("--draws", 2, "--noise", "own", "--batch-size", batch)
    score("whole.npy", *args).ok()
    score("reference.npy", "--draws", 2, "--noise", "own").ok()
    np.testing.assert_allclose(scores(tmp_path / "whole.npy"), scores(tmp_path / "reference.npy"), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(progress_module, "SMALLEST", 8)
    score("parts.npy", *args).ok()
    for rank in (2, 0, 1):
        assert not (tmp_path / "i.npy").exists()
        with worker(rank, 3):
            score("i.npy", *args).ok()
    assert (tmp_path / "i.npy").read_bytes() == (tmp_path / "parts.npy").read_bytes()
    assert not progress_folder(tmp_path / "i.npy").exists()


class Stages(StopsAfter):
    """Notes what was begun."""

    def __init__(self):
        super().__init__(10**9)
        self.begun = {}

    def start(self, label, total, unit):
        self.begun[label] = total


def test_another_worker_finds_the_mean_gradient_made(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "SMALLEST", 8)
    found = []
    for rank in (0, 1):
        with worker(rank, 2):
            found.append(stages := Stages())
            job(inputs, tmp_path / "i.npy").run(stages)
    name = "mean gradient of the target"
    assert [stages.begun for stages in found] == [{name: 3, "scoring": 16}, {name: 0, "scoring": 16}]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    run_whole(job(inputs, tmp_path / "array.npy"))
    assert (tmp_path / "array.npy").read_bytes() == (tmp_path / "i.npy").read_bytes()


def job(inputs, output, **options):
    given = InfluenceOptions(target=str(inputs[0].with_name("wanted.npy")), device="cpu", draws=4, **options)
    return open_influence(str(inputs[0]), str(inputs[1]), given, Output(str(output)))


def run_whole(job):
    everything = StopsAfter(10**9)
    job.run(everything)
    job.tidy()
    return everything.done


@pytest.mark.parametrize("questions", [0, 1, 4, 20])
def test_a_scoring_that_was_stopped_goes_on_to_the_same_bytes(inputs, tmp_path, monkeypatch, questions):
    monkeypatch.setattr(progress_module, "SMALLEST", 8)
    whole, output, first = tmp_path / "whole.npy", tmp_path / "i.npy", StopsAfter(questions)
    assert run_whole(job(inputs, whole, batch_size=2)) == 3 + VALID
    with pytest.raises(Interrupted):
        job(inputs, output, batch_size=2).run(first)
    assert not output.exists()
    assert first.done + run_whole(job(inputs, output, batch_size=2)) == 3 + VALID, "nothing was done twice"
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.npy", "i.se.npy", "whole.npy", "whole.se.npy"]


def test_a_damaged_or_foreign_mean_gradient_is_made_again(inputs, tmp_path):
    whole, output = tmp_path / "whole.npy", tmp_path / "i.npy"
    run_whole(job(inputs, whole, batch_size=1))
    for damage in ("cut", "other"):
        output.unlink(missing_ok=True)
        with pytest.raises(Interrupted):
            job(inputs, output, batch_size=1, seed=1 if damage == "other" else 0).run(StopsAfter(3))
        kept = progress_folder(output) / "gradient.safetensors"
        if damage == "cut":
            kept.write_bytes(kept.read_bytes()[:-7])
        else:
            assert ModelFile.open(kept).network["done"] == 2
        assert run_whole(job(inputs, output, batch_size=1)) == 3 + VALID
        assert output.read_bytes() == whole.read_bytes()


def test_provenance(score, inputs, tmp_path):
    score("i.npy", "--draws", 2).ok()
    record = read_array(tmp_path / "i.npy").record
    assert record["command"] == "score influence"
    assert record["options"] == {"sigma": [0.06], "draws": 2, "precision": "float32"}
    assert set(record["parents"]) == {"latents", "model", "target"}
    assert "up to date" in score("i.npy", "--draws", 2).ok().err
    held_out = inputs[0].with_name("held-out")
    score("i.npy", "--draws", 2, target=held_out).fails(3, "--overwrite")
    score("i.npy", "--draws", 2, "--overwrite", target=held_out).ok()
    found = read_array(tmp_path / "i.npy").record["parents"]["target"]
    assert found["digest"] == open_latents(held_out).as_parent()["digest"]


def test_a_signal_stops_in_the_mean_gradient_and_how_far_it_is_is_told(score, inputs, tmp_path):
    output = tmp_path / "i.npy"
    with stopped_after(3):
        score("i.npy", "--draws", 4, "--batch-size", 1).fails(75, "run the same command again")
    found = status(output)
    assert (found["state"], found["command"]) == ("unfinished", "score influence")
    assert sum(found["facts"]["mean_gradients"].values()) in (1, 2)
    assert b"mean gradient" in dprune("status", output).out
    run_whole(job(inputs, tmp_path / "whole.npy", batch_size=1))
    score("i.npy", "--draws", 4, "--batch-size", 1).ok()
    assert status(output)["state"] == "complete"
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_targets_that_do_not_fit_are_refused(score, inputs, tmp_path):
    other = latent_store(tmp_path / "other", vae="cafe")
    score("i.npy", target=other).fails(3, "another autoencoder", "encode its images with that one")
    kl = latent_store(tmp_path / "kl", kind="kl", vae="")
    score("i.npy", target=kl).fails(3, "another autoencoder")
    np.save(tmp_path / "far.npy", np.array([COUNT]))
    score("i.npy", target=tmp_path / "far.npy").fails(3, "holds the id 33")
    for ids in ([], [COUNT - 1]):
        np.save(tmp_path / "none.npy", np.array(ids, np.int64))
        score("i.npy", target=tmp_path / "none.npy").fails(3, "--target: no sample of")
    score("i.npy", target=tmp_path / "missing.npy").fails(3, "missing.npy")
    score("i.npy", target=inputs[1]).fails(3, "dit.safetensors", "not a .npy array")
    shutil.copytree(inputs[0].with_name("held-out"), tmp_path / "cut")
    (tmp_path / "cut" / "000001.safetensors").unlink()
    score("i.npy", target=tmp_path / "cut").fails(3, "cut")
    few = make_dit(tmp_path / "few.safetensors", labels=CLASSES - 1, vae="beef")
    np.save(tmp_path / "some.npy", np.flatnonzero(open_latents(inputs[0]).labels()[:VALID] < CLASSES - 1))
    score("i.npy", "--subset", tmp_path / "some.npy", model=few, target=inputs[0]).fails(3, "trained with labels")


def test_options_that_cannot_be(score):
    score("i.npy", "--draws", 1).fails(2, "--draws 1", "--noise own")
    score("i.npy", "--per-sigma", "--sigma", "uniform").fails(2, "--per-sigma")


def test_gradients_that_are_not_finite_are_refused(score, inputs, tmp_path):
    state = ModelFile.open(inputs[1]).weights()
    state["final_layer.linear.bias"][0] = float("nan")
    score("i.npy", model=make_dit(tmp_path / "bad.safetensors", vae="beef", state=state)).fails(3, "not finite")
