"""Labels that images do not carry themselves: from a file, or from the JSON beside each image."""

from __future__ import annotations

import hashlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import BadImage, InputError, UsageError
from dprune.formats.checked_json import parse_json
from dprune.formats.class_names import CLASSES, check_order, classes_of_folder
from dprune.formats.members import LABEL_SUFFIX
from dprune.formats.provenance import Record, digest, parent_record
from dprune.formats.whole_files import read_file
from dprune.packing.classes import escaped
from dprune.packing.folders import ImageFiles
from dprune.packing.label_files import MOST_BYTES, Label, as_label, read_labels
from dprune.packing.label_rows import match_rows
from dprune.packing.samples import Sample
from dprune.packing.sources import Source
from dprune.runtime import Monitor, check_stop

SIDECAR = "json"


class Labels(ABC):
    """Where labels come from.

    Attributes:
        title: what messages call it.
        order: names of classes in the order that a list beside it gives them, empty without.
        parents: its files, as a record names them.
        options: what else a record says of it.
    """

    title: str
    order: Sequence[str] = ()
    parents: Mapping[str, Record] = {}
    options: Mapping[str, Any] = {}

    @abstractmethod
    def of(self, source: Source, monitor: Monitor) -> tuple[list[Label], Collection[Label]]:
        """Return the label of each sample, and all that there are, which the classes are numbered by.

        Raises:
            InputError: a sample has none, or a label no sample.
            Interrupted: the monitor asked to stop.
        """


class FileLabels(Labels):
    """Labels in a file, by the names of the images; see `read_labels`.

    Args:
        title: what messages call the file.
        data: its content.
        folder: that it lies in, None where that is a zip.

    Raises:
        InputError: the classes.txt beside it is damaged.
    """

    def __init__(self, title: str, data: bytes, folder: str | None) -> None:
        self.title, self._data = title, data
        self.order = [] if folder is None else classes_of_folder(folder)
        check_order(os.path.join(folder or "", CLASSES), self.order)
        self.parents = {"labels": parent_record(None, hashlib.sha256(data).hexdigest())}
        if self.order:
            self.parents |= {"classes": parent_record(None, digest(self.order))}

    def of(self, source: Source, monitor: Monitor) -> tuple[list[Label], Collection[Label]]:
        """Read the file, for which there is no need while all is up to date, and find each sample's row."""
        found = read_labels(self.title, self._data)
        rows, labels = match_rows(self.title, list(found), source, monitor), list(found.values())
        # Of rows that are left out, too, so that all splits number the classes alike.
        return [labels[row] for row in rows.tolist()], set(labels)


class SidecarLabels(Labels):
    """Labels in a field of the `KEY.json` beside each image.

    Raises:
        UsageError: no field is named.
    """

    def __init__(self, field: str) -> None:
        if not field:
            raise UsageError(f"--labels {SIDECAR}: name a field after the colon, such as {SIDECAR}:label.")
        self._field, self.title = field, f"--labels {SIDECAR}:{field}"
        self.options = {"labels": f"{SIDECAR}:{field}"}

    def of(self, source: Source, monitor: Monitor) -> tuple[list[Label], Collection[Label]]:
        """Read the JSON of each sample."""
        monitor.start("labels", len(source), "files")
        labels, without = list[Label](), list[str]()
        for number, key in enumerate(source.keys()):
            check_stop(monitor)
            if (data := self._read(source, number, key)) is None:
                without.append(key)
            else:
                labels.append(self._label(f"{key}.{SIDECAR}", data))
            monitor.advance()
        if without:
            raise InputError(
                f"{self.title}: {len(without):,} of {len(source):,} images have no {SIDECAR} beside them, such as "
                f"{without[0]!r}: add it, with null for no label, or leave them out."
            )
        return labels, set(labels)

    def _read(self, source: Source, number: int, key: str) -> bytes | None:
        try:
            return source.sidecar(number, SIDECAR)
        except BadImage as error:
            raise InputError(f"{key}.{SIDECAR} {error}: mend it.") from error

    def _label(self, name: str, data: bytes) -> Label:
        table = parse_json(name, data, "mend it")
        if not isinstance(table, dict) or self._field not in table:
            raise InputError(
                f"{name}: has no field {self._field!r}: name one that all have with --labels {SIDECAR}:FIELD."
            )
        return as_label(name, table[self._field])


def sidecars_of(labels: str | None) -> tuple[str, ...]:
    """Return the suffixes of files beside images that --labels wants to be read."""
    return (SIDECAR,) if labels is not None and labels.startswith(f"{SIDECAR}:") else ()


