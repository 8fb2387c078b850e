"""What the training loop asks of the models that it trains."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dprune.training.order import Positions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


class MicroBatch(Protocol):
    """What one pass takes. The objectives of a step get the same one in turn and may leave something in it."""

    def __len__(self) -> int:
        """Return the number of samples."""


class Task(Protocol):
    """Networks that are trained together, their losses and their data."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks by name, each trained by an optimizer of its own, in this order.

        The first is averaged and published.
        """

    @property
    def objectives(self) -> Mapping[str, nn.Module]:
        """For each network, under its name, a module whose forward(micro, step) returns its loss.

        That is a tensor, the sum over the samples of the micro-batch, and a table of further such sums, detached,
        for the log. All trainable parameters of an objective are those of its network, and each gets a gradient.
        """

    @property
    def network_header(self) -> dict[str, Any]:
        """What `ModelFile.network` is to say of the first network."""

    @property
    def samples(self) -> int:
        """Size of the training set."""

    @property
    def fingerprint(self) -> str:
        """Digest of what is trained on, which all ranks must share."""

    @property
    def flop(self) -> int:
        """Floating-point operations of the training on one sample, 0 if not known."""

    def active(self, name: str, step: int) -> bool:
        """Tell whether a network is trained at a step."""

    def batches(self, steps: Iterator[tuple[int, list[Positions]]]) -> Generator[list[Any]]:
        """Turn each step's micro-batches of this rank from positions in the training set into `MicroBatch`es.

        Args:
            steps: the number of each step to come, and its positions, a piece for each micro-batch.

        Yields:
            The micro-batches of a step; closed early, it lets go of what it holds.
        """

    def trial(self, size: int) -> Any:
        """Return a micro-batch of `size` made-up samples, to find out whether it fits into memory.

        What the networks hold besides parameters and what a first batch initialises is put back afterwards.
        """

    def after_step(self, step: int, optimizers: Mapping[str, Optimizer], averages: Mapping[str, Tensor]) -> None:
        """Do what is to be done when the weights of a step are there; may change weights, moments and averages."""

    def statistics(self) -> dict[str, float]:
        """Return what the log is to say besides sums; called on every rank."""

    def evaluate(self, step: int, folder: Path) -> dict[str, float]:
        """Measure the model, whose weights are the averaged ones meanwhile, and draw pictures into `folder`.

        Called on every rank; rank 0 writes.
        """
