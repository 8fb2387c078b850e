"""Which row of a file of labels speaks of which image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.packing.label_files import has_image_suffix, plain_name
from dprune.packing.sources import Source
from dprune.runtime import Monitor, check_stop

_SEVERAL = -1


class RowNames:
    """The names in a file of labels, each once, to be found by paths of images.

    A name is the end of a path: the file alone, or as many folders before it as it takes, up to the whole path. Where
    that leaves no doubt the suffix may be left out, or be another, as of images that were converted since, and dots
    may be `_`, as they are in keys.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name: row for row, name in enumerate(names)}
        self._keys: dict[str, int] = {}
        for name, row in self._names.items():
            key = _key(name)
            self._keys[key] = _SEVERAL if key in self._keys else row
        self._depths = sorted({name.count("/") for name in self._names}, reverse=True)

    def find(self, path: str) -> int | None:
        """Return the row of the longest name that a path ends with, None for none."""
        parts = plain_name(path).split("/")
        for depth in self._depths:
            if depth < len(parts):
                end = "/".join(parts[len(parts) - 1 - depth :])
                row = self._names.get(end)
                row = self._keys.get(_key(end), _SEVERAL) if row is None else row
                if row != _SEVERAL:
                    return row
        return None


def _key(name: str) -> str:
    return (name.rpartition(".")[0] if has_image_suffix(name) else name).replace(".", "_")


def match_rows(title: str, names: Sequence[str], source: Source, monitor: Monitor) -> npt.NDArray[np.int64]:
    """Return the row of each sample.

    Args:
        title: what messages call the file of labels.
        names: that it gives to the images, as `read_labels` returns them.
        source: the samples, which are found by their paths, or by their keys where they have none.
        monitor: is asked whether to stop: a million samples take some seconds.

    Raises:
        InputError: a sample has no row, a row no sample and none that was left out, or one row several samples.
        Interrupted: the monitor asked to stop.
    """
    known = RowNames(names)
    rows, owners = np.full(len(source), _SEVERAL, np.int64), np.full(len(names), _SEVERAL, np.int64)
    keys = list(source.keys())
    for number, (path, key) in enumerate(zip(source.names(), keys, strict=True)):
        check_stop(monitor)
        if (row := known.find(path)) is None:
            continue
        if owners[row] >= 0:
            raise InputError(
                f"{title}: {names[row]!r} may be the image of {keys[owners[row]]!r} or {key!r}: write paths with "
                "folders and suffixes, so that each names one."
            )
        rows[number], owners[row] = row, number
    _check_samples(title, names, keys, rows)
    _check_rows(title, names, owners, known, source)
    return rows


def _check_samples(title: str, names: Sequence[str], keys: Sequence[str], rows: npt.NDArray[np.int64]) -> None:
    without = np.flatnonzero(rows < 0)
    if len(without) == len(keys):
        raise InputError(
            f"{title}: names none of the images: these have names like {keys[0]!r}, and the file has names like "
            f"{names[0]!r}: give the file that belongs to them."
        )
    if len(without):
        raise InputError(
            f"{title}: has no row for {len(without):,} of {len(keys):,} images, such as {keys[without[0]]!r}: add "
            "their rows, with an empty label for no label, or pack a folder without them."
        )


def _check_rows(
    title: str, names: Sequence[str], owners: npt.NDArray[np.int64], known: RowNames, source: Source
) -> None:
    """Refuse rows that speak of nothing; those of images in the same place that are left out do no harm."""
    if (owners < 0).any():
        left = [row for other in source.others() if (row := known.find(other)) is not None]
        owners[left] = 0
    without = np.flatnonzero(owners < 0)
    if len(without):
        raise InputError(
            f"{title}: {len(without):,} of {len(names):,} rows have no image, such as that of "
            f"{names[without[0]]!r}: take them out, or pack their images, too."
        )
