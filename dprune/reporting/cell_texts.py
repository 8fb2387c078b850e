"""The words of tables, the same on the page and in Markdown: heads of columns, numbers and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dprune.metrics.catalogue import Measure
from dprune.metrics.differences import PAIRED, TRAININGS, UNPAIRED, Difference
from dprune.reporting.study.estimates import CellMean
from dprune.reporting.tables import Table, half_text, number_text

KINDS = {
    TRAININGS: "t interval over trainings",
    PAIRED: "sampling error alone, noise and reference shared",
    UNPAIRED: "sampling error alone, both errors put together",
}
"""What the error of a difference is."""


def _several(name: str) -> Callable[[str], str]:
    return lambda count: f"{count} {name}{'' if count == '1' else 's'}"


COUNTS = (
    ("Trainings", "", _several("training")),
    (
        "Samplings",
        "sets of generated samples of each training",
        lambda count: f"{_several('sampling')(count)} of each training",
    ),
    ("N", "generated samples", _several("generated sample")),
)
"""What stands behind the numbers of a row: the head of its column, what that means, and how a sentence says it."""


def measure_head(measure: Measure) -> str:
    """Name a metric, with an arrow to its better end."""
    return f"{measure.name} {measure.arrow}".strip()


def differences_title(tables: Sequence[Table]) -> str:
    """Name the table of differences by what its rows are held to."""
    named = any(row.baseline.is_named for table in tables for row in table.held if row.baseline is not None)
    return f"Differences from the {'baseline' if named else 'unpruned'}"


def estimate_spread(estimate: CellMean) -> str:
    """Write half of the 95% interval of a mean, in brackets where it is of sampling alone."""
    shown = _half_text(estimate.half_width)
    return shown if estimate.over_trainings or not shown else f"({shown})"


def difference_text(difference: Difference) -> str:
    """Write a difference with its sign, and with a star where it is told apart from none."""
    sign, star = "+" if difference.value > 0 else "", "*" if difference.told_apart else ""
    return f"{sign}{number_text(difference.value, difference.half_width)}{star}"


def difference_spread(difference: Difference) -> str:
    """Write half of the 95% interval of a difference as `differences.NOTE` says."""
    shown = _half_text(difference.half_width)
    if difference.kind == TRAININGS or not shown:
        return shown
    return f"({shown}†)" if difference.kind == UNPAIRED else f"({shown})"


def value_text(estimate: CellMean) -> str:
    """Write a value with half of its 95% interval, in brackets where that is of sampling alone."""
    spread = spread_text(estimate.half_width, over_trainings=estimate.over_trainings)
    return number_text(estimate.mean, estimate.half_width) + spread


def spread_text(half: float | None, *, over_trainings: bool) -> str:
    """Write half of an interval behind a value in a sentence."""
    if not half:
        return ""
    shown = f"± {half_text(half)}"
    return f" {shown}" if over_trainings else f" ({shown})"


def _half_text(half: float | None) -> str:
    return f"±{half_text(half)}" if half else ""
