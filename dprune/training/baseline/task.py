"""What the loop trains when it trains a baseline."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from dprune import noise
from dprune.collectives import is_root
from dprune.flow import start
from dprune.formats.class_names import ClassNames
from dprune.formats.images import drawn_png
from dprune.formats.publish import publish_bytes
from dprune.models.baseline_files import network_header
from dprune.models.classes import TrainedClasses
from dprune.models.generator import ImageGenerator
from dprune.models.latents import sent
from dprune.models.pixels import to_pixels
from dprune.models.prior_vae import PriorVAE
from dprune.models.projection_discriminator import ProjectionDiscriminator
from dprune.sheets.classes import class_grid
from dprune.training.baseline.augmentation import Augmentation
from dprune.training.baseline.loss import BoundObjective, GeneratorObjective, JudgingObjective, LabelledImages
from dprune.training.baseline.settings import BaselineSettings
from dprune.training.images import TrainingImages, to_unit
from dprune.training.order import Visits
from dprune.training.task import Task

PREVIEWED = 64


@dataclass(frozen=True)
class TrainingData:
    """What is trained on.

    Attributes:
        images: of the training set.
        labels: of these, int64 [n], -1 for none.
        trained: the classes of the dataset, and how many samples of each are trained on.
        names: of the classes.
        fingerprint: digest of the dataset and of the ids that are trained on.
    """

    images: TrainingImages
    labels: npt.NDArray[np.int64]
    trained: TrainedClasses
    names: ClassNames
    fingerprint: str


class BaselineTask(Task):
    """A generator on the images of a dataset, see `VAETraining` and `GANTraining`.

    Args:
        generator: on the device.
        settings: of the losses.
        seed: of the run.
        data: what is trained on.
    """

    repeats = "each time with another noise"

    def __init__(self, generator: ImageGenerator, settings: BaselineSettings, seed: int, data: TrainingData) -> None:
        self._generator, self._settings, self._seed = generator, settings, seed
        self._images, self._trained, self._names = data.images, data.trained, data.names
        self.network_header = network_header(generator.config, data.trained, data.names)
        self.samples, self.fingerprint = len(data.images), data.fingerprint
        self._ids = torch.from_numpy(data.images.ids).to(data.images.device)
        self._labels = torch.from_numpy(data.labels).to(data.images.device)

    def capture_key(self, step: int) -> Hashable:
        """See `Task`."""
        return "baseline"

    def batches(self, steps: Iterator[tuple[int, list[Visits]]]) -> Generator[list[LabelledImages]]:
        """Gather each step's micro-batches, with images mirrored at random."""
        parts, ahead = itertools.tee(parts for _, parts in steps)
        wanted = ([part.positions for part in some] for some in ahead)
        with contextlib.closing(self._images.batches(wanted)) as found:
            for some, pixels in zip(parts, found, strict=True):
                yield list(map(self._batch, some, pixels))

    def _batch(self, visits: Visits, pixels: Tensor) -> LabelledImages:
        positions, before = sent(torch.from_numpy(np.stack(visits)), self._ids.device)
        ids = self._ids[positions]
        if self._settings.flip:
            mirrored = noise.uniform(self._seed, "flips", ids, before) < 0.5
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        return LabelledImages(ids, before, self._labels[positions], to_unit(pixels))

    def trial(self, size: int) -> LabelledImages:
        """Return grey images."""
        side, device = self._generator.config.image_size, self._images.device
        pixels = torch.full((size, 3, side, side), 127, dtype=torch.uint8, device=device)
        ids = torch.arange(size, device=device)
        return LabelledImages(ids, torch.zeros_like(ids), torch.zeros_like(ids) - 1, to_unit(pixels))

    def evaluate(self, step: int, folder: Path) -> dict[str, float]:
        """Draw a grid of images from the noise that `dprune sample` gives the first seeds."""
        if is_root():
            labels = self._preview_labels
            seeds = torch.arange(PREVIEWED, device=self._images.device)
            made = self._generator(start(seeds, (self._generator.config.latent_size,)), torch.tensor(labels).to(seeds))
            pixels = to_pixels(made).permute(0, 2, 3, 1).cpu().numpy()
            sheet = class_grid([Image.fromarray(one) for one in pixels], labels, self._names)
            publish_bytes(folder / f"step-{step:08d}.png", drawn_png(sheet.draw()))
        return {}

    @property
    def _preview_labels(self) -> list[int]:
        if not self._generator.config.classes:
            return [-1] * PREVIEWED
        return list(map(int, self._trained.balanced(np.arange(PREVIEWED))))


class VAETraining(BaselineTask):
    """A VAE, whose generator and encoder are one network."""

    def __init__(self, vae: PriorVAE, settings: BaselineSettings, seed: int, data: TrainingData) -> None:
        super().__init__(vae.generator, settings, seed, data)
        self.networks = {"vae": vae}
        self.objectives = {"vae": BoundObjective(vae, settings.kl_weight, seed)}


class GANTraining(BaselineTask):
    """A GAN, whose generator takes its step first; the discriminator's is against what it then makes."""

    def __init__(self, generator: ImageGenerator, discriminator: ProjectionDiscriminator, settings: BaselineSettings,
                 seed: int, data: TrainingData) -> None:  # fmt: skip
        super().__init__(generator, settings, seed, data)
        augmentation = Augmentation(settings.augment, seed)
        self._discriminator = discriminator
        self.rates = {"discriminator": settings.discriminator_rate}
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.objectives = {
            "generator": GeneratorObjective(generator, discriminator, augmentation, seed),
            "discriminator": JudgingObjective(discriminator, generator, augmentation, seed),
        }

    def after_step(
        self, step: int, optimizers: Mapping[str, Optimizer], averages: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Follow the discriminator's weights with their singular vectors."""
        self._discriminator.follow_weights()
        return {}


def baseline_task(
    networks: Sequence[nn.Module], settings: BaselineSettings, seed: int, data: TrainingData
) -> BaselineTask:
    """Return the training of a VAE, or of a generator and its discriminator."""
    match networks:
        case [PriorVAE() as vae]:
            return VAETraining(vae, settings, seed, data)
        case [ImageGenerator() as generator, ProjectionDiscriminator() as discriminator]:
            return GANTraining(generator, discriminator, settings, seed, data)
    raise AssertionError(networks)
