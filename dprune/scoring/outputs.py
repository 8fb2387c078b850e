"""The files that a scoring writes: scores, their standard errors, and those of each noise level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.formats.arrays import write_array
from dprune.formats.beside import Beside
from dprune.formats.provenance import Record, variant, with_findings
from dprune.scoring.reliability import pair_scores, reliability, standard_errors, warn_of_noise
from dprune.scoring.settings import ScoreSettings

ERROR = "standard error"


@dataclass(frozen=True)
class ScoreFile:
    """One score and, where there are draws enough, its standard error beside it.

    Attributes:
        path: of the scores.
        record: their provenance, but for what is found out.
        settings: noise levels and draws that they are of.
        title: what messages call the score.
        option: that names the score.
    """

    path: Path
    record: Record
    settings: ScoreSettings
    title: str
    option: str = "-o"

    @property
    def files(self) -> Iterator[Beside]:
        """Yield each file that belongs to the score, the score first."""
        yield Beside(self.option, self.path, self.record)
        if self.settings.pairs > 1:
            yield Beside(self.option, named_beside(self.path, "se"), self._error_record)

    @property
    def _error_record(self) -> Record:
        return variant(self.record, values=ERROR)

    def write(self, singles: npt.NDArray[np.floating], ids: npt.NDArray[np.int64], count: int) -> dict[str, Any]:
        """Publish the score, float32 [count], and return what is found of its reliability.

        Args:
            singles: single-draw scores [n, S, M].
            ids: of the n samples, int64; all others get NaN.
            count: samples of the dataset.
        """
        pairs = pair_scores(singles)
        found = reliability(pairs, self.settings.seed)
        errors = of_all(standard_errors(pairs), ids, count) if self.settings.pairs > 1 else None
        self.publish(of_all(pairs.mean(1), ids, count), errors, found)
        return found

    def publish(
        self, scores: npt.NDArray[np.float32], errors: npt.NDArray[np.float32] | None, found: dict[str, Any]
    ) -> None:
        """Publish the score and its standard error.

        Args:
            scores: [N].
            errors: [N], None for none.
            found: what `reliability` returned.
        """
        warn_of_noise(self.title, found)
        if errors is not None:
            write_array(named_beside(self.path, "se"), errors, with_findings(self._error_record, found))
        # Last: whoever finds the scores finds all that belongs to them.
        write_array(self.path, scores, with_findings(self.record, found))


@dataclass(frozen=True)
class ScoreFiles:
    """All files of one method.

    Attributes:
        whole: the score over all noise levels.
        levels: the scores at each of them, where these are asked for, with their place.
    """

    whole: ScoreFile
    levels: tuple[ScoreFile, ...] = field(default=())

    @property
    def files(self) -> Iterator[Beside]:
        """Yield every file, the whole score first."""
        for score in (self.whole, *self.levels):
            yield from score.files

    def write(self, singles: npt.NDArray[np.floating], ids: npt.NDArray[np.int64], count: int) -> dict[str, Any]:
        """Publish all; see `ScoreFile.write`."""
        for place, level in enumerate(self.levels):
            level.write(singles[:, place : place + 1], ids, count)
        return self.whole.write(singles, ids, count)


def named_beside(path: Path, what: str) -> Path:
    """Return the name of a file that belongs to another: `x.se.npy` of `x.npy`."""
    return path.with_name(f"{path.name.removesuffix('.npy')}.{what}.npy")


def of_all(values: npt.NDArray[np.floating], ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float32]:
    """Return values [n, ...] of some samples as those of all, float32 [count, ...], NaN where there are none."""
    out = np.full((count, *values.shape[1:]), np.nan, np.float32)
    out[ids] = values
    return out
