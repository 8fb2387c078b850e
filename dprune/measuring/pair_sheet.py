"""A picture of the generated samples that come closest to the training set, each beside its nearest training sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dprune.errors import MismatchError
from dprune.formats.beside import Beside
from dprune.formats.images import publish_png
from dprune.formats.provenance import Record, check_same_dataset, variant
from dprune.formats.shards import Dataset
from dprune.measuring.sources import FeatureSource
from dprune.runtime import Silent
from dprune.sheets.samples import SampleShown, samples_shown
from dprune.sheets.sheet import INK, PAPER, Caption, Sheet, SheetCell, SheetRow

ROLES = ("generated", "train")
COLUMNS = 4
THUMB, BETWEEN, GAP = 96, 4, 28
COPY = "#b3261e"
"""Colour of what is told of exact copies."""


@dataclass(frozen=True)
class PairSheet:
    """The images by role, `generated` and `train`, where the picture goes, and how many pairs it shows at most."""

    images: Mapping[str, Dataset]
    path: str
    count: int

    def check(self, sources: Mapping[str, FeatureSource]) -> None:
        """Refuse images of another dataset than the features of the same role.

        Raises:
            MismatchError: the fingerprints differ, or where the features have none, the numbers of samples.
        """
        for role, dataset in self.images.items():
            source = sources[role]
            if source.fingerprint is not None:
                check_same_dataset({source.name: source.fingerprint, dataset.title: dataset.fingerprint})
            # Without a fingerprint these are features that are there already.
            elif (samples := source.open(Silent()).shape[0]) != len(dataset):
                raise MismatchError(
                    f"{source.name} has {samples:,} samples and {dataset.title} {len(dataset):,}: give by "
                    f"--{role}-shards the images that the features were made of."
                )

    def beside(self, record: Record) -> Beside:
        """Describe the picture of the measurement with this provenance."""
        images = [self.images[role].fingerprint for role in ROLES]
        return Beside("--figure", Path(self.path), variant(record, figure=images, count=self.count))

    def draw(self, pairs: npt.NDArray[np.void], model: str | None, record: Record) -> None:
        """Publish a PNG of the first pairs.

        Args:
            pairs: `generated` and `train` ids and `distance`, the closest first.
            model: network that made the features, None if it is not known.
            record: provenance of the measurement.
        """
        shown = pairs[: self.count]
        found = [samples_shown(self.images[role], np.unique(shown[role]), THUMB) for role in ROLES]
        cells = [
            _cell([known[sample] for known, sample in zip(found, ids, strict=True)], distance)
            for *ids, distance in shown.tolist()
        ]
        sheet = Sheet(
            [SheetRow(cells[begin : begin + COLUMNS]) for begin in range(0, len(cells), COLUMNS)],
            title=f"Closest {len(shown):,} of {len(pairs):,} generated samples (left), each with its nearest training "
            "sample (right)",
            note=_note(pairs, model),
            gap=GAP,
        )
        publish_png(sheet.draw(), self.path, self.beside(record).mark, f"{sheet.title}. {sheet.note}")


def _note(pairs: npt.NDArray[np.void], model: str | None) -> str:
    copies = int((pairs["distance"] == 0).sum())
    space = f"Distances are in the features of {model}." if model else "Distances are between features."
    return f"{space} Exact copies among all of the generated samples: {copies:,}."


def _cell(pair: Sequence[SampleShown], distance: float) -> SheetCell:
    """Put two images side by side, in a frame where one is a copy of the other."""
    is_copy = distance == 0
    both = Image.new("RGB", (2 * THUMB + BETWEEN, THUMB), PAPER)
    for sample, left in zip(pair, (0, THUMB + BETWEEN), strict=True):
        both.paste(sample.image, (left, 0))
    told = Caption("exact copy", COPY) if is_copy else Caption(f"distance {distance:.4g}", INK)
    names = (Caption(f"{role} {sample.title}") for role, sample in zip(("generated", "training"), pair, strict=True))
    return SheetCell(both, (told, *names), COPY if is_copy else None)
