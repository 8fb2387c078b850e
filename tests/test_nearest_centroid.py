"""The kernel that names the nearest centroid, against float64; without a GPU it runs in Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dprune
from safetensors.numpy import load_file

from dprune.clustering import kernels, torch_engines
from dprune.clustering.kernels import half_squared_norms

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def exact(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The scores in float64."""
    x, centroids = x.double(), centroids.double()
    return x @ centroids.T - centroids.square().sum(1) / 2


def found(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    from dprune.clustering.torch_engines import TritonEngine

    return TritonEngine(x).assign(centroids)


@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (300, 100, 7), (129, 64, 256), (257, 130, 300), (40, 200, 1000)])
def test_it_names_the_nearest_centroid(n: int, d: int, k: int) -> None:
    x, centroids = random(n, d), random(k, d, seed=1)
    labels, table = found(x, centroids), exact(x, centroids)
    assert labels.dtype == torch.int32
    assert labels.shape == (n,)
    # Of operands rounded to eleven bits, each product is off by at most a thousandth of the norms'.
    lost = table.max(1).values - table.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    assert (lost <= 1e-3 * x.double().norm(dim=1) * centroids.double().norm(dim=1).max()).all()
    assert (labels != table.argmax(1)).double().mean() < 0.02


def test_it_is_exact_where_float16_is() -> None:
    """Whole numbers below 2048 and their products of 64 are float16 and float32 without rounding."""
    draw = torch.Generator().manual_seed(3)
    x, centroids = (torch.randint(-60, 60, (n, 64), generator=draw).float().to(DEVICE) for n in (500, 700))
    assert torch.equal(found(x, centroids).long(), exact(x, centroids).argmax(1))


def test_of_equal_centroids_the_first_takes_all() -> None:
    centroids = random(5, 33).repeat(120, 1)
    assert found(random(200, 33, seed=2), centroids).max() < 5


@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1.0, 1e5, 1e12])
def test_the_scale_of_the_numbers_plays_no_role(scale: float) -> None:
    x, centroids = random(200, 40), random(30, 40, seed=1)
    assert torch.equal(found(x * scale, centroids * scale), found(x, centroids))


def test_centroids_far_outside_the_points_win_nothing() -> None:
    """As from a file of other features: what they are in float16 must not overflow."""
    x, centroids = random(200, 40), random(30, 40, seed=1)
    far = torch.cat([centroids, centroids * 1e7])
    assert found(x, far).max() < 30


def test_points_that_are_all_zero_and_none_at_all() -> None:
    assert found(torch.zeros(3, 5, device=DEVICE), random(4, 5)).unique().numel() == 1
    assert found(torch.empty(0, 5, device=DEVICE), random(4, 5)).shape == (0,)


def test_it_is_as_exact_as_tf32() -> None:
    """Its labels differ from float64's no more often than those of operands that are cut off after ten bits."""
    x, centroids = random(3000, 96), random(200, 96, seed=1) * 0.2
    table = exact(x, centroids)

    def cut(values: torch.Tensor) -> torch.Tensor:
        return (values.view(torch.int32) & ~0x1FFF).view(torch.float32)

    tf32 = (cut(x).double() @ cut(centroids).double().T - half_squared_norms(centroids)).argmax(1)
    assert (found(x, centroids) != table.argmax(1)).sum() <= (tf32 != table.argmax(1)).sum()


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU takes this path anyway")
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_command_by_kernels_gives_what_it_gives_by_torch(
    tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(6, 20))[draw.integers(6, size=400)] * 5 + draw.normal(size=(400, 20))
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    args = (
        "cluster",
        tmp_path / "x.npy",
        "-k",
        6,
        "--engine",
        "torch",
        "--metric",
        metric,
        "--device",
        "cpu",
        "-v",
        "-o",
    )
    said = dprune(*args, tmp_path / "torch").ok().err
    assert "a matrix product with an argmax assigns the points" in said
    for module in (torch_engines, kernels):
        monkeypatch.setattr(module, "triton_works", lambda device: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert "a fused kernel assigns the points" in dprune(*args, tmp_path / "triton").ok().err
    ours, theirs = load_file(tmp_path / "triton"), load_file(tmp_path / "torch")
    assert np.array_equal(ours["assignment"], theirs["assignment"])
    np.testing.assert_allclose(ours["centroids"], theirs["centroids"], rtol=1e-5, atol=1e-5)
    # Where memory is short, the readable engine works.
    monkeypatch.setattr(torch_engines, "free_memory", lambda device: x.nbytes // 4)
    assert "a matrix product" in dprune(*args, tmp_path / "short").ok().err