def place_in(location: str, labels: str) -> str | None:
    """Return where --labels is in a folder or zip: by its own path, or by that of a file that lies there alone."""
    if not os.path.exists(labels):
        return labels
    place = os.path.relpath(os.path.realpath(labels), os.path.realpath(location)).replace(os.sep, "/")
    return None if place.split("/")[0] == ".." else place


def find_labels(labels: str, source: Source) -> Labels:
    """Open what --labels names.

    Args:
        labels: a file, one in the folder or zip that is packed, or `json:FIELD`.
        source: what is packed.

    Raises:
        InputError: there is no such file, or it is damaged.
        UsageError: no field is named.
    """
    if sidecars_of(labels):
        return SidecarLabels(labels.partition(":")[2])
    inside = source.listing() if isinstance(source, ImageFiles) and not os.path.exists(labels) else None
    if inside is not None:
        return FileLabels(labels, inside, None)
    return FileLabels(labels, read_file(labels, MOST_BYTES), os.path.dirname(labels) or ".")


def number_labels(title: str, labels: Iterable[Label], order: Sequence[str]) -> tuple[list[str], dict[Label, int]]:
    """Number the classes that labels name.

    Args:
        title: what messages call the labels.
        labels: all that there are, of one type: names, or whole numbers from 0, which stay; None and -1 are none.
        order: of the names, which else are sorted; also the names of numbers.

    Returns:
        Names of the classes, empty for numbers without, and the number of each label, -1 for none.

    Raises:
        InputError: the labels are of two types, are negative, or the order lacks one.
    """
    known = {label for label in labels if label is not None}
    names = sorted(escaped(label) for label in known if isinstance(label, str))
    numbers = sorted(label for label in known if isinstance(label, int))
    if names and numbers:
        raise InputError(
            f"{title}: labels are of two types, such as {names[0]!r} and {numbers[0]}: write names throughout, or "
            "whole numbers."
        )
    if numbers and numbers[0] < -1:
        raise InputError(f"{title}: the label {numbers[0]} is negative: count classes from 0, with -1 for no label.")
    lacking = [*sorted(set(names) - set(order)), *(number for number in numbers if number >= len(order))]
    if order and lacking:
        raise InputError(f"{title}: the class {lacking[0]} is not in classes.txt, which orders them: add it there.")
    classes = list(order) or names
    places = {name: number for number, name in enumerate(classes)}
    found: dict[Label, int] = {None: -1}
    found |= {label: places[escaped(label)] if isinstance(label, str) else label for label in known}
    return classes, found


class Labelled(Source):
    """The samples of a source with labels from elsewhere, in place of those that they have.

    Args:
        source: the samples, opened without regard to their labels.
        labels: of all of them.
    """

    def __init__(self, source: Source, labels: Labels) -> None:
        self._source, self._labels = source, labels
        self._numbers: npt.NDArray[np.int64] | None = None
        self.trusted, self.left_out, self.folders = source.trusted, source.left_out, source.folders
        self.options = {**source.options, **labels.options}

    @property
    def parents(self) -> dict[str, Record]:
        """Those of the source, the labels and the list of classes beside them."""
        return {**self._source.parents, **self._labels.parents}

    def has_labels(self) -> bool:
        """Tell that they have."""
        return True

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._source)

    def keys(self) -> Iterable[str]:
        """Keys of the source."""
        return self._source.keys()

    def prepare(self, monitor: Monitor) -> None:
        """Find the label of each sample, and number the classes."""
        self._source.prepare(monitor)
        labels, known = self._labels.of(self._source, monitor)
        order = self._labels.order or self._source.order
        self.classes, numbers = number_labels(self._labels.title, known, order)
        self._numbers = np.array([numbers[label] for label in labels], np.int64)

    def read(self, begin: int, end: int) -> Iterator[int | Sample]:
        """Yield samples as the source gives them."""
        for number, item in zip(itertools.count(begin), self._source.read(begin, end), strict=False):
            yield item if isinstance(item, int) else self._labelled(number, item)

    def load(self, number: int) -> Sample:
        """Load a sample of the source and label it."""
        return self._labelled(number, self._source.load(number))

    def _labelled(self, number: int, sample: Sample) -> Sample:
        assert self._numbers is not None, "prepared before"
        image, label = sample.members[sample.image], int(self._numbers[number])
        before, after = map(_unlabelled, (sample.members[: sample.image], sample.members[sample.image + 1 :]))
        own = [(LABEL_SUFFIX, str(label).encode())] if label >= 0 else []
        return replace(sample, members=[*before, image, *own, *after], image=len(before))


def _unlabelled(members: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return [member for member in members if member[0] != LABEL_SUFFIX]
