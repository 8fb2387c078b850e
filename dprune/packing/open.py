"""From the command's arguments to a source."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dprune.errors import InputError, UsageError
from dprune.formats.publish import STDOUT
from dprune.formats.shards import CLASSES, Dataset, open_dataset
from dprune.formats.subsets import read_subset
from dprune.packing.sources import DigitsSource, FolderSource, ShardSource, Source, ZipSource
from dprune.packing.streams import Streams, is_stream

DIGITS = "sklearn:digits"


def open_source(locations: Sequence[str], subset: str | None, *, convert: bool) -> Source | Streams:
    """Find out what the locations are, and narrow shards to a subset.

    Args:
        locations: one folder or zip of images, `sklearn:digits`, or any number of shards or of streams.
        subset: ids as .npy, keys as a text file, `-` for either on stdin, or None.
        convert: whether image formats that shards cannot hold are welcome.

    Raises:
        InputError: a location does not exist or holds nothing to pack.
        MismatchError: the subset speaks of another dataset.
        UsageError: the locations cannot be packed together, or have no ids that a subset could speak of.
    """
    streams = [location for location in locations if is_stream(location)]
    images = [location for location in locations if location == DIGITS or _is_images(location)]
    if (streams and len(streams) < len(locations)) or (images and len(locations) > 1):
        raise UsageError("only shards can be packed together: give one folder or zip of images, or only streams.")
    if subset is not None and (images or streams):
        raise UsageError(f"--subset speaks of samples of shards: pack {locations[0]} first, then a subset of that.")
    if STDOUT in streams and sys.stdin.isatty():
        raise UsageError("stdin is a terminal: pipe shards in, or name files.")
    if streams:
        return Streams(streams)
    if images == [DIGITS]:
        return DigitsSource()
    if images:
        return (FolderSource if os.path.isdir(images[0]) else ZipSource)(images[0], convert=convert)
    dataset = open_dataset(locations)
    classes = _classes(dataset)
    if subset is None:
        return ShardSource(dataset, classes=classes)
    ids, record = read_subset(subset, dataset)
    if not len(ids):
        raise InputError(f"{subset}: keeps no sample, and shards without samples help nobody.")
    return ShardSource(dataset, ids, record, classes)


def _is_images(location: str) -> bool:
    if os.path.isdir(location):
        return not any(name.endswith(".tar") for name in os.listdir(location))
    return location.lower().endswith(".zip") and os.path.isfile(location)


def _classes(dataset: Dataset) -> list[str]:
    """Return the class names that lie beside the shards, if all folders agree on them."""
    found = {Path(shard.location).parent / CLASSES for shard in dataset.shards}
    texts = {path.read_text(encoding="utf-8", errors="surrogateescape") for path in found if path.exists()}
    # Names may hold what str.splitlines takes for the end of a line.
    return texts.pop().rstrip("\n").split("\n") if len(texts) == 1 else []
