"""A picture of the generated samples that come closest to the training set, each beside its nearest training sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dprune.errors import MismatchError
from dprune.formats.beside import Beside
from dprune.formats.images import publish_png, thumbnails
from dprune.formats.provenance import Record, check_same_dataset, variant
from dprune.formats.readable import presentable
from dprune.formats.shards import Dataset
from dprune.measuring.sources import FeatureSource
from dprune.runtime import Silent

ROLES = ("generated", "train")
COLUMNS = 4
THUMB, BETWEEN, FRAME, CAPTION, MARGIN, HEADER = 96, 4, 3, 46, 28, 86
STEP_X, STEP_Y = 2 * THUMB + BETWEEN + 36, THUMB + CAPTION + 20
PAPER, INK, FAINT, HAIR, COPY = "#ffffff", "#1c2733", "#5d6875", "#cfd6dd", "#b3261e"


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
        thumbs = [thumbnails(self.images[role], np.unique(shown[role]), THUMB) for role in ROLES]
        sheet = _Sheet(len(shown))
        sheet.header(len(shown), pairs, model)
        for place, (*ids, distance) in enumerate(shown.tolist()):
            sheet.pair(place, ids, [known[sample] for known, sample in zip(thumbs, ids, strict=True)], distance)
        publish_png(sheet.image, self.path, self.beside(record).mark)


class _Sheet:
    """The canvas and where things go on it."""

    def __init__(self, pairs: int) -> None:
        rows = -(-pairs // COLUMNS)
        width = 2 * MARGIN + COLUMNS * STEP_X - (STEP_X - 2 * THUMB - BETWEEN)
        self.image = Image.new("RGB", (width, HEADER + rows * STEP_Y + MARGIN // 2), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def _text(self, place: tuple[int, int], text: str, size: int, colour: str) -> None:
        self._draw.text(place, presentable(text), fill=colour, font=ImageFont.load_default(size))

    def header(self, shown: int, pairs: npt.NDArray[np.void], model: str | None) -> None:
        """Say what is to be seen."""
        title = f"Closest {shown:,} of {len(pairs):,} generated samples (left) and their nearest training samples"
        copies = int((pairs["distance"] == 0).sum())
        space = f"distances in the features of {model}" if model else "distances between features"
        self._text((MARGIN, 16), title, 18, INK)
        self._text((MARGIN, 46), f"{space}; {copies:,} exact copies in all", 14, FAINT)

    def pair(self, place: int, ids: Sequence[int], images: Sequence[Image.Image], distance: float) -> None:
        """Put two images side by side over their ids and the distance, in a frame where one is a copy of the other."""
        left, y = MARGIN + place % COLUMNS * STEP_X, HEADER + place // COLUMNS * STEP_Y
        is_copy = distance == 0
        if is_copy:
            far = (left + 2 * THUMB + BETWEEN + FRAME - 1, y + THUMB + FRAME - 1)
            self._draw.rectangle((left - FRAME, y - FRAME, *far), fill=COPY)
        for x, sample, image in zip((left, left + THUMB + BETWEEN), ids, images, strict=True):
            if not is_copy:
                # Or images on white would run into the paper.
                self._draw.rectangle((x - 1, y - 1, x + THUMB, y + THUMB), outline=HAIR)
            self.image.paste(image, (x, y))
            self._text((x, y + THUMB + 5), f"{sample}", 13, FAINT)
        told, colour = ("exact copy", COPY) if is_copy else (f"{distance:.4g}", INK)
        self._text((left, y + THUMB + 22), told, 15, colour)
