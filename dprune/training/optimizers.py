"""The optimizers of a training: the one place where they are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from dprune.training.muon import Muon
from dprune.training.plan import Plan


def make_optimizers(networks: Mapping[str, nn.Module], plan: Plan) -> dict[str, Optimizer]:
    """Return an optimizer for each network, under its name."""
    return {name: _optimizer(network, plan) for name, network in networks.items()}


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Have the next step use a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network that are trained."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@runtime_checkable
class HasMatrices(Protocol):
    """A network that tells which of its weights Muon may train."""

    def matrices(self) -> list[tuple[nn.Parameter, int]]:
        """Return them, and of how many matrices, one above the other, each is."""


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
    inside = {id(parameter) for parameter, _ in matrices}
    rest = [parameter for parameter in trainable(network) if id(parameter) not in inside]
    return Joined([Muon(matrices, plan.lr, plan.weight_decay), _adamw(rest, plan)])


def _adamw(parameters: list[nn.Parameter], plan: Plan) -> AdamW:
    optimizer = AdamW(parameters, plan.lr, plan.betas, weight_decay=plan.weight_decay, fused=True)
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
