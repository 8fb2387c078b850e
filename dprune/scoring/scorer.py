"""A network as it scores: at given noise levels, with a bank of noises that all samples share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from dprune import noise
from dprune.flow import flow_loss
from dprune.models.dit import DiT
from dprune.models.gradients import SampleGradients
from dprune.scoring.settings import ScoreSettings


def noise_bank(settings: ScoreSettings, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the noises that every sample gets, float32 [S, M, *shape] for S noise levels and M draws.

    Those of a level depend on the seed and the level alone, and the first of them are the same however many there
    are. Draw 2k + 1 is the negative of draw 2k.
    """
    pairs = torch.arange(settings.pairs, device=device)
    purposes = [f"noise of scores at {sigma!r}" for sigma in settings.sigmas]
    bank = torch.stack([noise.normal(settings.seed, purpose, pairs, 0, shape) for purpose in purposes])
    return bank if settings.draws == 1 else torch.stack((bank, -bank), 2).flatten(1, 2)


class Scorer:
    """Measures losses, and where asked for gradients, of batches of samples.

    Args:
        network: in eval mode, on its device; it is prepared in place, and belongs to the scorer from then on. Other
            weights may be loaded into it, without compiling again.
        settings: noise levels, draws, precision, and whether blocks are compiled.
        gradients: whether squared norms of gradients are measured as well.
    """

    def __init__(self, network: DiT, settings: ScoreSettings, *, gradients: bool) -> None:
        self.network, self._settings, self._device = network, settings, network.pos_embed.device
        config = network.config
        self._shape = (config.channels, config.input_size, config.input_size)
        self._lower = settings.precision == "bfloat16"
        if self._lower:
            _lower(network)
        self.gradients = self._measured() if gradients else None
        if settings.compiles:
            network.compile_blocks()
        self._bank = noise_bank(settings, self._shape, self._device)

    def _measured(self) -> SampleGradients:
        # Files of models do not say what was trained: all but the table of positions.
        self.network.requires_grad_(True)
        self.network.pos_embed.requires_grad_(False)
        zero = torch.zeros(1, *self._shape, device=self._device)
        time, label = (torch.zeros(1, dtype=dtype, device=self._device) for dtype in (torch.float32, torch.int64))
        with self._arithmetic():
            return SampleGradients(self.network, zero, time, label)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one sample's measures: noise levels, draws, and the loss, the squared norm of the gradient, its dot."""
        return (*self._bank.shape[:2], 1 if self.gradients is None else 1 + self.gradients.columns)

    def measure(self, latents: Tensor, labels: Tensor, stopped: Callable[[], bool] = lambda: False) -> Tensor | None:
        """Measure a batch at every noise level with every draw, without waiting for the device.

        Args:
            latents: normalised, float32 [B, C, H, W].
            labels: int64 [B], -1 for none.
            stopped: asked before each pass whether to give up.

        Returns:
            [B, S, M, K], None where it gave up.
        """
        found = []
        for losses in self._passes(latents, labels):
            if stopped():
                return None
            found.append(self._pass(losses, len(latents)))
        measures: Tensor = torch.stack(found, 1).unflatten(1, self._bank.shape[:2])
        return measures

    def _pass(self, losses: Callable[[], Tensor], count: int) -> Tensor:
        if self.gradients is None:
            with torch.no_grad():
                return losses()[:, None]
        found = self.gradients.measure(losses, count)
        return torch.stack([column.to(found.loss.dtype) for column in found if column is not None], 1)

    def add_gradients(self, latents: Tensor, labels: Tensor, sums: Mapping[str, Tensor], count: int) -> None:
        """Add a batch's gradients, over all noise levels and draws, to what `gradients.zeros` returned.

        Divided by samples, noise levels and draws, the sum over a set is its mean gradient.

        Args:
            latents: normalised, float32 [B, C, H, W].
            labels: int64 [B], -1 for none.
            sums: changed in place.
            count: how many of the first samples count; the others fill the batch up.
        """
        assert self.gradients is not None
        for losses in self._passes(latents, labels):
            self.gradients.add_gradients(lambda losses=losses: losses()[:count], sums)  # type: ignore[misc]

    def _passes(self, latents: Tensor, labels: Tensor) -> Iterator[Callable[[], Tensor]]:
        """Yield what computes the losses of a batch, for each noise level and draw."""
        null = self.network.config.classes
        y = torch.where(labels < 0, null, labels) if null else torch.zeros_like(labels)
        for sigma, bank in zip(self._settings.sigmas, self._bank, strict=True):
            t = torch.full((len(latents),), 1 - sigma, dtype=latents.dtype, device=self._device)
            for drawn in bank:
                yield functools.partial(self._losses, latents, drawn.to(latents.dtype).expand_as(latents), t, y)

    def _losses(self, latents: Tensor, drawn: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with self._arithmetic():
            return flow_loss(self.network, latents, drawn, t, y)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._lower)


def _lower(network: nn.Module) -> None:
    """Hold the weights of layers in bfloat16, so that autocast need not cast them at each pass.

    The positions stay float32, and so does what passes between the blocks, as in training.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
