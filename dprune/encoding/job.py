"""The job of `dprune encode`: what its store is made of, and what is said when it is made.

Nothing here imports torch, so that a store that is up to date is recognised at once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dprune.formats.filling import Filling, parents_by_name
from dprune.formats.latents import CODEBOOK_FILE, KIND
from dprune.formats.provenance import Record, make_record
from dprune.formats.publish import Output
from dprune.formats.shards import Dataset, Shard
from dprune.formats.store_job import StoreJob
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
class EncodeJob(StoreJob):
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
    output: Output

    @functools.cached_property
    def network(self) -> Record:
        """What the store says of the autoencoder, see `Latents`."""
        return latent_network(self.vae)

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the store."""
        options = {"network": self.network, "flips": self.flips, "precision": PRECISIONS[self.precision]}
        parents = {**parents_by_name(self.dataset), "vae": self.vae.as_parent()}
        return make_record("encode", options, parents=parents, tags=self.output.tags)

    @functools.cached_property
    def filling(self) -> Filling:
        """The store, as far as it is this worker's to make."""
        extras = {CODEBOOK_FILE: self.network["kind"] == "vq"}
        return Filling(self.dataset, KIND, self.record, self.strict, extras, blank="zeros")

    def complete(self) -> bool:
        """Tell whether there is nothing to make, to tidy up or to verify."""
        return not self.verification.samples and super().complete()

    def is_shared_whole(self, store: Store) -> bool:
        """Tell whether the codebook is there, where there is one."""
        return self.network["kind"] != "vq" or store.has_beside(CODEBOOK_FILE)

    def fill(self, store: Store, shards: Sequence[Shard], monitor: Monitor) -> None:
        """See `StoreJob`."""
        from dprune.encoding.encoder import encode

        encode(self, store, shards, monitor)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make the missing parts, compare as asked, and return counts over all of this worker's parts."""
        summary = super().run(monitor)
        if self.verification.samples:
            from dprune.encoding.verification import verify

            summary |= verify(self, self.filling.store(self.output.path), monitor)
        return summary
