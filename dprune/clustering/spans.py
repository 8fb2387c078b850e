"""Samples that are assigned to clusters, span by span of their ids, on disk beside the output.

Which samples a span holds depends on how many there are alone. So any number of workers fills one folder, a rerun does
only what is missing, and whoever finds it full makes the clusters of it, without ever holding all samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.checked_json import Object, OneOf, Whole, read_json, shaped
from dprune.formats.claims import claim_of
from dprune.formats.digests import without_check
from dprune.formats.provenance import Record, checked_record, record_digest
from dprune.formats.publish import publish_json
from dprune.formats.tensor_files import StoredTensor, TensorFile
from dprune.formats.tensors import write_tensors

MOST_SPANS = 64
"""How many spans there are, as long as they do not get too large."""
SMALLEST, LARGEST = 1 << 12, 1 << 18
NOTE = "spans.json"
_NOTED = Object({"kind": OneOf(("spans",)), "samples": Whole(), "provenance": Object()})
LETTERS = {"assignment": "I32", "distance": "F32", "second_distance": "F32"}
"""Tensors of a span, and of the clusters."""


class Assigned(NamedTuple):
    """What is said of the samples of a span.

    Attributes:
        assignment: nearest centroid, int32 [n]; -1 for samples that are in no cluster.
        distance: distance to it, float32 [n]; NaN likewise.
        second_distance: distance to the second nearest, float32 [n]; NaN likewise, and where there is one centroid.
    """

    assignment: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]
    second_distance: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Spans:
    """What of `count` samples is assigned.

    Attributes:
        folder: that holds a file for each span.
        count: samples.
        mark: digest of all that changes what is in them.
    """

    folder: Path
    count: int
    mark: str

    @property
    def size(self) -> int:
        """Samples of a span."""
        wanted = -(-self.count // MOST_SPANS)
        return min(LARGEST, -(-wanted // SMALLEST) * SMALLEST)

    def __len__(self) -> int:
        """Return the number of spans."""
        return -(-self.count // self.size)

    def span(self, number: int) -> tuple[int, int]:
        """Return where a span begins and ends."""
        return number * self.size, min((number + 1) * self.size, self.count)

    @property
    def note(self) -> Path:
        """Where it stands what is assigned, for whoever asks how far that is."""
        return self.folder / NOTE

    def announce(self, record: Record) -> None:
        """Note what is assigned, the same bytes whichever worker does.

        Args:
            record: provenance of the clusters.
        """
        publish_json(self.note, {"kind": "spans", "samples": self.count, "provenance": record})

    @classmethod
    def noted(cls, folder: Path) -> tuple[Spans, Record]:
        """Return the spans that a folder is noted to hold, and the provenance of the clusters.

        Raises:
            FileNotFoundError: nothing is noted.
            InputError: the note is damaged.
        """
        path = folder / NOTE
        content = without_check(str(path), shaped(str(path), read_json(path), _NOTED))
        record = checked_record(str(path), content["provenance"]) or {}
        return cls(folder, content["samples"], record_digest(record)), record

    def path(self, number: int) -> Path:
        """Where the file of a span is."""
        return self.folder / f"{number:06d}.safetensors"

    def claim(self, number: int) -> Path:
        """Return the file that stands for a span while a task of an array assigns it."""
        return claim_of(self.folder, number, len(self))

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Return those of some spans, by number, that are not assigned, or by other centroids."""
        return [number for number in numbers if not self._is_there(number)]

    def _is_there(self, number: int) -> bool:
        try:
            return TensorFile.open(self.path(number)).metadata == self._metadata(number)
        except InputError:
            return False

    def _metadata(self, number: int) -> dict[str, Any]:
        begin, end = self.span(number)
        return {"mark": self.mark, "count": end - begin}

    def write(self, number: int, assigned: Assigned) -> None:
        """Publish what is assigned of a span."""
        write_tensors(self.path(number), assigned._asdict(), self._metadata(number))

    def read(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield a tensor span by span, mapped.

        Raises:
            InputError: a span is missing or damaged.
        """
        for number in range(len(self)):
            yield TensorFile.open(self.path(number)).mapped(name)

    def stored(self, name: str) -> StoredTensor:
        """Return a tensor of all samples as it is written, a span at a time."""
        return StoredTensor(LETTERS[name], (self.count,), lambda: (bytes_of(part) for part in self.read(name)))


def bytes_of(values: npt.NDArray[Any]) -> memoryview:
    """Return the bytes of an array."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
