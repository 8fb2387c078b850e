"""Values in words for people."""

from __future__ import annotations

from typing import Any

MOST_SHOWN = 24


def readable(value: Any) -> str:
    """Write a value of a summary for people: thousands apart, long lists of counts cut short."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        shown = [f"{key}: {readable(item)}" for key, item in list(value.items())[:MOST_SHOWN]]
        return ", ".join(shown) + (f", and {len(value) - MOST_SHOWN:,} more" if len(value) > MOST_SHOWN else "")
    return str(value)
