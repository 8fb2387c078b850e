"""How a model is trained, whatever it is: steps, batches, rates. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from dprune.errors import UsageError
from dprune.precision import pick_precision

EMA_WARMUP = (1, 10)


@dataclass(frozen=True)
class Plan:
    """What the loop is told.

    Attributes:
        steps: optimizer steps in all.
        batch_size: samples in a step, over all ranks.
        lr: learning rate.
        optimizer: `adamw`, or `muon` for matrices inside the network and AdamW for the rest.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup: steps over which the rate rises from zero.
        schedule: `constant`, or `cosine` down to zero at the last step.
        ema: decay of the average of the weights, which begins lower; see `ema_decay`.
        clip: largest norm of the gradient, None for no limit.
        precision: `bf16` (autocast, float32 weights), `tf32` or `fp32`.
        seed: of the order, the noise and the initial weights.
        micro_batch: samples in one pass of a rank, None for the largest that fits.
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints that are kept, None for none.
        evaluate_every: steps between two evaluations, None for none before the end.
        autosave: seconds between two states to resume from; a signal saves one as well.
    """

    steps: int
    batch_size: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: str = "constant"
    ema: float = 0.9999
    clip: float | None = None
    precision: str = "fp32"
    seed: int = 0
    micro_batch: int | None = None
    log_every: int = 100
    save_every: Fraction | None = None
    evaluate_every: int | None = None
    autosave: float = 1800.0
    optimizer: str = "adamw"

    def options(self) -> dict[str, Any]:
        """Return what changes the weights, as provenance holds it."""
        silent = {"seed", "micro_batch", "log_every", "save_every", "evaluate_every", "autosave"}
        # Which optimizer there is to choose is younger than runs that are still there.
        silent |= {"optimizer"} if self.optimizer == "adamw" else set()
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in silent} | {
            "betas": list(self.betas)
        }

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant":
            return self.lr * rise
        return self.lr * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def ema_decay(self, step: int) -> float:
        """Decay of the average at a step; small at first, or short runs would end near their initial weights."""
        return min(self.ema, (EMA_WARMUP[0] + step) / (EMA_WARMUP[1] + step))


@dataclass(frozen=True)
class TrainingOptions:
    """What the user said of the training; None where nothing was said. See `Plan`."""

    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    micro_batch: str = "auto"
    lr: float | None = None
    warmup: int | None = None
    schedule: str | None = None
    ema: float | None = None
    clip: float | None = None
    precision: str = "auto"
    seed: int = 0
    log_every: int | None = None
    save_every: str | None = None
    evaluate_every: int | None = None
    autosave: float = 1800.0
    device: str = "auto"

    def plan(self, samples: int, defaults: Mapping[str, Any]) -> Plan:
        """Fill in what was not said.

        Args:
            samples: size of the training set.
            defaults: of a kind of model or a preset, with at least `steps`, `batch_size` and `lr`.

        Raises:
            UsageError: options contradict each other.
        """
        said = {name: value for name, value in vars(self).items()
                if value is not None and name not in ("epochs", "device")}  # fmt: skip
        micro, batch_size = self.micro_batch, said.get("batch_size", defaults["batch_size"])
        resolved = {
            "steps": self._steps(samples, batch_size, defaults["steps"]),
            "precision": pick_precision(self.precision, self.device),
            "micro_batch": None if micro == "auto" else int(_positive("--micro-batch", micro, "auto")),
            "save_every": self._save_every(samples, batch_size),
        }
        return Plan(**{**defaults, **said, **resolved})

    def _steps(self, samples: int, batch_size: int, default: int) -> int:
        if self.steps is not None and self.epochs is not None:
            raise UsageError("--steps and --epochs exclude each other: give one.")
        if self.epochs is not None:
            # As it was written: the float 0.1 is a little more than a tenth, and would cost a step more.
            return max(1, math.ceil(Fraction(str(self.epochs)) * samples / batch_size))
        return default if self.steps is None else self.steps

    def _save_every(self, samples: int, batch_size: int) -> Fraction | None:
        if self.save_every == "epoch":
            return Fraction(samples, batch_size)
        return None if self.save_every is None else _positive("--save-every", self.save_every, "epoch")


def _positive(option: str, text: str, word: str) -> Fraction:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not int(text):
        raise UsageError(f"{option} {text}: give a whole number from 1, or {word}.")
    return Fraction(text)


def is_due(step: int, every: Fraction | int | None) -> bool:
    """Tell whether `step` steps are the first that reach another multiple of `every`."""
    return every is not None and step // every > (step - 1) // every
