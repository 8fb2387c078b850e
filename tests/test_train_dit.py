"""`dprune train-dit` on small latent stores: what is trained on, resuming, ranks, initial weights."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import DATA, Result, dprune, dprune_process, hearing, torchrun, wait_until, warm_python
from PIL import Image
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from stores import latent_store

from dprune.formats.arrays import write_array
from dprune.formats.latents import open_latents
from dprune.formats.provenance import make_record, parent
from dprune.formats.tensors import read_tensors, write_tensors
from dprune.models.dit import DiT, DiTConfig
from dprune.models.files import ModelFile, publish_model
from dprune.models.vae import VAE
from dprune.models.vae_config import VAEConfig
from dprune.models.weights import file_digest
from dprune.sheets.classes import GAP
from dprune.sheets.sheet import MARGIN
from dprune.training.dit.first_weights import begun
from dprune.training.dit.latents import TrainingLatents
from dprune.training.dit.settings import DiTSettings, Fold
from dprune.training.dit.task import FlowObjective, LatentBatch
from dprune.training.order import Order, Visits

CPU = torch.device("cpu")
SMALL = ("--arch", "nano/2", "--batch-size", "6", "--steps", "8", "--log-every", "1", "--lr", "1e-3")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return latent_store(tmp_path / "latents")


def train(store: object, run: object, *args: object) -> Result:
    return dprune("train-dit", store, *SMALL, "-o", run, *args)


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in log(run) if "loss" in line]


def model(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model.safetensors")


@pytest.mark.parametrize("place", ["device", "host", "disk"])
@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_latents_are_those_of_the_store_wherever_they_are_held(tmp_path: Path, kind: str, place: str):
    latents = open_latents(latent_store(tmp_path / "store", kind))
    ids = np.array([0, 3, 19, 20, 31])
    held = TrainingLatents(latents, ids, CPU, place, seed=0)
    visits = Visits(np.array([4, 0, 2, 0]), np.array([1, 1, 1, 2]))
    found_ids, before, labels, values = held.batch(visits)
    assert before.tolist() == [1, 1, 1, 2]
    assert found_ids.tolist() == [31, 0, 19, 0]
    assert labels.tolist() == latents.labels()[[31, 0, 19, 0]].tolist()
    if kind == "vq":
        codes = np.concatenate(latents.mapped("codes"))[[31, 0, 19, 0]]
        expected = (latents.codebook[codes] - latents.mean) / latents.std
        np.testing.assert_allclose(values, expected.transpose(0, 2, 1).reshape(4, 3, 4, 4), rtol=1e-5, atol=1e-6)
        return
    mean = np.concatenate(latents.mapped("mean")).astype(np.float32)[[31, 0, 19, 0]]
    logvar = np.concatenate(latents.mapped("logvar")).astype(np.float32)[[31, 0, 19, 0]]
    drawn = (values.numpy() * latents.std[:, None, None] + latents.mean[:, None, None] - mean) / np.exp(logvar / 2)
    assert abs(drawn.mean()) < 0.3
    assert 0.8 < drawn.std() < 1.2
    again = held.batch(Visits(np.array([0, 0]), np.array([2, 1]))).latents
    assert torch.equal(again, values[[3, 1]])
    assert not torch.equal(*again), "each visit has a draw of its own"


def test_normalised_latents_of_the_whole_store_have_mean_0_and_deviation_1(tmp_path: Path):
    for kind in ("vq", "kl"):
        latents = open_latents(latent_store(tmp_path / kind, kind))
        valid = np.flatnonzero(latents.valid())
        held = TrainingLatents(latents, valid, CPU, "device", seed=0)
        order = Order(len(valid), 20 * len(valid), seed=0)
        values = held.batch(order.visits(0)).latents
        assert values.mean((0, 2, 3)).abs().max() < (1e-5 if kind == "vq" else 0.02)
        assert (values.std((0, 2, 3)) - 1).abs().max() < 0.02


def test_half_of_the_latents_are_flipped(tmp_path: Path):
    latents = open_latents(latent_store(tmp_path / "store", flips=True))
    held = TrainingLatents(latents, np.arange(32), CPU, "device", seed=0)
    plain = TrainingLatents(open_latents(latent_store(tmp_path / "plain")), np.arange(32), CPU, "device", seed=0)
    four = Visits.first(np.arange(4))
    assert held.batch(four).latents.shape == plain.batch(four).latents.shape
    codes, flipped = (np.concatenate(latents.mapped(name))[:32] for name in ("codes", "codes_flipped"))
    table = torch.from_numpy((latents.codebook - latents.mean) / latents.std)
    visits = Visits(np.tile(np.arange(32), 40), np.repeat(np.arange(40), 32))
    values = held.batch(visits).latents.flatten(2).transpose(1, 2)
    is_plain, is_flipped = (
        torch.isclose(values, table[torch.from_numpy(rows[visits.positions].astype(np.int64))], atol=1e-5).all(2).all(1)
        for rows in (codes, flipped)
    )
    assert torch.equal(is_flipped, ~is_plain)
    assert 0.45 < is_flipped.float().mean() < 0.55
    by_visit = is_flipped.view(40, 32)
    assert (by_visit.any(0) & ~by_visit.all(0)).all(), "each visit of a sample is flipped by itself"


def test_first_weights_that_are_drawn_beside_other_work_are_the_same():
    config = DiTConfig(8, 4, 2, 48, 2, 4, 10)
    (at_once, _), (later, wait) = (begun(config, 5, CPU, waits=waits) for waits in (True, False))
    wait()
    assert all(torch.equal(a, b) for a, b in zip(at_once.parameters(), later.parameters(), strict=True))
    assert at_once.x_embedder.proj.weight.std() > 0


def test_what_fails_beside_other_work_is_not_lost(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(DiT, "initialize", lambda *_: 1 / 0)
    _, wait = begun(DiTConfig(8, 4, 2, 48, 2, 4, 10), 5, CPU, waits=False)
    with pytest.raises(ZeroDivisionError):
        wait()


def test_a_run_leaves_a_model_that_says_what_it_is(store: Path, tmp_path: Path):
    done = train(store, tmp_path / "run", "--json").ok()
    summary = json.loads(done.out)
    assert summary["steps"] == 8
    file = ModelFile.open(tmp_path / "run" / "model.safetensors")
    assert (file.network["kind"], file.network["classes"], file.network["channels"]) == ("dit", 5, 3)
    latents = open_latents(store)
    np.testing.assert_allclose(file.network["mean"], latents.mean, rtol=1e-6)
    np.testing.assert_allclose(file.network["std"], latents.std, rtol=1e-6)
    assert file.record["options"]["arch"] == "nano/2"
    assert file.record["fingerprint"] == latents.fingerprint
    assert parent(file.record, "latents")["command"] == "encode"
    start, *lines = log(tmp_path / "run")
    assert (start["samples"], start["batch_size"]) == (32, 6)
    assert start["parameters"] == sum(value.size for value in model(tmp_path / "run").values())
    assert all(line["distinct"] == 6 for line in lines if line["step"] != 6)
    assert summary["distinct"] == 6
    assert all({"step", "epoch", "loss", "grad_norm", "img_per_s", "mfu", "lr"} <= line.keys() for line in lines)
    assert "up to date" in train(store, tmp_path / "run").ok().err
    assert "nano/2" in dprune("info", tmp_path / "run").ok().out.decode()


def test_the_image_that_could_not_be_decoded_is_not_trained_on(store: Path, tmp_path: Path):
    done = train(store, tmp_path / "run").ok()
    assert "1 of the samples could not be decoded" in done.err


def test_a_subset_changes_the_model_and_stays_traceable(store: Path, tmp_path: Path):
    write_array(tmp_path / "keep.npy", np.array([1, 5, 9]), make_record("select", {"keep": 3}))
    train(store, tmp_path / "all").ok()
    train(store, tmp_path / "kept", "--subset", tmp_path / "keep.npy").ok()
    assert log(tmp_path / "kept")[0]["samples"] == 3
    assert losses(tmp_path / "all") != losses(tmp_path / "kept")
    file = ModelFile.open(tmp_path / "kept" / "model.safetensors")
    assert parent(file.record, "subset")["options"] == {"keep": 3}
    # The latents are normalised by the whole store, whatever the subset.
    assert file.network["mean"] == ModelFile.open(tmp_path / "all" / "model.safetensors").network["mean"]


def test_the_model_says_how_many_samples_of_each_class_it_was_trained_on(store: Path, tmp_path: Path):
    labels = open_latents(store).labels()
    assert "no sample to train on" not in train(store, tmp_path / "all").ok().err
    network = ModelFile.open(tmp_path / "all" / "model.safetensors").network
    assert network["class_counts"] == np.bincount(labels[:-1]).tolist()
    np.save(tmp_path / "kept.npy", np.flatnonzero((labels[:-1] != 1) & (labels[:-1] != 3)))
    said = train(store, tmp_path / "kept", "--subset", tmp_path / "kept.npy").ok().err
    assert said.count("warning: ") == 1
    assert "no sample of 2 of the 5 classes is left to train on (1, 3)" in " ".join(said.split())
    network = ModelFile.open(tmp_path / "kept" / "model.safetensors").network
    assert np.flatnonzero(network["class_counts"]).tolist() == [0, 2, 4]
    train(store, tmp_path / "free", "--unconditional").ok()
    assert "class_counts" not in ModelFile.open(tmp_path / "free" / "model.safetensors").network


def test_samples_without_a_label_are_counted(tmp_path: Path):
    store = latent_store(tmp_path / "latents", unlabelled=12)
    assert "12 of the 32 samples have no label" in " ".join(train(store, tmp_path / "run").ok().err.split())
    np.save(tmp_path / "kept.npy", np.arange(12))
    said = train(store, tmp_path / "none", "--subset", tmp_path / "kept.npy").fails(3, "--unconditional")
    assert "no remaining sample has a label" in " ".join(said.err.split())
    train(store, tmp_path / "none", "--subset", tmp_path / "kept.npy", "--unconditional").ok()


def test_folds_are_disjoint_cover_everything_and_ignore_the_seed(store: Path, tmp_path: Path):
    ids = np.arange(10_000)
    folds = [Fold(number, 3).holds(ids) for number in range(3)]
    assert (np.sum(folds, axis=0) == 1).all()
    assert all(abs(fold.mean() - 1 / 3) < 0.02 for fold in folds)
    sizes = []
    for number in range(3):
        train(store, tmp_path / f"run{number}", "--fold", f"{number}/3", "--steps", "1").ok()
        sizes.append(log(tmp_path / f"run{number}")[0]["samples"])
    assert sum(sizes) == 32
    train(store, tmp_path / "seed", "--fold", "1/3", "--steps", "1", "--seed", "7").ok()
    assert log(tmp_path / "seed")[0]["samples"] == sizes[1]
    record = ModelFile.open(tmp_path / "run1" / "model.safetensors").record
    assert record["options"]["fold"] == "1/3"


@pytest.fixture(scope="module")
def large_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return latent_store(tmp_path_factory.mktemp("large") / "latents", "kl", flips=True, counts=(600, 401))


@pytest.mark.parametrize("size", [20, 50, 200, 404, 1000])
def test_every_visit_in_a_batch_has_draws_of_its_own(
    large_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    """Drawn by the step, a batch of 256 held 20, 50, 187, 239 and 253 different draws."""
    from dprune.training.dit import task

    drawn: list[tuple[torch.Tensor, ...]] = []
    loss = task.flow_loss

    def recording(network, data, noise, times, labels):
        drawn.append((data, noise, times, labels))
        return loss(network, data, noise, times, labels)

    monkeypatch.setattr(task, "flow_loss", recording)
    np.save(tmp_path / "keep.npy", np.arange(size))
    small = ("--arch", "nano/4", "--batch-size", "256", "--steps", "5", "--log-every", "5")
    done = dprune("train-dit", large_store, *small, "--subset", tmp_path / "keep.npy", "-o", tmp_path / "run").ok()
    assert [len(data) for data, *_ in drawn] == [256] * 5
    for data, noise, times, _ in drawn:
        assert len(noise.flatten(1).unique(dim=0)) == len(data.flatten(1).unique(dim=0)) == len(times.unique()) == 256
    dropped = torch.stack([labels == 5 for *_, labels in drawn]).double()
    assert dropped.mean() == pytest.approx(0.1, abs=0.04)
    assert 0 < dropped.mean(1).std() < 0.05, "a label is not dropped in all visits of a sample at once"
    batches = [Order(size, 256, seed=0).visits(step).positions for step in range(5)]
    assert log(tmp_path / "run")[-1]["distinct"] == np.mean([len(set(taken)) for taken in batches])
    said = f"a batch of 256 holds each of the {size} samples {256 / size:.3g} times, each time with another noise"
    assert (said in " ".join(done.err.split())) == (size < 256)


def test_a_run_whose_copies_shared_their_noise_is_another_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from dprune.training.dit.settings import DiTSettings

    with monkeypatch.context() as before:
        options = DiTSettings.options
        before.setattr(DiTSettings, "options", lambda self: {k: v for k, v in options(self).items() if k != "noise"})
        train(store, tmp_path / "run", "--steps", "1").ok()
    train(store, tmp_path / "run", "--steps", "1").fails(3, "made differently", "noise")


def test_the_gradient_of_copies_varies_as_that_of_independent_draws():
    """At 20 samples in a batch of 256 its variance was 12.9 times as large when copies shared their noise."""

    class Network(torch.nn.Module):
        config = SimpleNamespace(classes=5)

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(0.3 * torch.eye(48))
            self.labels = torch.nn.Parameter(torch.zeros(6, 48))

        def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x.flatten(1) @ self.weight + self.labels[y] + t[:, None]).view_as(x)

    settings = DiTSettings("nano/2", False, 0.1, "uniform", None, None, False, "auto")
    network = Network()
    objective, order = FlowObjective(network, settings, 0), Order(20, 256, seed=0)
    latents, labels = torch.randn(20, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 5

    def variance(draws) -> float:
        """Of the gradient's elements, summed up, over steps."""
        gradients = []
        for step in range(100):
            positions, before = map(torch.from_numpy, order.visits(step))
            ids, visits = draws(positions, before, step)
            loss, _ = objective(LatentBatch(ids, visits, labels[positions], latents[positions]))
            found = torch.autograd.grad(loss / 256, list(network.parameters()))
            gradients.append(torch.cat([part.flatten() for part in found]))
        return torch.stack(gradients).var(0).sum().item()

    ours = variance(lambda positions, before, step: (positions, before))
    independent = variance(lambda positions, before, step: (1000 + torch.arange(256), torch.full((256,), step)))
    shared = variance(lambda positions, before, step: (positions, torch.full((256,), step)))
    assert ours / independent == pytest.approx(1, abs=0.1)
    assert shared / independent > 10


