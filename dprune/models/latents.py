"""Latents on the device: rows as a store holds them, sent there and normalised."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from dprune.errors import InputError
from dprune.formats.latents import Latents
from dprune.models.pixels import centred


class Normalisation:
    """Makes latents of mean 0 and deviation 1 of what a store holds.

    Args:
        latents: the store.
        mean: of each channel, float32 [c], on the device.
        std: likewise.
    """

    def __init__(self, latents: Latents, mean: Tensor, std: Tensor) -> None:
        self._side = latents.network["size"]
        self._mean, self._std = mean[:, None, None], std[:, None, None]
        codebook = latents.codebook
        self._table = None if codebook is None else (torch.from_numpy(codebook).to(mean.device) - mean) / std

    def __call__(self, rows: Tensor) -> Tensor:
        """Return latents float32 [n, c, h, w] of codes int16 [n, h * w], see `as_held`, or of values [n, c, h, w]."""
        if self._table is None:
            values = centred(rows) if rows.dtype == torch.uint8 else rows.float()
            return (values - self._mean) / self._std
        found: Tensor = F.embedding(rows.to(torch.int64) & 0xFFFF, self._table)
        grid: Tensor = found.transpose(1, 2).unflatten(2, (self._side, self._side))
        return grid.contiguous()

    def undone(self, latents: Tensor) -> Tensor:
        """Bring normalised latents [n, c, h, w] to the scale that the autoencoder decodes."""
        return latents * self._std + self._mean


def as_held(latents: Latents, shard: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return rows of a part as torch takes them: codes, which are uint16, by their bits as int16.

    Args:
        latents: the store.
        shard: of the part.
        rows: of any of its tensors, [n, ...].

    Raises:
        InputError: a code is beyond the codebook, which a GPU would end the process for.
    """
    if rows.dtype != np.uint16:
        return rows
    known = latents.network["codes"]
    if rows.size and (largest := int(rows.max())) >= known:
        raise InputError(
            f"{latents.store.path(shard)}: holds the code {largest}, and there are {known}: "
            f"remove the file and {latents.store.remedy}."
        )
    # torch gathers int16 on every device, and the bits stay the same.
    return rows.view(np.int16)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host from which it goes to the device without anyone waiting."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to the device without waiting."""
    return pinned(tensor, device).to(device, non_blocking=True)
