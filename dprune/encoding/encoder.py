"""Batched encoding: decoded pieces in, one part of the latent store out for each shard."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.decoding import PIECE, CentreCrop, Images, Part, Work
from dprune.encoding.job import PRECISIONS
from dprune.errors import InputError
from dprune.formats.latents import CODEBOOK_FILE, SUMS, latent_tensors, part_sums
from dprune.formats.shards import Shard
from dprune.formats.stores import Store
from dprune.models.pixels import centred
from dprune.models.vae import VAE, load_vae
from dprune.precision import float32
from dprune.runtime import Monitor, explained, single_threads, take_device

if TYPE_CHECKING:
    from dprune.encoding.job import EncodeJob


class Encoder:
    """The part of the work that the device does.

    Args:
        vae: on the device.
        device: where it is.
        precision: dtype of the encoder's convolutions and products; codes are looked for in float32 whatever it is.
        flips: whether to encode the mirrored images too.
    """

    def __init__(self, vae: VAE, device: torch.device, precision: torch.dtype, flips: bool) -> None:
        self.device = device
        self._precision = precision
        # Where convolutions are quicker with channels last; cuDNN's of float32 without tf32 are not.
        last = device.type == "cpu" or precision != torch.float32
        self._layout = torch.channels_last if last else torch.contiguous_format
        self._vae = vae.to(memory_format=self._layout)
        self._flips = flips
        self._pool = single_threads() if device.type == "cpu" else None

    def __call__(self, pieces: list[Tensor]) -> tuple[Tensor, ...]:
        """Encode one batch, given in pieces.

        Args:
            pieces: images uint8 [n_i, 3, h, w].

        Returns:
            Latents in the order of `latent_tensors`: codes int32 [n, h * w], or moments float16 [n, c, h, w].
        """
        if self._pool is not None:
            return tuple(torch.cat(outputs) for outputs in zip(*self._pool.map(self._encode, pieces), strict=True))
        # tf32 would keep ten bits of what was asked for as float32.
        with float32(tf32=False):
            return self._encode(torch.cat([piece.to(self.device, non_blocking=True) for piece in pieces]))

    def _encode(self, images: Tensor) -> tuple[Tensor, ...]:
        images = centred(images).contiguous(memory_format=self._layout)
        lower = self._precision != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self._precision, enabled=lower):
            found = self._latents(images)
            return (*found, *self._latents(images.flip(3))) if self._flips else found

    def _latents(self, images: Tensor) -> tuple[Tensor, ...]:
        if self._vae.config.kind == "vq":
            return (self._vae.codes(images).to(torch.int32),)
        return tuple(moment.half() for moment in self._vae.moments(images))


def prepare(job: EncodeJob) -> tuple[VAE, Encoder]:
    """Load the autoencoder to the job's device.

    Raises:
        InputError: the file is not whole.
        UsageError: the device does not exist here.
    """
    device = take_device(job.device)
    vae, _ = load_vae(job.vae.path, device)
    return vae, Encoder(vae, device, getattr(torch, PRECISIONS[job.precision]), job.flips)


def encode(job: EncodeJob, store: Store, shards: Sequence[Shard], monitor: Monitor) -> None:
    """Make and publish the codebook and the parts of `shards`.

    Raises:
        InputError: the autoencoder or a shard is not sound, or moments do not fit float16.
        UsageError: the device is impossible.
        Interrupted: a signal or --stop-after ended the work; published parts stay.
        DpruneError: out of memory on the device, or workers that died.
    """
    vae, encoder = prepare(job)
    store.publish_manifest()
    if job.network["kind"] == "vq":
        store.publish_beside(CODEBOOK_FILE, {"codebook": codebook(vae)})
    images = Images(shards, CentreCrop(job.network["image_size"]))
    # Whole pieces only: a CPU takes each by itself, and rounds sums otherwise in pieces of another length.
    batch_size = job.batch_size - job.batch_size % PIECE or job.batch_size
    work = Work(job.filling, images, encoder, batch_size, job.workers, encoder.device.type == "cuda")
    with (
        explained(encoder.device, f"a --batch-size below {job.batch_size}"),
        closing(work.parts(shards, "encoding", monitor)) as parts,
    ):
        for part in parts:
            _publish(job, store, part)


def codebook(vae: VAE) -> npt.NDArray[np.float32]:
    """Return the vectors that decoding uses, float32 [K, c]."""
    found: npt.NDArray[np.float32] = vae.codebook.detach().float().cpu().numpy()
    return found


def _publish(job: EncodeJob, store: Store, part: Part) -> None:
    count, members = job.filling.sizes[part.shard.name]
    valid = np.ones(count, dtype=np.bool_)
    valid[[entry["row"] for entry in part.bad]] = False
    tensors: dict[str, npt.NDArray[Any]] = {"label": part.labels.numpy(), "valid": valid}
    for number, (name, row) in enumerate(latent_tensors(job.network, job.flips).items()):
        output = part.output(number)
        values = np.empty((0, *row.shape)) if output is None else output.numpy()
        # Sums are added up in this order, however convolutions left the values.
        tensors[name] = values.astype(row.dtype, order="C")
        tensors[name][~valid] = 0
        if row.dtype.kind == "f" and not np.isfinite(tensors[name]).all():
            raise InputError(
                f"{part.shard.location}: {job.vae.path} gives it a {name} that float16 cannot hold: train it again."
            )
    tensors[SUMS[job.network["kind"]]] = part_sums(job.network, tensors)
    store.publish_part(part.shard.name, tensors, members, count, part.bad)