def test_samples_that_fill_a_batch_several_times_do_not_depend_on_how_it_is_cut(tmp_path: Path):
    store = latent_store(tmp_path / "latents", "kl", flips=True)
    np.save(tmp_path / "keep.npy", np.array([1, 5, 9]))
    args = ("--subset", tmp_path / "keep.npy", "--batch-size", "16")
    train(store, tmp_path / "whole", *args).ok()
    for _ in range(3):
        train(store, tmp_path / "parts", *args, "--stop-after", "0s").fails(75, "again")
    train(store, tmp_path / "parts", *args).ok()
    for name in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    train(store, tmp_path / "cut", *args, "--micro-batch", "5").ok()
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=1e-4)
    for name, value in model(tmp_path / "whole").items():
        np.testing.assert_allclose(model(tmp_path / "cut")[name], value, atol=1e-4)


def test_epochs_count_the_subset(store: Path, tmp_path: Path):
    write_array(tmp_path / "keep.npy", np.arange(9), make_record("select", {}))
    done = dprune("train-dit", store, "--arch", "nano/2", "--batch-size", "6", "--epochs", "2", "--subset",
                  tmp_path / "keep.npy", "-o", tmp_path / "run", "--save-every", "epoch", "--json").ok()  # fmt: skip
    assert json.loads(done.out)["steps"] == 3
    assert json.loads(done.out)["epochs"] == 2
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000002.safetensors", "step-00000003.safetensors"]


