"""Gradients of single samples: against willisma/SiT's numbers, against a loop, compiled, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dprune.errors import DpruneError
from dprune.flow import flow_loss
from dprune.metrics.agreement import rank_correlation
from dprune.models.dit import DiT, DiTConfig
from dprune.models.gradients import SampleGradients

ORACLE = load_file(Path(__file__).parent / "data" / "flow.safetensors")
CONFIG = DiTConfig(input_size=8, channels=4, patch=2, width=64, depth=3, heads=4, classes=10)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
# torch's own compiler asks tensors inside the network for .grad.
compiles = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def oracle_model(dtype):
    model = DiT(CONFIG).to(dtype)
    model.load_state_dict({name.removeprefix("weights."): value.to(dtype)
                           for name, value in ORACLE.items() if name.startswith("weights.")})  # fmt: skip
    return model.eval()


def oracle_losses(model, dtype, rows=slice(None)):
    data, noise, t, y = ORACLE["x1"][rows], ORACLE["x0"][rows], ORACLE["score_time"], ORACLE["y"][rows]
    return lambda: flow_loss(model, data.to(dtype), noise.to(dtype), t.to(dtype).expand(len(y)), y)


def measured(model):
    dtype = model.pos_embed.dtype
    return SampleGradients(model, torch.zeros(1, 4, 8, 8, dtype=dtype), torch.zeros(1, dtype=dtype), ORACLE["y"][:1])


def error(found, name):
    return ((found.double() - ORACLE[name]).abs() / ORACLE[name].abs()).max().item()


def filled(network):
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if name != "pos_embed":
            nn.init.normal_(parameter, std=0.5 / (parameter[0].numel() if parameter.ndim > 1 else 16) ** 0.5)
    return network.eval()


def loop(network, losses):
    """Gradients one sample at a time: losses, [n, parameters]."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    found = losses()
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True) for loss in found]
    return found.detach(), torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def check_against_loop(network, losses, example, tolerance):
    """Norms, dots and sums are those of the loop, whichever of the parameters are trained."""
    loss, gradients = loop(network, losses)
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    mean, direction, begin = gradients.mean(0), {}, 0
    found = SampleGradients(network, *example)
    assert list(found.parameters) == names
    assert not any(p.requires_grad for p in network.parameters())
    for name, parameter in found.parameters.items():
        direction[name] = mean[begin : begin + parameter.numel()].view_as(parameter)
        begin += parameter.numel()
    sums = found.zeros()
    found.add_gradients(losses, sums)
    for name, value in sums.items():
        torch.testing.assert_close(value / len(loss), direction[name], rtol=tolerance, atol=tolerance)
    plain = found.measure(losses, len(loss))
    found.aim(direction)
    both = found.measure(losses, len(loss))
    found.aim(direction, norms=False)
    alone = found.measure(losses, len(loss))
    assert plain.dot is alone.squared_norm is None
    torch.testing.assert_close(alone.loss, both.loss, rtol=0, atol=0)
    torch.testing.assert_close(alone.dot, both.dot, rtol=0, atol=0)
    for measures in (plain, both):
        torch.testing.assert_close(measures.loss, loss, rtol=tolerance, atol=0)
        torch.testing.assert_close(measures.squared_norm, gradients.square().sum(1), rtol=tolerance, atol=0)
    scale = (gradients.norm(dim=1) * mean.norm()).max().item()
    torch.testing.assert_close(both.dot, gradients @ mean, rtol=tolerance, atol=tolerance * scale)


def test_measures_are_those_of_sits_model(dtype):
    model = oracle_model(dtype)
    found, losses = measured(model), oracle_losses(model, dtype)
    sums = found.zeros()
    found.add_gradients(losses, sums)
    found.aim({name: value / 24 for name, value in sums.items()})
    measures = found.measure(losses, 24)
    assert measures.squared_norm.dtype == dtype
    assert error(measures.loss, "el2n_squared_error") < TOLERANCE[dtype]
    assert error(measures.squared_norm.sqrt(), "grand") < TOLERANCE[dtype]
    assert error(measures.dot, "dot_with_mean_gradient") < TOLERANCE[dtype]
    norm = torch.stack([value.norm() for value in sums.values()]).norm() / 24
    assert abs(norm.item() / ORACLE["mean_gradient_norm"].item() - 1) < TOLERANCE[dtype]


