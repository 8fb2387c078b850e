"""A network as it scores: its losses, and its gradients, of batches of samples with the noises of the settings."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dprune.flow import flow_loss
from dprune.models.dit import DiT
from dprune.models.gradients import SampleGradients
from dprune.models.paths import quicken_dit
from dprune.scoring.noises import Noises
from dprune.scoring.settings import ScoreSettings

_log = logging.getLogger("dprune")


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
        dtype = torch.bfloat16 if self._lower else torch.float32
        path = quicken_dit(network, dtype, compiles=settings.compiles, hooked=gradients)
        _log.debug("the network's blocks run by the path: %s.", path)
        self._noises = Noises(settings, self._shape, self._device)

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
        measures = 1 if self.gradients is None else 1 + self.gradients.columns
        return self._settings.levels, self._settings.draws, measures

    def measure(
        self, latents: Tensor, labels: Tensor, ids: Tensor | None = None, stopped: Callable[[], bool] = lambda: False
    ) -> Tensor | None:
        """Measure a batch at every noise level with every draw, without waiting for the device.

        Args:
            latents: normalised, float32 [B, C, H, W].
            labels: int64 [B], -1 for none.
            ids: int64 [B]; None will do where neither noises nor noise levels are a sample's own.
            stopped: asked before each pass whether to give up.

        Returns:
            [B, S, M, K], None where it gave up.
        """
        found = []
        for losses in self._passes(latents, labels, ids):
            if stopped():
                return None
            found.append(self._pass(losses, len(latents)))
        measures: Tensor = torch.stack(found, 1).unflatten(1, self.shape[:2])
        return measures

    def _pass(self, losses: Callable[[], Tensor], count: int) -> Tensor:
        if self.gradients is None:
            with torch.no_grad():
                return losses()[:, None]
        found = self.gradients.measure(losses, count)
        return torch.stack([column.to(found.loss.dtype) for column in found if column is not None], 1)

    def add_gradients(
        self, latents: Tensor, labels: Tensor, sums: Mapping[str, Tensor], count: int, ids: Tensor | None = None
    ) -> None:
        """Add a batch's gradients, over all noise levels and draws, to what `gradients.zeros` returned.

        Divided by samples, noise levels and draws, the sum over a set is its mean gradient.

        Args:
            latents: normalised, float32 [B, C, H, W].
            labels: int64 [B], -1 for none.
            sums: changed in place.
            count: how many of the first samples count; the others fill the batch up.
            ids: see `measure`.
        """
        assert self.gradients is not None
        for losses in self._passes(latents, labels, ids):
            self.gradients.add_gradients(lambda losses=losses: losses()[:count], sums)  # type: ignore[misc]

    def _passes(self, latents: Tensor, labels: Tensor, ids: Tensor | None) -> Iterator[Callable[[], Tensor]]:
        """Yield what computes the losses of a batch, for each noise level and draw."""
        null = self.network.config.classes
        y = torch.where(labels < 0, null, labels) if null else torch.zeros_like(labels)
        for drawn, t in self._noises.passes(latents, ids):
            yield functools.partial(self._losses, latents, drawn, t, y)

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
