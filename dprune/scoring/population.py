"""Which samples are scored, and whether a network is one for them; nothing here imports torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, MismatchError
from dprune.formats.arrays import Array
from dprune.formats.latents import Latents
from dprune.formats.provenance import Record, check_same_dataset, parent
from dprune.models.files import ModelFile


@dataclass(frozen=True)
class Samples:
    """What is scored: a latent store, or a subset of it.

    Attributes:
        latents: the store.
        subset: ids that are scored, None for all.
    """

    latents: Latents
    subset: Array | None = None

    @functools.cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """Sorted ids, int64 [n]; samples whose image could not be decoded are left out.

        Raises:
            MismatchError: the subset speaks of another dataset.
            InputError: it names samples that are not there, or none is left.
        """
        folder, subset = str(self.latents.store.folder), self.subset
        ids: npt.NDArray[np.int64] = np.arange(len(self.latents), dtype=np.int64)
        if subset is not None:
            check_same_dataset({folder: self.latents.fingerprint, subset.name: subset.fingerprint})
            ids = subset.values
            if len(ids) and ids[-1] >= len(self.latents):
                raise InputError(
                    f"{subset.name}: holds the id {ids[-1]}, and {folder} has {len(self.latents):,} samples: "
                    "give a subset of them."
                )
        ids = ids[self.latents.valid()[ids]]
        if not len(ids):
            raise InputError(f"{folder}: no sample is left to score: give a larger --subset.")
        return ids

    def parents(self) -> dict[str, Any]:
        """Describe the store and the subset as inputs."""
        given = {} if self.subset is None else {"subset": self.subset.as_parent()}
        return {"latents": self.latents.as_parent(), **given}

    def check_autoencoder(self, model: ModelFile) -> None:
        """Refuse a network that was trained on the latents of another autoencoder; what does not say passes.

        Raises:
            MismatchError: it was.
        """
        theirs, ours = _autoencoder(parent(model.record, "latents")), _autoencoder(self.latents.record)
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
                f"{folder} has the label {largest}, and {title} knows labels 0 to {known - 1}: "
                "give a model that was trained with all of them."
            )

    def has_labels(self) -> bool:
        """Tell whether any sample that is scored has a label."""
        return bool((self.latents.labels()[self.ids] >= 0).any())


def _autoencoder(record: Record) -> str | None:
    digest = record.get("parents", {}).get("vae", {}).get("digest")
    return digest if isinstance(digest, str) else None
