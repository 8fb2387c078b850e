"""One step of training: gradients of the mean loss over the global batch, clipping, optimizers, averages."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from dprune.collectives import in_group
from dprune.runtime import ranks
from dprune.training.averages import Averages
from dprune.training.optimizers import is_capturable, set_rate, trainable
from dprune.training.plan import Plan
from dprune.training.replays import Replays
from dprune.training.task import Task

Sums = Mapping[str, Tensor]


class Stepper:
    """Takes the steps of a training.

    Attributes:
        sums: what objectives and the task gave to be summed up since the sums were last cleared, by name.

    Args:
        task: what is trained, its networks on the device.
        plan: how.
        optimizers: of the networks, under their names.
        averages: of the first network's weights.
        device: of this rank.
    """

    def __init__(
        self, task: Task, plan: Plan, optimizers: Mapping[str, Optimizer], averages: Averages, device: torch.device
    ) -> None:
        self._task, self._plan, self._device, self._world = task, plan, device, ranks().world
        self._optimizers, self._averages = optimizers, averages
        self._objectives = {name: _shared(objective, device) for name, objective in task.objectives.items()}
        self._replays = Replays(device) if may_capture(device, optimizers) else None
        self.sums: dict[str, Tensor] = {}

    def take(self, step: int, batch: list[Any], *, wants_norm: bool) -> dict[str, Tensor]:
        """Take one step, given its micro-batches; return the norms of the gradients if they are known or wanted."""
        names = [name for name in self._objectives if self._task.active(name, step)]
        for name in names:
            set_rate(self._optimizers[name], self._plan.rate(step) * self._task.rates.get(name, 1.0))
        key = self._task.capture_key(step) if self._replays else None
        work = functools.partial(self._work, names, wants_norm or key is not None)
        found, norms = self._replays(key, work, batch) if self._replays else work(batch)
        for sums in found:
            self._add(sums)
        self._averages.update(self._plan.ema_decay(step))
        self._add(self._task.after_step(step, self._optimizers, self._averages.tensors))
        return dict(norms)

    def _work(self, names: Sequence[str], wants_norm: bool, batch: Sequence[Any]) -> tuple[list[Sums], Sums]:
        """Do what a step does on the device; return the sums of each pass and the norms of the gradients."""
        found: list[Sums] = []
        norms: dict[str, Tensor] = {}
        for name in names:
            optimizer, parameters = self._optimizers[name], trainable(self._task.networks[name])
            # Of an attempt that failed.
            optimizer.zero_grad()
            found += self._backward(self._objectives[name], batch)
            if self._plan.clip is not None:
                norms[name] = clip_grad_norm_(parameters, self._plan.clip, foreach=True)
            elif wants_norm:
                norms[name] = get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
            optimizer.step()
            optimizer.zero_grad()
        return found, norms

    def _backward(self, objective: nn.Module, batch: Sequence[Any]) -> Iterator[Sums]:
        """Add the gradients of the mean loss over the global batch; yield the sums of each micro-batch."""
        # DDP takes the mean over the ranks of what each of them has summed.
        scale = self._world / self._plan.batch_size
        for number, micro in enumerate(batch):
            alone = number < len(batch) - 1 and isinstance(objective, DistributedDataParallel)
            with objective.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                with autocast(self._plan, self._device):
                    loss, sums = objective(micro)
                (loss * scale).backward()
            yield sums

    def _add(self, sums: Sums) -> None:
        for name, value in sums.items():
            self.sums[name] = self.sums[name].add_(value) if name in self.sums else value.clone()


def autocast(plan: Plan, device: torch.device) -> torch.autocast:
    """Let what runs meanwhile compute in the precision of the plan."""
    return torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16")


def may_capture(device: torch.device, optimizers: Mapping[str, Optimizer]) -> bool:
    """Tell whether steps of whatever task may become graphs: other ranks are waited for by the host."""
    return device.type == "cuda" and not in_group() and all(map(is_capturable, optimizers.values()))


def _shared(objective: nn.Module, device: torch.device) -> nn.Module:
    if not in_group():
        return objective
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(objective, devices, gradient_as_bucket_view=True)
