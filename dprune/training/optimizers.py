"""The optimizers of a training: the one place where they are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from dprune.training.muon import Muon
from dprune.training.plan import Plan


def make_optimizers(networks: Mapping[str, nn.Module], plan: Plan) -> dict[str, Optimizer]:
    """Return an optimizer for each network, under its name."""
    return {name: _optimizer(network, plan) for name, network in networks.items()}


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Have the next step use a learning rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def is_capturable(optimizer: Optimizer) -> bool:
    """Tell whether a graph may hold the optimizer's step, which reads its rate on the device then."""
    return all(group.get("capturable") and isinstance(group["lr"], Tensor) for group in optimizer.param_groups)


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network that are trained."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@runtime_checkable
class HasMatrices(Protocol):
    """A network that tells which of its weights Muon may train."""

    def matrices(self) -> list[nn.Parameter]:
        """Return them, of two dimensions."""


class Joined(Optimizer):
    """Several optimizers, of parameters of their own, as one."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        # The groups and states are the parts' own, so that a rate or a state that is set here is set there.
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        for part in parts:
            self.state.update(part.state)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step of each."""
        for part in self._parts:
            part.step()


def _optimizer(network: nn.Module, plan: Plan) -> Optimizer:
    """Return an optimizer with its moments made at once, so that memory is known and a state can be copied in."""
    if plan.optimizer == "adamw":
        return _adamw(trainable(network), plan)
    assert isinstance(network, HasMatrices)
    matrices = network.matrices()
    inside = set(map(id, matrices))
    rest = [parameter for parameter in trainable(network) if id(parameter) not in inside]
    return Joined([Muon(matrices, _rate(rest, plan), plan.weight_decay), _adamw(rest, plan)])


def _rate(parameters: Sequence[nn.Parameter], plan: Plan) -> float | Tensor:
    """Return the first rate; on a GPU it lies there as well, so that a graph of the step reads each step's."""
    device = parameters[0].device
    return torch.tensor(plan.lr, device=device) if device.type == "cuda" else plan.lr


def _adamw(parameters: list[nn.Parameter], plan: Plan) -> AdamW:
    lr, capturable = _rate(parameters, plan), parameters[0].is_cuda
    optimizer = AdamW(parameters, lr, plan.betas, weight_decay=plan.weight_decay, fused=True, capturable=capturable)
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
