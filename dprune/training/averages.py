"""The exponential moving average of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Averages:
    """Averages of the trainable parameters, float32, on their device.

    Args:
        network: whose parameters they follow; they begin as its initial weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        followed = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._parameters: list[Tensor] = list(followed.values())
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in followed.items()}

    def restart(self) -> None:
        """Begin again as the parameters are now."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.tensors.values()), self._parameters)

    def update(self, decay: float) -> None:
        """Move every average towards its parameter by the share 1 - decay."""
        with torch.no_grad():
            torch._foreach_lerp_(list(self.tensors.values()), self._parameters, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Return the network's state with averages in place of parameters."""
        return {**self.network.state_dict(), **self.tensors}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the averages for weights, in evaluation mode, while the block runs."""
        self._swap()
        self.network.eval()
        try:
            yield
        finally:
            self.network.train()
            self._swap()

    def _swap(self) -> None:
        for parameter, (name, average) in zip(self._parameters, list(self.tensors.items()), strict=True):
            self.tensors[name], parameter.data = parameter.data, average
