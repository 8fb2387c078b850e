"""Names of scores: the method of each, and as little else as tells two scores of one method apart."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dprune.errors import InputError
from dprune.formats.arrays import Array
from dprune.reporting.study.factors import flatten
from dprune.reporting.study.given_names import is_same
from dprune.reporting.study.labels import Labeller
from dprune.reporting.study.training_sets import SUBSET, score_name
from dprune.reporting.study.wording import method_name


def score_names(arrays: Sequence[Array], given: Mapping[str, str]) -> dict[str, str]:
    """Name scores by their provenance, and those that have none by their files.

    Args:
        arrays: scores.
        given: names by files, in place of those that would be made.

    Returns:
        Names by what messages call the scores.

    Raises:
        InputError: two would be called the same.
    """
    found = {array.name: _given(array, given) for array in arrays}
    heads = [_head(array) for array in arrays]
    for head in dict.fromkeys(heads):
        alike = [array for array, other in zip(arrays, heads, strict=True) if other == head]
        labels = _apart(head, alike)
        found |= {array.name: label for array, label in zip(alike, labels, strict=True) if not found[array.name]}
    name, count = Counter(found.values()).most_common(1)[0] if found else ("", 0)
    if count > 1:
        raise InputError(f"--scores: {count} scores would be called {name!r}: name them by --label FILE=NAME.")
    return found


def _given(array: Array, given: Mapping[str, str]) -> str:
    return next((name for path, name in given.items() if is_same(array.name, path)), "")


def _head(array: Array) -> str:
    tags = (array.record or {}).get("tags", {})
    return str(tags.get("method") or (method_name(score_name(array.record)) if array.record else _stem(array)))


def _apart(head: str, arrays: Sequence[Array]) -> list[str]:
    """Name scores of one method by the options in which they differ, or by their files where that is not enough."""
    tables = [flatten(array.record, SUBSET).factors for array in arrays]
    labeller = Labeller(tables)
    names = [", ".join(filter(None, (head, labeller.name(table)))) for table in tables]
    if len(set(names)) == len(names):
        return names
    return [f"{head} ({_stem(array)})" for array in arrays]


def _stem(array: Array) -> str:
    """Name scores made elsewhere by their file, or by the column of a table that they are."""
    before, colon, column = array.name.rpartition(":")
    return column if colon and not os.path.exists(array.name) and os.path.exists(before) else Path(array.name).stem


def split_labels(texts: Sequence[str], scores: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Part what --label says of scores from what it says of lines.

    Args:
        texts: FILE=NAME, or RESULT=NAME, each.
        scores: files of scores.

    Returns:
        Names by the files of scores, and the other texts.

    Raises:
        InputError: a name is empty.
    """
    named, others = {}, []
    for text in texts:
        places = [place for place, letter in enumerate(text) if letter == "="]
        file = next((text[:place] for place in reversed(places) if any(is_same(s, text[:place]) for s in scores)), None)
        if file is None:
            others.append(text)
        elif name := text[len(file) + 1 :].strip():
            named[file] = name
        else:
            raise InputError(f"--label {text}: the name is empty: write one after the equals sign.")
    return named, others
