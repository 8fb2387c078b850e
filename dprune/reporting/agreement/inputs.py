"""Scores and subsets of a study, read and held together; of a subset no more than a bit a sample is kept."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import Array, is_like_ids, read_array, stated_kind
from dprune.formats.provenance import Record, check_same_dataset
from dprune.formats.subsets import narrowed, read_chosen
from dprune.formats.values import Listed, read_values, whole
from dprune.metrics.agreement import IdBits, Standard
from dprune.reporting.agreement.score_names import score_names

_log = logging.getLogger("dprune")


@dataclass(frozen=True, eq=False)
class StudyScore:
    """A score that methods choose by.

    Attributes:
        name: that the report calls it.
        array: one number a sample, NaN where it was not scored.
        parent: it as an input.
        standard: it in standard deviations.
        named: whether the user or its file gives it the name, which its provenance does not tell.
    """

    name: str
    array: Array
    parent: Record
    standard: Standard
    named: bool


@dataclass(frozen=True, eq=False)
class KeptSet:
    """A subset that was kept.

    Attributes:
        name: what messages call it.
        parent: it as an input.
        bits: its samples.
        means: mean of each score over them, in standard deviations, None where none of them is scored.
    """

    name: str
    parent: Record
    bits: IdBits
    means: tuple[float | None, ...]

    @property
    def digest(self) -> str:
        """Digest of its ids, by which results name it."""
        return str(self.parent["digest"])

    @property
    def stem(self) -> str:
        """What its file is called."""
        return Path(self.name).stem


@dataclass(frozen=True)
class AgreementInputs:
    """What the report says of scores and subsets.

    Attributes:
        scores: sorted by name.
        subsets: of different samples, sorted by digest.
        total: samples of the dataset, None where no score tells.
    """

    scores: tuple[StudyScore, ...]
    subsets: tuple[KeptSet, ...]
    total: int | None

    @property
    def names(self) -> dict[str, str]:
        """Names of scores and subsets that their provenance does not tell, by their digests."""
        scores = {str(score.parent["digest"]): score.name for score in self.scores if score.named}
        return scores | {kept.digest: kept.stem for kept in self.subsets if "provenance" not in kept.parent}

    @classmethod
    def open(cls, scores: Sequence[str], subsets: Sequence[str], names: Mapping[str, str]) -> AgreementInputs:
        """Read scores and subsets and hold them together; neither their order nor a repetition makes a difference.

        Args:
            scores: files, as `dprune select` takes them.
            subsets: files, as `dprune select --within` takes them, or globs of these.
            names: that the user gave to scores, by their files.

        Raises:
            InputError: a file is missing or not what it should be, or two scores have one name.
            MismatchError: they are of different datasets.
        """
        arrays = _each_once(_read_scores(scores))
        total = len(arrays[0].values) if arrays else None
        _check_lengths(arrays)
        called = score_names(arrays, names)
        found = [
            StudyScore(
                name := called[array.name], array, array.as_parent(), Standard.of(array.values),
                named=array.record is None or name in names.values(),
            )
            for array in arrays
        ]  # fmt: skip
        found.sort(key=lambda score: (score.name.casefold(), score.name))
        return cls(tuple(found), _read_subsets(subsets, found), total)


def _read_scores(paths: Sequence[str]) -> list[Array]:
    """Read scores, those of tables with as many samples as the others have."""
    read = {path: _values(path) for path in paths}
    counts = [len(value.values) for value in read.values() if isinstance(value, Array)]
    least = max((value.least for value in read.values() if isinstance(value, Listed)), default=0)
    found = {path: whole(value, None, range(counts[0] if counts else least))[0] for path, value in read.items()}
    # A file may hold several, each in a column of its own.
    return [replace(array, name=path) for path, array in found.items() if array is not None]


def _values(path: str) -> Array | Listed:
    try:
        return read_values(path, "scores", None)
    except InputError:
        if _holds_subset(path):
            raise InputError(f"--scores {path}: holds a subset, not scores: give it with --subsets.") from None
        raise


def _holds_subset(path: str) -> bool:
    try:
        array = read_array(path)
    except InputError:
        return False
    return stated_kind(array.record) == "subset" or is_like_ids(array.values)


def _each_once(arrays: Sequence[Array]) -> list[Array]:
    found: dict[str, Array] = {}
    for array in arrays:
        mark = str(array.as_parent()["digest"])
        if mark in found:
            _log.warning("%s holds the same scores as %s and counts once.", array.name, found[mark].name)
        found.setdefault(mark, array)
    return [found[mark] for mark in sorted(found)]


def _check_lengths(arrays: Sequence[Array]) -> None:
    check_same_dataset({array.name: array.fingerprint for array in arrays})
    for array in arrays[1:]:
        if len(array.values) != len(arrays[0].values):
            raise MismatchError(
                f"{arrays[0].name} scores {len(arrays[0].values):,} samples and {array.name} {len(array.values):,}: "
                "give scores of one dataset."
            )


def _read_subsets(sources: Sequence[str], scores: Sequence[StudyScore]) -> tuple[KeptSet, ...]:
    found: dict[str, KeptSet] = {}
    datasets = {score.array.name: score.array.fingerprint for score in scores}
    for path in _paths(sources):
        subset = read_chosen(path, None)
        # One name of each dataset is enough to tell that another differs.
        known = check_same_dataset({**datasets, subset.name: subset.fingerprint})
        datasets = {subset.name: known, **datasets} if known and not any(datasets.values()) else datasets
        kept = _kept(subset, scores)
        found.setdefault(kept.digest, kept)
    return tuple(found[mark] for mark in sorted(found))


def _kept(subset: Array, scores: Sequence[StudyScore]) -> KeptSet:
    ids: npt.NDArray[np.int64] = subset.values
    if scores:
        first = scores[0].array
        ids = narrowed(subset, first.name, first.fingerprint, len(first.values))
    try:
        bits = IdBits.of(ids)
    except MemoryError as error:
        raise InputError(
            f"{subset.name}: holds the id {ids[-1]}, and so many samples do not fit into memory: mend the subset."
        ) from error
    return KeptSet(subset.name, subset.as_parent(), bits, tuple(score.standard.mean_of(ids) for score in scores))


def _paths(sources: Sequence[str]) -> Iterator[str]:
    """Yield the files that paths and globs name, by name.

    Raises:
        InputError: nothing is called so.
    """
    for source in sources:
        if os.path.exists(source) or not glob.has_magic(source):
            yield source
            continue
        found = sorted(glob.glob(source, recursive=True))
        if not found:
            raise InputError(f"--subsets {source}: matches no file: name subsets that dprune select wrote.")
        yield from found
