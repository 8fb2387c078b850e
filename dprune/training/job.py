"""What every training job has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import DpruneError, UsageError
from dprune.runtime import pick_device, process_group, ranks
from dprune.training.run import Run

if TYPE_CHECKING:
    import torch

    from dprune.formats.provenance import Record
    from dprune.runtime import Monitor
    from dprune.training.plan import Plan
    from dprune.training.task import Task


class TrainingJob(ABC):
    """A run folder that is to be made, see `delivery.Job`.

    Attributes:
        plan: of the training.
        device: name of the device.
    """

    plan: Plan
    device: str

    @property
    @abstractmethod
    def record(self) -> Record:
        """Provenance of the model."""

    @abstractmethod
    def task(self, device: torch.device) -> Task:
        """Make the networks and open the data."""

    def existing(self, output: str) -> Record | None:
        """Return the provenance of the run at `output`; see `Run.existing`."""
        return Run(Path(output)).existing(self.record)

    def complete(self, output: str) -> bool:
        """Tell whether the model at `output` is finished."""
        return Run(Path(output)).complete(self.record)

    def run(self, output: str, monitor: Monitor) -> dict[str, Any]:
        """Train, from the state that is at `output` if there is one, and publish the model.

        Raises:
            UsageError: several processes that torchrun did not start.
            Interrupted: the monitor asked to stop; the state is saved.
            DpruneError: out of memory, or the loss is no longer finite.
        """
        import torch

        from dprune.training.loop import Loop

        here = ranks()
        if here.world > 1 and not here.group:
            raise UsageError("RANK and WORLD_SIZE are set without torchrun: start the ranks of a training with it.")
        device = pick_device(self.device, here.local_rank)
        try:
            with process_group(device):
                return Loop(self.task(device), self.plan, Run(Path(output)), self.record, device).train(monitor)
        except torch.OutOfMemoryError as error:
            raise DpruneError(f"{device}: out of memory: give a smaller --micro-batch.") from error