def test_a_larger_steps_extends_a_finished_run(store: Path, tmp_path: Path):
    train(store, tmp_path / "whole").ok()
    train(store, tmp_path / "grown", "--steps", "5").ok()
    train(store, tmp_path / "grown").ok()
    for name, value in model(tmp_path / "whole").items():
        assert np.array_equal(value, model(tmp_path / "grown")[name]), name
    train(store, tmp_path / "grown", "--steps", "5").fails(3, "steps", "--overwrite")


def test_other_options_need_overwrite_and_then_begin_anew(store: Path, tmp_path: Path):
    train(store, tmp_path / "run", "--save-every", "4").ok()
    train(store, tmp_path / "run", "--lr", "2e-3").fails(3, "lr", "--overwrite")
    train(store, tmp_path / "run", "--lr", "2e-3", "--overwrite").ok()
    train(store, tmp_path / "fresh", "--lr", "2e-3").ok()
    again, fresh = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "fresh"))
    assert again == fresh
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.slow
def test_three_sigterms_change_not_a_byte(store: Path, tmp_path: Path):
    args = ("train-dit", store, *SMALL, "--steps", "60", "-o")
    assert dprune_process(*args, tmp_path / "whole").code == 0
    stops, draw = 0, random.Random(0)
    while stops < 3:
        process = subprocess.Popen(
            [warm_python(), "-m", "dprune", *map(str, args), str(tmp_path / "cut")], stderr=subprocess.PIPE
        )
        wait_for = len(losses(tmp_path / "cut")) if (tmp_path / "cut" / "log.jsonl").exists() else 0
        wait_for += draw.randint(3, 12)
        while process.poll() is None:
            if (tmp_path / "cut" / "log.jsonl").exists() and len(losses(tmp_path / "cut")) >= wait_for:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.002)
        _, err = process.communicate()
        assert process.returncode == 75, err
        assert b"run the same command again" in err
        assert not (tmp_path / "cut" / "model.safetensors").exists()
        stops += 1
    assert dprune_process(*args, tmp_path / "cut").code == 0
    for name in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_ctrl_c_saves_what_is_done(store: Path, tmp_path: Path):
    args = ("train-dit", store, *SMALL, "--steps", "60", "-o")
    process = subprocess.Popen([*hearing(warm_python()), "-m", "dprune", *map(str, args), str(tmp_path / "cut")],
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    wait_until(lambda: (tmp_path / "cut" / "log.jsonl").exists() and len(losses(tmp_path / "cut")) >= 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    Result(process.returncode, b"", err).fails(130, "stopped after step", "run the same command again to go on")
    step = ModelFile.open(tmp_path / "cut" / "state.safetensors").network["step"]
    assert step == len(losses(tmp_path / "cut")) < 60
    dprune(*args, tmp_path / "cut", "--stop-after", "0s").fails(75)
    assert [line["step"] for line in log(tmp_path / "cut") if line.get("event") == "start"] == [0, step]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_rank_that_waits_for_the_others_can_be_stopped(store: Path, tmp_path: Path, number: int, code: int):
    """It waits in C code, where Python takes no signals."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
    env = {**os.environ, **ranks, "MASTER_ADDR": address[0], "MASTER_PORT": str(address[1])}
    command = [*hearing(warm_python()), "-m", "dprune", "train-dit", str(store), *SMALL, "-o", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    wait_until(lambda: listens(address))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    Result(process.returncode, b"", err).fails(code)


def listens(address: tuple[str, int]) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(address) == 0


@pytest.mark.slow
def test_a_line_of_the_log_outlives_a_stop_of_torchrun(store: Path, tmp_path: Path):
    """One rank saves, and what the other has summed up since the last line must not be lost, nor counted twice."""
    args = ["train-dit", store, *SMALL, "--steps", "4", "--log-every", "4", "-o"]
    dprune(*args, tmp_path / "one").ok()
    assert torchrun(*args, tmp_path / "two", "--stop-after", "0s").code != 0
    state = ModelFile.open(tmp_path / "two" / "state.safetensors")
    assert state.network["step"] == 1
    torchrun(*args, tmp_path / "two", "--autosave", "0s").ok()
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 3])
def test_two_ranks_follow_the_loss_of_one(store: Path, tmp_path: Path, size: int):
    np.save(tmp_path / "keep.npy", np.arange(size))
    args = ["train-dit", store, *SMALL, "--subset", tmp_path / "keep.npy", "--batch-size", "7", "--steps", "50", "-o"]
    dprune(*args, tmp_path / "one").ok()
    torchrun(*args, tmp_path / "two", fresh=True).ok()
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    assert log(tmp_path / "two")[0]["ranks"] == 2
    assert [line.get("distinct") for line in log(tmp_path / "two")] == [
        line.get("distinct") for line in log(tmp_path / "one")
    ]
    for name, value in model(tmp_path / "one").items():
        np.testing.assert_allclose(model(tmp_path / "two")[name], value, atol=1e-4)


def test_ranks_without_torchrun_are_refused(store: Path, tmp_path: Path):
    done = dprune_process("train-dit", store, *SMALL, "-o", tmp_path / "run", env={"RANK": "0", "WORLD_SIZE": "2"})
    done.fails(2, "torchrun")


def test_times_are_drawn_as_asked(store: Path, tmp_path: Path):
    train(store, tmp_path / "uniform").ok()
    train(store, tmp_path / "normal", "--time", "logit-normal").ok()
    # The first step has the loss of a model that says zero, whatever the time.
    uniform, normal = losses(tmp_path / "uniform"), losses(tmp_path / "normal")
    assert uniform[0] == normal[0]
    assert uniform[3:] != normal[3:]


def test_labels_that_are_all_dropped_train_no_row_of_the_table_but_the_last(store: Path, tmp_path: Path):
    for name, dropout in (("short", 2), ("long", 8)):
        train(store, tmp_path / name, "--label-dropout", "1", "--steps", dropout).ok()
    short, long = (model(tmp_path / name)["y_embedder.embedding_table.weight"] for name in ("short", "long"))
    assert np.abs(short - long)[:5].max() < 1e-6 < np.abs(short - long)[5].max()


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_samples_without_a_label_and_dropped_ones_get_that_of_none(dropout: float):
    seen: list[torch.Tensor] = []

    class Network(torch.nn.Module):
        config = SimpleNamespace(classes=5)

        def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            seen.append(y)
            return x

    settings = DiTSettings("nano/2", False, dropout, "uniform", None, None, False, "auto")
    labels = torch.arange(4000) % 6 - 1
    for before in (0, 1):
        visits = torch.full((4000,), before)
        FlowObjective(Network(), settings, 0)(
            LatentBatch(torch.arange(4000), visits, labels, torch.zeros(4000, 1, 1, 1))
        )
    for found in seen:
        assert (found[labels < 0] == 5).all()
        known = labels >= 0
        assert (found[known] == 5).double().mean() == pytest.approx(dropout, abs=0.03)
        assert ((found == labels) | (found == 5)).all()
    assert torch.equal(*seen) == (dropout == 0), "other labels are dropped at each visit"


def test_averages_follow_the_weights_as_ema_says(store: Path, tmp_path: Path):
    """By min(.9999, (1 + step) / (10 + step)), the step being the number of those before."""
    train(store, tmp_path / "run", "--steps", "3", "--save-every", "1").ok()
    states = [load_file(path) for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    names = [name for name in states[0] if name.startswith("raw.") and f"ema.{name[4:]}" in states[0]]
    assert len(names) > 9
    for step in (1, 2):
        decay = (1 + step) / (10 + step)
        for name in names:
            before, raw, after = (states[i][key] for i, key in
                                  ((step - 1, f"ema.{name[4:]}"), (step, name), (step, f"ema.{name[4:]}")))  # fmt: skip
            np.testing.assert_allclose(after, decay * before + (1 - decay) * raw, rtol=1e-4, atol=1e-7)


def test_stores_without_labels_want_unconditional(tmp_path: Path):
    store = latent_store(tmp_path / "latents", labels=False)
    train(store, tmp_path / "run").fails(3, "--unconditional")
    train(store, tmp_path / "run", "--unconditional").ok()
    assert ModelFile.open(tmp_path / "run" / "model.safetensors").network["classes"] == 0
    assert model(tmp_path / "run")["y_embedder.embedding_table.weight"].shape[0] == 1


def test_training_goes_on_from_another_runs_weights(store: Path, tmp_path: Path):
    train(store, tmp_path / "first").ok()
    first = tmp_path / "first" / "model.safetensors"
    done = dprune("train-dit", store, "--init", first, "--batch-size", "6", "--steps", "1", "--lr", "1e-12", "-o",
                  tmp_path / "tuned").ok()  # fmt: skip
    assert done.code == 0
    for name, value in model(tmp_path / "first").items():
        np.testing.assert_allclose(model(tmp_path / "tuned")[name], value, atol=1e-6)
    assert "init" in ModelFile.open(tmp_path / "tuned" / "model.safetensors").record["parents"]
    train(store, tmp_path / "other", "--init", first, "--arch", "nano/1").fails(3, "--init", "patch 2", "patch 1")


def test_pictures_show_what_sample_draws(tmp_path: Path):
    vae, run = tmp_path / "vae.safetensors", tmp_path / "run"
    torch.manual_seed(0)
    config = VAEConfig("vq", 16, 8, (1, 1, 2), 1, 3, 50, False)
    publish_model(vae, VAE(config).state_dict(), {"kind": "vae", **config.as_json()}, make_record("train-vae", {}))
    store = latent_store(tmp_path / "latents", vae=file_digest(vae))
    train(store, run, "--vae", vae, "--evaluate-every", "5").ok()
    assert sorted(path.name for path in (run / "pictures").iterdir()) == ["step-00000005.png", "step-00000008.png"]
    dprune("sample", run / "model.safetensors", "--vae", vae, "--seeds", "0-63", "--steps", "30", "-o",
           tmp_path / "drawn").ok()  # fmt: skip
    sheet = np.asarray(Image.open(run / "pictures" / "step-00000008.png")).astype(int)
    with tarfile.open(tmp_path / "drawn" / "000000.tar") as tar:
        # Of five classes, each of which takes two rows of seven.
        for seed, row, column in ((0, 0, 0), (9, 8, 1), (63, 7, 5)):
            drawn = np.asarray(Image.open(tar.extractfile(f"{seed:08d}.png"))).astype(int)
            top, left = MARGIN + row * (64 + GAP), sheet.shape[1] - MARGIN + GAP - (7 - column) * (64 + GAP)
            shown = sheet[top : top + 64 : 4, left : left + 64 : 4]
            assert drawn.std() > 1
            assert np.abs(shown - drawn).max() <= 1
            assert (shown == drawn).mean() > 0.99


def test_a_model_that_knew_labels_goes_on_without_them(store: Path, tmp_path: Path):
    train(store, tmp_path / "first").ok()
    args = ("--init", tmp_path / "first" / "model.safetensors", "--unconditional", "--lr", "1e-12")
    train(store, tmp_path / "free", *args).ok()
    assert ModelFile.open(tmp_path / "free" / "model.safetensors").network["classes"] == 0
    name = "y_embedder.embedding_table.weight"
    first, free = model(tmp_path / "first"), model(tmp_path / "free")
    np.testing.assert_allclose(free.pop(name), first.pop(name)[-1:], atol=1e-6)
    for name, value in first.items():
        np.testing.assert_allclose(free[name], value, atol=1e-6)


def test_published_weights_with_learned_sigma_initialise(store: Path, tmp_path: Path):
    # A state dict as facebookresearch/DiT saves it: no description, twice the outputs, 1,000 classes.
    from dprune.models.dit import DiT, DiTConfig

    network = DiT(DiTConfig(4, 3, 2, 384, 12, 6, 1000, learn_sigma=True))
    torch.save({"ema": network.state_dict()}, tmp_path / "dit.pt")
    args = ("train-dit", store, "--init", tmp_path / "dit.pt", "--batch-size", "2", "--steps", "1")
    dprune(*args, "-o", tmp_path / "run").fails(2, "dit.pt: does not say what it predicts")
    done = dprune(*args, "--parametrization", "noise", "-o", tmp_path / "run").fails(2, "dit.pt: predicts noise")
    assert "--parametrization velocity" in " ".join(done.err.split())
    dprune(*args, "--parametrization", "velocity", "-o", tmp_path / "run").ok()
    file = ModelFile.open(tmp_path / "run" / "model.safetensors")
    assert (file.network["learn_sigma"], file.network["classes"], file.network["heads"]) == (True, 1000, 6)
    assert file.record["options"]["arch"] == "S/2"
    assert "parametrization" not in file.record["options"] | file.network


@pytest.mark.parametrize(
    ("width", "depth", "patch", "arch"),
    [(384, 12, 2, "S/2"), (768, 12, 4, "B/4"), (1024, 24, 2, "L/2"), (1152, 28, 1, "XL/1")],
)
def test_the_architecture_is_that_of_foreign_weights(store: Path, tmp_path: Path, width, depth, patch, arch):
    path = foreign(tmp_path / "dit.pt", width, depth, patch)
    args = ("--init", path, "--parametrization", "velocity", "--dry-run", "--json", "-o", tmp_path / "run")
    plan = json.loads(dprune("train-dit", store, *args).ok().out)
    assert plan["provenance"]["options"]["arch"] == arch


def test_heads_that_no_table_tells_are_asked_for(store: Path, tmp_path: Path):
    args = ("--init", foreign(tmp_path / "dit.pt", 128, 4, 2), "--parametrization", "velocity", "--batch-size", "2")
    run = (*args, "--steps", "1", "-o", tmp_path / "run")
    dprune("train-dit", store, *run).fails(3, "dit.pt", "width of 128", "--arch")
    dprune("train-dit", store, *run, "--arch", "nano/2").ok()
    assert ModelFile.open(tmp_path / "run" / "model.safetensors").network["heads"] == 4
    thin = foreign(tmp_path / "thin.pt", 384, 5, 2)
    dprune("train-dit", store, "--init", thin, *args[2:], "-o", tmp_path / "x").fails(3, "thin.pt", "depth of 5")
    train(store, tmp_path / "x", "--parametrization", "noise").fails(2, "--parametrization", "--init")


def foreign(path: Path, width: int, depth: int, patch: int) -> Path:
    """A state dict made elsewhere whose tensors are views of one number, so that large ones take no room."""
    from dprune.models.dit import DiT, DiTConfig

    with torch.device("meta"):
        shapes = DiT(DiTConfig(4, 3, patch, width, depth, 1, 10)).state_dict()
    torch.save({name: torch.zeros(()).expand(value.shape) for name, value in shapes.items()}, path)
    return path


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--arch", "XXL/2"), 2, ("XXL/2",)),
        (("--arch", "nano/8"), 2, ("nano/8", "4 x 4")),
        (("--fold", "3/3"), 2, ("--fold 3/3",)),
        (("--subset", "missing.npy"), 3, ("missing.npy",)),
        (("--init", "missing.pt"), 3, ("--init missing.pt",)),
        (("--vae", "missing.pt"), 3, ("missing.pt: no such file",)),
        (("--steps", "3", "--epochs", "2"), 2, ("--steps", "--epochs")),
        (("--micro-batch", "some"), 2, ("--micro-batch some",)),
        (("--unconditional", "--label-dropout", "0.2"), 2, ("--label-dropout", "--unconditional")),
        (("--evaluate-every", "2"), 2, ("--evaluate-every", "--vae")),
        (("--save-every", "0"), 2, ("--save-every 0",)),
        (("--device", "cuda:9"), 2, ("cuda:9",)),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_sentence(store: Path, tmp_path: Path, args, code, words):
    train(store, tmp_path / "run", *args).fails(code, *words)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_subsets_of_other_data_are_refused(store: Path, tmp_path: Path):
    write_array(tmp_path / "far.npy", np.array([99]), make_record("select", {}))
    train(store, tmp_path / "run", "--subset", tmp_path / "far.npy").fails(3, "far.npy", "99")
    write_array(tmp_path / "other.npy", np.array([1]), make_record("select", {}, fingerprint="f" * 64))
    train(store, tmp_path / "run", "--subset", tmp_path / "other.npy").fails(3, "other.npy", "different datasets")
    write_array(tmp_path / "none.npy", np.array([32]), make_record("select", {}))
    train(store, tmp_path / "run", "--subset", tmp_path / "none.npy").fails(3, "no sample is left")


def test_a_store_with_a_part_missing_is_refused(store: Path, tmp_path: Path):
    (store / "000002.safetensors").unlink()
    train(store, tmp_path / "run").fails(3, "000002.tar")


def test_the_wrong_autoencoder_is_refused(tmp_path: Path):
    store = latent_store(tmp_path / "latents", vae="a" * 64)
    config = VAEConfig("vq", 16, 8, (1, 1, 2), 1, 3, 50, False)
    header = {"kind": "vae", **config.as_json()}
    publish_model(tmp_path / "vae.safetensors", VAE(config).state_dict(), header, make_record("train-vae", {}))
    train(store, tmp_path / "run", "--vae", tmp_path / "vae.safetensors").fails(3, "vae.safetensors", "aaaaaaaaaaaa")
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "none.safetensors")
    train(store, tmp_path / "run", "--vae", tmp_path / "none.safetensors").fails(3, "holds no autoencoder")


def test_a_state_of_other_data_is_not_gone_on_from(store: Path, tmp_path: Path):
    train(store, tmp_path / "run", "--stop-after", "0s").fails(75, "again")
    other = latent_store(tmp_path / "other", "kl")
    train(other, tmp_path / "run").fails(3, "--overwrite")


def test_the_plan_is_shown_and_nothing_made(store: Path, tmp_path: Path):
    done = train(store, tmp_path / "run", "--dry-run", "--json").ok()
    options = json.loads(done.out)["provenance"]["options"]
    assert (options["steps"], options["batch_size"], options["arch"], options["precision"]) == (8, 6, "nano/2", "fp32")
    assert not (tmp_path / "run").exists()


def test_the_oracles_weights_load_by_their_own_names():
    from dprune.models.dit import DiT, DiTConfig

    oracle = load_torch(DATA / "flow.safetensors")
    names = {name.removeprefix("weights.") for name in oracle if name.startswith("weights.")}
    assert DiT(DiTConfig(8, 4, 2, 64, 3, 4, 10)).state_dict().keys() == names


def test_a_checkpoint_loads_as_the_averaged_model(store: Path, tmp_path: Path):
    from dprune.models.dit_files import load_dit

    train(store, tmp_path / "run", "--save-every", "8").ok()
    finished = load_dit(tmp_path / "run" / "model.safetensors", CPU).model.state_dict()
    for name in ("checkpoints/step-00000008.safetensors", "state.safetensors"):
        kept = load_dit(tmp_path / "run" / name, CPU).model.state_dict()
        assert all(torch.equal(kept[key], value) for key, value in finished.items())


@pytest.mark.parametrize(
    ("option", "value"), [("--lr", "nan"), ("--epochs", "inf"), ("--clip", "nan"), ("--ema", "nan")]
)
def test_nan_and_inf_are_no_numbers(store: Path, tmp_path: Path, option: str, value: str):
    train(store, tmp_path / "run", option, value).fails(2, option, "not a finite number")


def test_a_code_beyond_the_codebook_is_named(store: Path, tmp_path: Path):
    part = store / "000000.safetensors"
    _, tensors, metadata = read_tensors(part)
    tensors["codes"][0, 0] = 65535
    write_tensors(part, tensors, metadata or {})
    train(store, tmp_path / "run").fails(3, "000000.safetensors", "65535")
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_info_tells_an_unfinished_run(store: Path, tmp_path: Path):
    train(store, tmp_path / "run", "--stop-after", "0s").fails(75, "again")
    told = dprune("info", tmp_path / "run")
    assert told.code == 3
    assert "is not finished" in told.out.decode() + told.err


def test_a_state_with_a_flipped_bit_is_refused_and_told_of(store: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(store, run, "--stop-after", "0s").fails(75, "again")
    state = run / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-9] ^= 1
    state.write_bytes(data)
    train(store, run).fails(3, "state.safetensors", "does not match its digest: remove it to train from the beginning")
    assert "state.safetensors: is damaged" in dprune("info", run).out.decode()
    state.unlink()
    train(store, run).ok()
    assert json.loads(dprune("info", run, "--json").ok().out)["files"][0]["digests"] == "whole"


@pytest.mark.parametrize(("arch", "rate"), [("XL/2", 1e-4), ("B/2", 1.5e-4), ("S/2", 3e-4), ("nano/2", 9e-4)])
def test_the_rate_goes_by_the_width_unless_it_is_said(store: Path, tmp_path: Path, arch: str, rate: float):
    def planned(*args: object) -> dict[str, float]:
        return json.loads(
            dprune("train-dit", store, "--arch", arch, "-o", tmp_path / "run", "--dry-run", "--json", *args).ok().out
        )

    found = planned()["provenance"]["options"]
    assert found["lr"] == rate
    assert (found["steps"], found["batch_size"], found["warmup"], found["ema"]) == (120_000, 256, 0, 0.9999)
    assert planned("--lr", "1e-4")["provenance"]["options"]["lr"] == 1e-4


def test_weights_to_begin_with_are_trained_at_the_rate_of_before(store: Path, tmp_path: Path):
    train(store, tmp_path / "run").ok()
    begun = ("--init", tmp_path / "run/model.safetensors", "-o", tmp_path / "tuned", "--dry-run", "--json")
    found = json.loads(dprune("train-dit", store, *begun).ok().out)
    assert (found["provenance"]["options"]["arch"], found["provenance"]["options"]["lr"]) == ("nano/2", 1e-4)
