"""Latents for scoring: as they are stored, neither flipped nor drawn, a span of samples at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone knows it by
from torch import Tensor

from dprune.errors import InputError
from dprune.formats.latents import NAMES, Latents
from dprune.formats.shards import split_ids
from dprune.scoring.progress import Piece


class Span(NamedTuple):
    """Samples on the device.

    Attributes:
        labels: int64 [n], -1 for none.
        rows: as the store holds them: codes int16 [n, h * w], or means float16 [n, c, h, w].
    """

    labels: Tensor
    rows: Tensor


class ScoredLatents:
    """The latents of the samples that are scored, normalised as the network was trained on them.

    Of a KL store they are the means of the posteriors, so that a score depends on nothing but its noises.

    Args:
        latents: the store.
        ids: sorted ids of what is scored, int64 [n].
        mean: that the network's latents are normalised by, float32 [c], on the device.
        std: likewise.
    """

    def __init__(self, latents: Latents, ids: npt.NDArray[np.int64], mean: Tensor, std: Tensor) -> None:
        self.ids, self._latents, self._device = ids, latents, mean.device
        self._parts = latents.mapped(NAMES[latents.network["kind"]][0])
        self._labels = latents.labels()[ids]
        self._mean, self._std = mean[:, None, None], std[:, None, None]
        if latents.codebook is not None:
            self._table = (torch.from_numpy(latents.codebook).to(self._device) - mean) / std

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.ids)

    def spans(self, pieces: Iterable[Piece]) -> Generator[tuple[Piece, Span]]:
        """Yield what is not yet measured of each piece; the next one is read meanwhile.

        Raises:
            InputError: codes are beyond the codebook.
        """
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for piece in pieces:
                following = piece, reader.submit(self._read, piece)
                if ahead is not None:
                    yield ahead[0], self._sent(*ahead[1].result())
                ahead = following
            if ahead is not None:
                yield ahead[0], self._sent(*ahead[1].result())

    def _read(self, piece: Piece) -> tuple[Tensor, Tensor]:
        wanted = slice(piece.begin + piece.done, piece.end)
        rows = split_ids(self.ids[wanted], self._latents.store.counts)
        found = np.concatenate([part[some] for part, some in zip(self._parts, rows, strict=True) if len(some)])
        if self._latents.codebook is not None:
            self._check_codes(found)
            # torch gathers int16 on every device, and the bits stay the same.
            found = found.view(np.int16)
        pair = torch.from_numpy(self._labels[wanted]), torch.from_numpy(found)
        return (pair[0].pin_memory(), pair[1].pin_memory()) if self._device.type == "cuda" else pair

    def _check_codes(self, codes: npt.NDArray[np.uint16]) -> None:
        store, known = self._latents.store, self._latents.network["codes"]
        if (largest := int(codes.max())) >= known:
            raise InputError(
                f"{store.folder}: holds the code {largest}, and there are {known}: remove its parts and {store.remedy}."
            )

    def _sent(self, labels: Tensor, rows: Tensor) -> Span:
        return Span(labels.to(self._device, non_blocking=True), rows.to(self._device, non_blocking=True))

    def normalised(self, rows: Tensor) -> Tensor:
        """Return rows of a span as latents float32 [n, c, h, w] of mean 0 and deviation 1."""
        if self._latents.codebook is None:
            return (rows.float() - self._mean) / self._std
        side = self._latents.network["size"]
        found: Tensor = F.embedding(rows.to(torch.int64) & 0xFFFF, self._table)
        grid: Tensor = found.transpose(1, 2).unflatten(2, (side, side))
        return grid.contiguous()
