"""Several sources as one: folders, zips, tables and sets of shards in the order in which they are named."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dprune.formats.provenance import Record
from dprune.packing.classes import Numbers, SourceClasses, merge_classes
from dprune.packing.samples import Sample
from dprune.packing.sources import Source
from dprune.runtime import Monitor


class JoinedSources(Source):
    """The samples of several sources, one source after the other, with one numbering of classes.

    Args:
        sources: by what messages call them, in order.
        relabelled: whether labels come from elsewhere, so that those of the sources may be of any kind.
    """

    def __init__(self, sources: Sequence[tuple[str, Source]], *, relabelled: bool = False) -> None:
        self._titles, self._relabelled = [title for title, _ in sources], relabelled
        self._sources = [source for _, source in sources]
        self._stops = list(itertools.accumulate(map(len, self._sources)))
        self._numbers: list[Numbers] = []
        self.order = next((source.order for _, source in sources if source.order), ())
        self.trusted = all(source.trusted for source in self._sources)
        self.options = _shared_options([source.options for source in self._sources])
        self.left_out = sum((Counter(source.left_out) for source in self._sources), Counter[str]())
        self.folders = set().union(*(source.folders for source in self._sources))

    @property
    def parents(self) -> dict[str, Record]:
        """The inputs of all, numbered in their order, which makes a difference: `images`, `shards 2` and so on."""
        entries = [entry for source in self._sources for entry in source.parents.items()]
        return {f"{role.partition(' ')[0]} {n}" if n > 1 else role: entry for n, (role, entry) in enumerate(entries, 1)}

    def has_labels(self) -> bool:
        """Tell whether any of them has."""
        return any(source.has_labels() for source in self._sources)

    def __len__(self) -> int:
        """Return the number of samples of all."""
        return self._stops[-1]

    def keys(self) -> Iterable[str]:
        """Keys of all, of which some may be alike."""
        return itertools.chain.from_iterable(source.keys() for source in self._sources)

    def names(self) -> Iterable[str]:
        """Names of all, of which some may be alike."""
        return itertools.chain.from_iterable(source.names() for source in self._sources)

    def others(self) -> Iterable[str]:
        """Names of what any of them leaves out."""
        return itertools.chain.from_iterable(source.others() for source in self._sources)

    def prepare(self, monitor: Monitor) -> None:
        """Prepare all, and number their classes, for which a table may have to be read: not so while it is opened.

        Raises:
            InputError: some sources name their labels and others do not.
        """
        for source in self._sources:
            source.prepare(monitor)
        self.classes, self._numbers = merge_classes(list(map(self._named, self._titles, self._sources)))

    def _named(self, title: str, source: Source) -> SourceClasses:
        if self._relabelled:
            return SourceClasses(title, (), has_labels=False)
        return SourceClasses(title, source.classes, source.has_labels())

    def sidecar(self, number: int, suffix: str) -> bytes | None:
        """Read it in the sample's source."""
        source, _, own = self._place(number)
        return source.sidecar(own, suffix)

    def read(self, begin: int, end: int) -> Iterator[int | Sample]:
        """Yield samples of each source as it gives them."""
        first = 0
        for source, numbers, stop in zip(self._sources, self._numbers, self._stops, strict=True):
            if begin < stop and first < end:
                for item in source.read(max(begin, first) - first, min(end, stop) - first):
                    yield item + first if isinstance(item, int) else numbers.renumbered(item)
            first = stop

    def load(self, number: int) -> Sample:
        """Load a sample from its source."""
        source, numbers, own = self._place(number)
        return numbers.renumbered(source.load(own))

    def _place(self, number: int) -> tuple[Source, Numbers, int]:
        which = bisect.bisect_right(self._stops, number)
        return self._sources[which], self._numbers[which], number - (self._stops[which - 1] if which else 0)


def _shared_options(options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was found in the sources: one value where those that state it agree, else a list."""
    names = dict.fromkeys(itertools.chain.from_iterable(options))
    values = {name: [found[name] for found in options if name in found] for name in names}
    return {name: found[0] if all(v == found[0] for v in found) else found for name, found in values.items()}
