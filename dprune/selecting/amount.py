"""How much to keep: an exact share of the candidates, or a count.

A share is written with a point, a slash, an exponent or a percent sign, a count in digits alone. In a loop over shares
a bare 1 would mean one sample where all were meant, so it is neither until somebody says which.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from dprune.errors import UsageError

# Fraction would write out the zeros of 1e-999999999.
_NUMBER = re.compile(r"[-+]?[0-9]{0,50}(\.[0-9]{0,50})?(e[-+]?[0-9]{1,2})?(/[0-9]{1,50})?%?", re.IGNORECASE)


@dataclass(frozen=True)
class Amount:
    """A share (a `Fraction` from 0 to 1) or a count (an `int`) of samples to keep or to prune."""

    value: Fraction | int
    pruned: bool = False

    @classmethod
    def parse(cls, text: str, *, pruned: bool = False) -> Amount:
        """Read `0.25`, `.25`, `1/4`, `25%` and `2.5e-1` as shares and `500` as a count.

        Raises:
            ValueError: the text is none of these, or the share is outside 0 to 1.
        """
        try:
            if not _NUMBER.fullmatch(text):
                raise ValueError
            if text.endswith("%"):
                value: Fraction | int = Fraction(text[:-1]) / 100
            else:
                value = Fraction(text) if any(sign in text for sign in "./eE") else int(text)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{text!r} is neither a share (0.25, 1/4, 25%) nor a count (500).") from None
        if value < 0 or (isinstance(value, Fraction) and value > 1):
            raise ValueError(f"{text!r}: a share lies between 0 and 1, and a count is written in digits alone: 500.")
        return cls(value, pruned)

    def check(self, *, counted: bool) -> None:
        """Refuse a bare 1 that may stand for all samples, and a share that is said to be a count.

        Args:
            counted: whether the amount is said to be a count.

        Raises:
            UsageError: it is one of these.
        """
        option, is_count = "--prune" if self.pruned else "--keep", isinstance(self.value, int)
        if self.value == 1 and is_count and not counted:
            raise UsageError(
                f"{option} 1 may mean one sample or all of them: write 100% for all, or add --count for one."
            )
        if counted and not is_count:
            raise UsageError(f"--count: {option} is a share here: leave --count out, or give a number of samples.")

    def __str__(self) -> str:
        """Write what is kept, as a decimal where that is exact."""
        if isinstance(self.value, int):
            return f"all but {self.value}" if self.pruned else str(self.value)
        share = 1 - self.value if self.pruned else self.value
        decimal = f"{float(share):.12g}"
        if Fraction(decimal) != share:
            return str(share)
        # A share of 1 is everything, a count of 1 is one sample.
        return f"{decimal}.0" if decimal in ("0", "1") else decimal

    def count(self, candidates: int, order: str) -> int:
        """Return how many of `candidates` samples to keep; a count may be impossible (over `candidates`, negative).

        A share is rounded half up; for `highest` it is what the `lowest` of the other share leaves.
        """
        if isinstance(self.value, int):
            return candidates - self.value if self.pruned else self.value
        share = 1 - self.value if self.pruned else self.value
        if order == "highest":
            return candidates - _round_half_up((1 - share) * candidates)
        return _round_half_up(share * candidates)


def parse_share(text: str) -> Fraction:
    """Read a share of more than 0.

    Raises:
        ValueError: the text is none.
    """
    value = Amount.parse(text).value
    if isinstance(value, int) or not value:
        raise ValueError(f"{text!r} is no share of more than 0: give one such as 0.01 or 1/100.")
    return value


def _round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))
