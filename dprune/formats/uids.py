"""Uids as DataComp has them: 128 bits, 32 hexadecimal digits as text, and `u8,u8` in arrays, the high half first.

Subset files are NumPy arrays of dtype `[('f0', '<u8'), ('f1', '<u8')]` in ascending order (`resharder.py` and
`baselines/utils.py` of github.com/mlfoundations/datacomp).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

UID = np.dtype("<u8,<u8")
DIGITS = 32
ZERO = "0"

# Structured, of dtype `UID`.
UidArray = npt.NDArray[Any]

_NO_DIGIT = 255
_VALUES = np.full(256, _NO_DIGIT, dtype=np.uint8)
for _letters, _first in ((b"0123456789", 0), (b"abcdef", 10), (b"ABCDEF", 10)):
    _VALUES[np.frombuffer(_letters, np.uint8)] = np.arange(_first, _first + len(_letters))


def is_uids(values: npt.NDArray[Any]) -> bool:
    """Tell a vector of uids: each a structure of two unsigned numbers of 64 bits, whatever their names are."""
    fields = (values.dtype.fields or {}).values()
    return values.ndim == 1 and [(kind[0].kind, kind[0].itemsize) for kind in fields] == [("u", 8)] * 2


def parse_uids(texts: Sequence[str]) -> UidArray:
    """Read uids of up to 32 hexadecimal digits, which zeros are put before.

    Raises:
        ValueError: a text is no uid; the message shows it.
    """
    for text in texts:
        if not 0 < len(text) <= DIGITS or not text.isascii():
            raise ValueError(_no_uid(text))
    joined = "".join(text.rjust(DIGITS, ZERO) for text in texts).encode()
    return decode_digits(np.frombuffer(joined, dtype=np.uint8).reshape(-1, DIGITS))


def decode_digits(digits: npt.NDArray[np.uint8]) -> UidArray:
    """Read uids from ASCII, uint8 [n, 32].

    Raises:
        ValueError: a row holds what is no hexadecimal digit; the message shows the row.
    """
    values = _VALUES[digits]
    if (wrong := (values == _NO_DIGIT).any(axis=1)).any():
        raise ValueError(_no_uid(digits[int(wrong.argmax())].tobytes().decode("ascii", "replace").lstrip(ZERO)))
    halves = (values[:, 0::2] << 4 | values[:, 1::2]).view(">u8").astype("<u8")
    return halves.view(UID)[:, 0]


def _no_uid(text: str) -> str:
    return f"{text[: 2 * DIGITS]!r} is not a uid of up to {DIGITS} hexadecimal digits"


class UidSet:
    """Uids to look for among others, in time that grows with the logarithm of their number.

    Attributes:
        values: sorted and unique, dtype `UID`.
    """

    def __init__(self, values: UidArray) -> None:
        values = values.astype(UID)
        values = values[np.lexsort((values["f1"], values["f0"]))]
        self.values = values[np.append(True, values[1:] != values[:-1])[: len(values)]]
        self._high, self._low = (np.ascontiguousarray(self.values[name]) for name in ("f0", "f1"))
        # Where the run of those that share the high half ends, which is where each of them is to be looked for.
        self._stop = np.searchsorted(self._high, self._high, "right")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.values)

    def find(self, uids: UidArray) -> npt.NDArray[np.int64]:
        """Return the place of each uid among `values`, -1 for none, int64 [n]."""
        begin = np.searchsorted(self._high, uids["f0"])
        rows = np.flatnonzero(begin < len(self))
        rows = rows[self._high[begin[rows]] == uids["f0"][rows]]
        low, begin = uids["f1"][rows], begin[rows]
        stop = self._stop[begin]
        end = stop.copy()
        # A bisection of all runs at once: most are of one uid.
        while (open_ := np.flatnonzero(begin < end)).size:
            middle = (begin[open_] + end[open_]) // 2
            less = self._low[middle] < low[open_]
            begin[open_[less]] = middle[less] + 1
            end[open_[~less]] = middle[~less]
        hit = np.flatnonzero(begin < stop)
        hit = hit[self._low[begin[hit]] == low[hit]]
        found = np.full(len(uids), -1, dtype=np.int64)
        found[rows[hit]] = begin[hit]
        return found
