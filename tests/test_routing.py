"""Tokens that skip the middle blocks in training: the model, the draws, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dprune, torchrun
from safetensors.numpy import load_file
from stores import latent_store

from dprune.models.dit import DiT, DiTConfig
from dprune.models.files import ModelFile
from dprune.models.routing import kept_tokens, put_back, routed_blocks, take_out
from dprune.training.dit.settings import DiTSettings

SMALL = ("--arch", "nano/1", "--batch-size", "6", "--steps", "10", "--log-every", "1", "--lr", "1e-3", "--route", "0.5")
CONFIG = DiTConfig(4, 3, 1, 32, 12, 4, 5)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return latent_store(tmp_path / "latents")


def model(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model.safetensors")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def network(dtype: torch.dtype = torch.float64) -> DiT:
    made = DiT(CONFIG).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return made


def inputs(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.rand(count, generator=generator), torch.arange(count) % 5


def test_the_route_is_the_papers_and_leaves_blocks_at_both_ends_of_small_models():
    assert {depth: routed_blocks(depth) for depth in (28, 24, 12)} == {28: (2, 24), 24: (2, 20), 12: (2, 8)}
    assert (routed_blocks(6), routed_blocks(4)) == ((1, 4), (1, 3))


def test_tokens_that_are_kept_differ_by_sample_and_visit_and_not_by_batch():
    ids, visits = torch.arange(300), torch.arange(300) % 3
    kept = kept_tokens(0, ids, visits, 16, 8)
    assert kept.shape == (300, 8)
    assert (kept.diff(dim=1) > 0).all()
    assert torch.equal(torch.cat([kept_tokens(0, *some, 16, 8) for some in zip(ids.split(7), visits.split(7))]), kept)
    for other in (kept_tokens(0, ids, visits + 1, 16, 8), kept_tokens(1, ids, visits, 16, 8)):
        assert (other == kept).all(1).float().mean() < 0.02
    # Each token is kept by about half of the samples: the deviation of a share of 300 is 0.03.
    assert (torch.bincount(kept.flatten(), minlength=16) / 300 - 0.5).abs().max() < 0.12


def test_tokens_that_are_not_kept_come_back_as_they_were():
    x = torch.randn(2, 5, 3, requires_grad=True)
    kept = torch.tensor([[0, 3], [1, 4]])
    back = put_back(x, kept, 2 * take_out(x, kept))
    factor = torch.ones(2, 5, 1).scatter(1, kept[:, :, None], 2)
    assert torch.equal(back, x * factor)
    (gradient,) = torch.autograd.grad(back.sum(), x)
    assert torch.equal(gradient, factor.expand_as(x))


def test_every_token_kept_is_the_plain_model():
    made, (x, t, y) = network(), inputs(3)
    every = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(made(x, t, y, every), made(x, t, y), rtol=1e-12, atol=1e-12)


def test_the_middle_blocks_see_the_kept_tokens_alone():
    made, (x, t, y) = network(), inputs(3)
    kept = kept_tokens(0, torch.arange(3), torch.zeros(3, dtype=torch.int64), 16, 8)
    seen: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _, given, out: seen.extend((given[0], out))) for block in made.blocks]
    out = made(x, t, y, kept)
    for hook in hooks:
        hook.remove()
    assert [tokens.shape[1] for tokens in seen[::2]] == [16] * 2 + [8] * 6 + [16] * 4
    before, after = seen[3], seen[16]
    skipped = torch.ones(3, 16, dtype=torch.bool).scatter(1, kept, False)
    assert torch.equal(before[skipped], after[skipped])
    assert torch.equal(take_out(before, kept), seen[4])
    assert torch.equal(take_out(after, kept), seen[15])
    # By hand, one sample alone, in the order of its kept tokens turned round.
    turned = kept[:1].flip(1)
    torch.testing.assert_close(made(x[:1], t[:1], y[:1], turned), out[:1], rtol=1e-12, atol=1e-12)


def test_operations_are_counted_as_they_are_done():
    plain, routed = CONFIG.flop(), CONFIG.flop(8)
    assert CONFIG.flop(16) == plain
    block = 2 * (16 * 12 * 32**2 + 2 * 16**2 * 32)
    half = 2 * (8 * 12 * 32**2 + 2 * 8**2 * 32)
    assert plain - routed == 6 * (block - half)


@pytest.mark.parametrize(("route", "tokens", "kept"), [(0.5, 64, 32), (0.5, 1, 1), (0.9, 4, 1), (0.25, 16, 12)])
def test_a_share_of_the_tokens_skips_and_at_least_one_does_not(route: float, tokens: int, kept: int):
    settings = DiTSettings("nano/1", False, 0.1, "uniform", None, None, False, "auto", route)
    assert settings.kept(tokens) == kept
    assert settings.routed_steps(1000) == 900


def test_no_route_is_what_there_was_before(store: Path, tmp_path: Path):
    plain = SMALL[:-2]
    dprune("train-dit", store, *plain, "-o", tmp_path / "plain").ok()
    dprune("train-dit", store, *plain, "--route", "0", "-o", tmp_path / "none").ok()
    assert (tmp_path / "plain/model.safetensors").read_bytes() == (tmp_path / "none/model.safetensors").read_bytes()
    dprune("train-dit", store, *SMALL, "-o", tmp_path / "routed").ok()
    assert losses(tmp_path / "routed") != losses(tmp_path / "plain")
    options = ModelFile.open(tmp_path / "routed/model.safetensors").record["options"]
    assert (options["route"], options["route_until"]) == (0.5, 0.9)
    assert model(tmp_path / "routed").keys() == model(tmp_path / "plain").keys()


def test_batches_and_stops_change_nothing(store: Path, tmp_path: Path):
    dprune("train-dit", store, *SMALL, "-o", tmp_path / "whole").ok()
    dprune("train-dit", store, *SMALL, "--micro-batch", "2", "-o", tmp_path / "cut").ok()
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=1e-4)
    for _ in range(3):
        dprune("train-dit", store, *SMALL, "-o", tmp_path / "stopped", "--stop-after", "0s").fails(75)
    dprune("train-dit", store, *SMALL, "-o", tmp_path / "stopped").ok()
    for name in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_ranks_route_alike(store: Path, tmp_path: Path):
    dprune("train-dit", store, *SMALL, "-o", tmp_path / "one").ok()
    torchrun("train-dit", store, *SMALL, "-o", tmp_path / "two").ok()
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)


def test_a_run_whose_tokens_skipped_until_its_end_came_near_is_not_extended(store: Path, tmp_path: Path):
    dprune("train-dit", store, *SMALL, "-o", tmp_path / "run").ok()
    dprune("train-dit", store, *SMALL, "--steps", "12", "-o", tmp_path / "run").fails(3, "--overwrite")


def test_a_share_that_is_none_is_refused(store: Path, tmp_path: Path):
    for share in ("1", "-0.1", "nan"):
        dprune("train-dit", store, *SMALL, "--route", share, "-o", tmp_path / "run").fails(2, "--route")
