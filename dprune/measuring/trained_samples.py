"""Which samples a model was trained on, as far as anything tells, and in which groups these are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.errors import MismatchError
from dprune.formats.arrays import Array
from dprune.formats.clusters import Clusters
from dprune.formats.features import Features
from dprune.formats.provenance import Record, generator_of, parents_of, training_subset
from dprune.formats.subsets import narrowed

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainedSamples:
    """The samples that a model was trained on.

    Attributes:
        subset: their ids, None for all of the dataset.
        fingerprint: of the dataset, None if that is not known.
    """

    subset: Array | None
    fingerprint: str | None

    def among(self, name: str, values: npt.NDArray[np.integer] | None, fingerprint: str | None) -> IntArray | None:
        """Return the values [n] of the training samples among those [N] of a dataset, None where it is another one.

        Raises:
            InputError: the subset names samples that are not there.
        """
        known = self.fingerprint and fingerprint
        if values is None or (self.fingerprint != fingerprint if known else self.subset is None):
            return None
        return values[narrowed(self.subset, name, fingerprint, len(values))].astype(np.int64)

    def groups(self, kind: str, reference: Features, clusters: Clusters | None) -> IntArray | None:
        """Return the cluster or class of each training sample, int64 [n], negative for none; None if nothing tells.

        Args:
            kind: `cluster` or `class`.
            reference: whose labels those are, where it is of the same dataset.
            clusters: whose clusters, or else whose labels, those are.
        """
        known: list[tuple[str, npt.NDArray[np.integer] | None, str | None]] = []
        if kind == "class":
            known.append((reference.name, reference.labels(), reference.fingerprint))
        if clusters is not None:
            values = clusters.label if kind == "class" else clusters.assignment
            known.append((clusters.name, values, clusters.fingerprint))
        found = (self.among(*some) for some in known)
        return next((groups for groups in found if groups is not None), None)


def trained_samples(generated: Record | None, given: Array | None, subset: Array | None) -> TrainedSamples | None:
    """Tell which samples the model behind generated ones was trained on, None where nothing tells.

    Args:
        generated: provenance of the generated samples.
        given: the training set, as somebody says.
        subset: of the reference, which may be the training set.

    Raises:
        MismatchError: provenance names another training set than the one that was given.
    """
    main = training_subset(generated)
    digest = main.get("digest") if main else None
    model = generator_of(generated)
    if given is not None and model is not None:
        _check_given(given, model, digest)
    part, count = part_by(model), trained_count(model)
    own = subset if subset is not None and subset.as_parent()["digest"] == digest else None
    named = given or (None if own is not None and part and len(own.values) != count else own)
    if named is not None:
        return TrainedSamples(named, named.fingerprint)
    # Shards that were packed from a subset are a dataset of its own, of which the training took all.
    whole = model is not None and "subset" not in parents_of(model) and took_all(model) and model.get("fingerprint")
    return TrainedSamples(None, whole) if whole else None


def part_by(model: Record | None) -> str:
    """Name the option by which a training may have left samples of its subset out, empty where there was none."""
    if model is None:
        return ""
    fold = model["options"].get("fold")
    return f"--fold {fold}" if fold else "--weights" if "weights" in parents_of(model) else ""


def trained_count(model: Record | None) -> int | None:
    """Return how many samples a training was on, None where it does not say."""
    return model["options"].get("samples") if model else None


def took_all(model: Record) -> bool:
    """Tell whether neither folds nor weights left a sample of the dataset out of a training without a subset."""
    count = trained_count(model)
    return not part_by(model) or (count is not None and count == model["options"].get("of"))


def _check_given(given: Array, model: Record, digest: str | None) -> None:
    if part := part_by(model):
        # Which they are is recorded nowhere.
        if (held := len(given.values)) != (count := trained_count(model)):
            raise MismatchError(
                f"--trained-on {given.name}: holds {held:,} samples, and the model behind the generated samples was "
                f"trained on the {count:,} that {part} left: give the ids of those."
            )
    elif given.as_parent()["digest"] != digest:
        what = "on another subset" if digest else "on all samples"
        raise MismatchError(
            f"--trained-on {given.name}: the model behind the generated samples was trained {what}: give the subset "
            "that it was trained on, or leave the option out."
        )
