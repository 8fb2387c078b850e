"""What memory a training takes, told before any of it is taken."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dprune.errors import DpruneError

GIB = 1 << 30
# Measured peaks on a CPU are 1.1 to 1.3 times what `Need.least` says, and 0.2 GiB more.
MARGIN = 1.3
BASE = GIB // 4

N = TypeVar("N", bound=nn.Module)

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Need:
    """Bytes that a training takes.

    Attributes:
        weights: of the trainable parameters, float32; their averages, moments and gradients take as much each.
        sample: what a forward pass in float32 keeps of one sample for the backward pass.
    """

    weights: int
    sample: int

    def least(self, micro_batch: int) -> int:
        """Return what is taken at once with so many samples in a pass: gradients come as what was kept goes."""
        return 4 * self.weights + max(self.weights, self.sample * micro_batch)

    def likely(self, micro_batch: int) -> int:
        """Return what is enough, as far as that can be told."""
        return BASE + int(MARGIN * (5 * self.weights + self.sample * micro_batch))

    def largest(self, micro_batch: int, free: int) -> int:
        """Halve a micro-batch until it is likely to fit, or is one sample."""
        while micro_batch > 1 and self.likely(micro_batch) > free:
            micro_batch = -(-micro_batch // 2)
        return micro_batch


def need_of(build: Callable[[], N], run: Callable[[N], Tensor] | None) -> Need:
    """Find out what a network takes without taking it.

    Args:
        build: makes it.
        run: sends one made-up sample through it; both are called where tensors have shapes and no content. None, where
            trials on the device will tell what a sample takes, which is 0 then: this imports torch's compiler.
    """
    with torch.device("meta"):
        network = build()
        weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage
            return tensor

        if run is not None:
            with saved_tensors_hooks(keep, lambda tensor: tensor):
                out = run(network)
            del out
    trainable = sum(4 * parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Need(trainable, sum(storage.nbytes() for storage in kept.values()))


def refuse_what_cannot_fit(
    need: Need, micro_batch: int | None, free: int, what: str, smaller: Callable[[int], str]
) -> None:
    """Refuse a training that takes more memory than there is, and warn of one that takes nearly all.

    Args:
        need: of the training.
        micro_batch: samples in a pass that the user asks for, None for as many as fit.
        free: bytes.
        what: is trained.
        smaller: names what to give where one sample is too much, given the free bytes.

    Raises:
        DpruneError: it cannot fit.
    """
    asked, least = micro_batch or 1, need.least(micro_batch or 1)
    takes = f"{what} takes at least {gib(least)} of memory with {asked} in a pass, and {gib(free)} are free"
    if least > free:
        fits = f"--micro-batch {need.largest(asked, free)} or auto"
        raise DpruneError(f"{takes}: give {smaller(free) if need.least(1) > free else fits}.")
    if need.likely(asked) > free:
        _log.warning("%s: the system may kill it.", takes)


def gib(size: int) -> str:
    """Write a number of bytes."""
    return f"{size / GIB:.1f} GiB"
