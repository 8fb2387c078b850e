"""The autoencoder's fast path against the readable one: on a GPU, or in Triton's interpreter where there is none."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

pytest.importorskip("triton")

from dprune.kernels import group_norm
from dprune.kernels.codes import nearest_rows
from dprune.kernels.feature_distance import unit_distance
from dprune.kernels.group_norm import INNER, SHUFFLED
from dprune.kernels.wide_attention import wide_attention
from dprune.models import paths
from dprune.models.discriminator import PatchGAN
from dprune.models.fast_perceptual import fuse_rectifiers
from dprune.models.fast_vae import (
    FusedDiscriminator,
    FusedLayers,
    arithmetic,
    corner_kernels,
    run_fused,
    run_fused_discriminator,
)
from dprune.models.perceptual import features_apart
from dprune.models.quantizer import nearest_codes
from dprune.models.vae import VAE, VAEConfig

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DOUBLE = torch.float64
# What rounding to a dtype once or twice may do to the norm of a result.
ERRORS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "silu": F.silu,
    "leaky_relu": functools.partial(F.leaky_relu, negative_slope=0.2),
}
NORMALISATIONS = [
    *((dtype, "silu", (2, 12, 5, 7), 3) for dtype in ERRORS),
    *((torch.float32, activation, (1, 32, 9, 4), 8) for activation in ACTIVATIONS),
    (torch.float32, "silu", (3, 16, 1, 1), 4),
]
CONFIG = VAEConfig("vq", 8, 8, (1, 2), 1, 3, 20, False)

Run = Callable[[nn.Module, Tensor], Tensor]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(DEVICE, dtype)
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def unlike(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs with several steps in each, however small the tensor."""
    monkeypatch.setattr(group_norm, "TILE", 128)
    monkeypatch.setattr(group_norm, "RUN", 256)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("dtype", "activation", "shape", "groups"), NORMALISATIONS)
def test_normalisation(dtype: torch.dtype, activation: str, shape: tuple[int, ...], groups: int) -> None:
    channels, wide = shape[1], DOUBLE if dtype == DOUBLE else torch.float32
    # A mean far from zero, where the difference of two large sums would leave nothing.
    source, shortcut = drawn(*shape, dtype=dtype) * 2 + 40, drawn(*shape, seed=1, dtype=dtype)
    bias, more, weight, shift = (drawn(channels, seed=seed, dtype=wide) for seed in range(2, 6))
    x, known = group_norm.join(source, bias, shortcut, groups, 1e-6)
    assert unlike(x, source.double() + bias.double()[:, None, None] + shortcut.double()) < ERRORS[dtype]
    torch.testing.assert_close(known.channel.double(), x.double().mean((2, 3)), rtol=1e-6, atol=1e-5)

    known = group_norm.statistics(x, more, groups, 1e-6)
    inputs = x.double(), more.double(), weight.double(), shift.double()
    xd, md, wd, sd = (value.detach().requires_grad_() for value in inputs)
    expected = ACTIVATIONS[activation](F.group_norm(xd + md[:, None, None], groups, wd, sd, 1e-6))
    given = x, more, known, weight, shift, activation
    assert unlike(group_norm.activate(*given), expected) < ERRORS[dtype]

    gradient, beside = drawn(*shape, seed=7, dtype=dtype), drawn(*shape, seed=8, dtype=dtype)
    dx, dm, dw, ds = torch.autograd.grad(expected, (xd, md, wd, sd), gradient.double())
    found = group_norm.gradient_sums(*given, gradient, again=True)
    assert found.activated is not None
    assert torch.equal(found.activated, group_norm.activate(*given))
    for total, known_sum in zip(found.sums.sum(0)[:2], (dw, ds), strict=True):
        assert unlike(total, known_sum) < 10 * ERRORS[wide]
    scale = float(dx.abs().mean()) * shape[0] * shape[2] * shape[3] + 1e-12
    assert float((found.sums.sum(0)[2] - dm).abs().max()) < 10 * ERRORS[wide] * scale + 1e-6
    both = group_norm.input_gradient(*given, gradient, found.means, beside)
    assert unlike(both, dx + beside.double()) < ERRORS[dtype]
    reused = group_norm.input_gradient(*given, gradient.clone(), found.means, beside, reuse=True)
    assert torch.equal(both, reused)


@pytest.mark.usefixtures("small_pieces")
def test_layouts_of_what_is_joined() -> None:
    wide = drawn(2, 8, 6, 7, dtype=torch.float32)
    found, known = group_norm.join(wide, None, None, 2, 1e-6, layout=INNER)
    assert torch.equal(found, wide[:, :, 1:, 1:])
    torch.testing.assert_close(known.channel, found.mean((2, 3)))
    shuffled, known = group_norm.join(wide, None, None, 1, 1e-6, layout=SHUFFLED)
    for corner in range(4):
        y, x = corner // 2, corner % 2
        assert torch.equal(shuffled[:, :, y::2, x::2], wide[:, 2 * corner : 2 * corner + 2, y : y + 5, x : x + 6])
    torch.testing.assert_close(known.channel, shuffled.mean((2, 3)))
    # Transposed: the product with anything is the same on either side.
    other = drawn(*shuffled.shape, seed=1, dtype=torch.float32)
    torch.testing.assert_close((group_norm.unshuffled(other) * wide).sum(), (other * shuffled).sum())


