"""What the loop trains when it trains a diffusion transformer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dprune import noise
from dprune.collectives import is_root
from dprune.flow import Guidance, flow_loss, guided, solve, start
from dprune.formats.images import drawn_png
from dprune.formats.latents import Latents
from dprune.formats.publish import publish_bytes
from dprune.models.classes import TrainedClasses
from dprune.models.dit import DiT
from dprune.models.dit_files import network_metadata
from dprune.models.pixels import to_pixels
from dprune.models.vae import VAE
from dprune.sheets.classes import class_grid
from dprune.training.dit.latents import LatentBatch, TrainingLatents
from dprune.training.dit.noise_levels import NoiseLevels
from dprune.training.dit.settings import DiTSettings
from dprune.training.order import Drawing, Visits
from dprune.training.task import Task

PREVIEW_STEPS = 30
PREVIEWED = 64


class FlowObjective(nn.Module):
    """The loss of flow matching, its noise, times and dropped labels drawn anew at each visit of a sample.

    Args:
        network: the model.
        settings: how times and labels are drawn.
        seed: of the run.
        levels: the noise levels of samples that are not trained on at all of them, None where there are none.
    """

    def __init__(self, network: DiT, settings: DiTSettings, seed: int, levels: NoiseLevels | None = None) -> None:
        super().__init__()
        self.network, self._settings, self._seed, self._levels = network, settings, seed, levels

    def forward(self, micro: LatentBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the samples' losses, twice: to differentiate and for the log."""
        drawn = noise.normal(self._seed, "noise of training", micro.ids, micro.visits, micro.latents.shape[1:])
        times, labels = self._times(micro), self._labels(micro)
        loss = flow_loss(self.network, micro.latents, drawn, times, labels).sum()
        return loss, {"loss": loss.detach()}

    def _times(self, micro: LatentBatch) -> Tensor:
        if self._levels is not None:
            drawn = noise.uniform(self._seed, "time of training", micro.ids, micro.visits)
            return self._levels.times(drawn, micro.ids)
        if self._settings.time == "uniform":
            return noise.uniform(self._seed, "time of training", micro.ids, micro.visits)
        # Esser et al., "Scaling rectified flow transformers" (2024), section 3.1.
        return noise.normal(self._seed, "time of training", micro.ids, micro.visits, ()).sigmoid()

    def _labels(self, micro: LatentBatch) -> Tensor:
        null = self.network.config.classes
        if not null:
            return torch.zeros_like(micro.labels)
        drawn = noise.uniform(self._seed, "dropped labels", micro.ids, micro.visits)
        return torch.where((drawn < self._settings.label_dropout) | (micro.labels < 0), null, micro.labels)


class DiTTask(Task):
    """A diffusion transformer on the latents of a subset.

    Args:
        network: on the device, its path chosen.
        settings: of the loss.
        seed: of the run.
        data: what is trained on.
        latents: the store that it comes from.
        trained: its classes, and how many samples of each are trained on.
        drawing: how often each sample is drawn, and which come first.
        levels: see `FlowObjective`.
        fingerprint: digest of the store, of the ids that are trained on and of what is told of them.
        preview: autoencoder that decodes pictures at intervals, None for no pictures.
        wait: returns when the network has its first weights.
    """

    repeats = "each time with another noise and time"

    def __init__(self, network: DiT, settings: DiTSettings, seed: int, data: TrainingLatents, latents: Latents,
                 trained: TrainedClasses, drawing: Drawing, levels: NoiseLevels | None, fingerprint: str,
                 preview: VAE | None, wait: Callable[[], None]) -> None:  # fmt: skip
        self._wait = wait
        self._network, self._data, self._trained, self._preview = network, data, trained, preview
        self._device = network.pos_embed.device
        self._compiles = settings.compile
        self.networks, self.objectives = {"dit": network}, {"dit": FlowObjective(network, settings, seed, levels)}
        mean, std = torch.from_numpy(latents.mean), torch.from_numpy(latents.std)
        self.network_header = network_metadata(
            network.config, mean, std, latents.classes, trained.samples, latents.class_names
        )
        self.drawing = drawing
        self.samples, self.fingerprint, self._names = len(data), fingerprint, latents.class_names
        # A backward pass takes twice as many operations as a forward pass.
        self.flop = 3 * network.config.flop()

    def ready(self) -> None:
        """See `Task`."""
        self._wait()

    def capture_key(self, step: int) -> Hashable:
        """See `Task`; without compilation steps are as plain as can be."""
        return "dit" if self._compiles else None

    def batches(self, steps: Iterator[tuple[int, list[Visits]]]) -> Generator[list[LatentBatch]]:
        """Gather each step's micro-batches."""
        for _, parts in steps:
            yield [self._data.batch(part) for part in parts]

    def trial(self, size: int) -> LatentBatch:
        """Return the first samples, again and again."""
        return self._data.batch(Visits.first(np.arange(size) % self.samples))

    def evaluate(self, step: int, folder: Path) -> dict[str, float]:
        """Draw a grid of samples from the noise that `dprune sample` gives the first seeds, unguided."""
        if self._preview is not None and is_root():
            pixels = to_pixels(self._samples(self._preview)).permute(0, 2, 3, 1).cpu().numpy()
            images = [Image.fromarray(one) for one in pixels]
            labels = self._preview_labels if self._network.config.classes else [-1] * len(images)
            publish_bytes(folder / f"step-{step:08d}.png", drawn_png(class_grid(images, labels, self._names).draw()))
        return {}

    @property
    def _preview_labels(self) -> list[int]:
        return list(map(int, self._trained.balanced(np.arange(PREVIEWED))))

    def _samples(self, vae: VAE) -> Tensor:
        seeds = torch.arange(PREVIEWED, device=self._device)
        null, side = self._network.config.classes, self._network.config.input_size
        labels = torch.tensor(self._preview_labels).to(seeds) if null else torch.zeros_like(seeds)
        velocity = guided(self._network, labels, null, Guidance())
        found = solve(velocity, start(seeds, (self._network.config.channels, side, side)), "euler", PREVIEW_STEPS)
        return vae.decode(vae.snap(self._data.normalised.undone(found)))
