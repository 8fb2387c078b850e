"""Which samples are scored, and whether a network is one for them; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.arrays import check_role, read_array
from dprune.formats.clusters import read_clusters
from dprune.formats.features import open_features
from dprune.formats.kinds import kind_of
from dprune.formats.latents import open_latents
from dprune.formats.members import MemberChoice
from dprune.formats.named_sources import NamedStore
from dprune.formats.provenance import Record, digest, parent, parent_record, record_digest
from dprune.formats.shards import open_dataset
from dprune.formats.stores import Store
from dprune.formats.subsets import read_chosen
from dprune.models.files import ModelFile
from dprune.models.vae_files import made_by
from dprune.training.dit.settings import LatentSubset

# Kinds of single files that hold no samples, as messages call them.
_OTHERS = {"statistics": "a file of statistics", "json": "a JSON file", "png": "a picture", "zip": "an archive"}


@dataclass(frozen=True)
class Population:
    """The samples of a dataset, for scores that look at none of them: how many, and how a record names them."""

    count: int
    fingerprint: str | None
    parents: dict[str, Record]


def open_population(sources: Sequence[str], members: MemberChoice | None = None) -> Population:
    """Count the samples of shards, a store, clusters or a plain array.

    Raises:
        InputError: the source is none of these, or damaged.
    """
    source = sources[0]
    kind = kind_of(source) if len(sources) == 1 else ""
    if kind == "clusters":
        clusters = read_clusters(source)
        return Population(len(clusters), clusters.fingerprint, {"clusters": clusters.as_parent()})
    if kind in ("vector", "array"):
        array = read_array(source)
        check_role(array, "rows")
        if not array.values.ndim:
            raise InputError(f"{source}: holds one number: give an array with one row for each sample.")
        return Population(len(array.values), array.fingerprint, {"array": array.as_parent()})
    if kind in ("features", "clip-retrieval", "matrix", "tensors"):
        features = open_features(source)
        return Population(features.shape[0], features.fingerprint, {"features": features.as_parent()})
    if kind == "latents":
        store = Store.open(source, kind)
        content = digest([store.fingerprint, record_digest(store.record)])
        return Population(sum(store.counts), store.fingerprint, {"latents": parent_record(store.record, content)})
    if kind in _OTHERS:
        raise InputError(f"{source}: is {_OTHERS[kind]}, which does not say what samples there are: give "
                         "shards, a store, clusters, or an array with one row for each sample.")  # fmt: skip
    dataset = open_dataset(sources, members)
    return Population(len(dataset), dataset.fingerprint, dataset.parents())


class Samples(LatentSubset):
    """What is scored: a latent store, or a subset of it."""

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Sorted ids, int64 [n], at least one; see `decoded`."""
        if not len(self.decoded):
            raise InputError(f"{self.latents.store.folder}: no sample is left to score: give a larger --subset.")
        return self.decoded

    def check_model(self, file: ModelFile, weights: str | None) -> str | None:
        """Hold the file of a network to the samples, as far as its header tells.

        Args:
            file: of the network.
            weights: which of a checkpoint's are asked for.

        Returns:
            Those weights, None for a file that holds one set.

        Raises:
            InputError: it holds no DiT.
            MismatchError: it is not one for the samples.
            UsageError: raw weights are asked for and are not there.
        """
        file.check_kind("dit", "a DiT", "train-dit")
        kept = "step" in file.network
        if weights == "raw" and not kept:
            raise UsageError(
                f"--weights raw: {file.path} is not a checkpoint and holds one set of weights: leave it out."
            )
        self.check_autoencoder(file)
        if file.network:
            self.check_network(str(file.path), file.network)
        return weights if kept else None

    def check_autoencoder(self, model: ModelFile) -> None:
        """Refuse a network that was trained on the latents of another autoencoder; what does not say passes.

        Raises:
            MismatchError: it was.
        """
        theirs, ours = made_by(parent(model.record, "latents")), made_by(self.latents.record)
        if theirs and ours and theirs != ours:
            raise MismatchError(
                f"{model.path} was trained on latents of another autoencoder ({theirs[:12]}) than that of "
                f"{self.latents.store.folder} ({ours[:12]}): encode the images with the autoencoder of the model."
            )

    def check_network(self, title: str, network: Mapping[str, Any]) -> None:
        """Hold a network to the latents and labels that it is to score.

        Args:
            title: what messages call it.
            network: its `channels`, `input_size`, `classes` and, where some of these were not trained, `label_count`.

        Raises:
            InputError: its description is damaged.
            MismatchError: it takes latents of another shape, or knows fewer labels.
        """
        try:
            channels, size, classes = (network[name] for name in ("channels", "input_size", "classes"))
        except KeyError as error:
            raise InputError(f"{title}: its description is damaged ({error}): make it again.") from error
        folder, found = self.latents.store.folder, self.latents.network
        if (channels, size) != (found["channels"], found["size"]):
            raise MismatchError(
                f"{title} takes latents of {channels} x {size} x {size}, and those of {folder} are "
                f"{found['channels']} x {found['size']} x {found['size']}: give a model that was trained on such."
            )
        known = network.get("label_count") or classes
        largest = int(self.latents.labels()[self.ids].max())
        if classes and largest >= known:
            raise MismatchError(
                f"{folder} has the label {largest}, and {title} was trained with labels 0 to {known - 1}: "
                "give a model that was trained with all of them."
            )


def open_samples(store: str, subset: str | None) -> Samples:
    """Open a latent store, and the subset of it that is scored.

    Raises:
        InputError: one of them is missing, damaged or of another kind.
    """
    latents = open_latents(store)
    return Samples(latents, read_chosen(subset, NamedStore(latents.store)) if subset else None)
