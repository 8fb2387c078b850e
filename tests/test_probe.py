"""What networks made elsewhere predict: told by their answers to noise, or asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result, dprune
from stores import latent_store
from test_sample import filled, make_vae, pixels, record
from torch import Tensor

from dprune.errors import Interrupted
from dprune.formats.arrays import read_array
from dprune.models.architectures import ARCHITECTURES, HEADS
from dprune.models.diffusion import log_ratios
from dprune.models.dit import DiT, DiTConfig
from dprune.models.dit_files import load_dit
from dprune.models.parametrization import INFERRED, NOISE, PREDICTIONS, REVERSED, VELOCITY
from dprune.models.probe import Answers, answers_of
from dprune.runtime import Silent

CPU = torch.device("cpu")
WIDTH, HEADS_OF_IT = 64, 4
CONFIG = DiTConfig(4, 3, 1, WIDTH, 1, HEADS_OF_IT, 5, learn_sigma=True)
STEPS = {VELOCITY: 160, REVERSED: 160, NOISE: 60}


def smooth(generator: torch.Generator, count: int) -> Tensor:
    """Latents of variance 1 whose neighbours have a correlation of 0.7, as images have."""
    x = torch.randn(count, 3, 4, 4, generator=generator)
    for axis in (2, 3):
        lines = [x.select(axis, 0)]
        for place in range(1, 4):
            lines.append(0.7 * lines[-1] + 0.51**0.5 * x.select(axis, place))
        x = torch.stack(lines, axis)
    return x


def noised(kind: str, x: Tensor, noise: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What SiT, REPA or DiT is given, at which time, and what it is to predict."""
    if kind == NOISE:
        t = torch.randint(0, 1000, (len(x),), generator=generator)
        ratio = log_ratios(CPU)[t].exp().float()[:, None, None, None]
        return (x + ratio * noise) * (1 + ratio**2).rsqrt(), t.float(), noise
    t = torch.rand(len(x), generator=generator)
    share = t[:, None, None, None]
    if kind == REVERSED:
        return (1 - share) * x + share * noise, t, noise - x
    return share * x + (1 - share) * noise, t, x - noise


