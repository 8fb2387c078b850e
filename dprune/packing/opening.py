"""What locations are: the one place that says who opens which."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dprune.errors import InputError, UsageError
from dprune.formats.locations import expand
from dprune.formats.members import LABEL_SUFFIX, MemberChoice
from dprune.formats.npz_images import NO_LABELS
from dprune.formats.publish import STDOUT
from dprune.formats.shards import open_dataset
from dprune.formats.subsets import read_subset
from dprune.packing.files import FileChoice
from dprune.packing.folders import FolderSource, ImageFiles, images_beside_shards, is_images
from dprune.packing.joined import JoinedSources
from dprune.packing.labels import Labelled, find_labels, place_in, sidecars_of
from dprune.packing.npz import NpzSource, is_npz
from dprune.packing.settings import PackSettings
from dprune.packing.sources import DigitsSource, ShardSource, Source, is_called_an_image
from dprune.packing.streams import Streams, compressed_tars, is_compressed, is_stream
from dprune.packing.table_columns import TableChoice
from dprune.packing.table_places import SUFFIXES, is_table
from dprune.packing.tables import TableSource
from dprune.packing.zips import ZipSource

DIGITS = "sklearn:digits"
_OF_ROWS = (*SUFFIXES, ".npz")
_log = logging.getLogger("dprune")


class Opener(NamedTuple):
    """A kind of source: which locations are of it, how they are opened, and whether several in a row are one."""

    takes: Callable[[str], bool]
    opened: Callable[[Sequence[str], PackSettings], Source]
    together: bool = False


def _is_image_files(location: str) -> bool:
    return is_images(location) and not compressed_tars(location)


def _open_image_files(locations: Sequence[str], settings: PackSettings) -> Source:
    kind = FolderSource if os.path.isdir(locations[0]) else ZipSource
    listing = None if settings.labels is None else place_in(locations[0], settings.labels)
    sidecars = sidecars_of(settings.labels)
    relabelled = settings.labels is not None
    return kind(locations[0], FileChoice(settings.split, settings.beside, sidecars, relabelled, listing))


def _table_choice(settings: PackSettings) -> TableChoice:
    column = settings.label_column if settings.labels is None else NO_LABELS
    return TableChoice(settings.split, settings.image_column, column, settings.beside)


def _tell_of_no_labels(location: str, source: Source) -> None:
    if isinstance(source, ImageFiles) and not source.has_labels():
        _log.info(
            "%s: its images get no labels: give them with --labels FILE, or by a folder for each class.", location
        )


# The first that takes a location opens it; what none takes are shards, of which several make one dataset.
OPENERS = (
    Opener(DIGITS.__eq__, lambda locations, settings: DigitsSource()),
    Opener(is_table, lambda locations, settings: TableSource(locations, _table_choice(settings)), together=True),
    Opener(is_npz, lambda locations, settings: NpzSource(locations[0], _table_choice(settings))),
    Opener(_is_image_files, _open_image_files),
)


def find_source(locations: Sequence[str], settings: PackSettings, members: MemberChoice) -> Source | Streams:
    """Open what is to be packed; see `open_pack`."""
    _check_labels(settings, members)
    if streams := [location for location in locations if is_stream(location)]:
        return _open_streams(locations, streams, settings, members)
    kinds = [(location, opener_of(location)) for location in locations]
    if settings.subset is not None and (others := [location for location, opener in kinds if opener is not None]):
        raise _without_ids(others[0])
    groups = [(opener, [at for at, _ in group]) for opener, group in itertools.groupby(kinds, lambda kind: kind[1])]
    if members.options() and all(opener is not None for opener, _ in groups):
        raise UsageError("--image-member and --label-member are for shards alone: leave them out.")
    sources = list[tuple[str, Source]]()
    for opener, group in groups:
        if opener is not None:
            parts = [group] if opener.together else [[location] for location in group]
            sources += [(part[0], opener.opened(part, settings)) for part in parts]
        elif isinstance(found := _open_shards(group, settings, members), Source):
            sources.append((group[0], found))
        elif len(groups) == 1:
            return found
        else:
            raise _alone(group[0])
    _check_image_options(settings, [source for _, source in sources])
    relabelled = settings.labels is not None
    source = sources[0][1] if len(sources) == 1 else JoinedSources(sources, relabelled=relabelled)
    if settings.labels is not None:
        return Labelled(source, find_labels(settings.labels, source))
    for location, part in sources:
        _tell_of_no_labels(location, part)
    return source


def opener_of(location: str) -> Opener | None:
    """Return what opens a location that is neither shards nor a stream of such, None for those."""
    return next((opener for opener in OPENERS if opener.takes(location)), None)


def _open_streams(
    locations: Sequence[str], streams: Sequence[str], settings: PackSettings, members: MemberChoice
) -> Streams:
    if found := [location for location in streams if location.lower().endswith(_OF_ROWS)]:
        raise InputError(f"{found[0]}: tables and archives are read from files: download it, and name the file.")
    if len(streams) < len(locations):
        raise _alone(streams[0])
    if settings.subset is not None:
        raise _without_ids(locations[0])
    _check_streamed(settings)
    if STDOUT in streams and sys.stdin.isatty():
        raise UsageError("stdin is a terminal: pipe shards in, or name files.")
    return Streams(streams, members)


def _check_labels(settings: PackSettings, members: MemberChoice) -> None:
    """Refuse what says where labels come from, too."""
    if settings.labels is None:
        return
    also = {
        "--label-member": members.label_member is not None,
        "--label-column": settings.label_column is not None,
        f"--beside {LABEL_SUFFIX}": LABEL_SUFFIX in settings.beside,
    }
    if option := next((option for option, given in also.items() if given), None):
        raise UsageError(f"--labels and {option} both say where labels come from: give one of them.")


def _check_streamed(settings: PackSettings) -> None:
    _check_image_options(settings)
    if settings.labels is not None:
        raise UsageError("--labels needs all keys beforehand: save the stream as a .tar file.")


def _check_image_options(settings: PackSettings, sources: Sequence[Source] = ()) -> None:
    if (settings.split is not None or settings.beside) and not any(
        isinstance(s, ImageFiles | TableSource) for s in sources
    ):
        raise UsageError("--split and --beside are for folders and zips of images, and for tables: leave them out.")
    if (settings.image_column is not None or settings.label_column is not None) and not any(
        isinstance(s, TableSource | NpzSource) for s in sources
    ):
        raise UsageError("--image-column and --label-column are for tables and .npz archives: leave them out.")


def _alone(stream: str) -> UsageError:
    title = "stdin" if stream == STDOUT else stream
    return UsageError(f"{title}: a stream is packed with other streams only: save it as a .tar file, or pack it alone.")


def _without_ids(location: str) -> UsageError:
    return UsageError(f"--subset chooses samples of shards: pack {location} first, then a subset of that.")


def _open_shards(sources: Sequence[str], settings: PackSettings, members: MemberChoice) -> ShardSource | Streams:
    found = expand([place for source in sources for place in compressed_tars(source) or [source]])
    if rows := next((location for location in found if location.lower().endswith(_OF_ROWS)), None):
        raise InputError(f"{rows}: is not a shard: name tables and .npz archives themselves; a glob may name tables.")
    subset = settings.subset
    if any(map(is_compressed, found)):
        if subset is not None:
            raise _without_ids(sources[0])
        _check_streamed(settings)
        return Streams(found, members)
    for location in sources:
        if is_called_an_image(location) and os.path.isfile(location):
            raise InputError(f"{location}: is an image: give the folder or zip that it lies in.")
        if count := images_beside_shards(location):
            _log.warning("%s: is taken as a folder of shards, and its %s images are left out.", location, f"{count:,}")
    dataset = open_dataset(found, members)
    if subset is None:
        return ShardSource(dataset, relabelled=settings.labels is not None)
    ids, record = read_subset(subset, dataset)
    if not len(ids):
        raise InputError(f"{subset}: keeps no sample: give a subset with samples in it.")
    return ShardSource(dataset, ids, record, relabelled=settings.labels is not None)
