"""The training loop: every model's, on one process or a group of them.

The batch of a step depends on the seed and the step alone, and the noise of a sample in it on the seed and on how
often the sample was visited before; ranks share the batch. So a run that was stopped goes on exactly, and the number
of ranks changes nothing but the rounding of sums.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dprune.collectives import all_gather, all_sum, is_root
from dprune.errors import DpruneError, Interrupted, MismatchError, UsageError
from dprune.formats.provenance import Record
from dprune.precision import float32
from dprune.runtime import Monitor, ranks
from dprune.training.averages import Averages
from dprune.training.optimizers import make_optimizers
from dprune.training.order import Order, Visits, micro_batches, share
from dprune.training.plan import Plan, is_due
from dprune.training.run import Run
from dprune.training.state import SavedState
from dprune.training.step import Stepper, autocast
from dprune.training.task import Task
from dprune.training.throughput import Stopwatch, product_rate

_log = logging.getLogger("dprune")


class Loop:
    """One run of training.

    Args:
        task: what is trained, its networks on the device.
        plan: how.
        run: where the results go.
        record: provenance of the model.
        device: of this rank.
    """

    def __init__(self, task: Task, plan: Plan, run: Run, record: Record, device: torch.device) -> None:
        self.task, self.plan, self.run, self.device = task, plan, run, device
        self.here = ranks()
        self.order = Order(task.samples, plan.batch_size, plan.seed, task.drawing, plan.steps)
        self.optimizers = make_optimizers(task.networks, plan)
        self.averages = Averages(next(iter(task.networks.values())))
        self.stepper = Stepper(task, plan, self.optimizers, self.averages, device)
        self.saved = SavedState(run, record, task.network_header, task.networks, self.optimizers, self.averages)
        self.step = 0
        self.reported = 0
        self.micro_batch = 0
        _check_ranks_agree(task, plan)

    def train(self, monitor: Monitor) -> None:
        """Train from where the folder's state is to the last step, and publish the model.

        Raises:
            Interrupted: the monitor asked to stop; the state is saved.
            DpruneError: the loss is no longer finite, or a sample does not fit into memory.
        """
        if is_root():
            self.run.begin(self.saved.record)
        _wait()
        # Trials as well: blocks would be compiled again for another precision.
        with float32(tf32=self.plan.precision != "fp32"):
            self.micro_batch = self.plan.micro_batch or self._largest_micro_batch()
            self._begin()
            self._steps(monitor)
            self._evaluate()
        if is_root():
            self.saved.save(self._reached(), self.stepper.sums)
            self.saved.publish()
        _wait()

    def _begin(self) -> None:
        """Have the first weights there, or the state that was saved."""
        self.task.ready()
        self.averages.restart()
        self._resume()
        if is_root():
            self.run.rewind_log(self.step)
            self._log_start()
        self._leave_sums_to_root()

    def _resume(self) -> None:
        if found := self.saved.load():
            reached, sums = found
            self.step, self.reported = reached["step"], reached["reported"]
            self.stepper.sums = {name: value.to(self.device) for name, value in sums.items()}

    def _reached(self) -> dict[str, Any]:
        # A run that goes on is to round as it did, whatever memory is free then.
        passes = {"micro_batch": self.micro_batch}
        return {"step": self.step, "epoch": self.order.epochs(self.step), "reported": self.reported, **passes}

    def _steps(self, monitor: Monitor) -> None:
        """Take the steps that are left."""
        saved = time.monotonic()
        dtype = torch.bfloat16 if self.plan.precision == "bf16" else torch.float32
        ceiling = product_rate(self.device, dtype) if self.task.flop else 0.0
        watch = Stopwatch(self.device, ceiling)
        monitor.start("training", self.plan.steps - self.step, "steps")
        schedule = ((step, self._visits(step)) for step in range(self.step, self.plan.steps))
        with contextlib.closing(self.task.batches(schedule)) as batches:
            while batch := self._next(batches):
                reports = is_due(self.step + 1, self.plan.log_every) or self.step + 1 == self.plan.steps
                norm = self.stepper.take(self.step, batch, wants_norm=reports)
                watch.count(self.plan.batch_size, self.task.flop)
                self.step += 1
                monitor.advance()
                if reports:
                    monitor.note(self._report(norm, watch))
                if self._keep():
                    watch.restart()
                stops, saves = self._agree(monitor.stop_requested(), time.monotonic() - saved > self.plan.autosave)
                if self.step < self.plan.steps and (stops or saves):
                    self._save()
                    saved = time.monotonic()
                    watch.restart()
                if self.step < self.plan.steps and stops:
                    raise Interrupted(f"stopped after step {self.step:,}; run the same command again to go on.")

    def _next(self, batches: Iterator[list[Any]]) -> list[Any] | None:
        """Wait for a step's micro-batches; None after the last step.

        Raises:
            Interrupted: the monitor asked to stop in the meantime; the state is saved.
        """
        try:
            return next(batches, None)
        except Interrupted:
            self._save()
            raise

    def _visits(self, step: int) -> list[Visits]:
        return micro_batches(share(self.order.visits(step), self.here.rank, self.here.world), self.micro_batch)

    def _report(self, norms: dict[str, Tensor], watch: Stopwatch) -> str:
        """Write a line of the log: means since the line before; return what people want to see of it.

        The device is waited for here and nowhere else.

        Raises:
            DpruneError: the loss is no longer finite.
        """
        steps = range(self.reported, self.step)
        self.reported = self.step
        sums = self.stepper.sums
        tallies = {name: all_sum(sums.pop(name)) for name in sorted(sums) if sums[name].ndim}
        names = sorted(sums)
        totals = all_sum(torch.stack([sums[name].float() for name in names])).tolist()
        sums.clear()
        self._check_finite(totals)
        samples = len(steps) * self.plan.batch_size
        line = {name: total / samples for name, total in zip(names, totals, strict=True)}
        line["distinct"] = sum(map(self.order.distinct, steps)) / len(steps)
        for name, norm in norms.items():
            line["grad_norm" if len(self.optimizers) == 1 else f"{name}_grad_norm"] = norm.item()
        line |= self.task.statistics(tallies) | {"lr": self.plan.rate(self.step - 1)} | watch.read(self.here.world)
        self._log(line)
        return f"loss {line['loss']:.4g}" if "loss" in line else ""

    def _log(self, found: dict[str, float]) -> None:
        if is_root():
            self.run.log({"step": self.step, "epoch": self.order.epochs(self.step), **found})

    def _keep(self) -> bool:
        """Keep a checkpoint and evaluate, where they are due; tell whether that took time."""
        saves = is_due(self.step, self.plan.save_every)
        if saves and is_root():
            self.saved.keep_checkpoint(self._reached())
        evaluates = is_due(self.step, self.plan.evaluate_every) and self.step < self.plan.steps
        if evaluates:
            self._evaluate()
        if saves:
            _wait()
        return saves or evaluates

    def _evaluate(self) -> None:
        with self.averages.applied(), autocast(self.plan, self.device), torch.no_grad():
            found = self.task.evaluate(self.step, self.run.pictures)
        if found and is_root():
            self._log(found)
            figures = ", ".join(f"{_spelt(name)} {value:.4g}" for name, value in found.items())
            _log.info("step %s: %s", f"{self.step:,}", figures)

    def _agree(self, stops: bool, saves: bool) -> tuple[bool, bool]:
        """Tell whether any rank was asked to stop or finds it time to save; all must do so after the same step."""
        any_stops, any_saves = all_sum(torch.tensor([int(stops), int(saves)])).tolist()
        return any_stops > 0, any_saves > 0

    def _check_finite(self, totals: list[float]) -> None:
        if not all(map(math.isfinite, totals)):
            raise DpruneError(
                f"the loss is not finite at step {self.step:,}: give a lower --lr, a --warmup or --precision fp32; "
                f"what was saved before stays in {self.run.folder}."
            )

    def _save(self) -> None:
        """Save the state, with the sums of all ranks, whose number may be another next time.

        Raises:
            DpruneError: the loss is no longer finite, and the state before was.
        """
        sums = self.stepper.sums
        self._check_finite([all_sum(sums[name]).sum().item() for name in sorted(sums)])
        self._leave_sums_to_root()
        if is_root():
            self.saved.save(self._reached(), sums)
        _wait()

    def _leave_sums_to_root(self) -> None:
        """Let what all ranks have summed up together count once."""
        if not is_root():
            for value in self.stepper.sums.values():
                value.zero_()

    def _largest_micro_batch(self) -> int:
        """Find the most samples that a pass takes, by halving this rank's share of a batch until it fits."""
        size = -(-self.plan.batch_size // self.here.world)
        if self.device.type != "cuda":
            return size
        while not self._fits(size):
            if size == 1:
                raise DpruneError(f"{self.device}: out of memory with one sample: give a smaller model.")
            size = -(-size // 2)
        return size

    def _fits(self, size: int) -> bool:
        fits = torch.ones((), dtype=torch.int64)
        kept = [_kept(network) for network in self.task.networks.values()]
        try:
            for objective in self.task.objectives.values():
                with autocast(self.plan, self.device):
                    loss, _ = objective(self.task.trial(size))
                loss.backward()
        except torch.OutOfMemoryError:
            fits.zero_()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        for network, state in zip(self.task.networks.values(), kept, strict=True):
            network.load_state_dict(state, strict=False)
        torch.cuda.empty_cache()
        # The log's memory is the training's, not that of attempts which did not fit.
        torch.cuda.reset_peak_memory_stats(self.device)
        return bool(all_sum(fits) == self.here.world)

    def _log_start(self) -> None:
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        parameters = sum(p.numel() for p in self.averages.network.parameters())
        start = {
            "step": self.step, "event": "start", "device": device, "ranks": self.here.world,
            "samples": self.order.size, "steps": self.plan.steps, "epochs": self.order.epochs(self.plan.steps),
            "batch_size": self.plan.batch_size, "micro_batch": self.micro_batch, "parameters": parameters,
            "flop_per_sample": self.task.flop,
        }  # fmt: skip
        self.run.log(start | self._log_order())
        if (samples := self.order.size) < (batch := self.plan.batch_size):
            each = f"each of the {samples:,} samples" if self.order.drawing.even else f"{samples:,} samples on average"
            _log.info("a batch of %s holds %s %.3g times, %s.", f"{batch:,}", each, batch / samples, self.task.repeats)

    def _log_order(self) -> dict[str, int]:
        """Say what is unlike in the order where samples are not drawn alike; return it for the log."""
        order, drawing, found = self.order, self.order.drawing, dict[str, int]()
        if drawing.weights is not None:
            _log.info("an epoch has %s visits of %s samples.", f"{order.length:,}", f"{order.size:,}")
            found["epoch_visits"] = order.length
        if drawing.easiest is not None:
            _log.info("the easiest samples come first, and all %s from step %s on.",
                      f"{order.size:,}", f"{order.whole_from:,}")  # fmt: skip
            found["all_from_step"] = order.whole_from
        return found


def _spelt(name: str) -> str:
    return name.replace("_", " ").replace("psnr", "PSNR").replace("ssim", "SSIM")


def _kept(network: nn.Module) -> dict[str, Tensor]:
    """Copy the state of a network that holds more than parameters, which passes may change."""
    more = any(True for _ in network.buffers())
    return {name: value.cpu() for name, value in network.state_dict().items()} if more else {}


def _check_ranks_agree(task: Task, plan: Plan) -> None:
    """Refuse ranks that would train on different subsets, or have nothing to do.

    Raises:
        UsageError: there are fewer samples in a batch than ranks.
        MismatchError: ranks were given different data.
    """
    if plan.batch_size < ranks().world:
        raise UsageError(f"--batch-size {plan.batch_size}: is less than one sample for each of {ranks().world} ranks.")
    mine = torch.tensor([int(task.fingerprint[:15], 16)])
    if len(set(all_gather(mine).tolist())) > 1:
        raise MismatchError("the ranks were given different training sets: start all of them with the same files.")


def _wait() -> None:
    """Wait for rank 0 to have written: torchrun kills all ranks soon after one has ended."""
    all_sum(torch.zeros(()))
