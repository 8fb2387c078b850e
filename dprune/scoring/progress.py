"""The progress of a scoring: a folder of what was measured of the samples, a portion for each span of them.

A portion holds the first of its samples that were measured, and says of which scoring; another's counts as missing. So
any number of workers fills one folder, and whoever finds it full makes the scores of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.beside import progress_folder
from dprune.formats.checked_json import ListOf, Object, OneOf, Text, Whole, read_json, shaped
from dprune.formats.claims import claim_of
from dprune.formats.digests import without_check
from dprune.formats.provenance import Record, checked_record
from dprune.formats.publish import publish_json
from dprune.formats.tensors import read_metadata, read_tensors, write_tensors
from dprune.models.files import ModelFile

Values = npt.NDArray[np.float32]

MOST_PORTIONS = 64
SMALLEST, LARGEST = 256, 2048
NOTE = "findings.json"
_NOTED = Object({"mark": Text(), "findings": Object()})


@dataclass(frozen=True)
class Portion:
    """Samples `begin` to `end`, as positions in what is scored, of which the first `done` are measured."""

    number: int
    begin: int
    end: int
    done: int = 0

    @property
    def whole(self) -> bool:
        """Tell whether nothing is left to measure."""
        return self.begin + self.done == self.end


@dataclass(frozen=True)
class Progress:
    """What was measured of `count` samples, as far as it is on disk.

    Attributes:
        folder: that holds the portions.
        count: samples.
        shape: of one sample's measures.
        mark: digest of all that changes the measures.
    """

    folder: Path
    count: int
    shape: tuple[int, ...]
    mark: str

    @property
    def size(self) -> int:
        """Samples of a portion: the same for any number of workers, and enough portions to go round."""
        wanted = -(-self.count // MOST_PORTIONS)
        return min(LARGEST, max(SMALLEST, -(-wanted // SMALLEST) * SMALLEST))

    def __len__(self) -> int:
        """Return the number of portions."""
        return -(-self.count // self.size)

    def portions(self, numbers: Iterable[int] | None = None) -> list[Portion]:
        """Return portions, by number or all, whether measured or not."""
        wanted = range(len(self)) if numbers is None else numbers
        return [self._portion(number, *self.span(number)) for number in wanted]

    def span(self, number: int) -> tuple[int, int]:
        """Return where a portion begins and ends."""
        return number * self.size, min((number + 1) * self.size, self.count)

    def missing(self, numbers: Iterable[int] | None = None) -> list[Portion]:
        """Return those of the same that are not measured whole."""
        return [portion for portion in self.portions(numbers) if not portion.whole]

    def unmeasured(self, numbers: Iterable[int]) -> list[int]:
        """Return the numbers of those of some portions that are not measured whole."""
        return [portion.number for portion in self.missing(numbers)]

    def claim(self, number: int) -> Path:
        """Return the file that stands for a portion while a task of an array measures it."""
        return claim_of(self.folder, number, len(self))

    def _portion(self, number: int, begin: int, end: int) -> Portion:
        return Portion(number, begin, end, len(self._trusted(number, end - begin)))

    def _trusted(self, number: int, most: int) -> Values:
        """Return the measures in a portion's file, none where it is another scoring's or not what was written."""
        none = np.empty((0, *self.shape), np.float32)
        try:
            _, tensors, metadata = read_tensors(self.path(number))
        except InputError:
            return none
        values = tensors.get("measures", none)
        known = metadata is not None and metadata.get("mark") == self.mark and metadata.get("count") == len(values)
        fits = values.dtype == np.float32 and values.shape == (len(values), *self.shape) and len(values) <= most
        return values if known and fits else none

    def stated(self, number: int) -> int:
        """Return how many samples of a portion are measured by what its header says; see `portions`, which reads it."""
        try:
            metadata = read_metadata(self.path(number)) or {}
        except InputError:
            return 0
        count = metadata.get("count")
        return count if metadata.get("mark") == self.mark and isinstance(count, int) and count > 0 else 0

    def path(self, number: int) -> Path:
        """Where a portion is."""
        return self.folder / f"{number:06d}.safetensors"

    def read(self, portion: Portion) -> Values:
        """Read what is measured of a portion, float32 [done, *shape].

        Raises:
            InputError: the file no longer holds that.
        """
        values = self._trusted(portion.number, portion.end - portion.begin)
        if len(values) < portion.done:
            raise InputError(f"{self.path(portion.number)}: has vanished or changed: run the same command again.")
        return values[: portion.done]

    def write(self, portion: Portion, values: Values) -> None:
        """Publish what is measured of a portion.

        Args:
            portion: any state of it.
            values: measures of its first samples, float32 [done, *shape].
        """
        write_tensors(self.path(portion.number), {"measures": values}, {"mark": self.mark, "count": len(values)})

    def note(self, findings: Mapping[str, Any]) -> None:
        """Keep what was found out of the network, for whichever worker writes the scores."""
        if findings:
            publish_json(self.folder / NOTE, {"mark": self.mark, "findings": dict(findings)})

    def noted(self) -> dict[str, Any]:
        """Return what was noted, empty where it is another scoring's or cannot be trusted."""
        path = self.folder / NOTE
        try:
            found = without_check(str(path), shaped(str(path), read_json(path), _NOTED))
        except (FileNotFoundError, InputError):
            return {}
        return dict(found["findings"]) if found["mark"] == self.mark else {}

    def values(self) -> Values | None:
        """Return all measures, float32 [count, *shape], or None while some are missing."""
        portions = self.portions()
        if not all(portion.whole for portion in portions):
            return None
        out = np.empty((self.count, *self.shape), np.float32)
        for portion in portions:
            out[portion.begin : portion.end] = self.read(portion)
        return out