def trained(kind: str) -> DiT:
    generator = torch.Generator().manual_seed(0)
    network = DiT(CONFIG)
    network.initialize(generator)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(STEPS[kind]):
        x, noise = smooth(generator, 32), torch.randn(32, 3, 4, 4, generator=generator)
        labels = torch.randint(0, 6, (32,), generator=generator)
        given, t, target = noised(kind, x, noise, generator)
        loss = (network.predicted(given, t, labels) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files as SiT, REPA and DiT publish them, and one of random weights."""
    folder = tmp_path_factory.mktemp("published")
    networks = {kind: trained(kind) for kind in STEPS} | {"random": filled(DiT(CONFIG))}
    for kind, network in networks.items():
        torch.save({"ema": network.state_dict(), "opt": {}}, folder / f"{kind}.pt")
    make_vae(folder / "vae.safetensors", kind="kl")
    return {kind: folder / f"{kind}.pt" for kind in networks}


@pytest.fixture(autouse=True)
def _small_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "P", (WIDTH, 1, HEADS_OF_IT))
    monkeypatch.setitem(HEADS, WIDTH, HEADS_OF_IT)


def sample(model: Path, output: Path, *args: object) -> Result:
    vae = model.with_name("vae.safetensors")
    return dprune("sample", model, "--vae", vae, "--seeds", "0-3", "--steps", 3, "--cfg", 2, "-o", output, *args)


def told_of(path: Path) -> str:
    return dprune("info", path).ok().out.decode()


@pytest.mark.parametrize("kind", list(STEPS))
def test_a_network_shows_what_it_predicts(kind: str, published: dict[str, Path]) -> None:
    loaded = load_dit(published[kind], CPU, INFERRED)
    assert loaded.model.config.parametrization == kind
    assert loaded.findings == {"predicts": kind}
    assert load_dit(published[kind], CPU, kind).findings == {}


def test_weights_without_training_do_not(published: dict[str, Path]) -> None:
    assert answers_of(load_dit(published["random"], CPU).model).prediction is None
    silent = DiT(CONFIG)
    silent.initialize(torch.Generator().manual_seed(0))
    assert answers_of(silent) == (0, 0, 0, 0)
    assert answers_of(silent).prediction is None
    broken = filled(DiT(CONFIG))
    broken.final_layer.linear.bias.fill_(torch.nan)
    assert answers_of(broken).prediction is None


@pytest.mark.parametrize(
    ("found", "prediction"),
    [
        # Of the published sizes of noise: SiT at its end sees data, REPA at its beginning, DiT nothing of the time.
        ((-0.99, -0.6, 0.9, 0.8), VELOCITY), ((-0.99, -0.6, -0.1, 0.99), VELOCITY), ((-0.99, 0.6, 0.99, 0.8), REVERSED),
        ((0.1, 0.6, 0.99, 0.99), REVERSED), ((0.6, 0.5, 0.6, 0.999), NOISE), ((0.9, 0.9, 0.9, 0.95), NOISE),
        # A velocity network after a few steps, which does not know the time yet; noise at times from 0 to 1.
        ((0.65, 0.6, 0.66, 0.71), None), ((-0.7, -0.7, -0.7, -0.7), None), ((0.99, 0.7, 0.1, 0.95), None),
        ((-0.99, 0.01, 0.99, 0.0), None), ((-0.5, -0.5, 0.5, 0.5), None), ((0.0, 0.0, 0.0, 0.99), None),
    ],
)  # fmt: skip
def test_only_clear_answers_are_taken(found: tuple[float, ...], prediction: str | None) -> None:
    assert Answers(*found).prediction == prediction


def test_reversed_velocities_run_the_other_way() -> None:
    network = filled(DiT(CONFIG))
    x, t, labels = torch.randn(2, 3, 4, 4), torch.tensor([0.2, 0.7]), torch.tensor([1, 5])
    there = network(x, 1 - t, labels)
    network.config = DiTConfig(4, 3, 1, WIDTH, 1, HEADS_OF_IT, 5, True, REVERSED)
    assert torch.equal(network(x, t, labels), -there)


@pytest.mark.parametrize("kind", list(STEPS))
def test_sample_takes_published_weights_without_an_option(
    kind: str, published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = sample(published[kind], tmp_path / "inferred").ok()
    assert f"{kind}.pt predicts {PREDICTIONS[kind]}, judging by its outputs on noise (correlations" in done.err
    found = record(tmp_path / "inferred")
    assert (found["options"]["parametrization"], found["findings"]) == (INFERRED, {"predicts": kind})
    told = told_of(tmp_path / "inferred")
    assert "parametrization=inferred" in told
    assert f"predicts={kind}" in told
    sample(published[kind], tmp_path / "said", "--parametrization", kind).ok()
    assert "findings" not in record(tmp_path / "said")
    said, inferred = pixels(tmp_path / "said"), pixels(tmp_path / "inferred")
    assert all(np.array_equal(said[key], inferred[key]) for key in said)
    assert np.std(list(said.values())) > 1

    def unneeded(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("dprune.sampling.generation.load_dit", unneeded)
    assert "up to date" in sample(published[kind], tmp_path / "inferred").ok().err


def test_an_option_that_the_answers_contradict_is_warned_of(published: dict[str, Path], tmp_path: Path) -> None:
    done = sample(published[VELOCITY], tmp_path / "out", "--parametrization", "noise").ok()
    assert "warning: --parametrization noise: judging by its outputs on noise" in done.err
    assert "velocity.pt predicts velocities: leave the option out" in done.err
    assert "warning" not in sample(published["random"], tmp_path / "b", "--parametrization", "noise").ok().err


def test_weights_that_do_not_show_it_are_asked_for(published: dict[str, Path], tmp_path: Path) -> None:
    words = ("random.pt: does not say what it predicts", "correlations", "give --parametrization velocity")
    sample(published["random"], tmp_path / "out").fails(2, *words)
    assert not (tmp_path / "out").exists()
    plan = json.loads(sample(published["random"], tmp_path / "out", "--dry-run", "--json").ok().out)
    assert plan["provenance"]["options"]["parametrization"] == INFERRED


def test_an_interrupted_rerun_keeps_what_was_inferred(
    published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that completes a folder need not have loaded the network."""
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        sample(published[REVERSED], tmp_path / "out", "--shard-size", 2).ok()
    assert record(tmp_path / "out")["findings"] == {"predicts": REVERSED}


@pytest.mark.parametrize("method", ["el2n", "grand"])
@pytest.mark.parametrize("kind", list(STEPS))
def test_scores_take_them_too(kind: str, method: str, published: dict[str, Path], tmp_path: Path) -> None:
    store = latent_store(tmp_path / "latents", "kl")
    args = ("score", method, store, "--model", published[kind], "--sigma", ".3", "--draws", 4, "-o")
    dprune(*args, tmp_path / "said.npy", "--parametrization", kind).ok()
    dprune(*args, tmp_path / "s.npy", "--per-sigma").ok()
    for name in ("s", "s.se", "s.s0.3"):
        found = read_array(tmp_path / f"{name}.npy")
        assert (found.record["options"]["parametrization"], found.record["findings"]["predicts"]) == (INFERRED, kind)
    np.testing.assert_array_equal(read_array(tmp_path / "s.npy").values, read_array(tmp_path / "said.npy").values)
    assert "split_half" in read_array(tmp_path / "s.npy").record["findings"]
    assert "up to date" in dprune(*args, tmp_path / "s.npy", "--per-sigma").ok().err


def test_a_worker_that_loads_nothing_writes_what_another_inferred(
    published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = latent_store(tmp_path / "latents", "kl")
    args = ("score", "el2n", store, "--model", published[NOISE], "-o", tmp_path / "s.npy")

    def stopped(*_: object) -> None:
        raise Interrupted("stopped: run the same command again.")

    with monkeypatch.context() as patch:
        patch.setattr("dprune.scoring.el2n_grand.El2nGrandJob.write", stopped)
        dprune(*args).fails(75, "stopped")
    monkeypatch.setattr("dprune.scoring.device.load_dit", Silent)
    dprune(*args).ok()
    assert read_array(tmp_path / "s.npy").record["findings"]["predicts"] == NOISE


def test_training_begins_with_velocities_alone(published: dict[str, Path], tmp_path: Path) -> None:
    store = latent_store(tmp_path / "latents", "kl")
    args = ("train-dit", store, "--arch", "P/1", "--steps", 1, "--batch-size", 4, "-o", tmp_path / "run", "--init")
    for kind, said in ((NOISE, "noise"), (REVERSED, "velocities of reversed time")):
        dprune(*args, published[kind]).fails(2, f"--init {published[kind]}: predicts {said}, and train-dit trains")
    dprune(*args, published["random"]).fails(2, "random.pt: does not say what it predicts")
    dprune(*args, published[VELOCITY]).ok()
    done = dprune(*args, published[NOISE], "--parametrization", "velocity", "--overwrite").ok()
    assert "warning: --parametrization velocity: judging by its outputs on noise" in done.err
