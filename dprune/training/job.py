"""What every training job has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import UsageError
from dprune.formats.provenance import Record
from dprune.runtime import Monitor, pick_device, process_group, ranks
from dprune.training.plan import Plan
from dprune.training.run import Run
from dprune.training.task import Task

if TYPE_CHECKING:
    import torch


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
            DpruneError: out of memory, workers that died, another process that trains in the folder, or a loss that is
                no longer finite.
        """
        from dprune.collectives import is_root
        from dprune.decoding import explained
        from dprune.training.loop import Loop

        here, run = ranks(), Run(Path(output))
        if here.world > 1 and not here.group:
            raise UsageError("RANK and WORLD_SIZE are set without torchrun: start the ranks of a training with it.")
        device = pick_device(self.device, here.local_rank)
        with explained(device, "a smaller --micro-batch"), process_group(device):
            loop = Loop(self.task(device), self.plan, run, self.record, device)
            with run.claimed() if is_root() else nullcontext():
                return loop.train(monitor)