class Share(NamedTuple):
    """What a worker is to measure by one network.

    Attributes:
        file: of the network.
        progress: that is filled.
        portions: of it that are this worker's, and not whole.
        label: what the terminal calls the work.
    """

    file: ModelFile
    progress: Progress
    portions: Sequence[Portion]
    label: str


MOST_SAMPLES, MOST_FOLDS = 1 << 31, 1 << 16
_ITEM = Object({"title": Text(), "folder": Text(), "samples": Whole(most=MOST_SAMPLES), "mark": Text()},
               {"fold": Whole()})  # fmt: skip
_WORKLOAD = Object({"kind": OneOf(("workload",)), "provenance": Object(), "items": ListOf(_ITEM, most=MOST_FOLDS),
                    "folds": Whole(most=MOST_FOLDS)})  # fmt: skip


class Item(NamedTuple):
    """What one network measures of some samples.

    Attributes:
        title: what messages call it, empty where there is nothing to tell it from.
        progress: how far it is.
        fold: number of the fold that the samples are, None for no fold.
    """

    title: str
    progress: Progress
    fold: int | None = None


@dataclass(frozen=True)
class Workload:
    """What is to be measured for scores; it stands in the folder of their progress, for whoever asks how far that is.

    Attributes:
        record: provenance of the scores.
        items: what is measured.
        folds: how many there are in all, which may be more than are measured here; 0 for none.
    """

    record: Record
    items: Sequence[Item]
    folds: int = 0

    def publish(self, path: Path) -> None:
        """Write it to a file in the folder of the progress, the same bytes whichever worker does."""
        items = [
            {"title": title, "folder": os.path.relpath(each.folder, path.parent), "samples": each.count,
             "mark": each.mark, **({} if fold is None else {"fold": fold})}
            for title, each, fold in self.items
        ]  # fmt: skip
        publish_json(path, {"kind": "workload", "provenance": self.record, "items": items, "folds": self.folds})

    @classmethod
    def read(cls, path: Path) -> Workload:
        """Read it again; the shape of what is measured is not in it.

        Raises:
            FileNotFoundError: it is not there.
            InputError: it is damaged.
        """
        content = without_check(str(path), shaped(str(path), read_json(path), _WORKLOAD))
        items = [Item(item["title"], Progress(path.parent / item["folder"], item["samples"], (), item["mark"]),
                      item.get("fold")) for item in content["items"]]  # fmt: skip
        return cls(checked_record(str(path), content["provenance"]) or {}, items, content["folds"])


def workload_file(output: str | Path, fold: int | None = None) -> Path:
    """Return where the workload of an output is noted, or that of one fold which is measured alone."""
    return progress_folder(output) / ("workload.json" if fold is None else f"workload-fold-{fold}.json")
