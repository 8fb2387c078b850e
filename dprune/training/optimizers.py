"""The optimizers of a training: the one place where they are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from dprune.training.plan import Plan


def make_optimizers(networks: Mapping[str, nn.Module], plan: Plan) -> dict[str, Optimizer]:
    """Return an optimizer for each network, under its name."""
    return {name: _adamw(network, plan) for name, network in networks.items()}


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


def _adamw(network: nn.Module, plan: Plan) -> AdamW:
    """Return the optimizer with its moments made at once, so that memory is known and a state can be copied in."""
    parameters = trainable(network)
    device = parameters[0].device
    # On a GPU the rate lies there as well, so that a graph of the step reads the one of each step.
    told: dict[str, Any] = {"lr": torch.tensor(plan.lr, device=device), "capturable": True}
    rate = told if device.type == "cuda" else {"lr": plan.lr}
    optimizer = AdamW(parameters, betas=plan.betas, weight_decay=plan.weight_decay, fused=True, **rate)
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