def test_moso_follows_from_the_measures(dtype):
    model = oracle_model(dtype)
    found, losses = measured(model), oracle_losses(model, dtype)
    sums = found.zeros()
    found.add_gradients(losses, sums)
    mean = {name: value / 24 for name, value in sums.items()}
    found.aim(mean)
    _, squared, dot = found.measure(losses, 24)
    n, whole = 24, sum(value.square().sum() for value in mean.values())
    terms = (2 * n - 3) * whole - squared + (2 * n - 4) * (dot - squared / n)
    assert error(terms / (n - 1) ** 2, "moso_exact") < TOLERANCE[dtype]


def test_a_batch_changes_nothing(dtype):
    model = oracle_model(dtype)
    found = measured(model)
    whole = found.measure(oracle_losses(model, dtype), 24).squared_norm
    parts = [found.measure(oracle_losses(model, dtype, slice(i, i + 5)), min(5, 24 - i)) for i in range(0, 24, 5)]
    torch.testing.assert_close(torch.cat([part.squared_norm for part in parts]), whole, rtol=TOLERANCE[dtype], atol=0)


def test_bfloat16_ranks_alike():
    model = filled(DiT(DiTConfig(8, 4, 2, 128, 4, 4, 10)))
    draw = torch.Generator().manual_seed(1)
    # Samples that differ as images do: by how much there is to see, and how fine it is.
    x = torch.randn(256, 4, 8, 8, generator=draw) * (0.2 + 2 * torch.rand(256, 1, 1, 1, generator=draw))
    noise, y = torch.randn(1, 4, 8, 8, generator=draw).expand_as(x), torch.randint(10, (256,), generator=draw)

    def losses():
        return flow_loss(model, x, noise, torch.full((256,), 0.94), y)

    found = measured(model)
    exact = found.measure(losses, 256)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = found.measure(losses, 256)
    assert lowered.squared_norm.dtype == torch.float32
    assert not torch.equal(lowered.squared_norm, exact.squared_norm)
    for a, b in zip(lowered[:2], exact[:2], strict=True):
        assert rank_correlation(a.numpy(), b.numpy()) > 0.999