@pytest.mark.usefixtures("small_pieces")
def test_sums_of_channels() -> None:
    x = drawn(3, 12, 5, 7, dtype=torch.float32)
    torch.testing.assert_close(group_norm.channel_sums(x), x.sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


def test_kernels_of_upsampled_pixels() -> None:
    x, weight = drawn(2, 5, 4, 6), drawn(7, 5, 3, 3, seed=1)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    found, _ = group_norm.join(F.conv2d(x, corner_kernels(weight), padding=1), None, None, 1, 1e-6, layout=SHUFFLED)
    torch.testing.assert_close(found, expected)


def gradients(network: nn.Module, run: Run, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """A network's output, and the gradients of parameters and input of some function of it."""
    network, x = copy.deepcopy(network), x.clone().requires_grad_()
    with torch.autocast(DEVICE.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        out = run(network, x)
    (out.to(x.dtype) * drawn(*out.shape, seed=9, dtype=x.dtype)).sum().backward()
    assert x.grad is not None
    own = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return out.detach(), {"input": x.grad, **own}


def test_networks_agree() -> None:
    """In float64 to rounding; in narrower types the fast path is as near to float64 as the readable one."""
    torch.manual_seed(0)
    vae, discriminator = VAE(CONFIG), PatchGAN(16)
    for p in (*vae.parameters(), *discriminator.parameters()):
        if p.ndim == 1:
            nn.init.normal_(p, 0.5, 0.2)

    def coded(network: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(network, VAE)
        return network.decode(network.before_latent(network.run(network.encoder, x)))

    def judged(network: nn.Module, x: Tensor) -> Tensor:
        return network(x)  # type: ignore[no-any-return]

    cases: list[tuple[nn.Module, Run, type[FusedLayers | FusedDiscriminator], int]] = [
        (vae, coded, FusedLayers, 8), (discriminator, judged, FusedDiscriminator, 16)]  # fmt: skip
    for network, run, fused, side in cases:
        images = drawn(2, 3, side, side)
        network = network.to(DEVICE, memory_format=torch.channels_last)
        true = gradients(copy.deepcopy(network).double(), run, images, DOUBLE)
        for dtype in (DOUBLE, torch.float32, torch.bfloat16):
            wide = DOUBLE if dtype == DOUBLE else torch.float32
            errors = []
            for fast in (False, True):
                tried = copy.deepcopy(network).to(wide)
                if fast:
                    tried.run = fused(dtype)
                out, found = gradients(tried, run, images.to(wide), dtype)
                assert found.keys() == true[1].keys()
                errors.append([unlike(out, true[0]), *(unlike(found[name], true[1][name]) for name in sorted(found))])
            plain, quick = torch.tensor(errors, dtype=DOUBLE)
            assert quick.max() < 1e-12 + 3 * plain.max(), (network, dtype)
            assert quick.mean() < 1e-13 + 2 * plain.mean(), (network, dtype)


@pytest.mark.parametrize("others", [{"attention": (1,), "groups": 8}, {"attention": (0, 1), "middle_attention": False},
                                    {"groups": 2, "encoded_channels": 5}, {"quant_conv": False}])  # fmt: skip
def test_layers_of_others(others: dict[str, object]) -> None:
    torch.manual_seed(0)
    plain = VAE(dataclasses.replace(CONFIG, **others)).to(DEVICE, DOUBLE, memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    fused.run = FusedLayers(DOUBLE)
    images, latents = drawn(2, 3, 8, 8), drawn(2, 3, 4, 4)
    with torch.inference_mode():
        for network in (plain.encoder, plain.decoder):
            for layer in network:
                if isinstance(layer, nn.GroupNorm):
                    layer.weight.copy_(drawn(len(layer.weight)))
        fused.load_state_dict(plain.state_dict())
        assert unlike(fused.encode(images), plain.encode(images)) < 1e-6
        assert unlike(fused.decode(latents), plain.decode(latents)) < 1e-12


def test_last_layer_is_differentiated_twice_and_once_more() -> None:
    """As training against a discriminator does it."""
    torch.manual_seed(0)
    vae = VAE(CONFIG).to(DEVICE, memory_format=torch.channels_last)
    vae.run = FusedLayers(torch.float32)
    made = vae.decode(drawn(2, 3, 4, 4, dtype=torch.float32))
    pulls = [drawn(*made.shape, seed=seed, dtype=torch.float32) for seed in (1, 2)]
    parts = [torch.autograd.grad(made, vae.last_weight, pull, retain_graph=True)[0] for pull in pulls]
    (made * (pulls[0] + pulls[1])).sum().backward()
    assert vae.last_weight.grad is not None
    torch.testing.assert_close(vae.last_weight.grad, parts[0] + parts[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, torch.bfloat16])
def test_attention_with_a_wide_head(dtype: torch.dtype) -> None:
    given = [drawn(2, 5, 24, seed=seed, dtype=dtype).requires_grad_() for seed in range(3)]
    true = [x.detach().double().requires_grad_() for x in given]
    found, expected = wide_attention(*given), F.scaled_dot_product_attention(*true)
    assert unlike(found, expected) < ERRORS[dtype]
    pull = drawn(*found.shape, seed=3, dtype=dtype)
    for mine, theirs in zip(torch.autograd.grad(found, given, pull),
                            torch.autograd.grad(expected, true, pull.double()), strict=True):  # fmt: skip
        assert unlike(mine, theirs) < 2 * ERRORS[dtype]


@pytest.mark.parametrize(("tokens", "codes", "channels"), [(200, 50, 4), (70, 300, 8), (1, 2, 3)])
def test_nearest_codes(tokens: int, codes: int, channels: int) -> None:
    z = drawn(tokens, channels, dtype=torch.float32)
    table = drawn(codes, channels, seed=1, dtype=torch.float32)
    table[codes // 2] = table[0]
    assert torch.equal(nearest_rows(z, table), nearest_codes(z, table))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(2, 12, 5, 7), (3, 64, 4, 4)])
def test_distance_of_features(dtype: torch.dtype, weighted: bool, shape: tuple[int, ...]) -> None:
    a, b = (drawn(*shape, seed=seed, dtype=dtype) for seed in (0, 1))
    weight = drawn(shape[1], seed=2, dtype=DOUBLE if dtype == DOUBLE else torch.float32).abs() if weighted else None
    a, x = a.requires_grad_(), a.detach().double().requires_grad_()
    found, pull = unit_distance(a, b, weight), drawn(shape[0], seed=3)
    unit_x, unit_b = (v / v.norm(dim=1, keepdim=True) for v in (x, b.double()))
    squares = (unit_x - unit_b).square() * (1 if weight is None else weight.double()[:, None, None])
    expected = squares.sum(1).mean((1, 2))
    assert unlike(found, expected) < 1e-6
    torch.testing.assert_close(features_apart(a, b, weight).double(), expected, rtol=1e-5, atol=1e-6)
    (da,) = torch.autograd.grad(found, a, pull.to(found.dtype))
    assert unlike(da, torch.autograd.grad(expected, x, pull)[0]) < max(1e-6, ERRORS[dtype])


def test_convolutions_with_their_rectifiers() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, stride=2),
                          nn.ReLU(inplace=True), nn.Conv2d(16, 8, 1), nn.Sigmoid())  # fmt: skip
    plain = plain.to(DEVICE).requires_grad_(False)
    fused = copy.deepcopy(plain)
    fuse_rectifiers(fused)
    assert [type(layer).__name__ for layer in fused] == [
        "ConvReLU", "Identity", "MaxPool2d", "ConvReLU", "Identity", "Conv2d", "Sigmoid"]  # fmt: skip
    x = drawn(2, 3, 10, 12, dtype=torch.float32).requires_grad_()
    found, expected = fused(x), plain(x)
    torch.testing.assert_close(found, expected)
    pull = drawn(*found.shape, seed=1, dtype=torch.float32)
    torch.testing.assert_close(torch.autograd.grad(found, x, pull), torch.autograd.grad(expected, x, pull))


def test_features_of_length_zero_have_no_gradient() -> None:
    a, b = torch.zeros(1, 8, 2, 2, device=DEVICE, requires_grad=True), drawn(1, 8, 2, 2, dtype=torch.float32)
    (da,) = torch.autograd.grad(unit_distance(a, b, None).sum(), a)
    assert not da.any()


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, discriminator = VAE(CONFIG), PatchGAN(16)
    readable, device = discriminator.run, torch.device("cpu")
    assert paths.quicken_vae(vae) == "plain"
    paths.quicken_losses(discriminator, None, device)
    assert discriminator.run is readable
    monkeypatch.setattr(paths, "triton_works", lambda device: True)
    assert paths.quicken_vae(vae) == "fused"
    paths.quicken_losses(discriminator, None, device)
    assert discriminator.run is run_fused_discriminator
    assert vae.run is run_fused
    assert vae.quantizer.nearest is nearest_rows
    assert vae.state_dict().keys() == VAE(CONFIG).state_dict().keys()
    with torch.autocast("cpu", torch.bfloat16):
        assert arithmetic(torch.ones(1)) == torch.bfloat16
    assert arithmetic(torch.ones(1)) == torch.float32
