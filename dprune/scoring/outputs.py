"""The files that a scoring writes: scores, their standard errors, and those of each noise level."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import UsageError
from dprune.formats.arrays import write_array
from dprune.formats.beside import Beside
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import FINDINGS_KEY, Record, variant, with_findings
from dprune.scoring.reliability import (
    RELIABILITY,
    Floats,
    Scoring,
    mean_of_pairs,
    pair_scores,
    reliability,
    standard_errors,
    warn_of_noise,
)
from dprune.scoring.settings import ScoreSettings

ERROR = "centred standard error"


@dataclass(frozen=True)
class ScoreFile:
    """One score and, where there are draws enough, its standard error beside it.

    Attributes:
        path: of the scores.
        record: their provenance, but for what is found out.
        settings: noise levels and draws that they are of.
        title: what messages call the score.
        option: that names the score.
        levels: the scores at each noise level alone, in their order, where these are asked for.
    """

    path: Path
    record: Record
    settings: ScoreSettings
    title: str
    option: str = "-o"
    levels: tuple[ScoreFile, ...] = ()

    @property
    def files(self) -> list[Beside]:
        """Each file that belongs to the score, the score first."""
        own = [Beside(self.option, self.path, self.record)]
        if self.settings.pairs > 1:
            own.append(Beside(self.option, named_beside(self.path, "se"), self._error_record))
        return own + [file for level in self.levels for file in level.files]

    @property
    def _error_record(self) -> Record:
        return variant(self.record, values=ERROR)

    def found(self) -> dict[str, Any]:
        """Return what `publish` returned, by what the file says of itself."""
        findings = (existing_record(self.path) or {}).get(FINDINGS_KEY, {})
        return {name: findings[name] for name in RELIABILITY if name in findings}

    def write(self, singles: npt.NDArray[np.floating], ids: npt.NDArray[np.int64], count: int) -> dict[str, Any]:
        """Publish the score by single-draw scores [n, S, M], and that at each level; see `publish`."""
        for place, level in enumerate(self.levels):
            level.write(singles[:, place : place + 1], ids, count)
        return self.publish(pair_scores(singles), mean_of_pairs, standard_errors, ids, count)

    def publish(
        self, pairs: Floats, score: Scoring, errors: Scoring, ids: npt.NDArray[np.int64], count: int
    ) -> dict[str, Any]:
        """Publish the score and its standard error, float32 [count], and return what is found of its reliability.

        Args:
            pairs: what pairs of draws gave, [n, P, ...].
            score: makes the score of all pairs.
            errors: makes its standard errors of two pairs and more.
            ids: of the n samples, int64; all others get NaN.
            count: samples of the dataset.
        """
        found = reliability(pairs, self.settings.seed, score)
        warn_of_noise(self.title, found)
        if self.settings.pairs > 1:
            place, record = named_beside(self.path, "se"), with_findings(self._error_record, found)
            write_array(place, of_all(errors(pairs), ids, count), record)
        # Last: whoever finds the scores finds all that belongs to them.
        write_array(self.path, of_all(score(pairs), ids, count), with_findings(self.record, found))
        return found


def named_beside(path: Path, what: str) -> Path:
    """Return the name of a file that belongs to another: `x.se.npy` of `x.npy`.

    Raises:
        UsageError: the other is a folder.
    """
    if not path.name:
        raise UsageError(f"--output {path}: is a folder: name a file.")
    return path.with_name(f"{path.name.removesuffix('.npy')}.{what}.npy")


def of_all(values: npt.NDArray[np.floating], ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float32]:
    """Return values [n, ...] of some samples as those of all, float32 [count, ...], NaN where there are none."""
    out = np.full((count, *values.shape[1:]), np.nan, np.float32)
    out[ids] = values
    return out
