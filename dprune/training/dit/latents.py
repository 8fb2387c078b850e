"""Latents for training: held on the device where they fit, and gathered there by position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune import noise
from dprune.formats.latents import FLIPPED, NAMES, PIXELS, Latents
from dprune.formats.shards import split_ids
from dprune.memory import free_memory
from dprune.models.latents import Normalisation, as_held, pinned, sent
from dprune.training.order import Positions, Visits

# Shares of what is free that latents may take: the rest is the model's, or other programs'.
GPU_SHARE = 0.25
HOST_SHARE = 0.5


class LatentBatch(NamedTuple):
    """A micro-batch.

    Attributes:
        ids: int64 [b].
        visits: int64 [b], how often each sample was visited before.
        labels: int64 [b], -1 for none.
        latents: float32 [b, c, h, w], of mean 0 and deviation 1.
    """

    ids: Tensor
    visits: Tensor
    labels: Tensor
    latents: Tensor


class TrainingLatents:
    """The latents of a subset, normalised by the mean and deviation of the whole store.

    Attributes:
        place: where they are held: `device`, `host` or `disk`.
        normalised: what normalised them.

    Args:
        latents: the store.
        ids: sorted ids of what is trained on, int64 [n].
        device: where batches are wanted.
        place: where to hold them; `auto` is the device, else pinned host memory, else the disk, whichever fits first.
        seed: of flips and of the draws from KL posteriors.
    """

    def __init__(
        self, latents: Latents, ids: npt.NDArray[np.int64], device: torch.device, place: str, seed: int
    ) -> None:
        self._device, self._seed = device, seed
        self._kind, self._flips = latents.network["kind"], latents.flips
        size = len(ids) * sum(row.dtype.itemsize * math.prod(row.shape) for row in latents.tensors.values())
        self.place = _fitting(size, device) if place == "auto" else place
        rows = split_ids(ids, latents.store.counts)
        self._tensors = {name: _Rows(latents, name, rows, device, self.place) for name in latents.tensors}
        self._ids = torch.from_numpy(ids).to(device)
        self._labels = torch.from_numpy(latents.labels()[ids]).to(device)
        mean, std = (torch.from_numpy(values).to(device) for values in (latents.mean, latents.std))
        self.normalised = Normalisation(latents, mean, std)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._ids)

    def batch(self, visits: Visits) -> LatentBatch:
        """Gather a batch, without waiting for the device; every visit has a flip and a posterior draw of its own."""
        positions = visits.positions
        where, before = sent(torch.from_numpy(np.stack(visits)), self._device)
        ids = self._ids[where]
        names = NAMES[self._kind]
        rows = [self._tensors[name].take(positions, where) for name in names]
        if self._flips:
            flip = noise.uniform(self._seed, "flip of a latent", ids, before) < 0.5
            if self._kind == PIXELS:
                flipped = [rows[0].flip(3)]
            else:
                flipped = [self._tensors[name + FLIPPED].take(positions, where) for name in names]
            rows = [torch.where(flip.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in zip(rows, flipped, strict=True)]
        latents = self._drawn(rows, ids, before) if self._kind == "kl" else rows[0]
        return LatentBatch(ids, before, self._labels[where], self.normalised(latents))

    def _drawn(self, rows: Sequence[Tensor], ids: Tensor, before: Tensor) -> Tensor:
        """Draw from the posteriors."""
        mean, logvar = (row.float() for row in rows)
        drawn = noise.normal(self._seed, "posterior of a latent", ids, before, mean.shape[1:])
        return mean + (0.5 * logvar).exp() * drawn


class _Rows:
    """One tensor of the store, its rows in the order of the training set."""

    def __init__(
        self, latents: Latents, name: str, rows: Sequence[Positions], device: torch.device, place: str
    ) -> None:
        self._device = device
        self._held: Tensor | None = None
        views = [as_held(latents, shard, part)
                 for shard, part in zip(latents.store.shards, latents.mapped(name), strict=True)]  # fmt: skip
        if place == "disk":
            self._views = views
            part = np.repeat(np.arange(len(rows)), [len(found) for found in rows])
            self._places = np.stack((part, np.concatenate(rows)), axis=1)
            return
        taken = torch.from_numpy(np.concatenate([view[found] for view, found in zip(views, rows, strict=True)]))
        self._held = taken.to(device) if place == "device" else pinned(taken, device)

    def take(self, positions: Positions, where: Tensor) -> Tensor:
        """Gather rows by position, which is given on the host and on the device."""
        if self._held is None:
            found = np.stack([self._views[part][row] for part, row in self._places[positions]])
            return sent(torch.from_numpy(found), self._device)
        if self._held.device == where.device:
            return self._held[where]
        return sent(self._held[torch.from_numpy(positions)], self._device)


def _fitting(size: int, device: torch.device) -> str:
    if device.type == "cuda" and size < GPU_SHARE * free_memory(device):
        return "device"
    return "host" if size < HOST_SHARE * free_memory(torch.device("cpu")) else "disk"
