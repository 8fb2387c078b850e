"""A picture of the generated samples that come closest to the training set, each beside its nearest training sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dprune.errors import MismatchError
from dprune.formats.beside import Beside
from dprune.formats.images import publish_png, thumbnails
from dprune.formats.provenance import Record, check_same_dataset, variant
from dprune.formats.shards import Dataset, open_dataset
from dprune.measuring.sources import FeatureSource
from dprune.runtime import Silent

COLUMNS = 4
THUMB, BETWEEN, FRAME, CAPTION, MARGIN, HEADER = 96, 4, 3, 46, 28, 86
STEP_X, STEP_Y = 2 * THUMB + BETWEEN + 36, THUMB + CAPTION + 20
PAPER, INK, FAINT, HAIR, COPY = "#ffffff", "#1c2733", "#5d6875", "#cfd6dd", "#b3261e"


@dataclass(frozen=True)
class PairSheet:
    """Where the images are, where the picture goes, and how many pairs it shows at most."""

    generated: Dataset
    train: Dataset
    path: str
    count: int

    @classmethod
    def open(cls, generated: Sequence[str], train: Sequence[str], path: str, count: int) -> PairSheet:
        """Find the shards.

        Raises:
            InputError: there are none.
        """
        return cls(open_dataset(generated), open_dataset(train), path, count)

    def check(self, role: str, source: FeatureSource) -> None:
        """Refuse images of another dataset than the features of `role`, `generated` or `train`.

        Raises:
            MismatchError: the fingerprints differ, or where the features have none, the numbers of samples.
        """
        dataset = self.generated if role == "generated" else self.train
        if source.fingerprint is not None:
            check_same_dataset({source.name: source.fingerprint, dataset.title: dataset.fingerprint})
            return
        # Without a fingerprint these are features that are there already.
        samples = source.open(Silent()).shape[0]
        if samples != len(dataset):
            raise MismatchError(
                f"{source.name} has {samples:,} samples and {dataset.title} {len(dataset):,}: give by "
                f"--{role}-shards the images that the features were made of."
            )

    def beside(self, record: Record) -> Beside:
        """Describe the picture of the measurement with this provenance."""
        images = [self.generated.fingerprint, self.train.fingerprint]
        return Beside("--figure", Path(self.path), variant(record, figure=images, count=self.count))

    def draw(self, pairs: npt.NDArray[np.void], model: str | None, record: Record) -> None:
        """Publish a PNG of the first pairs.

        Args:
            pairs: `generated` and `train` ids and `distance`, the closest first.
            model: network that made the features, None if it is not known.
            record: provenance of the measurement.
        """
        shown = pairs[: self.count]
        left = thumbnails(self.generated, np.unique(shown["generated"]), THUMB)
        right = thumbnails(self.train, np.unique(shown["train"]), THUMB)
        sheet = _Sheet(len(shown))
        sheet.header(len(shown), pairs, model)
        for place, (generated, train, distance) in enumerate(shown.tolist()):
            sheet.pair(place, left[generated], right[train], distance)
            sheet.captions(place, generated, train, distance)
        publish_png(sheet.image, self.path, self.beside(record).mark)


class _Sheet:
    """The canvas and where things go on it."""

    def __init__(self, pairs: int) -> None:
        rows = -(-pairs // COLUMNS)
        width = 2 * MARGIN + COLUMNS * STEP_X - (STEP_X - 2 * THUMB - BETWEEN)
        self.image = Image.new("RGB", (width, HEADER + rows * STEP_Y + MARGIN // 2), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    @staticmethod
    def _corner(place: int) -> tuple[int, int]:
        return MARGIN + place % COLUMNS * STEP_X, HEADER + place // COLUMNS * STEP_Y

    def _text(self, place: tuple[int, int], text: str, size: int, colour: str) -> None:
        self._draw.text(place, text, fill=colour, font=ImageFont.load_default(size))

    def header(self, shown: int, pairs: npt.NDArray[np.void], model: str | None) -> None:
        """Say what is to be seen."""
        title = f"Closest {shown:,} of {len(pairs):,} generated samples (left) and their nearest training samples"
        copies = int((pairs["distance"] == 0).sum())
        space = f"distances in the features of {model}" if model else "distances between features"
        self._text((MARGIN, 16), title, 18, INK)
        self._text((MARGIN, 46), f"{space}; {copies:,} exact copies in all", 14, FAINT)

    def pair(self, place: int, left: Image.Image, right: Image.Image, distance: float) -> None:
        """Put two images side by side, in a frame where one is a copy of the other."""
        x, y = self._corner(place)
        for at in (x, x + THUMB + BETWEEN):
            # Or images on white would run into the paper.
            self._draw.rectangle((at - 1, y - 1, at + THUMB, y + THUMB), outline=HAIR)
        if distance == 0:
            far = (x + 2 * THUMB + BETWEEN + FRAME - 1, y + THUMB + FRAME - 1)
            self._draw.rectangle((x - FRAME, y - FRAME, *far), fill=COPY)
        self.image.paste(left, (x, y))
        self.image.paste(right, (x + THUMB + BETWEEN, y))

    def captions(self, place: int, generated: int, train: int, distance: float) -> None:
        """Write the ids beneath the images and the distance beneath the ids."""
        x, y = self._corner(place)
        self._text((x, y + THUMB + 5), f"{generated}", 13, FAINT)
        self._text((x + THUMB + BETWEEN, y + THUMB + 5), f"{train}", 13, FAINT)
        if distance == 0:
            self._text((x, y + THUMB + 22), "exact copy", 15, COPY)
        else:
            self._text((x, y + THUMB + 22), f"{distance:.4g}", 15, INK)
