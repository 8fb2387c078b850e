"""What can be packed: each source knows its samples' keys and loads their members by number."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dprune.errors import UsageError
from dprune.formats.class_names import classes_of_folder
from dprune.formats.images import encode_image
from dprune.formats.members import IMAGE_SUFFIXES, LABEL_SUFFIX
from dprune.formats.provenance import Record, parent_record
from dprune.formats.ranges import is_url
from dprune.formats.shards import Dataset, Shard, ShardReader, left_out
from dprune.packing.classes import SourceClasses, merge_classes
from dprune.packing.samples import Sample
from dprune.runtime import Monitor

MOST_BYTES = 1 << 30


def is_called_an_image(path: str) -> bool:
    """Tell by its name an image of the formats that shards hold."""
    return path.rpartition(".")[2].lower() in IMAGE_SUFFIXES


def local_folders(locations: Iterable[str]) -> set[str]:
    """Return the real paths of the folders that files are in, and of those that links to them are in."""
    paths = [location.removeprefix("file://") for location in locations]
    local = [path for path in paths if path != "-" and not path.startswith("pipe:") and not is_url(path)]
    return {os.path.realpath(os.path.dirname(path) or ".") for path in local} | {
        os.path.dirname(os.path.realpath(path)) for path in local
    }


class Source(ABC):
    """Samples in a fixed order that can be loaded one by one, in any process.

    Attributes:
        trusted: whether all its samples are.
        classes: names of the labels, empty where there are none.
        order: names of classes in the order that a list in the source gives them, empty without.
        options: what was found in the source and changes the result, as the record has it.
        left_out: how many files of each kind are no samples or parts of them.
        folders: real paths of the folders that nothing must be removed from while the samples are read.
    """

    trusted = True
    classes: Sequence[str] = ()
    order: Sequence[str] = ()
    options: Mapping[str, Any] = {}
    left_out: Mapping[str, int] = {}
    folders: set[str] = set()

    @property
    @abstractmethod
    def parents(self) -> dict[str, Record]:
        """The inputs, as a record names them."""

    def has_labels(self) -> bool:
        """Tell whether any sample has a label; those without names of classes may have some."""
        return bool(self.classes)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def keys(self) -> Iterable[str]:
        """Keys of all samples, before repeated ones are told apart."""

    def names(self) -> Iterable[str]:
        """What others call each sample: the path of its file, or its key."""
        return self.keys()

    def others(self) -> Iterable[str]:
        """What others call samples that lie in the same place and are left out."""
        return ()

    def sidecar(self, number: int, suffix: str) -> bytes | None:
        """Read what lies beside an image under its name with another suffix, None if there is none.

        Raises:
            BadImage: it cannot be read.
            UsageError: nothing lies beside images of this kind.
        """
        raise UsageError(
            "--labels json:FIELD is for folders, zips and shards, where a KEY.json may lie beside each image."
        )

    def prepare(self, monitor: Monitor) -> None:
        """Read what has to be known of all samples before one of them is loaded; done once, when the work begins.

        Raises:
            InputError: that is damaged or does not fit.
            Interrupted: the monitor asked to stop.
        """
        del monitor

    def read(self, begin: int, end: int) -> Iterator[int | Sample]:
        """Yield the samples from number `begin` to before `end`, each as its number, or loaded.

        Workers load what comes as a number. A source whose samples come many at a time, as from a table, overrides
        this, and yields them loaded: it runs in the main process, and only what is asked for is read.
        """
        yield from range(begin, end)

    @abstractmethod
    def load(self, number: int) -> Sample:
        """Read one sample.

        Raises:
            BadImage: it cannot be read.
        """


class DigitsSource(Source):
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships, as 32 px RGB."""

    classes = [str(digit) for digit in range(10)]

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self._pixels: npt.NDArray[np.uint8] = (digits.images * (255 / 16)).round().astype(np.uint8)
        self._labels: list[int] = digits.target.tolist()

    @property
    def parents(self) -> dict[str, Record]:
        """The pixels, as a digest."""
        return {"images": parent_record(None, hashlib.sha256(self._pixels.tobytes()).hexdigest())}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._labels)

    def keys(self) -> Iterable[str]:
        """Their numbers."""
        return (f"digit-{number:04d}" for number in range(len(self._labels)))

    def load(self, number: int) -> Sample:
        """Enlarge and encode one digit."""
        image = Image.fromarray(self._pixels[number]).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB")
        label = str(self._labels[number]).encode()
        return Sample("", [("png", encode_image(image, "png")), (LABEL_SUFFIX, label)], trusted=True)


