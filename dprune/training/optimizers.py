"""The optimizers of a training: the one place where they are chosen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from dprune.training.plan import Plan


def make_optimizers(networks: Mapping[str, nn.Module], plan: Plan) -> dict[str, Optimizer]:
    """Return an optimizer for each network, under its name."""
    return {name: _adamw(network, plan) for name, network in networks.items()}


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Have the next step use a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network that are trained."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _adamw(network: nn.Module, plan: Plan) -> AdamW:
    """Return the optimizer with its moments made at once, so that memory is known and a state can be copied in."""
    parameters = trainable(network)
    optimizer = AdamW(parameters, plan.lr, plan.betas, weight_decay=plan.weight_decay, fused=True)
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
