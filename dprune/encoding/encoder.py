"""Batched encoding: decoded pieces in, one part of the latent store out for each shard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.decoding import PIECE, CentreCrop, Images
from dprune.encoding.settings import EncodeSettings
from dprune.errors import InputError
from dprune.formats.filling import Filling
from dprune.formats.latents import CODEBOOK_FILE, PIXELS, SUMS, latent_tensors, part_sums
from dprune.formats.provenance import Record
from dprune.models.files import ModelFile
from dprune.models.paths import PLAIN, quicken_vae
from dprune.models.pixels import centred, to_pixels
from dprune.models.vae import VAE, vae_of
from dprune.models.vae_files import latent_network
from dprune.parts import BatchNetwork, Part, parts
from dprune.runtime import Monitor, explained, take_device

_log = logging.getLogger("dprune")

_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Encoder(BatchNetwork):
    """Maps images uint8 [n, 3, h, w] to latents: codes int32 [n, h * w], moments float16 [n, c, h, w], or themselves.

    They come in the order of `latent_tensors`, and behind them, bool [n], whether all that the encoder says of an
    image is finite.

    Args:
        vae: on the device.
        device: where it is.
        precision: of the encoder's convolutions and products, as `PRECISIONS` calls it; codes are looked for in float32
            whatever it is.
        flips: whether to encode the mirrored images too.
    """

    def __init__(self, vae: VAE, device: torch.device, precision: str, flips: bool) -> None:
        super().__init__(device, tf32=precision == "tfloat32")
        # Where convolutions are quicker with channels last; cuDNN's of float32 without tf32 are not.
        last = device.type == "cpu" or precision != "float32"
        self._layout = torch.channels_last if last else torch.contiguous_format
        self.vae = vae.to(memory_format=self._layout)
        path = quicken_vae(self.vae) if last else PLAIN
        _log.debug("the autoencoder's layers run by the path: %s.", path)
        self._half = _HALVES.get(precision)
        self._mirrors = flips and vae.config.kind != PIXELS

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `BatchNetwork`."""
        images = centred(images).contiguous(memory_format=self._layout)
        with torch.inference_mode(), torch.autocast(self.device.type, self._half, enabled=self._half is not None):
            encoded = [self.vae.encode(images)]
            if self._mirrors:
                encoded.append(self.vae.encode(images.flip(3)))
            finite = torch.stack([values.isfinite().flatten(1).all(1) for values in encoded]).all(0)
            return (*(tensor for values in encoded for tensor in self._latents(values)), finite)

    def _latents(self, encoded: Tensor) -> tuple[Tensor, ...]:
        if self.vae.config.kind == "vq":
            return (self.vae.quantizer.chosen(encoded).to(torch.int32),)
        if self.vae.config.kind == PIXELS:
            return (to_pixels(encoded),)
        return tuple(moment.half() for moment in self.vae.split(encoded))


def load_encoder(vae: ModelFile, settings: EncodeSettings, device: torch.device) -> Encoder:
    """Load the autoencoder to a device.

    Raises:
        InputError: the file is not whole.
    """
    return Encoder(vae_of(vae, device), device, settings.dtype, settings.flips)


def encode(
    vae: ModelFile, settings: EncodeSettings, filling: Filling, numbers: Iterable[int], monitor: Monitor
) -> None:
    """Make and publish the codebook and the parts of shards, by number."""
    network, device, store = latent_network(vae), take_device(settings.device), filling.store
    # Whole pieces only: a CPU takes each by itself, and rounds sums otherwise in pieces of another length.
    batch_size = settings.batch_size - settings.batch_size % PIECE or settings.batch_size
    with explained(device, f"a --batch-size below {settings.batch_size}"):
        encoder = load_encoder(vae, settings, device)
        store.publish_manifest()
        if network["kind"] == "vq":
            store.publish_beside(CODEBOOK_FILE, {"codebook": codebook(encoder.vae)})

        def publish(part: Part) -> None:
            size = filling.sizes[part.shard.name]
            tensors = _tensors(network, settings, part, size.count, vae)
            keys = part.shard.stored_keys()
            store.publish_part(part.shard.name, tensors, size.members, size.count, part.bad, keys=keys)

        images = Images(filling.dataset.shards, CentreCrop(network["image_size"]))
        made = parts(numbers, images, encoder, filling, batch_size, settings.workers, "encoding", monitor)
        with closing(made):
            _publish_each(made, publish)


def _publish_each(made: Iterable[Part], publish: Callable[[Part], None]) -> None:
    """Publish parts in a thread, which waits for the device and the disk while the device has the next shard."""
    with ThreadPoolExecutor(1) as publisher:
        published: Future[None] | None = None
        for part in made:
            if published is not None:
                published.result()
            published = publisher.submit(publish, part)
        if published is not None:
            published.result()


def codebook(vae: VAE) -> npt.NDArray[np.float32]:
    """Return the vectors that decoding uses, float32 [K, c]."""
    found: npt.NDArray[np.float32] = vae.codebook.detach().float().cpu().numpy()
    return found


def _tensors(
    network: Record, settings: EncodeSettings, part: Part, count: int, vae: ModelFile
) -> dict[str, npt.NDArray[Any]]:
    valid = np.ones(count, dtype=np.bool_)
    valid[[entry["row"] for entry in part.bad]] = False
    tensors: dict[str, npt.NDArray[Any]] = {"label": part.labels.numpy(), "valid": valid}
    rows = latent_tensors(network, settings.flips)
    if not part.output(len(rows), ()).all():
        # What goes beyond the range of a type becomes NaN on its way through the norms.
        remedy = "give --precision tf32" if settings.dtype == "float16" else "train it again"
        raise InputError(
            f"{part.shard.location}: {vae.path} gives latents that are not finite in {settings.dtype}: {remedy}."
        )
    for number, (name, row) in enumerate(rows.items()):
        # Sums are added up in this order, however convolutions left the values.
        tensors[name] = part.output(number, row.shape).astype(row.dtype, order="C")
        tensors[name][~valid] = 0
        if row.dtype.kind == "f" and not np.isfinite(tensors[name]).all():
            raise InputError(
                f"{part.shard.location}: {vae.path} gives a {name} that float16 cannot hold: train it again."
            )
    tensors[SUMS[network["kind"]]] = part_sums(network, tensors)
    return tensors
