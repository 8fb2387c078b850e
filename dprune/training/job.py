"""What every training job has in common."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import UsageError
from dprune.formats.jobs import Job
from dprune.formats.provenance import Record
from dprune.runtime import Monitor, process_group, ranks, take_device
from dprune.training.plan import Plan
from dprune.training.run import Run
from dprune.training.task import Task

if TYPE_CHECKING:
    import torch


class TrainingJob(Job):
    """A run folder that is to be made.

    Attributes:
        plan: of the training.
        device: name of the device.
    """

    plan: Plan
    device: str

    @abstractmethod
    def task(self, device: torch.device) -> Task:
        """Make the networks and open the data."""

    def existing(self) -> Record | None:
        """Return the provenance of the run that is there; see `Run.existing`."""
        return Run(Path(self.output.path)).existing(self.record)

    def complete(self) -> bool:
        """Tell whether the model is finished."""
        return Run(Path(self.output.path)).complete(self.record)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Train, from the state that is there if there is one, and publish the model.

        Raises:
            UsageError: several processes that torchrun did not start.
            Interrupted: the monitor asked to stop; the state is saved.
            DpruneError: out of memory, workers that died, another process that trains in the folder, or a loss that is
                no longer finite.
        """
        from dprune.collectives import is_root
        from dprune.runtime import explained
        from dprune.training.loop import Loop

        here, run = ranks(), Run(Path(self.output.path))
        if here.world > 1 and not here.group:
            raise UsageError("RANK and WORLD_SIZE are set without torchrun: start the ranks of a training with it.")
        device = take_device(self.device)
        with explained(device, "a smaller --micro-batch"), process_group(device):
            loop = Loop(self.task(device), self.plan, run, self.record, device)
            with run.claimed() if is_root() else nullcontext():
                return loop.train(monitor)
