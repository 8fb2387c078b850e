"""What `eval` is asked for. Nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dprune.errors import UsageError
from dprune.formats.provenance import Record

# Keys in the result by the names that --metrics takes; those of shares depend on what there is to count.
KEYS: dict[str, tuple[str, ...]] = {
    "fid": ("frechet_distance",),
    "is": ("inception_score",),
    "prdc": ("precision", "recall", "f_score", "density", "coverage"),
    "kid": ("kid",),
    "cmmd": ("cmmd",),
    "prd": ("prd_f_8", "prd_f_1_8"),
    "vendi": ("vendi",),
    "shares": (),
}
# What messages call the metrics that some inputs do not allow.
TITLES = {"is": "Inception score", "prdc": "precision and recall", "shares": "shares"}
# Order of the Vendi score that the headline number has.
VENDI_ORDER = 1.0


@dataclass(frozen=True)
class Settings:
    """Everything that changes the numbers besides the inputs and the seed.

    Attributes:
        metrics: names, in the order of `KEYS`.
        stated: whether these were asked for; if not, those that cannot be computed are left out.
        k: neighbours for precision and recall.
        density_k: neighbours for density and coverage.
        splits: of the Inception score.
        orders: of the Vendi score, ascending; 1 is among them.
        jackknife: blocks for the standard errors, 0 for none.
        infinity: whether the Fréchet distance is extrapolated to infinitely many samples, too.
    """

    metrics: tuple[str, ...] = tuple(KEYS)
    stated: bool = False
    k: int = 3
    density_k: int = 5
    splits: int = 10
    orders: tuple[float, ...] = (0.5, 1.0, 2.0, math.inf)
    jackknife: int = 20
    infinity: bool = False

    def options(self) -> Record:
        """Return the settings as provenance holds them, without those of metrics that nobody asked for."""
        by_metric: dict[str, dict[str, Any]] = {
            "fid": {"fid_infinity": self.infinity},
            "is": {"splits": self.splits},
            "prdc": {"k": self.k, "density_k": self.density_k},
            "vendi": {"orders": [order_name(order) for order in self.orders]},
        }
        asked = {name: value for metric in self.metrics for name, value in by_metric.get(metric, {}).items()}
        return {"metrics": list(self.metrics), "jackknife": self.jackknife, **asked}


def order_name(order: float) -> str:
    """Write an order of the Vendi score; JSON has no infinity."""
    return f"{order:g}"


def resolve(
    metrics: str | None, *, k: int, density_k: int, splits: int, orders: str, jackknife: int, infinity: bool
) -> Settings:
    """Read the options.

    Args:
        metrics: names with commas between them, None for all that the inputs allow.
        k: see `Settings`, as are those that follow.
        density_k: likewise.
        splits: likewise.
        orders: numbers with commas between them.
        jackknife: likewise.
        infinity: likewise.

    Raises:
        UsageError: a name or an order is none, or the options contradict each other.
    """
    names = tuple(KEYS) if metrics is None else _names(metrics)
    if jackknife == 1:
        raise UsageError("--jackknife 1: leaving out the only block leaves nothing: give 2 or more, or 0 for none.")
    if infinity and "fid" not in names:
        raise UsageError("--fid-infinity extrapolates the Fréchet distance: add fid to --metrics.")
    return Settings(names, metrics is not None, k, density_k, splits, _orders(orders), jackknife, infinity)


def _names(text: str) -> tuple[str, ...]:
    wanted = [name.strip() for name in text.split(",")]
    unknown = next((name for name in wanted if name not in KEYS), None)
    if unknown is not None:
        raise UsageError(f"--metrics {text}: {unknown!r} is no metric: choose from {','.join(KEYS)}.")
    return tuple(name for name in KEYS if name in wanted)


def _orders(text: str) -> tuple[float, ...]:
    try:
        orders = {float(order) for order in text.split(",")}
    except ValueError:
        raise UsageError(f"--orders {text}: give numbers with commas between them, such as 0.5,1,2,inf.") from None
    if not all(order >= 0 for order in orders):
        raise UsageError(f"--orders {text}: the order of a Vendi score is 0 or more.")
    return tuple(sorted(orders | {VENDI_ORDER}))