# torch 2.11 makes, while it traces, what it warns of making.
@compiles
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_blocks_measure_the_same():
    model = oracle_model(torch.float64)
    found, losses = measured(model), oracle_losses(model, torch.float64)
    sums = found.zeros()
    found.add_gradients(losses, sums)
    for block in model.blocks:
        # What inductor makes of the graph is torch's affair; here it is whether one graph can be made.
        block.compile(dynamic=False, fullgraph=True, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    again = found.zeros()
    found.add_gradients(losses, again)
    torch.testing.assert_close(again, sums)
    assert error(found.measure(losses, 24).squared_norm.sqrt(), "grand") < 1e-9
    found.aim({name: value / 24 for name, value in sums.items()})
    measures = found.measure(losses, 24)
    assert error(measures.squared_norm.sqrt(), "grand") < 1e-9
    assert error(measures.dot, "dot_with_mean_gradient") < 1e-9
    # One graph for each kind of pass, shared by all blocks.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    found.aim({name: 2 * value for name, value in sums.items()})
    assert error(found.measure(losses, 24).dot / 48, "dot_with_mean_gradient") < 1e-9
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    found.aim({name: value / 24 for name, value in sums.items()}, norms=False)
    assert error(found.measure(losses, 24).dot, "dot_with_mean_gradient") < 1e-9
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4


@pytest.mark.slow
def test_a_dit_of_the_width_of_xl_is_that_of_a_loop():
    model = filled(DiT(DiTConfig(8, 4, 2, 1152, 2, 16, 1000)))
    draw = torch.Generator().manual_seed(1)
    x, noise = (torch.randn(16, 4, 8, 8, generator=draw) for _ in range(2))
    y, t = torch.randint(1001, (16,), generator=draw), torch.rand(16, generator=draw)
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected = []
    for i in range(16):
        loss = flow_loss(model, x[i : i + 1], noise[i : i + 1], t[i : i + 1], y[i : i + 1])
        found = torch.autograd.grad(loss.sum(), parameters)
        expected.append((loss.item(), sum(part.double().square().sum().item() for part in found)))
    measures = measured(model).measure(lambda: flow_loss(model, x, noise, t, y), 16)
    loss, squared = torch.tensor(expected, dtype=torch.float64).T
    torch.testing.assert_close(measures.loss.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(measures.squared_norm.double(), squared, rtol=2e-5, atol=0)


class Layers(nn.Module):
    """Every kind of layer, with many tokens (b^T a is smaller) or few (a a^T is)."""

    def __init__(self, hidden, padding=None):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, (2, 1), stride=(2, 1))
        self.table = nn.Embedding(6, 4, padding_idx=padding)
        self.first, self.last = nn.Linear(4, hidden), nn.Linear(hidden, 3, bias=False)
        self.norm = nn.LayerNorm(4, elementwise_affine=False)
        self.alone = nn.Linear(4, 4)

    def forward(self, images, words):
        tokens = torch.cat((self.patches(images).flatten(2).transpose(1, 2), self.table(words)), 1)
        tokens = self.norm(tokens + torch.tanh(self.alone(tokens.mean(1)))[:, None])
        # More dimensions than tokens, as windows have.
        return self.last(torch.tanh(self.first(tokens.unflatten(1, (2, -1)))))


def layers_and_inputs(hidden, padding=None):
    torch.manual_seed(3)
    network = Layers(hidden, padding).double()
    # Words come several times in one sample.
    return network, (torch.randn(5, 3, 6, 2, dtype=torch.float64), torch.randint(6, (5, 8)))


@pytest.mark.parametrize(("hidden", "padding"), [(3, None), (200, None), (3, 2)])
def test_every_layer_is_that_of_a_loop(hidden, padding):
    network, inputs = layers_and_inputs(hidden, padding)
    check_against_loop(network, lambda: network(*inputs).square().flatten(1).sum(1), inputs, 1e-11)


def test_what_is_frozen_does_not_count():
    network, inputs = layers_and_inputs(3)
    for frozen in (network.first.weight, network.patches.bias, network.alone.weight, network.alone.bias):
        frozen.requires_grad_(False)
    check_against_loop(network, lambda: network(*inputs).square().flatten(1).sum(1), inputs, 1e-11)


def test_names_and_outputs_stay():
    network, inputs = layers_and_inputs(3)
    state, before = {k: v.clone() for k, v in network.state_dict().items()}, network(*inputs)
    SampleGradients(network, *inputs)
    assert list(network.state_dict()) == list(state)
    network.load_state_dict(state)
    torch.testing.assert_close(network(*inputs), before, rtol=0, atol=0)


def test_all_parameters_of_a_dit_are_measured():
    model = oracle_model(torch.float32)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(measured(model).parameters) == trained == {name for name, _ in model.named_parameters()} - {"pos_embed"}


@pytest.mark.parametrize("odd", [
    nn.LayerNorm(4), nn.Conv2d(3, 4, 3, padding=1), nn.Conv1d(3, 4, 2, stride=2), nn.MultiheadAttention(4, 2),
    nn.Embedding(3, 4, max_norm=1.0), nn.Conv2d(4, 4, 2, stride=2, groups=2),
])  # fmt: skip
def test_a_parameter_that_is_not_covered_is_refused(odd):
    network = nn.ModuleDict({"plain": nn.Linear(2, 2), "odd": odd})
    with pytest.raises(DpruneError, match=r"^odd\..*in none: freeze it"):
        SampleGradients(network)
    odd.requires_grad_(False)
    network.forward = lambda x: network["plain"](x)
    SampleGradients(network, torch.zeros(1, 2))


def test_a_parameter_that_is_used_twice_is_refused():
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(DpruneError, match=r"1\.weight and 0\.weight are one parameter"):
        SampleGradients(tied, torch.zeros(1, 2))
    layer = nn.Linear(2, 2)
    with pytest.raises(DpruneError, match="are one parameter"):
        SampleGradients(nn.Sequential(layer, layer), torch.zeros(1, 2))
    twice = nn.ModuleDict({"layer": nn.Linear(2, 2)})
    twice.forward = lambda x: twice["layer"](twice["layer"](x))
    with pytest.raises(DpruneError, match="layer: is used 2 times"):
        SampleGradients(twice, torch.zeros(1, 2))


def test_a_network_without_trainable_parameters_is_refused():
    with pytest.raises(DpruneError, match="no trainable parameter"):
        SampleGradients(nn.Linear(2, 2).requires_grad_(False))
