"""The job of `dprune encode`: what its store is made of, and what is said when it is made.

Nothing here imports torch, so that a store that is up to date is recognised at once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dprune.formats.filling import Filling, parents_by_name
from dprune.formats.latents import CODEBOOK_FILE, KIND
from dprune.formats.provenance import Record, make_record
from dprune.formats.shards import Dataset
from dprune.formats.stores import Store
from dprune.models.files import ModelFile
from dprune.models.vae_files import latent_network
from dprune.runtime import Monitor

# float32 on a GPU too: with a codebook of thousands, bfloat16 makes another code the nearest at about every sixth
# place (a table of 4,096 codes of 4 channels drawn from the encoder's outputs), which one depends on the batch, and
# latents are made once but trained on many times.
PRECISIONS = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Verification:
    """A comparison of a finished store with its images.

    Attributes:
        samples: how many are compared, 0 for none.
        seed: chooses them.
    """

    samples: int
    seed: int


@dataclass(frozen=True)
class EncodeJob:
    """Latents of a dataset, as far as they are this worker's to make.

    Attributes:
        dataset: the shards.
        vae: the autoencoder's file.
        flips: whether to store the mirrored images' latents too.
        precision: of the encoder's arithmetic, a key of `PRECISIONS`.
        strict: whether an image that cannot be decoded ends the work.
        verification: what is compared once the parts are there.
        device: name of the device.
        batch_size: images in one forward pass.
        workers: processes that decode.
        tags: what the user wants to be remembered.
    """

    dataset: Dataset
    vae: ModelFile
    flips: bool
    precision: str
    strict: bool
    verification: Verification
    device: str
    batch_size: int
    workers: int
    tags: Mapping[str, str]

    @functools.cached_property
    def network(self) -> Record:
        """What the store says of the autoencoder, see `Latents`."""
        return latent_network(self.vae)

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the store."""
        options = {"network": self.network, "flips": self.flips, "precision": PRECISIONS[self.precision]}
        parents = {**parents_by_name(self.dataset), "vae": self.vae.as_parent()}
        return make_record("encode", options, parents=parents, tags=self.tags)

    @functools.cached_property
    def filling(self) -> Filling:
        """The store, as far as it is this worker's to make."""
        extras = {CODEBOOK_FILE: self.network["kind"] == "vq"}
        return Filling(self.dataset, KIND, self.record, self.strict, extras, blank="zeros")

    def existing(self, output: str) -> Mapping[str, Any] | None:
        """Return the provenance of what stands at `output`; see `Filling.existing`."""
        return self.filling.existing(output)

    def complete(self, output: str) -> bool:
        """Tell whether there is nothing to make, to tidy up or to verify."""
        if self.verification.samples or not self.filling.complete(output):
            return False
        return self._has_codebook(self.filling.store(output))

    def _has_codebook(self, store: Store) -> bool:
        return self.network["kind"] != "vq" or store.has_beside(CODEBOOK_FILE)

    def run(self, output: str, monitor: Monitor) -> dict[str, Any]:
        """Make the missing parts, compare as asked, and return counts over all of this worker's parts.

        Raises:
            InputError: a shard or the autoencoder is not sound, or the store is not what the autoencoder gives.
            UsageError: the device is impossible.
            Interrupted: a signal or --stop-after ended the work; published parts stay.
            DpruneError: out of memory, or workers that died.
        """
        store = self.filling.store(output)
        missing = self.filling.missing(store)
        self.filling.tidy(store)
        if missing or not self._has_codebook(store):
            from dprune.encoding.encoder import encode

            encode(self, store, missing, monitor)
        else:
            store.publish_manifest()
        summary = self.filling.summary(store, len(missing))
        if self.verification.samples:
            from dprune.encoding.verification import verify

            summary |= verify(self, store, monitor)
        return summary
