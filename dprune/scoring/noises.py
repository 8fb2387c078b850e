"""The noises and noise levels that samples are scored with; they depend on neither batches nor workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dprune import noise
from dprune.scoring.settings import OWN, ScoreSettings


def noise_bank(settings: ScoreSettings, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the noises that every sample gets, float32 [S, M, *shape] for S noise levels and M draws.

    Those of a level depend on the seed and the level alone, and the first of them are the same however many there
    are. Draw 2k + 1 is the negative of draw 2k.
    """
    pairs = torch.arange(settings.pairs, device=device)
    bank = torch.stack([noise.normal(settings.seed, purpose, pairs, 0, shape) for purpose in _purposes(settings)])
    return bank if settings.draws == 1 else torch.stack((bank, -bank), 2).flatten(1, 2)


def _purposes(settings: ScoreSettings) -> list[str]:
    return [f"noise of scores at {sigma!r}" for sigma in settings.sigmas] or ["noise of scores at levels of their own"]


class Noises:
    """Gives each pass over a batch its noise and its times.

    Args:
        settings: noise levels, draws, seed, and whether noises are shared.
        shape: of one sample's latents.
        device: where they go.
    """

    def __init__(self, settings: ScoreSettings, shape: Sequence[int], device: torch.device) -> None:
        self._settings, self._shape, self._device = settings, shape, device
        self._bank = None if settings.noise == OWN else noise_bank(settings, shape, device)

    def passes(self, latents: Tensor, ids: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the noise [B, *shape] and the times [B] of each draw at each noise level, without a wait.

        Args:
            latents: of the batch, [B, *shape]; its dtype is that of what is yielded.
            ids: of the samples, int64 [B]; None will do where nothing is a sample's own.
        """
        for level in range(self._settings.levels):
            times = self._times(level, latents, ids)
            for drawn in self._drawn(level, latents, ids):
                yield drawn, next(times)

    def _drawn(self, level: int, latents: Tensor, ids: Tensor | None) -> Iterator[Tensor]:
        if self._bank is not None:
            for drawn in self._bank[level]:
                yield drawn.to(latents.dtype).expand_as(latents)
            return
        assert ids is not None
        purpose = f"own {_purposes(self._settings)[level]}"
        for pair in range(self._settings.pairs):
            drawn = noise.normal(self._settings.seed, purpose, ids, pair, self._shape).to(latents.dtype)
            yield drawn
            if self._settings.draws > 1:
                yield -drawn

    def _times(self, level: int, latents: Tensor, ids: Tensor | None) -> Iterator[Tensor]:
        settings = self._settings
        if settings.sigmas:
            fixed = torch.full((len(latents),), 1 - settings.sigmas[level], dtype=latents.dtype, device=self._device)
            yield from [fixed] * settings.draws
            return
        assert ids is not None
        for draw in range(settings.draws):
            yield noise.uniform(settings.seed, "noise levels of scores", ids, draw).to(latents.dtype)
