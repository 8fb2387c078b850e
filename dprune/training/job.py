"""What every training job has in common."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import UsageError
from dprune.formats.jobs import Job
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record
from dprune.runtime import Monitor, explained, process_group, ranks, take_device
from dprune.training.plan import Plan
from dprune.training.run import KIND, Run, extends
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
    together = True

    @abstractmethod
    def task(self, device: torch.device, monitor: Monitor) -> Task:
        """Make the networks and open the data, whose waits look at the monitor."""

    @property
    def folder(self) -> Run:
        """The output."""
        return Run(Path(self.output.path))

    def existing(self) -> Record | None:
        """See `Job`; a run that differs in nothing but having fewer steps can be extended, and counts as this one."""
        found = existing_record(self.output.path, KIND)
        return self.record if found and extends(found, self.record) else found

    def complete(self) -> bool:
        """See `Job`."""
        return self.folder.complete(self.record)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Train, from the state that is there if there is one, and publish the model; see `Job`.

        Raises:
            UsageError: several processes that torchrun did not start.
        """
        from dprune.training.loop import Loop

        here = ranks()
        if here.world > 1 and not here.group:
            raise UsageError("RANK and WORLD_SIZE are set without torchrun: start the ranks of a training with it.")
        device = take_device(self.device)
        with explained(device, "a smaller --micro-batch"), process_group(device):
            return Loop(self.task(device, monitor), self.plan, self.folder, self.record, device).train(monitor)
