"""Damage as disks, networks and hands do it: seeded, so that what was found once can be looked at again."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

COUNT = 70
NONSENSE: tuple[Any, ...] = (
    None, True, -1, 0, 3, 1 << 62, -(1 << 63), 1 << 70, 0.5, 1e308, "", "\0", "..", "../../up", "x" * 5000, "\ud800",
    [], {}, [None], {"a": 1}, [[[[[[[[1]]]]]]]], {"command": 1},
)  # fmt: skip
"""What may stand where something else is expected."""


def damaged(data: bytes, seed: str, count: int = COUNT) -> Iterator[tuple[str, bytes]]:
    """Yield `count` ways in which the bytes of a file can go wrong, each with a name.

    Every other flip falls on one of the ends, where containers keep their headers and trailers.
    """
    draw = random.Random(seed)
    ways = [_flipped] * 6 + [_overwritten, _zeroed, _cut, _without, _doubled, _swapped, _inserted, _grown]
    for number in range(count):
        way = ways[number % len(ways)]
        name, found = way(draw, data)
        yield f"{number}: {name}", found


def _place(draw: random.Random, data: bytes) -> int:
    ends = min(len(data), 600)
    nearby = draw.choice([draw.randrange(ends), len(data) - 1 - draw.randrange(ends)])
    return draw.choice([nearby, draw.randrange(len(data))])


def _range(draw: random.Random, data: bytes) -> tuple[int, int]:
    begin = _place(draw, data)
    return begin, min(len(data), begin + draw.choice([1, 2, 7, 64, 513, 4096]))


def _flipped(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    place, bit = _place(draw, data), draw.randrange(8)
    return f"bit {bit} of byte {place} flipped", data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def _overwritten(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    begin, end = _range(draw, data)
    return f"noise at {begin}:{end}", data[:begin] + draw.randbytes(end - begin) + data[end:]


def _zeroed(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    begin, end = _range(draw, data)
    return f"zeros at {begin}:{end}", data[:begin] + bytes(end - begin) + data[end:]


def _cut(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    place = _place(draw, data)
    return f"cut at {place}", data[:place]


def _without(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    begin, end = _range(draw, data)
    return f"{begin}:{end} left out", data[:begin] + data[end:]


def _doubled(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    begin, end = _range(draw, data)
    return f"{begin}:{end} doubled", data[:end] + data[begin:]


def _swapped(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    half = len(data) // 2
    size = draw.randrange(1, max(2, half))
    one, other = draw.randrange(half - size + 1) if half >= size else 0, half
    first, second = data[one : one + size], data[other : other + size]
    changed = data[:one] + second + data[one + size : other] + first + data[other + size :]
    return f"{size} bytes at {one} and {other} swapped", changed


def _inserted(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    place = _place(draw, data)
    return f"inserted at {place}", data[:place] + draw.randbytes(draw.choice([1, 8, 512])) + data[place:]


def _grown(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    more = draw.choice([b"\0", b"\n", b"{}", bytes(512), draw.randbytes(40)])
    return f"{more[:8]!r} behind the end", data + more


def nonsense(content: Any, seed: str, count: int = COUNT) -> Iterator[tuple[str, Any]]:
    """Yield JSON in which one value, at any depth, is replaced, left out, or given twice."""
    draw = random.Random(seed)
    places = list(_places(content))
    for number in range(count):
        changed = copy.deepcopy(content)
        place = draw.choice(places)
        holder = changed
        for step in place[:-1]:
            holder = holder[step]
        what = draw.choice([*NONSENSE, _LEFT_OUT, _TWICE])
        if what is _LEFT_OUT:
            del holder[place[-1]]
        elif what is _TWICE:
            # A list of twice as many entries; a table under a second name.
            if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[place[-1]]))
            else:
                holder[f"{place[-1]}2"] = copy.deepcopy(holder[place[-1]])
        else:
            holder[place[-1]] = what
        yield f"{number}: {'.'.join(map(str, place))} becomes {str(what)[:20]!r}", changed


_LEFT_OUT, _TWICE = "(left out)", "(twice)"


def _places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if not isinstance(content, dict | list):
        return
    for step in content if isinstance(content, dict) else range(len(content)):
        yield (*above, step)
        yield from _places(content[step], (*above, step))


Tensors = dict[str, npt.NDArray[Any]]


def odd_tensors(tensors: Tensors, metadata: Any, seed: str, count: int = COUNT) -> Iterator[tuple[str, Tensors, Any]]:
    """Yield arrays and their metadata with nonsense in one of them, by turns."""
    draw = random.Random(seed)
    for words, changed in nonsense(metadata, seed, count // 2) if metadata else ():
        yield words, tensors, changed
    for number in range(count - count // 2):
        name, way = draw.choice(sorted(tensors)), draw.choice(sorted(_ODD))
        values = _ODD[way](tensors[name])
        rest = {other: kept for other, kept in tensors.items() if other != name}
        yield f"{number}: {name} {way}", rest if values is None else {**tensors, name: values}, metadata


def _filled(values: npt.NDArray[Any], number: float) -> npt.NDArray[Any]:
    with np.errstate(all="ignore"):
        return np.full_like(values, np.asarray(number).astype(values.dtype))


_ODD: dict[str, Any] = {
    "left out": lambda values: None,
    "with fewer rows": lambda values: values[: len(values) // 2] if values.ndim else values[None],
    "without rows": lambda values: values[:0] if values.ndim else values[None][:0],
    "twice as long": lambda values: np.concatenate([values, values]) if values.ndim else np.stack([values] * 2),
    "in one more dimension": lambda values: values[None],
    "flat": lambda values: values.reshape(-1),
    "as float64": lambda values: values.astype(np.float64),
    "as int8": lambda values: np.zeros(values.shape, np.int8),
    "as bool": lambda values: values.astype(bool),
    "not a number": lambda values: _filled(values, np.nan) if values.dtype.kind == "f" else _filled(values, 0),
    "endless": lambda values: _filled(values, np.inf) if values.dtype.kind == "f" else _filled(values, 0),
    "below zero": lambda values: _filled(values, -7) if values.dtype.kind in "fi" else _filled(values, 1),
    "huge": lambda values: _filled(values, {"f": 3e4, "b": 1}.get(values.dtype.kind, 1 << 14)),
    "largest": lambda values: _filled(values, np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else values * 1,
}
"""What arrays may be instead of what they are to be; None for one that is missing."""
