"""The job of `dprune encode`: what its store is made of, and what is said when it is made.

Nothing here imports torch, so that a store that is up to date is recognised at once.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dprune.encoding.settings import EncodeSettings
from dprune.errors import UsageError
from dprune.formats.filling import Filling, StoreJob, parents_by_name
from dprune.formats.images import first_side
from dprune.formats.latents import CODEBOOK_FILE, KIND, PIXELS, latent_tensors
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, make_record
from dprune.formats.publish import Output
from dprune.formats.shards import Dataset, open_dataset
from dprune.models.files import ModelFile
from dprune.models.vae_files import LatentScale, beside_digest, latent_network, open_vae, takes_any_size, vae_parents
from dprune.runtime import Monitor

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class EncodeJob(StoreJob):
    """Latents of a dataset, as far as they are this worker's to make."""

    dataset: Dataset
    vae: ModelFile
    settings: EncodeSettings
    output: Output

    @functools.cached_property
    def network(self) -> Record:
        """What the store says of the autoencoder, see `Latents`."""
        return latent_network(self.vae)

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the store."""
        options = {"network": self.network, "flips": self.settings.flips}
        options |= {} if self.network["kind"] == PIXELS else {"precision": self.settings.dtype}
        options |= beside_digest(self.vae) | LatentScale.of(self.vae).options() | self.dataset.choice.options()
        parents = {**parents_by_name(self.dataset), **vae_parents(self.vae)}
        return make_record("encode", options, parents=parents, tags=self.output.tags)

    @functools.cached_property
    def filling(self) -> Filling:
        """See `StoreJob`."""
        extras = {CODEBOOK_FILE: self.network["kind"] == "vq"}
        return Filling(self.dataset, KIND, self.record, self.output.path, self.settings.strict, extras, blank="zeros")

    def complete(self) -> bool:
        """Tell whether there is nothing to make or to verify."""
        return not self.settings.verify and super().complete()

    def is_whole(self) -> bool:
        """See `Job`."""
        return super().complete()

    def is_shared_whole(self) -> bool:
        """Tell whether the codebook is there, where there is one."""
        return self.network["kind"] != "vq" or self.filling.store.has_beside(CODEBOOK_FILE)

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        network, counts = self.network, super().work()
        rows = latent_tensors(network, self.settings.flips).values()
        return {**counts, "bytes": counts["images"] * sum(row.dtype.itemsize * math.prod(row.shape) for row in rows)}

    def fill(self, numbers: Iterable[int], monitor: Monitor) -> None:
        """See `StoreJob`."""
        from dprune.encoding.encoder import encode

        encode(self.vae, self.settings, self.filling, numbers, monitor)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make the missing parts, compare as asked, and return counts over all of this worker's parts."""
        summary = super().run(monitor)
        if self.settings.verify:
            from dprune.encoding.verification import verify

            summary |= verify(self.vae, self.settings, self.filling, monitor)
        return summary


def open_encode(
    shards: Sequence[str], settings: EncodeSettings, output: Output, members: MemberChoice | None = None
) -> EncodeJob:
    """Open what `dprune encode` was given.

    Args:
        shards: see `open_dataset`.
        settings: how the latents are made, and by what.
        output: where the store goes.
        members: which members of the shards are images and labels, None for the default.

    Raises:
        InputError: the shards are not there, or the autoencoder's file is none.
        UsageError: no latents stand for images of the size that is asked for.
    """
    dataset = open_dataset(shards, members)
    if settings.vae == PIXELS:
        settings = _without_network(settings, dataset)
    vae = open_vae(settings.vae, settings.image_size)
    vae.digest_ahead()
    if settings.image_size is None and takes_any_size(vae):
        _log.info("--vae %s is for images of any size: they become %d pixels wide, unless --image-size says otherwise.",
                  settings.vae, latent_network(vae)["image_size"])  # fmt: skip
    return EncodeJob(dataset, vae, settings, output)


def _without_network(settings: EncodeSettings, dataset: Dataset) -> EncodeSettings:
    """Fill in what pixels leave open: the size of the first image, and the processor that is at hand.

    Raises:
        UsageError: an option is the encoder's.
        InputError: no image tells its size.
    """
    if settings.precision != "auto":
        raise UsageError(f"--precision {settings.precision}: --vae pixels encodes nothing: leave it out.")
    settings = replace(settings, device="cpu") if settings.device == "auto" else settings
    if settings.image_size is not None:
        return settings
    size = first_side(dataset)
    _log.info("--vae pixels: images become %d pixels wide, as the first one is, unless --image-size says otherwise.",
              size)  # fmt: skip
    return replace(settings, image_size=size)
