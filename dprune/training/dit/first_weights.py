"""The weights that a diffusion transformer begins with."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from dprune.models.dit import DiT, DiTConfig, unfilled


def begun(config: DiTConfig, seed: int, device: torch.device, *, waits: bool) -> tuple[DiT, Callable[[], None]]:
    """Make a network whose weights are drawn on the CPU, so that they do not depend on the device.

    Args:
        config: of the network.
        seed: of the draws.
        device: of the network.
        waits: whether to return when the weights are there.

    Returns:
        The network, and what waits until it has its weights; until then they are zero, or some of them.
    """
    drawn = unfilled(config)
    generator = torch.Generator().manual_seed(seed)
    if waits:
        drawn.initialize(generator)
        return drawn.to(device), lambda: None
    network = unfilled(config, device)

    def draw() -> None:
        drawn.initialize(generator)
        for weight, value in zip(network.parameters(), drawn.parameters(), strict=True):
            # As data: a trial's backward pass would be told that weights have changed.
            weight.data.copy_(value)

    thread = ThreadPoolExecutor(1)
    drawing = thread.submit(draw)
    thread.shutdown(wait=False)
    return network, drawing.result
