"""What the training loop asks of the models that it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dprune.training.order import EVEN, Drawing, Visits

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


class Task(ABC):
    """Networks that are trained together, their losses and their data.

    Attributes:
        networks: by name, each trained by an optimizer of its own, in this order; the first is averaged and published.
        objectives: for each network, under its name, a module whose forward(micro) returns its loss. That is a
            tensor, the sum over the samples of the micro-batch, and a table of further such sums, detached, for the
            log. All trainable parameters of an objective are those of its network, and each gets a gradient.
        network_header: what `ModelFile.network` is to say of the first network.
        samples: size of the training set.
        drawing: how often each of them is drawn, and which come first.
        repeats: how a sample differs from one visit to the next, for a sentence.
        fingerprint: digest of what is trained on, which all ranks must share.
        flop: floating-point operations of the training on one sample, 0 if not known.
        rates: for some of the networks, under their names, what the learning rate is multiplied by.
    """

    networks: Mapping[str, nn.Module]
    objectives: Mapping[str, nn.Module]
    network_header: dict[str, Any]
    samples: int
    drawing: Drawing = EVEN
    repeats: str
    fingerprint: str
    flop: int = 0
    rates: Mapping[str, float] = MappingProxyType({})

    def ready(self) -> None:
        """Wait until the networks have the weights that they begin with, which trials can do without."""
        return

    def active(self, name: str, step: int) -> bool:
        """Tell whether a network is trained at a step."""
        return True

    def capture_key(self, step: int) -> Hashable:
        """Tell what the passes of a step launch: steps of one key launch the same and may be captured as one graph.

        None, where that cannot be: the host decides or waits for something in a pass. Micro-batches are named tuples
        of tensors on the device otherwise.
        """
        return None

    @abstractmethod
    def batches(self, steps: Iterator[tuple[int, list[Visits]]]) -> Generator[list[Any]]:
        """Turn each step's micro-batches of this rank from visits of samples into what a pass takes.

        Whatever is random in a sample is drawn by its id and by how often it was visited before. The objectives of a
        step get the same micro-batch in turn and may leave something in it.

        Args:
            steps: the number of each step to come, and its visits, a piece for each micro-batch.

        Yields:
            The micro-batches of a step; closed early, it lets go of what it holds.

        Raises:
            Interrupted: alone, not in a group, this process was asked to stop while it waited for a step's data.
        """

    @abstractmethod
    def trial(self, size: int) -> Any:
        """Return a micro-batch of `size` made-up samples, to find out whether it fits into memory.

        What the networks hold besides parameters and what a first batch initialises is put back afterwards.
        """

    def after_step(
        self, step: int, optimizers: Mapping[str, Optimizer], averages: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Do what is to be done when the weights of a step are there; may change weights, moments and averages.

        Returns:
            Tensors of at least one dimension that `statistics` wants the sums of, over steps and ranks.
        """
        return {}

    def statistics(self, tallies: Mapping[str, Tensor]) -> dict[str, float]:
        """Return what the log is to say besides means; called on every rank.

        Args:
            tallies: sums of what `after_step` returned since the line before.
        """
        return {}

    @abstractmethod
    def evaluate(self, step: int, folder: Path) -> dict[str, float]:
        """Measure the model, whose weights are the averaged ones meanwhile, and draw pictures into `folder`.

        Called on every rank; rank 0 writes.
        """