class ShardSource(Source):
    """Samples of existing shards, or a subset of them, with all their members byte for byte.

    Args:
        dataset: the shards.
        ids: of the samples that are wanted, sorted; None for all.
        subset: the ids as an input of the pack.
        relabelled: whether labels come from elsewhere, so that those of the shards may be of any kind.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids: npt.NDArray[np.int64] | None = None,
        subset: Record | None = None,
        *,
        relabelled: bool = False,
    ) -> None:
        self._dataset, self._subset = dataset, subset
        self._rows = dataset.split(np.arange(len(dataset)) if ids is None else ids)
        self._stops = np.cumsum([len(rows) for rows in self._rows])
        self._open: tuple[int, int, ShardReader] | None = None
        self.options, self.left_out = dataset.choice.options(), left_out(dataset.sizes).counts()
        self.folders = local_folders(shard.location for shard in dataset.shards)
        beside = _classes_beside(dataset, relabelled=relabelled)
        self.classes, numbers = merge_classes(list(beside.values()))
        self._numbers = dict(zip(beside, numbers, strict=True))

    @property
    def parents(self) -> dict[str, Record]:
        """The dataset by its fingerprint, and the subset."""
        return self._dataset.parents() | ({} if self._subset is None else {"subset": self._subset})

    def has_labels(self) -> bool:
        """Tell whether any sample of the shards has."""
        return any(map(_has_labels, self._dataset.shards))

    def __len__(self) -> int:
        """Return how many are wanted."""
        return int(self._stops[-1])

    def keys(self) -> Iterable[str]:
        """Keys as they are."""
        for shard, rows in zip(self._dataset.shards, self._rows, strict=True):
            if len(rows):
                index = shard.index()
                yield from (index.key(int(row)) for row in rows)

    def load(self, number: int) -> Sample:
        """Read one sample's members by offset."""
        reader, row = self._place(number)
        found = self._dataset.choice.standard(f"{reader.shard.location}: {reader.index.key(row)}", reader.members(row))
        assert found is not None
        return self._numbers[_folder(reader.shard)].renumbered(Sample("", *found, trusted=True))

    def _place(self, number: int) -> tuple[ShardReader, int]:
        which = int(np.searchsorted(self._stops, number, side="right"))
        row = int(self._rows[which][number - self._stops[which]])
        if self._open is None or self._open[:2] != (os.getpid(), which):
            shard = self._dataset.shards[which]
            self._open = (os.getpid(), which, ShardReader(shard, shard.index()))
        return self._open[2], row

    def others(self) -> Iterable[str]:
        """Keys of the samples that the subset leaves out."""
        for shard, rows in zip(self._dataset.shards, self._rows, strict=True):
            index = shard.index()
            yield from (index.key(row) for row in np.setdiff1d(np.arange(len(index)), rows).tolist())

    def sidecar(self, number: int, suffix: str) -> bytes | None:
        """Read a member of a sample."""
        reader, row = self._place(number)
        members = range(int(reader.index.start[row]), int(reader.index.stop[row]))
        return next((reader.member(m) for m in members if reader.index.suffix(m) == suffix), None)


def _has_labels(shard: Shard) -> bool:
    return bool((shard.index().label >= 0).any())


def _folder(shard: Shard) -> str:
    return os.path.dirname(shard.location) or "."


def _classes_beside(dataset: Dataset, *, relabelled: bool) -> dict[str, SourceClasses]:
    """Return what the labels of the shards in each folder mean, by the names that lie beside them."""
    folders = dict.fromkeys(map(_folder, dataset.shards))
    names = {folder: [] if relabelled else classes_of_folder(folder) for folder in folders}
    found = {folder: SourceClasses(folder, known, bool(known)) for folder, known in names.items()}
    if any(names.values()):
        # Shards are looked at for labels only where it matters.
        labelled = {_folder(shard) for shard in dataset.shards if not names[_folder(shard)] and _has_labels(shard)}
        found |= {folder: SourceClasses(folder, [], has_labels=True) for folder in labelled}
    return found


def classes_of(dataset: Dataset) -> Sequence[str]:
    """Return the class names that lie beside shards, if all their folders agree on them."""
    found = [classes_of_folder(folder) for folder in dict.fromkeys(map(_folder, dataset.shards))]
    return found[0] if all(names == found[0] for names in found) else []
