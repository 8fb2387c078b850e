"""What img2dataset lays beside its shards: of 00000.tar a table of all rows, 00000.parquet, and 00000_stats.json.

Rows whose download failed are in the table and have no member in the tar, so ids follow the tar. The statistics are
written when the shard is whole. DataComp's resharder writes statistics with `successes` alone. (writer.py,
downloader.py and logger.py of github.com/rom1504/img2dataset 1.47; resharder.py of github.com/mlfoundations/datacomp.)
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dprune.errors import InputError
from dprune.formats.checked_json import Object, Whole, read_json, shaped
from dprune.formats.columns import find_rows, padded_ascii, read_columns
from dprune.formats.ranges import is_url
from dprune.formats.uids import DIGITS, ZERO, UidArray, decode_digits

STATS, TABLE = "_stats.json", ".parquet"
COUNTS = ("count", "successes", "failed_to_download", "failed_to_resize")
REASONS = "status_dict"
_SHAPE = Object({"successes": Whole()}, {**{name: Whole() for name in COUNTS}, REASONS: Object(others=Whole())})
_SUCCESS = "success"

_log = logging.getLogger("dprune")


@dataclass
class Downloads:
    """What the statistics of shards say together.

    Attributes:
        counts: rows, successes and failures, by the names in `COUNTS`.
        reasons: of failures, as img2dataset words them, and how many rows failed so.
        successes: of each shard that has statistics, by its location.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    successes: dict[str, int] = field(default_factory=dict)


def read_downloads(locations: Iterable[str]) -> Downloads:
    """Read the statistics that lie beside shards.

    Raises:
        InputError: a file of them is damaged.
    """
    found = Downloads()
    for location in locations:
        path = _beside(location, STATS)
        if path is None or not path.is_file():
            continue
        stated = shaped(str(path), read_json(path), _SHAPE)
        found.counts.update({name: stated[name] for name in COUNTS if name in stated})
        found.reasons.update({why: n for why, n in stated.get(REASONS, {}).items() if why != _SUCCESS})
        found.successes[location] = stated["successes"]
    return found


def warn_of_unfinished(title: str, locations: Sequence[str]) -> None:
    """Say which shards have no statistics while others of their folder have: their download was cut.

    Args:
        title: what messages call the shards.
        locations: paths and URLs; of URLs nothing is said.
    """
    listed: dict[str, set[str]] = {}
    lacking = []
    for location in locations:
        if is_url(location):
            continue
        folder, name = os.path.split(location)
        if folder not in listed:
            listed[folder] = _statistics(folder or ".")
        if listed[folder] and name.removesuffix(".tar") + STATS not in listed[folder]:
            lacking.append(name)
    if lacking:
        more = len(lacking) - 1
        these = f" and {more:,} more shard{'s' * (more > 1)} lack" if more else " lacks"
        _log.warning(
            "%s: %s%s the %s that others have, so the download was cut: run img2dataset again.",
            title, lacking[0], these, STATS,
        )  # fmt: skip


def lost_shards(folder: str, locations: Iterable[str]) -> list[str]:
    """Return the names of the shards of a folder that have statistics and are not there.

    Args:
        folder: path.
        locations: its shards.
    """
    there = {os.path.basename(location) for location in locations}
    return sorted({name.removesuffix(STATS) + ".tar" for name in _statistics(folder)} - there)


def are_shards(folders: Collection[str], files: Collection[str]) -> bool:
    """Tell folders that img2dataset filled in place of tars (`--output_format files`): no class lies in one.

    Args:
        folders: that images lie in.
        files: that lie beside images and folders.
    """
    return bool(folders) and all(folder and folder + STATS in files for folder in folders)


def _statistics(folder: str) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if name.endswith(STATS)}
    except OSError:
        # Shards that are named one by one can be read in a folder that cannot be listed.
        return set()


def table_beside(location: str) -> Path | None:
    """Return the table of a shard's rows, None where there is none or the shard is behind a URL."""
    path = _beside(location, TABLE)
    return path if path is not None and path.is_file() else None


def table_uids(table: Path, keys: Sequence[str]) -> UidArray | None:
    """Read the uids of a shard's samples from the table beside it.

    Args:
        table: as `table_beside` returns it.
        keys: of the samples, in the order of the tar.

    Returns:
        A uid for each key, None where the table has no uids.

    Raises:
        InputError: the table lacks a key, or a uid is none.
    """
    columns = read_columns(table, ("key", "uid"))
    if len(columns) < 2:
        return None
    rows = find_rows(columns["key"], keys)
    if (rows < 0).any():
        missing = keys[int((rows < 0).argmax())]
        raise InputError(f"{table}: has no row with the key {missing!r} of its shard: copy both again.")
    try:
        return decode_digits(padded_ascii(columns["uid"].take(rows), DIGITS, ZERO))
    except ValueError as error:
        raise InputError(f"{table}: holds no uids of DataComp ({error}).") from error


def _beside(location: str, suffix: str) -> Path | None:
    return None if is_url(location) else Path(location.removesuffix(".tar") + suffix)
