"""The kernels of a DiT's block, and the block made of them, beside the readable one in float64.

Without a GPU they run in Triton's interpreter, which tests their arithmetic; how they are compiled, a GPU alone tells.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dprune.flow import flow_loss
from dprune.models.dit import Block, DiT, DiTConfig, Through
from dprune.models.paths import COMPILED, FUSED, PLAIN, quicken_dit

pytest.importorskip("triton")
from dprune.kernels import attention as attentions
from dprune.kernels.gelu import gelu, gelu_backward
from dprune.kernels.layer_norm import (
    Sums,
    gated,
    gated_backward,
    gated_norm,
    gated_norm_backward,
    modulated_norm,
    modulated_norm_backward,
    pieces,
)
from dprune.models.dit import through as readable_through
from dprune.models.fast_dit import through

# The interpreter's numpy tells of what the kernels mean: a power beyond the largest number is infinite.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 2e-2}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def difference(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return ((found - expected).norm() / expected.norm()).item()


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def exact(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize(("samples", "tokens", "width"), [(2, 37, 24), (1, 5, 32)])
@pytest.mark.parametrize("wide", [True, False], ids=["float32 tokens", "tokens like branches"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_and_gates(samples: int, tokens: int, width: int, wide: bool, dtype: torch.dtype):
    outer = torch.promote_types(dtype, torch.float32) if wide else dtype
    x, dy = (drawn(seed, samples, tokens, width, dtype=outer) for seed in (0, 1))
    branch, dh = (drawn(seed, samples, tokens, width, dtype=dtype) for seed in (2, 3))
    shift, scale, gate = drawn(4, samples, 3 * width, dtype=dtype).chunk(3, 1)
    bias = drawn(6, width, dtype=outer)
    x64, branch64, bias64, shift64, scale64, gate64 = exact(x, branch, bias, shift, scale, gate)
    near = TOLERANCE[dtype]
    parts = drawn(5, samples, pieces(tokens), 4, width, dtype=torch.promote_types(dtype, torch.float32)) + torch.nan
    sums = Sums(*parts.unbind(2))

    def norm(values: Tensor) -> Tensor:
        return functional.layer_norm(values, (width,), eps=1e-6) * (1 + scale64[:, None]) + shift64[:, None]

    y64 = x64 + gate64[:, None] * (branch64 + bias64)
    h64 = norm(y64)
    y, h, moments = gated_norm(x, branch, bias, gate, shift, scale, 1e-6)
    assert (y.dtype, h.dtype) == (outer, dtype)
    assert difference(y, y64) < near
    assert difference(h, h64) < near
    expected = torch.autograd.grad((y64, h64), (x64, branch64, shift64, scale64, gate64), (dy.double(), dh.double()))
    found = gated_norm_backward(dy, dh, y, moments, scale, branch, bias, gate, sums)
    assert [g.dtype for g in found] == [outer, dtype]
    totals = parts.sum(1)
    for one, other in zip((*found, *totals[:, :3].unbind(1)), expected, strict=True):
        assert difference(one, other) < near
    assert difference(totals[:, 3], expected[0].sum(1)) < near

    assert difference(gated(x, branch, bias, gate), y64) < near
    assert difference(gated_backward(dy, branch, bias, gate, sums), gate64[:, None] * dy) < near
    assert difference(parts.sum(1)[:, 2], (dy * (branch64 + bias64)).sum(1)) < near
    assert difference(parts.sum(1)[:, 3], dy.double().sum(1)) < near

    h, moments = modulated_norm(x, shift, scale, 1e-6, dtype)
    assert difference(h, norm(x64)) < near
    expected = torch.autograd.grad((x64 * 1, norm(x64)), (x64, shift64, scale64), (dy.double(), dh.double()))
    found = modulated_norm_backward(dy, dh, x, moments, scale, sums)
    for one, other in zip((found, *parts.sum(1)[:, :2].unbind(1)), expected, strict=True):
        assert difference(one, other) < near


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_is_the_tanh_approximation(dtype: torch.dtype):
    x, d_out = (3 * drawn(seed, 150, 70, dtype=dtype) for seed in (0, 1))
    (x64,) = exact(x)
    out = functional.gelu(x64, approximate="tanh")
    (expected,) = torch.autograd.grad(out, x64, d_out.double())
    dx, sums = gelu_backward(x, d_out)
    for found, other in ((gelu(x), out), (dx, expected), (sums.sum(0), expected.sum(0))):
        assert difference(found, other) < TOLERANCE[dtype]
    far = torch.tensor([-1e4, -30.0, 30.0, 1e4], device=DEVICE, dtype=dtype)
    assert gelu(far).tolist() == functional.gelu(far, approximate="tanh").tolist()
    assert gelu_backward(far[:, None], torch.ones_like(far)[:, None])[0].flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("tokens", "heads", "size"), [(37, 3, 24), (64, 2, 32), (20, 1, 72), (150, 2, 16)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_on_packed_queries_keys_and_values(
    tokens: int, heads: int, size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    if DEVICE.type == "cpu":
        monkeypatch.setattr(attentions, "FORWARD", attentions.Tiles(32, 64, 4, 1))
        monkeypatch.setattr(attentions, "BACKWARD", attentions.Tiles(64, 32, 4, 1))
    qkv = drawn(0, 2, tokens, 3 * heads * size, dtype=dtype)
    d_out = drawn(1, 2, tokens, heads * size, dtype=dtype)
    (qkv64,) = exact(qkv)
    q, k, v = qkv64.unflatten(2, (3, heads, size)).permute(2, 0, 3, 1, 4)
    expected = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    (gradient,) = torch.autograd.grad(expected, qkv64, d_out.double())
    out, logsum = attentions.attention(qkv, heads)
    d_qkv, sums = attentions.attention_backward(qkv, out, logsum, d_out)
    for found, other in ((out, expected), (d_qkv, gradient), (sums.sum(0), gradient.sum((0, 1)))):
        assert difference(found, other) < TOLERANCE[dtype]


def test_attention_of_far_apart_logits_is_finite():
    qkv = 60 * drawn(0, 1, 37, 3 * 16, dtype=torch.float32)
    q, k, v = qkv.double().unflatten(2, (3, 1, 16)).permute(2, 0, 3, 1, 4)
    out, logsum = attentions.attention(qkv, 1)
    assert difference(out, functional.scaled_dot_product_attention(q, k, v).flatten(0, 2)[None]) < 1e-4
    d_qkv, _ = attentions.attention_backward(qkv, out, logsum, torch.ones_like(out))
    assert d_qkv.isfinite().all()


def blocks_of(width: int, heads: int) -> nn.ModuleList:
    blocks = nn.ModuleList(Block(width, heads) for _ in range(2)).to(DEVICE)
    for number, p in enumerate(blocks.parameters()):
        p.data = drawn(number, *p.shape, dtype=torch.float32) * width**-0.5
    return blocks


def results(
    run: Through, blocks: nn.ModuleList, x: Tensor, c: Tensor, d_out: Tensor, *, lowers: bool
) -> dict[str, Tensor]:
    x, c = x.detach().requires_grad_(), c.detach().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=lowers):
        out = run(list(blocks), x, c)
    named = {"x": x, "c": c, **dict(blocks.named_parameters())}
    gradients = torch.autograd.grad(out, list(named.values()), d_out.to(out.dtype))
    return {"out": out, **dict(zip(named, gradients, strict=True))}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("samples", "tokens", "width", "heads"), [(2, 19, 24, 3), (1, 33, 36, 2)])
def test_blocks_are_the_readable_ones(samples: int, tokens: int, width: int, heads: int, dtype: torch.dtype):
    """In bfloat16 under autocast, and as near to what float64 gives as the readable blocks are."""
    lowers = dtype == torch.bfloat16
    blocks = blocks_of(width, heads).to(torch.float32 if lowers else dtype)
    x, c, d_out = drawn(90, samples, tokens, width), drawn(91, samples, width), drawn(92, samples, tokens, width)
    expected = results(readable_through, copy.deepcopy(blocks).double(), x, c, d_out, lowers=False)
    given = [tensor.to(torch.float32 if lowers else dtype) for tensor in (x, c, d_out)]
    found, plain = (results(run, blocks, *given, lowers=lowers) for run in (through, readable_through))
    for name, other in expected.items():
        assert found[name].dtype == plain[name].dtype
        assert found[name].is_contiguous()
        # The interpreter cuts bfloat16 off where a GPU rounds.
        near = 4 * difference(plain[name], other) if lowers else TOLERANCE[dtype]
        assert difference(found[name], other) < near, name
    with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=lowers):
        assert difference(through(list(blocks), *given[:2]), found["out"]) < (1e-2 if lowers else 1e-6)


def test_lowered_blocks_keep_their_tokens_in_bfloat16():
    blocks = blocks_of(24, 3)
    x, c = drawn(0, 2, 19, 24), drawn(1, 2, 24)
    expected = readable_through(list(copy.deepcopy(blocks).double()), x, c)
    with torch.no_grad():
        out = through(list(blocks.bfloat16()), x.bfloat16(), c.bfloat16())
    assert out.dtype == torch.bfloat16
    assert difference(out, expected) < 4e-2


@pytest.mark.parametrize("parametrization", ["velocity", "noise"])
def test_a_whole_model_trains_alike(parametrization: str):
    config = DiTConfig(6, 3, 2, 48, 2, 2, 5, parametrization=parametrization)
    readable = DiT(config).to(DEVICE).double()
    for number, p in enumerate(readable.parameters()):
        p.data += 0.1 * drawn(number, *p.shape)
    fast = copy.deepcopy(readable)
    fast.through = through
    x, noise, t = drawn(0, 4, 3, 6, 6), drawn(1, 4, 3, 6, 6), torch.rand(4, dtype=torch.float64).to(DEVICE)
    y = torch.arange(4, device=DEVICE)
    for model in (readable, fast):
        flow_loss(model, x, noise, t, y).sum().backward()
    assert fast.state_dict().keys() == readable.state_dict().keys()
    for (name, one), other in zip(fast.named_parameters(), readable.parameters(), strict=True):
        if other.grad is None:
            assert name == "pos_embed"
            continue
        assert one.grad is not None
        assert difference(one.grad, other.grad) < 1e-12, name


def test_the_path_is_that_of_the_device_and_precision(monkeypatch: pytest.MonkeyPatch):
    compiled = []
    monkeypatch.setattr(DiT, "compile_blocks", lambda model: compiled.append(model))
    model = DiT(DiTConfig(4, 3, 2, 32, 2, 2, 5))
    assert quicken_dit(model, torch.bfloat16, compiles=False) == PLAIN
    assert model.through is readable_through
    assert quicken_dit(model, torch.bfloat16, compiles=True) == COMPILED
    assert compiled == [model]
    monkeypatch.setattr("dprune.models.paths.triton_works", lambda device: True)
    for precision, hooked, path in ((torch.float32, False, COMPILED), (torch.bfloat16, True, COMPILED),
                                    (torch.bfloat16, False, FUSED)):  # fmt: skip
        assert quicken_dit(model, precision, compiles=True, hooked=hooked) == path
    assert model.through is through
    narrow = DiT(DiTConfig(4, 3, 2, 32, 2, 4, 5))
    assert quicken_dit(narrow, torch.bfloat16, compiles=True) == COMPILED, "heads of 8 make no product"
