"""What users call lines in place of the names that these would have."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from dprune.errors import InputError
from dprune.reporting.study.experiments import Point
from dprune.reporting.study.grouping import RATIO, Comparison, Line


def given_names(
    texts: Sequence[str], comparisons: Sequence[Comparison], before: Sequence[Comparison] = ()
) -> dict[Hashable, str]:
    """Read what --label says.

    Args:
        texts: RESULT=NAME each, RESULT being a file of a result or the name of a line. Either side may hold further
            `=`: the longest RESULT that is known counts.
        comparisons: all lines, by the names that they have without.
        before: the same as they were before some were named as baselines, which gave these other names.

    Returns:
        Names by the keys of lines.

    Raises:
        InputError: nothing is called so, or two names are given to one line, or one name to two lines.
    """
    found: dict[Hashable, str] = {}
    for text in texts:
        lines, name = _read(text, comparisons, before)
        for line in lines:
            if found.setdefault(line.key, name) != name:
                raise InputError(
                    f"--label {text}: the line {line.label!r} is called {found[line.key]!r} by another --label: "
                    "give it one name."
                )
    _check_unique(found, comparisons)
    return found


def called_without(name: str, texts: Sequence[str]) -> str:
    """Return RESULT of the --label that gives a line this name, or this name to a line of which it is one point."""
    line, comma, ratio = name.partition(RATIO)
    found = next((text.removesuffix(f"={line}") for text in texts if text.endswith(f"={line}")), None)
    return name if found is None else f"{found}{comma}{ratio}"


def _read(text: str, comparisons: Sequence[Comparison], before: Sequence[Comparison]) -> tuple[list[Line], str]:
    if "=" not in text:
        raise InputError(f"--label {text}: says no name: give RESULT=NAME, as in 'nearest=Near the centre'.")
    for place in reversed([number for number, letter in enumerate(text) if letter == "="]):
        result, name = text[:place], text[place + 1 :].strip()
        if lines := [*_lines(result, comparisons)] or [*_named_since(_lines(result, before), comparisons)]:
            if not name:
                raise InputError(f"--label {text}: the name is empty: write one after the equals sign.")
            return lines, name
    known = "; ".join(sorted({line.label for comparison in comparisons for line in comparison.lines}))
    result = text.partition("=")[0]
    raise InputError(f"--label {text}: {result!r} is neither a result nor a line of the report: {known}.")


def _lines(result: str, comparisons: Sequence[Comparison]) -> Iterator[Line]:
    """Yield the lines that are called so, or hold the result of that file."""
    for comparison in comparisons:
        for line in comparison.lines:
            if line.label == result or any(is_file_of(point, result) for point in line.points):
                yield line


def _named_since(before: Iterable[Line], comparisons: Sequence[Comparison]) -> Iterator[Line]:
    """Yield the lines that some have become since they were named as the baseline."""
    marks = {point.mark for line in before for point in line.points}
    yield from (
        line
        for comparison in comparisons
        for line in comparison.lines
        if line.is_named and marks.issuperset(point.mark for point in line.points)
    )


def is_file_of(point: Point, path: str) -> bool:
    """Tell whether a result was read from a file."""
    return point.result is not None and is_same(point.result.name, path)


def is_same(path: str, name: str) -> bool:
    """Tell whether two paths are of one file."""
    return path == name or (os.path.exists(path) and os.path.exists(name) and os.path.samefile(path, name))


def _check_unique(given: Mapping[Hashable, str], comparisons: Sequence[Comparison]) -> None:
    for comparison in comparisons:
        names = Counter(given.get(line.key, line.label) for line in comparison.lines)
        name, count = names.most_common(1)[0]
        if count > 1:
            raise InputError(f"--label: {count} lines would be called {name!r}: give each a name of its own.")
