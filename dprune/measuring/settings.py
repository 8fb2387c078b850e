"""What `eval` and `memorization` are asked for. Nothing here imports torch."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

from dprune.errors import UsageError
from dprune.formats.provenance import Record
from dprune.metrics.catalogue import CLASS_NEIGHBOURS, CLIPPED, METRICS, VENDI_ORDER


@dataclass(frozen=True)
class EvalSettings:
    """What is measured, and how, in the words of `dprune eval`, which says what each means."""

    metrics: str | None = None
    subset: str | None = None
    clusters: str | None = None
    trained_on: str | None = None
    logits: str | None = None
    save_stats: str | None = None
    against: str | None = None
    infinity: bool = False
    held_out: str | None = None
    splits: int = 10
    k: int = 3
    density_k: int = 5
    orders: str = "0.5,1,2,inf"
    jackknife: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Read the lists, and hold the options together.

        Raises:
            UsageError: a name or an order is none, or the options contradict each other.
        """
        names = self.names
        if self.jackknife == 1:
            raise UsageError("--jackknife 1: leaving out the only block leaves nothing: give 2 or more, or 0 for none.")
        if self.infinity and "fid" not in names:
            raise UsageError("--fid-infinity extrapolates the Fréchet distance: add fid to --metrics.")
        for_one = (
            (self.clusters, "shares", "clusters"),
            (self.trained_on, "shares", "trained-on"),
            (self.logits, "is", "logits"),
            (self.held_out, "fid", "held-out"),
        )
        for given, metric, option in for_one:
            if given is not None and metric not in names:
                raise UsageError(
                    f"--{option} is for the metric {metric!r}: add it to --metrics, or leave the option out."
                )
        assert VENDI_ORDER in self.vendi_orders

    @property
    def stated(self) -> bool:
        """Whether the metrics were asked for; if not, those that cannot be computed are left out."""
        return self.metrics is not None

    @property
    def takes_samples(self) -> bool:
        """Whether what was asked for takes the reference's samples, for which statistics do not do."""
        more = self.stated and self.names != ("fid",)
        options = self.subset, self.clusters, self.trained_on, self.save_stats
        return more or any(option is not None for option in options)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Metrics to be computed, in the order of the catalogue."""
        if self.metrics is None:
            return tuple(name for name, metric in METRICS.items() if metric.by_default)
        wanted = [name.strip() for name in self.metrics.split(",")]
        unknown = next((name for name in wanted if name not in METRICS), None)
        if unknown is not None:
            raise UsageError(f"--metrics {self.metrics}: {unknown!r} is not a metric: choose from {','.join(METRICS)}.")
        return tuple(name for name in METRICS if name in wanted)

    @functools.cached_property
    def vendi_orders(self) -> tuple[float, ...]:
        """Orders of the Vendi score, ascending; that of the headline number is among them."""
        try:
            orders = {float(order) for order in self.orders.split(",")}
        except ValueError:
            example = "give numbers with commas between them, such as 0.5,1,2,inf."
            raise UsageError(f"--orders {self.orders}: {example}") from None
        if not all(order >= 0 for order in orders):
            raise UsageError(f"--orders {self.orders}: the order of a Vendi score is 0 or more.")
        return tuple(sorted(orders | {VENDI_ORDER}))

    def options(self) -> Record:
        """Return what provenance records, without the options of metrics that nobody asked for."""
        by_metric: dict[str, dict[str, Any]] = {
            "fid": {"fid_infinity": "halves" if self.infinity else False},
            "is": {"splits": self.splits},
            "prdc": {"k": self.k, "density_k": self.density_k},
            **{name: {"density_k": self.density_k} for name in CLIPPED},
            "shares": {"class_by": f"{CLASS_NEIGHBOURS} nearest neighbours"},
            "vendi": {"orders": [order_name(order) for order in self.vendi_orders]},
        }
        asked = {name: value for metric in self.names for name, value in by_metric.get(metric, {}).items()}
        return {"metrics": list(self.names), "jackknife": self.jackknife, **asked}


def order_name(order: float) -> str:
    """Write an order of the Vendi score; JSON has no infinity."""
    return f"{order:g}"


@dataclass(frozen=True)
class MemorizationSettings:
    """What is measured, and how, in the words of `dprune memorization`, which says what each means."""

    losses: str | None = None
    held_out: str | None = None
    subset: str | None = None
    full: bool = False
    pairs: str | None = None
    figure: str | None = None
    figure_count: int = 24
    generated_shards: tuple[str, ...] = ()
    train_shards: tuple[str, ...] = ()
    neighbours: int = 50
    alpha: float = 0.5
    cells: int | None = None
    jackknife: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Hold the options together.

        Raises:
            UsageError: they contradict each other.
        """
        if self.losses is not None:
            self._check_losses()
        if self.full and self.subset is not None:
            raise UsageError("--full and --subset exclude each other.")
        if self.cells is not None and self.held_out is None:
            raise UsageError("--cells is for the copying test, which needs --held-out: give both, or neither.")
        if self.figure is None and (self.generated_shards or self.train_shards):
            raise UsageError("--generated-shards and --train-shards are for --figure: give it, or leave them out.")

    def _check_losses(self) -> None:
        """Refuse options that have nothing to work on."""
        taken = ("losses", "held_out", "subset")
        for option in fields(self):
            if option.name not in taken and getattr(self, option.name) != option.default:
                name = option.name.replace("_", "-")
                raise UsageError(f"--{name} is for generated samples, and --losses takes none: leave it out.")

    def options(self) -> Record:
        """Return what provenance records."""
        every = {
            "neighbours": self.neighbours,
            "alpha": self.alpha,
            "cells": self.cells,
            "jackknife": self.jackknife,
            "full": self.full or None,
        }
        return {name: value for name, value in every.items() if value is not None}
