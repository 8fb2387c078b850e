"""Names of classes: one numbering for sources that each have their own."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dprune.errors import InputError
from dprune.formats.members import LABEL_SUFFIX, MemberChoice
from dprune.packing.samples import Sample
from dprune.packing.splits import FolderClasses


@dataclass(frozen=True)
class SourceClasses:
    """What the labels of one source mean.

    Attributes:
        title: what messages call the source.
        names: of its labels 0, 1 and so on; empty where they are but numbers.
        has_labels: whether any of its samples has one.
    """

    title: str
    names: Sequence[str]
    has_labels: bool

    def numbers(self, names: Sequence[str]) -> Numbers:
        """Return how the labels are numbered where the classes are called `names`."""
        places = {name: number for number, name in enumerate(names)}
        return Numbers(self.title, {label: places[name] for label, name in enumerate(self.names)})


@dataclass(frozen=True)
class Numbers:
    """The labels of one source in a numbering that it shares with others."""

    title: str
    new: Mapping[int, int]

    @functools.cached_property
    def _same(self) -> bool:
        return all(label == number for label, number in self.new.items())

    def renumbered(self, sample: Sample) -> Sample:
        """Give a sample the new number of its class.

        Raises:
            InputError: its label is none, or has no name.
        """
        if self._same:
            return sample
        members = [(suffix, self._label(data) if suffix == LABEL_SUFFIX else data) for suffix, data in sample.members]
        return replace(sample, members=members)

    def _label(self, content: bytes) -> bytes:
        label = MemberChoice().label(f"{self.title}: a label", content)
        if label >= 0 and label not in self.new:
            raise InputError(
                f"{self.title}: the label {label} has no name among its {len(self.new):,} classes, so it cannot be "
                "told from those of the others: mend its classes.txt."
            )
        return str(self.new.get(label, label)).encode()


def merge_classes(sources: Sequence[SourceClasses]) -> tuple[list[str], list[Numbers]]:
    """Number the classes of several sources as one.

    An order that is not the alphabet's was meant: of such orders the first that is given is kept, and names that are
    not in it follow. Labels without names keep their numbers.

    Returns:
        All names, and the numbering of each source.

    Raises:
        InputError: some sources name their labels and others do not.
    """
    named, numbered = [s for s in sources if s.names], [s for s in sources if s.has_labels and not s.names]
    if named and numbered:
        raise InputError(
            f"{named[0].title} has class names and {numbered[0].title} has labels without names: put a "
            "classes.txt beside the second, or give labels to all with --labels."
        )
    meant = [source.names for source in sources if list(source.names) != sorted(source.names)]
    kept = dict.fromkeys(itertools.chain.from_iterable(meant))
    names = [*kept, *sorted({name for source in sources for name in source.names} - kept.keys())]
    return names, [source.numbers(names) for source in sources]


def in_order(classes: FolderClasses, order: Sequence[str], folder: str, title: str) -> FolderClasses:
    """Number classes of folders in the order of a list, which may call them by their paths below its own folder.

    Args:
        classes: of the folders.
        order: all names, also of classes without images.
        folder: that the list lies in.
        title: what messages call the list.

    Raises:
        InputError: images are of a class that the list lacks.
    """
    listed, begin = set(order), f"{folder}/" if folder else ""
    labels = {place: name if name in listed else name.removeprefix(begin) for place, name in classes.labels.items()}
    if unknown := sorted({escaped(name) for name in labels.values() if name} - listed):
        raise InputError(
            f"{title}: does not list the class {unknown[0]!r}, which some images have: add it, or remove the list."
        )
    return replace(classes, labels=labels, names=order)


def escaped(name: str) -> str:
    """Write a name on one line."""
    return name.replace("\n", "\\n")
