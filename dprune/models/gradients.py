"""Norms of the gradients of single samples, and their dots with a direction, by one pass over a batch.

With a layer's input a [T, d] and the gradient b [T, p] at its output, one sample's gradient of the weight is b^T a, so
its squared norm is the sum of (a a^T) * (b b^T), or that of the squares of b^T a, whichever takes fewer operations;
its dot with V is the sum of b * (a V^T). Every layer gets a zero [B] as one more input, and says that its norm is the
"gradient" of that; so autograd itself adds up the layers, in a form that torch.compile traces, and neither gradients
of weights nor those of single samples are ever formed. The norm is that of Rochette, Manoel and Tramel, "Efficient
per-example gradient computations in convolutional neural networks" (2019), and of Bu et al., "Scalable and efficient
training of large convolutional neural networks with differential privacy" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dprune.errors import DpruneError


class Measures(NamedTuple):
    """What one pass finds of each sample.

    Attributes:
        loss: [B].
        squared_norm: of the gradient over all trainable parameters, [B], float32 (float64 of a float64 network); None
            where it was not asked for.
        dot: of the gradient with the direction, likewise; None where there is none.
    """

    loss: Tensor
    squared_norm: Tensor | None
    dot: Tensor | None


class SampleGradients:
    """A network whose layers measure the gradients of single samples.

    The layers are replaced in place by ones of the same names and parameters, which compute the same. To compile
    blocks of the network, do so afterwards. Parameters that require gradients are those that are measured; they are
    frozen here, so that no gradient of a weight is formed.

    Attributes:
        norms: whether squared norms are measured.
        columns: measures besides the loss: norms, and dots with a direction.

    Args:
        network: on its device, the dtypes of its weights being those to compute in (autocast may lower them).
        example: arguments of a forward pass, to see that no layer is used twice.

    Raises:
        DpruneError: a trainable parameter is not of a Linear, patch convolution or Embedding, or is used twice.
    """

    def __init__(self, network: nn.Module, *example: Tensor) -> None:
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        first = next(iter(self.parameters.values()), None)
        if first is None:
            raise DpruneError("the network has no trainable parameter: call requires_grad_() on what is trained.")
        self._device, self._dtype = first.device, torch.promote_types(first.dtype, torch.float32)
        self._tally = _Tally()
        layers = _measurable(network)
        _check_covered(network, layers)
        _check_used_once(network, layers, example)
        self._layers = {name: _replaced(network, name, self._tally) for name in layers}
        for parameter in self.parameters.values():
            parameter.requires_grad_(False)
        self.norms, self.columns = True, 1

    def aim(self, direction: Mapping[str, Tensor] | None, *, norms: bool = True) -> None:
        """Set the direction that dots are taken with.

        Args:
            direction: a tensor for each trainable parameter, by name, such as a mean gradient; None for no dots.
            norms: whether squared norms are measured; dots alone are quicker.
        """
        assert norms or direction is not None
        self.norms, self.columns = norms, norms + (direction is not None)
        for prefix, layer in self._layers.items():
            layer.norms = norms
            names = (f"{prefix}.{name}" for name in ("weight", "bias"))
            layer.aim(*(direction[name] if direction and name in self.parameters else None for name in names))

    def measure(self, losses: Callable[[], Tensor], count: int) -> Measures:
        """Run a pass.

        Args:
            losses: runs the network once and returns each sample's loss, [B].
            count: B.
        """
        zero = torch.zeros(count, self.columns, dtype=self._dtype, device=self._device, requires_grad=True)
        self._tally.zero = zero
        try:
            with torch.enable_grad():
                loss = losses()
                (found,) = torch.autograd.grad(loss.sum(), zero)
        finally:
            self._tally.zero = None
        columns = list(found.unbind(1))
        norm = columns.pop(0) if self.norms else None
        return Measures(loss.detach(), norm, columns.pop() if columns else None)

    def zeros(self) -> dict[str, Tensor]:
        """Return zeros to add gradients to, for each trainable parameter by name; float32, or float64 of float64."""
        return {name: torch.zeros_like(p, dtype=self._dtype) for name, p in self.parameters.items()}

    def add_gradients(self, losses: Callable[[], Tensor], sums: Mapping[str, Tensor]) -> None:
        """Add the gradient of the sum of a batch's losses, which is the sum of the samples' gradients.

        Args:
            losses: runs the network once and returns each sample's loss, [B].
            sums: what `zeros` returned, changed in place.
        """
        parameters = list(self.parameters.values())
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                found = torch.autograd.grad(losses().sum(), parameters, materialize_grads=True)
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
        for name, gradient in zip(self.parameters, found, strict=True):
            sums[name].add_(gradient)


class _Tally:
    """Holds the zero [B, 1] (norms or dots) or [B, 2] (both) of the pass that runs, None when nothing is measured."""

    zero: Tensor | None = None


class _Layer(nn.Module):
    """A layer that can measure the gradients of its parameters, those that are trainable at its construction."""

    def __init__(self, layer: Any, tally: _Tally) -> None:
        super().__init__()
        bias: nn.Parameter | None = getattr(layer, "bias", None)
        self.weight: nn.Parameter = layer.weight
        self.bias, self.tally = bias, tally
        self.trains_weight = self.weight.requires_grad
        self.trains_bias = bias is not None and bias.requires_grad
        self.norms = True
        self.toward_weight: Tensor | None = None
        self.toward_bias: Tensor | None = None

    def aim(self, weight: Tensor | None, bias: Tensor | None) -> None:
        """Take the direction's share of this layer: the weight as [p, d], in the dtype that products are taken in."""
        self.toward_weight = None if weight is None else weight.flatten(1).to(self.weight.dtype)
        self.toward_bias = bias

    def product(self, zero: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Return a weight^T + bias and have its gradients measured."""
        dtype = weight.dtype
        if torch.is_autocast_enabled(a.device.type):
            dtype = torch.get_autocast_dtype(a.device.type)
        bias, toward = (None if v is None else v.to(dtype) for v in (self.bias, self.toward_weight))
        found: Tensor = _Product.apply(zero, a.to(dtype), weight.to(dtype), bias, toward, self.toward_bias,
                                       self.trains_weight, self.trains_bias, self.norms)  # fmt: skip
        return found


class _Linear(_Layer):
    def forward(self, x: Tensor) -> Tensor:
        if self.tally.zero is None:
            return F.linear(x, self.weight, self.bias)
        return self.product(self.tally.zero, x, self.weight)


class _Patches(_Layer):
    """A convolution whose kernel is as large as its stride: a linear layer of patches."""

    def __init__(self, layer: Any, tally: _Tally) -> None:
        super().__init__(layer, tally)
        self.kernel = layer.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        if self.tally.zero is None:
            return F.conv2d(x, self.weight, self.bias, stride=self.kernel)
        patches = F.unfold(x, self.kernel, stride=self.kernel).transpose(1, 2)
        rows = x.shape[2] // self.kernel[0]
        out = self.product(self.tally.zero, patches, self.weight.flatten(1))
        grid: Tensor = out.transpose(1, 2).unflatten(2, (rows, -1))
        return grid


class _Embedding(_Layer):
    def __init__(self, layer: Any, tally: _Tally) -> None:
        super().__init__(layer, tally)
        self.padding = layer.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        if self.tally.zero is None:
            return F.embedding(ids, self.weight, self.padding)
        padding = -1 if self.padding is None else self.padding
        found: Tensor = _Lookup.apply(self.tally.zero, ids, self.weight, self.toward_weight, padding, self.norms)
        return found


class _Product(torch.autograd.Function):
    """x W^T + c, whose backward pass returns the measures of W and c as the gradient of a zero."""

    @staticmethod
    def forward(ctx: Any, zero: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, toward: Tensor | None,
                toward_bias: Tensor | None, trains_weight: bool, trains_bias: bool, norms: bool) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, toward, toward_bias)
        ctx.trains, ctx.norms = (trains_weight, trains_bias), norms
        ctx.columns, ctx.dtype = zero.shape[1], zero.dtype
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, toward, toward_bias = ctx.saved_tensors
        (gradient,) = gradients
        a, b = _tokens(x), _tokens(gradient)
        norm = torch.zeros(len(b), dtype=ctx.dtype, device=b.device)
        dot = torch.zeros_like(norm)
        if ctx.trains[0] and ctx.norms:
            norm = norm + _squared_norm(a, b, ctx.dtype)
        if toward is not None:
            dot = dot + (b.to(ctx.dtype) * F.linear(a, toward).to(ctx.dtype)).sum((1, 2))
        if ctx.trains[1]:
            total = b.to(ctx.dtype).sum(1)
            norm = norm + total.square().sum(1)
            if toward_bias is not None:
                dot = dot + (total * toward_bias.to(ctx.dtype)).sum(1)
        back = gradient @ weight if ctx.needs_input_grad[1] else None
        return _columns(norm if ctx.norms else None, dot, ctx.columns), back, None, None, None, None, None, None, None


class _Lookup(torch.autograd.Function):
    """Rows of a table, whose backward pass returns the measures of the table as the gradient of a zero."""

    @staticmethod
    def forward(ctx: Any, zero: Tensor, ids: Tensor, weight: Tensor, toward: Tensor | None, padding: int,
                norms: bool) -> Tensor:  # fmt: skip
        ctx.save_for_backward(ids, toward)
        ctx.padding, ctx.norms = padding, norms
        ctx.columns, ctx.dtype = zero.shape[1], zero.dtype
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ids, toward = ctx.saved_tensors
        rows = ids.reshape(len(ids), -1)
        b = gradients[0].reshape(*rows.shape, -1).to(ctx.dtype) * (rows != ctx.padding)[..., None]
        norm = dot = None
        if ctx.norms:
            # Gradients of one row add up before the norm is taken: the sum over all pairs of places that name it.
            norm = ((b @ b.mT) * (rows[:, :, None] == rows[:, None])).sum((1, 2))
        if ctx.columns > ctx.norms:
            assert toward is not None
            dot = (b * F.embedding(rows, toward).to(ctx.dtype)).sum((1, 2))
        return _columns(norm, dot, ctx.columns), None, None, None, None, None, None


def _columns(norm: Tensor | None, dot: Tensor | None, count: int) -> Tensor:
    """Return what is measured of a layer, [B, count]: the norm where it is, then the dot if there is room."""
    return torch.stack([column for column in (norm, dot) if column is not None][:count], 1)


def _tokens(x: Tensor) -> Tensor:
    """Return [B, T, d] of [B, ..., d]; T is 1 where there is nothing between."""
    return x.reshape(len(x), -1, x.shape[-1])


def _squared_norm(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the squared norm of b^T a, [B], for inputs a [B, T, d] and gradients b [B, T, p]."""
    tokens, size = a.shape[1], a.shape[2] * b.shape[2]
    if tokens == 1:
        return a.to(dtype).square().sum((1, 2)) * b.to(dtype).square().sum((1, 2))
    if 2 * tokens**2 < size:
        return ((a @ a.mT).to(dtype) * (b @ b.mT).to(dtype)).sum((1, 2))
    return (b.mT @ a).to(dtype).square().sum((1, 2))


def _kind(module: nn.Module) -> type[_Layer] | None:
    """Return the kind of layer that takes a module's place; subclasses may use parameters in ways of their own."""
    if type(module) is nn.Linear:
        return _Linear
    if type(module) is nn.Conv2d and _is_of_patches(module):
        return _Patches
    if type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq:
        return _Embedding
    return None


def _is_of_patches(conv: nn.Conv2d) -> bool:
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding in (0, (0, 0), "valid")
    return plain and conv.kernel_size == conv.stride


def _measurable(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that hold trainable parameters and can measure these, under all of their names."""
    return {
        name: module
        for name, module in network.named_modules(remove_duplicate=False)
        if name and _kind(module) and any(p.requires_grad for p in module.parameters(recurse=False))
    }


def _replaced(network: nn.Module, name: str, tally: _Tally) -> _Layer:
    """Put a layer that measures in the place of another."""
    parent, _, last = name.rpartition(".")
    module = network.get_submodule(name)
    kind = _kind(module)
    assert kind is not None
    layer = kind(module, tally)
    setattr(network.get_submodule(parent), last, layer)
    return layer


def _check_covered(network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    owners: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        if name.rpartition(".")[0] not in layers:
            raise DpruneError(f"{name}: gradients of single samples are measured in Linear, patch convolution and "
                              "Embedding layers, and this trainable parameter is in none: freeze it.")  # fmt: skip
        if (other := owners.setdefault(id(parameter), name)) != name:
            raise DpruneError(f"{name} and {other} are one parameter, whose uses cannot be measured apart: untie them.")


def _check_used_once(network: nn.Module, layers: Mapping[str, nn.Module], example: tuple[Tensor, ...]) -> None:
    uses = dict.fromkeys(layers, 0)

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            uses[name] += 1

        return hook

    hooks = [layer.register_forward_hook(count(name)) for name, layer in layers.items()]
    with torch.no_grad():
        network(*example)
    for hook in hooks:
        hook.remove()
    if repeated := next((name for name, number in uses.items() if number > 1), None):
        raise DpruneError(
            f"{repeated}: is used {uses[repeated]} times in a pass, whose gradients cannot be told apart: "
            "give each use a layer of its own."
        )
