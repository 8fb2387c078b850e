"""What a training is told of each sample: how often it is drawn, how noisy at least, and how hard it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import Array
from dprune.formats.latents import Latents
from dprune.formats.named_sources import NamedStore
from dprune.formats.provenance import check_same_dataset
from dprune.formats.values import read_values
from dprune.seeds import hash_ids
from dprune.training.order import MOST, Drawing, Weights, epoch_length

Ids = npt.NDArray[np.int64]

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class PerSample:
    """One value for each sample of a store, by what it is for; None where nothing is said.

    Attributes:
        weights: how often it is drawn relative to others; 0 and NaN are never.
        sigma_min: the noise level from which on it is trained on, in [0, 1).
        curriculum: how hard it is; the lowest come first.
    """

    weights: Array | None = None
    sigma_min: Array | None = None
    curriculum: Array | None = None

    @property
    def given(self) -> dict[str, Array]:
        """The arrays that there are, by role."""
        return {role: array for role, array in vars(self).items() if array is not None}

    def drawn(self, ids: Ids) -> Ids:
        """Return the ids that have a weight.

        Raises:
            InputError: none of them has.
        """
        if self.weights is None or not len(ids):
            return ids
        found: Ids = ids[self.weights.values[ids] > 0]
        if not len(found):
            raise InputError(f"{self.weights.name}: draws none of the samples that are trained on: give some of them "
                             "a weight above 0.")  # fmt: skip
        if len(found) < len(ids):
            _log.info("%s: %s of %s samples have no weight, and are not trained on.",
                      self.weights.name, f"{len(ids) - len(found):,}", f"{len(ids):,}")  # fmt: skip
        return found

    def check(self, ids: Ids) -> None:
        """Hold the values to the samples that are trained on.

        Raises:
            InputError: a value is missing where it is needed, or out of range.
        """
        if self.weights is not None:
            _refuse(self.weights, "the weight", lambda found: (found < 0) | np.isinf(found),
                    "give numbers from 0, how often a sample is drawn")  # fmt: skip
            if (visits := self.weights.values[ids].astype(np.float64).sum()) >= MOST:
                raise InputError(f"{self.weights.name}: its weights add up to an epoch of {visits:.3g} visits: divide "
                                 "them all by one number, since they matter relative to each other.")  # fmt: skip
        if self.sigma_min is not None:
            _refuse(self.sigma_min, "the noise level", lambda found: np.isnan(found) | (found < 0) | (found >= 1),
                    "give numbers from 0 to below 1, and leave what is not to be trained on out by --subset",
                    ids)  # fmt: skip
            if (least := self.sigma_min.values[ids].min()) > 0:
                _log.warning("%s: no sample is trained on below a noise level of %g, where details are made: give 0 "
                             "to those that are good.", self.sigma_min.name, least)  # fmt: skip
        if self.curriculum is not None:
            _refuse(self.curriculum, "the score", np.isnan, "score it, or leave it out by --subset", ids)

    def epoch(self, ids: Ids) -> int:
        """Return the visits of an epoch of such samples."""
        weights = self.weights_of(ids)
        return len(ids) if weights is None else epoch_length(weights)

    def weights_of(self, ids: Ids) -> Weights | None:
        """Return how often samples are drawn, float64 [n], None for all alike."""
        return None if self.weights is None else self.weights.values[ids].astype(np.float64)

    def drawing(self, ids: Ids, seed: int, weights: Weights | None) -> Drawing:
        """Return how such samples are drawn.

        Args:
            ids: sorted, int64 [n].
            seed: of ties of the curriculum.
            weights: how often they are drawn, float64 [n].
        """
        if self.curriculum is None:
            return Drawing(weights)
        ties = hash_ids(seed, "curriculum ties", ids)
        return Drawing(weights, np.lexsort((ties, self.curriculum.values[ids])))


UNTOLD = PerSample()


def _refuse(
    array: Array, what: str, wrong: Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]], remedy: str,
    ids: Ids | None = None,
) -> None:  # fmt: skip
    values = array.values if ids is None else array.values[ids]
    if (places := np.flatnonzero(wrong(values))).size:
        place = int(places[0])
        sample = place if ids is None else int(ids[place])
        others = f" and {len(places) - 1:,} more are out of range" if len(places) > 1 else ""
        raise InputError(f"{array.name}: {what} of sample {sample} is {values[place]:g}{others}: {remedy}.")


def read_per_sample(latents: Latents, **paths: str | None) -> PerSample:
    """Read what is given for each sample.

    Args:
        latents: whose samples they are.
        paths: under the names of `PerSample`, each as `read_values` takes it.

    Raises:
        InputError: a file is no such array or table.
        MismatchError: it speaks of other samples.
    """
    return PerSample(**{role: _read(path, latents) for role, path in paths.items() if path})


def _read(path: str, latents: Latents) -> Array:
    count, store = len(latents), str(latents.store.folder)
    found = read_values(path, "scores", NamedStore(latents.store))
    array = found if isinstance(found, Array) else found.of_all(count)
    check_same_dataset({store: latents.fingerprint, array.name: array.fingerprint})
    if len(array.values) != count:
        raise MismatchError(f"{array.name}: has {len(array.values):,} values, and {store} has {count:,} samples: give "
                            "one for each of them.")  # fmt: skip
    return array
