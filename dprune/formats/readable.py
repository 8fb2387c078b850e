"""Values and texts for people."""

from __future__ import annotations

import contextlib
import re
from typing import Any

MOST_SHOWN = 24
SLOW = 10
"""Rates below this, a second, are written with decimals."""
DAY_S = 86400

# Up to where a quotation or a sentence goes on behind it.
_URL = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]{0,20}://)(?:[^/\s'"<>]*@)?([^\s'"<>?]*)(\?[^\s'"<>]*[^\s'"<>:,.;)])?""")


def presentable(text: str, keep: str = "") -> str:
    """Return a text that a terminal shows as it is, and that anybody may see.

    Names, keys and what files say of themselves are other people's: what would command a terminal, hide or reorder
    text, or end a line, is written as Python would write it, and so are the bytes of names that are no UTF-8. Of URLs
    it leaves out passwords and queries, which may hold signatures.

    Args:
        text: of any origin.
        keep: control characters to leave alone.
    """
    if "://" in text:
        text = _URL.sub(lambda url: f"{url[1]}{url[2]}{'?…' if url[3] else ''}", text)
    if text.translate(dict.fromkeys(map(ord, keep))).isprintable():
        return text
    # Where the locale is C, names that are UTF-8 arrive byte by byte.
    with contextlib.suppress(UnicodeEncodeError):
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


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


def first_capital(text: str) -> str:
    """Write the first letter as at the beginning of a sentence, and all others as they are."""
    return text[:1].upper() + text[1:]


def figures(rate: float) -> str:
    """Write a rate: as a whole number, or where that would hide much of it with two digits that count."""
    return f"{rate:,.0f}" if rate >= SLOW else f"{rate:.2g}"


def speed(rate: float, unit: str) -> str:
    """Write a rate as units a second, or below one as the seconds that each takes.

    Args:
        rate: units a second, above 0.
        unit: their name in the plural, such as `steps`.
    """
    return f"{figures(rate)} {unit}/s" if rate >= 1 else f"{figures(1 / rate)} s/{unit.removesuffix('s')}"


def clock(seconds: float) -> str:
    """Write a length of time as hours, minutes and seconds, and from a day on as hours alone."""
    if seconds >= DAY_S:
        return f"{seconds / 3600:,.0f} h"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


def size(count: int) -> str:
    """Write a number of bytes."""
    number, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while number >= 999.5 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{count:,} bytes" if units[0] == "bytes" else f"{number:.3g} {units[0]}"
