"""Results of `eval --metrics paired`: which two models each is of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dprune.formats.provenance import Record, parents_of, record_digest
from dprune.formats.results import Result, result_digest
from dprune.metrics.catalogue import PAIRED
from dprune.reporting.study.experiments import Point, point_of_images

SIDES = ("generated", "reference")
"""Roles of the two sets, the first on top."""
_KEYS = {measure.key for measure in PAIRED}


@dataclass(frozen=True)
class PairResult:
    """One comparison of two models.

    Attributes:
        result: what was measured.
        mark: digest of it.
        points: the models in the order of `SIDES`, None for samples that `sample` did not draw.
        digests: of the records of both samplings, of the features where nothing else is known.
    """

    result: Result
    mark: str
    points: tuple[Point | None, Point | None]
    digests: tuple[str, str]

    @classmethod
    def of(cls, result: Result) -> PairResult:
        """Find the models behind both sides.

        Raises:
            InputError: a tag says nonsense.
        """
        entries = [parents_of(result.record).get(role, {}) for role in SIDES]
        (first, ours), (second, theirs) = (_model(result.name, entry) for entry in entries)
        return cls(result, result_digest(result), (first, second), (ours, theirs))

    @property
    def count(self) -> int | None:
        """Pairs of samples, None where that is not known."""
        found = self.result.details.get("paired")
        count = found.get("pairs") if isinstance(found, dict) else None
        return count if isinstance(count, int) else None

    @property
    def is_all(self) -> bool:
        """Whether the result speaks of nothing else, so that it is no point of the study."""
        return all(key.removesuffix("_se") in _KEYS for key in self.result.metrics)

    @property
    def features(self) -> str:
        """Network of the features, empty where that is not known."""
        return next((str(side["model"]) for side in self.result.inputs if side.get("model")), "")


def _model(name: str, entry: Record) -> tuple[Point | None, str]:
    """Find what `sample` drew, of which features were made, and return its model and the digest of its record."""
    digest = str(entry.get("digest", "unknown"))
    while (made := entry.get("provenance")) and made.get("command") != "sample":
        entry = parents_of(made).get("shards", {})
    if not made:
        return None, digest
    drawn = record_digest(made)
    return point_of_images(name, made, drawn), drawn


def pair_results(results: Iterable[Result]) -> tuple[PairResult, ...]:
    """Return those results that speak of pairs, sorted by digest."""
    found = [PairResult.of(result) for result in results if result.metrics.get(PAIRED[0].key) is not None]
    return tuple(sorted(found, key=lambda pair: pair.mark))
