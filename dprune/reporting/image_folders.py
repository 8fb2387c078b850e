"""Folders of generated images that a report shows: which seeds they hold, and the images of some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from dprune.errors import BadImage, DpruneError, InputError
from dprune.formats.images import decode_image
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import Record, record_digest
from dprune.formats.shards import Dataset, ShardReader, open_dataset
from dprune.reporting.study.experiments import Choice, Point, point_of_images
from dprune.sampling.seeds import KEY_DIGITS, Seeds

if TYPE_CHECKING:
    from PIL import Image

_AHEAD = 16
"""Seeds that are looked at for each that is shown."""


class SeedImage(NamedTuple):
    """The image of a seed, and what its class is called, empty without one."""

    image: Image.Image
    class_name: str


@dataclass(frozen=True)
class Folder:
    """Images that `sample` made.

    Attributes:
        name: what messages call it.
        dataset: its shards.
        seeds: in the order of the images.
        point: where it belongs in the study.
        parent: how a record describes it.
    """

    name: str
    dataset: Dataset
    seeds: Seeds
    point: Point
    parent: Record

    @property
    def drawn(self) -> str:
        """Digest of what was asked of `sample`, by which features of the images know them."""
        return record_digest(self.parent["provenance"])

    def placed(self, baselines: frozenset[Choice]) -> Folder:
        """Place it anew, with training sets that count as unpruned."""
        point = point_of_images(self.name, self.parent["provenance"], self.point.mark, baselines)
        return replace(self, point=point)

    @classmethod
    def open(cls, path: str) -> Folder:
        """Open a folder.

        Raises:
            InputError: it is not what `sample` writes.
        """
        manifest = read_manifest(path)
        record = manifest.get("provenance", {})
        if manifest.get("kind") != "shards" or record.get("command") != "sample":
            raise InputError(f"{path}: has no manifest of dprune sample: give a folder that it wrote to --images.")
        try:
            seeds = Seeds.parse(str(record["options"]["seeds"]))
        except (DpruneError, KeyError) as error:
            raise InputError(f"{path}: its manifest does not say which seeds it holds: sample again.") from error
        dataset = open_dataset([path])
        parent = dataset.parents()["shards"]
        return cls(path, dataset, seeds, point_of_images(path, record, parent["digest"]), parent)

    def images(self, seeds: Sequence[int]) -> list[SeedImage]:
        """Decode the images of seeds, and say what their classes are called.

        Raises:
            InputError: one is missing or cannot be decoded.
        """
        names, found = self.dataset.class_names, dict[int, SeedImage]()
        for seed, reader, row in self._rows(seeds):
            label = reader.label(row)
            try:
                image = decode_image(reader.image(row))
            except BadImage as error:
                where = f"{reader.shard.location}: the image {reader.key(row)}"
                raise InputError(f"{where} {error}: sample again.") from error
            found[seed] = SeedImage(image, names.name(label) if label >= 0 else "")
        return [found[seed] for seed in seeds]

    def labels(self, seeds: Sequence[int]) -> list[int]:
        """Return the labels of the images of seeds, -1 for none.

        Raises:
            InputError: one is missing.
        """
        found = {seed: reader.label(row) for seed, reader, row in self._rows(seeds)}
        return [found[seed] for seed in seeds]

    def _rows(self, seeds: Sequence[int]) -> Iterator[tuple[int, ShardReader, int]]:
        """Find the images of seeds."""
        keys = {f"{seed:0{KEY_DIGITS}d}": seed for seed in seeds}
        for shard in self.dataset.shards:
            index = shard.index()
            rows = {key: row for row in range(len(index)) if (key := index.key(row)) in keys}
            if rows:
                reader = ShardReader(shard, index)
                yield from ((keys.pop(key), reader, row) for key, row in rows.items())
            if not keys:
                return
        missing = min(keys.values())
        raise InputError(f"{self.name}: holds no image of the seed {missing}, which its manifest lists: sample again.")


def open_folders(paths: Sequence[str]) -> tuple[Folder, ...]:
    """Open folders of generated images; one that is given twice counts once.

    Raises:
        InputError: one is not what `sample` writes.
    """
    found = {folder.point.mark: folder for folder in map(Folder.open, paths)}
    return tuple(found[mark] for mark in sorted(found))


def shown_seeds(folders: Sequence[Folder], count: int) -> list[int]:
    """Return the first seeds of which all folders have an image of the same class, or where these are few, of any.

    A model that was trained on no sample of a class draws another one in its place.

    Raises:
        InputError: the folders have no seed in common, or an image is missing.
    """
    seeds = _common_seeds(folders, _AHEAD * count)
    labels = zip(*(folder.labels(seeds) for folder in folders), strict=True)
    alike = [len(set(found)) == 1 for found in labels]
    first = sorted(range(len(seeds)), key=lambda place: not alike[place])[:count]
    return [seeds[place] for place in sorted(first)]


def _common_seeds(folders: Sequence[Folder], count: int) -> list[int]:
    shared = list(folders[0].seeds.parts)
    for folder in folders[1:]:
        pairs = ((one, other) for one in shared for other in folder.seeds.parts)
        both = (range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)
        shared = [part for part in both if len(part)]
        if not shared:
            raise InputError(
                f"{folders[0].name} and {folder.name} have no seed in common: sample them with equal seeds."
            )
    return [seed for part in shared for seed in part[:count]][:count]
