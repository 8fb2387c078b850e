"""How fast an output grows, by the times of its files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Pace:
    """How fast pieces came, in a stretch of time in which the same workers made them.

    Attributes:
        rate: units a second.
        unit: what is counted.
        pieces: that came in that time.
        last: when the last of them came, in seconds since 1970; None where the log does not say.
    """

    rate: float
    unit: str
    pieces: int
    last: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        last = None if self.last is None else datetime.fromtimestamp(self.last, UTC).isoformat(timespec="seconds")
        return {"rate": self.rate, "unit": f"{self.unit}/s", "pieces": self.pieces, "last": last}


def pace_since(begun: float, made: Iterable[tuple[float, int]], unit: str, *, skip: int = 0) -> Pace | None:
    """Return how fast pieces came since the last worker began.

    Before that there were fewer of them, or there was a pause that nobody noted.

    Args:
        begun: when that was, in seconds since 1970.
        made: of each piece when it was made, and how many units it holds.
        unit: what is counted.
        skip: pieces after `begun` whose work began before.

    Returns:
        None where nothing was made since.
    """
    since = sorted(piece for piece in made if piece[0] > begun)
    counted = since[skip:]
    if skip and len(since) > skip:
        begun = since[skip - 1][0]
    last, units = max((time for time, _ in counted), default=begun), sum(count for _, count in counted)
    return Pace(units / (last - begun), unit, len(counted), last) if units and last > begun else None
