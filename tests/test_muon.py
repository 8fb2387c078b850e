"""Muon: its step beside a reference in float64 and torch's own, which parameters it takes, and resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dprune, torchrun
from safetensors.torch import load_file
from stores import latent_store
from torch import Tensor

from dprune.models.architectures import parse_architecture
from dprune.models.dit import DiT, DiTConfig
from dprune.models.files import ModelFile
from dprune.training.muon import Muon, orthogonalised
from dprune.training.optimizers import make_optimizers, set_rate, trainable
from dprune.training.plan import Plan

SMALL = ("--arch", "nano/2", "--batch-size", "6", "--steps", "8", "--log-every", "1", "--lr", "1e-3")
MUON = (*SMALL, "--optimizer", "muon")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return latent_store(tmp_path / "latents")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def reference(gradients: list[np.ndarray], weight: np.ndarray, lr: float, decay: float) -> np.ndarray:
    """Steps of Muon as the papers write them, in float64, by the singular values alone."""
    moment = np.zeros_like(weight)
    for gradient in gradients:
        moment = 0.95 * moment + 0.05 * gradient
        u, s, v = np.linalg.svd(0.05 * gradient + 0.95 * moment, full_matrices=False)
        s = s / np.linalg.norm(s)
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        weight = weight * (1 - lr * decay) - lr * 0.2 * max(weight.shape) ** 0.5 * (u * s) @ v
    return weight


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (7, 40)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_the_papers(shape: tuple[int, int], decay: float):
    draw = np.random.default_rng(0)
    weight, gradients = draw.normal(size=shape), [draw.normal(size=shape) for _ in range(3)]
    parameters = [torch.nn.Parameter(torch.from_numpy(weight.copy())) for _ in range(2)]
    muon = Muon(parameters, 0.02, decay)
    for gradient in gradients:
        for sign, parameter in zip((1, -1), parameters, strict=True):
            parameter.grad = torch.from_numpy(sign * gradient)
        muon.step()
    for sign, parameter in zip((1, -1), parameters, strict=True):
        expected = reference([sign * gradient for gradient in gradients], weight, 0.02, decay)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_steps_are_torchs_but_for_its_rounding():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((32, 32), (64, 32), (32, 64), (32, 32))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    muon = Muon(ours, 0.02, 0.1)
    torchs = torch.optim.Muon(theirs, 0.02, 0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        before = [parameter.detach().clone() for parameter in ours]
        for mine, other in zip(ours, theirs, strict=True):
            other.data.copy_(mine)
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        muon.step()
        torchs.step()
        for mine, other, old in zip(ours, theirs, before, strict=True):
            # It computes in bf16 everywhere.
            assert (mine - other).norm() < 0.02 * (mine - old).norm()


def test_bf16_takes_the_same_direction(monkeypatch: pytest.MonkeyPatch):
    """As on a GPU, whose rate is a tensor."""
    torch.manual_seed(0)
    exact, rounded = ([torch.nn.Parameter(torch.zeros(shape)) for shape in ((96, 32), (32, 64))] for _ in range(2))
    for first, second in zip(exact, rounded, strict=True):
        first.grad = torch.randn_like(first)
        second.grad = first.grad.clone()
    Muon(exact, 0.1, 0.01).step()
    monkeypatch.setattr("dprune.training.muon.arithmetic_of", lambda _: torch.bfloat16)
    Muon(rounded, torch.tensor(0.1), 0.01).step()
    for first, second in zip(exact, rounded, strict=True):
        assert second.dtype == torch.float32
        assert (first - second).norm() < 0.05 * first.norm()


@pytest.mark.parametrize("shape", [(2, 24, 24), (3, 64, 16), (1, 16, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_come_near_one(shape: tuple[int, ...], dtype: torch.dtype):
    matrices = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrices)
    assert (found.dtype, found.shape) == (dtype, shape)
    values = torch.linalg.svdvals(found)
    # Square matrices of noise have a singular value near zero, which is not lifted all the way.
    assert 0.6 < values.quantile(0.1) < values.max() < 1.3
    assert orthogonalised(torch.zeros(shape, dtype=dtype)).abs().max() == 0


def test_an_update_is_as_large_as_one_of_adamw():
    """Whose root mean square is about 0.2 times the rate, by Liu et al. (2025)."""
    for shape in ((64, 64), (192, 64), (64, 256)):
        parameter = torch.nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([parameter], 1.0, 0).step()
        assert parameter.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.25)


def test_what_acts_on_tokens_is_muons_and_all_else_adamws():
    width, depth, heads, patch = parse_architecture("nano/2")
    network = DiT(DiTConfig(8, 4, patch, width, depth, heads, 5))
    network.pos_embed.requires_grad_(False)
    optimizer = make_optimizers({"dit": network}, Plan(8, 6, 1e-3, optimizer="muon"))["dit"]
    by_muon = {name for name, parameter in network.named_parameters() if "momentum" in optimizer.state[parameter]}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert by_muon == {f"blocks.{block}.{layer}.weight" for block in range(depth) for layer in layers}
    by_adamw = {name for name, parameter in network.named_parameters() if "exp_avg" in optimizer.state[parameter]}
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert (by_muon | by_adamw, by_muon & by_adamw) == (trained, set())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trainable(network))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for rate, moves in ((0.0, False), (1e-2, True)):
        for parameter in trainable(network):
            parameter.grad = torch.ones_like(parameter)
        set_rate(optimizer, rate)
        optimizer.step()
        for name in trained:
            assert torch.equal(network.get_parameter(name), before[name]) != moves
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in trainable(network))


def state(run: Path) -> dict[str, Tensor]:
    return load_file(run / "state.safetensors")


def test_a_stopped_run_ends_with_the_same_bytes(store: Path, tmp_path: Path):
    dprune("train-dit", store, *MUON, "-o", tmp_path / "whole").ok()
    for _ in range(3):
        dprune("train-dit", store, *MUON, "-o", tmp_path / "cut", "--stop-after", "0s").fails(75)
    dprune("train-dit", store, *MUON, "-o", tmp_path / "cut").ok()
    for name in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    found = state(tmp_path / "cut")
    assert found["moments.dit.blocks.0.attn.qkv.weight.momentum"].abs().max() > 0
    assert found["moments.dit.blocks.0.attn.qkv.bias.exp_avg"].abs().max() > 0
    dprune("train-dit", store, *MUON, "--steps", "10", "-o", tmp_path / "cut").ok()


def test_it_is_recorded_and_another_run_than_adamws(store: Path, tmp_path: Path):
    dprune("train-dit", store, *SMALL, "-o", tmp_path / "run").ok()
    assert "optimizer" not in ModelFile.open(tmp_path / "run/model.safetensors").record["options"]
    assert "up to date" in dprune("train-dit", store, *SMALL, "--optimizer", "adamw", "-o", tmp_path / "run").ok().err
    dprune("train-dit", store, *MUON, "-o", tmp_path / "run").fails(3, "--overwrite")
    dprune("train-dit", store, *MUON, "-o", tmp_path / "run", "--overwrite").ok()
    assert ModelFile.open(tmp_path / "run/model.safetensors").record["options"]["optimizer"] == "muon"


def test_ranks_step_alike(store: Path, tmp_path: Path):
    dprune("train-dit", store, *MUON, "-o", tmp_path / "one").ok()
    torchrun("train-dit", store, *MUON, "-o", tmp_path / "two").ok()
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
