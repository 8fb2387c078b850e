"""What every training job has in common."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError, UsageError
from dprune.formats.jobs import Job
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import Record
from dprune.memory import free_memory
from dprune.models.files import ModelFile
from dprune.runtime import Monitor, explained, process_group, ranks, take_device
from dprune.training.plan import Plan
from dprune.training.run import KIND, Run, extends
from dprune.training.task import Task

if TYPE_CHECKING:
    import torch

    from dprune.training.memory import Need

_log = logging.getLogger("dprune")


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
    @abstractmethod
    def title(self) -> str:
        """What is trained."""

    @abstractmethod
    def need(self, *, passes: bool) -> Need:
        """Find out what memory the training takes, without taking it.

        Args:
            passes: whether what a sample takes is asked for too, else it is 0.
        """

    @abstractmethod
    def smaller(self, free: int) -> str:
        """Name what to give where the training does not fit into so many bytes."""

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
            DpruneError: it does not fit into memory.
        """
        from dprune.training.loop import Loop

        here = ranks()
        if here.world > 1 and not here.group:
            raise UsageError(
                "RANK and WORLD_SIZE are set without torchrun: start the ranks of a training run with torchrun."
            )
        device = take_device(self.device)
        plan = self._fitting_plan(device)
        with explained(device, "a smaller --micro-batch"), process_group(device):
            Loop(self.task(device, monitor), plan, self.folder, self.record, device).train(monitor)
        return {} if ranks().rank else self.summary()

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        steps, batch = self.plan.steps, self.plan.batch_size
        return {"steps": steps, "batch_size": batch, "visits_of_samples": steps * batch}

    def summary(self) -> dict[str, Any]:
        """See `Job`; rates are in the log, and stay those of the training."""
        lines = self.folder.log_lines()
        line = next((line for line in reversed(lines) if "lr" in line), dict[str, Any]())
        measured = {name: value for name, value in line.items() if name not in ("step", "epoch")}
        return {"steps": self.plan.steps, "epochs": line.get("epoch"), **measured}

    def touched(self) -> Sequence[Path]:
        """See `Job`."""
        return (self.folder.model, *super().touched())

    def _fitting_plan(self, device: torch.device) -> Plan:
        """Bound the micro-batch by the memory that is free; on a GPU trials will find it.

        Raises:
            DpruneError: the training cannot fit.
        """
        from dprune.training.memory import GIB, Need, refuse_what_cannot_fit

        need, free = self.need(passes=device.type != "cuda"), free_memory(device)
        if self.plan.precision == "bf16":
            need = Need(need.weights, need.sample // 2)
        refuse_what_cannot_fit(need, self.plan.micro_batch, free, self.title, self.smaller)
        if self.plan.micro_batch is not None or device.type == "cuda":
            return self.plan
        share = -(-self.plan.batch_size // ranks().world)
        # What was used before, so that a run that goes on does not round otherwise.
        size = min(share, self._micro_batch_before() or need.largest(share, free))
        if size < share:
            _log.info("--micro-batch %d: passes of %d would not fit into %.1f GiB.", size, share, free / GIB)
        return replace(self.plan, micro_batch=size)

    def _micro_batch_before(self) -> int | None:
        try:
            found = (
                ModelFile.open(self.folder.state).network.get("micro_batch") if self.folder.state.is_file() else None
            )
        except InputError:
            return None
        return found if isinstance(found, int) and found > 0 else None
