"""The job of `dprune train-baseline`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dprune.formats.images import first_side
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record
from dprune.formats.publish import Output
from dprune.formats.sample_labels import labels_of
from dprune.formats.shards import Dataset
from dprune.runtime import Monitor
from dprune.training.baseline.settings import BaselineOptions, BaselineSettings
from dprune.training.image_job import ImageTrainingJob, open_image_samples, place
from dprune.training.labels import check_labels, trained_classes
from dprune.training.plan import TrainingOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dprune.training.baseline.task import BaselineTask, TrainingData
    from dprune.training.memory import Need


@dataclass(frozen=True)
class BaselineJob(ImageTrainingJob):
    """A baseline, trained on a dataset or a subset of it.

    Attributes:
        labels: of the samples that are trained on, int64 [n], -1 for none.
        settings: of the model and its loss.
    """

    labels: npt.NDArray[np.int64]
    settings: BaselineSettings

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the model, whose kind its command names."""
        counts = {"samples": len(self.samples.ids), "of": len(self.samples.dataset)}
        return self.record_of(f"train-baseline {self.settings.config.model}", self.settings.options() | counts)

    @property
    def title(self) -> str:
        """See `TrainingJob`."""
        config = self.settings.config
        return f"{config.title} of width {config.width} for images of {config.image_size} pixels"

    def need(self, *, passes: bool) -> Need:
        """See `TrainingJob`."""
        import torch
        from torch import nn

        from dprune.models.prior_vae import PriorVAE
        from dprune.training.memory import need_of

        size, latent_size = self.settings.config.image_size, self.settings.config.latent_size

        def forward(networks: nn.ModuleList) -> torch.Tensor:
            """The passes of one image."""
            label, first = torch.zeros(1, dtype=torch.int64), networks[0]
            drawn, images = torch.empty(1, latent_size), torch.empty(2, 3, size, size)
            if isinstance(first, PriorVAE):
                mean, _ = first.encoder(images[:1], label)
                return mean.sum() + first.generator(drawn, label).sum()  # type: ignore[no-any-return]
            # The discriminator sees an image and a generated one.
            return first(drawn, label).sum() + networks[1](images, label.expand(2)).sum()  # type: ignore[no-any-return]

        return need_of(lambda: nn.ModuleList(self._networks()), forward if passes else None)

    def task(self, device: torch.device, monitor: Monitor) -> BaselineTask:
        """Make the networks and open the images."""
        from dprune.training.baseline.task import baseline_task

        data = self._data(device, monitor)
        with self.initial_weights():
            networks = self._networks()
        for network in networks:
            place(network, device)
        return baseline_task(networks, self.settings, self.plan.seed, data)

    def _networks(self) -> list[nn.Module]:
        """Make what is trained: a VAE, or generator and discriminator."""
        from dprune.models.generator import ImageGenerator
        from dprune.models.prior_vae import PriorVAE
        from dprune.models.projection_discriminator import ProjectionDiscriminator

        config = self.settings.config
        if config.model == "vae":
            return [PriorVAE(config)]
        return [ImageGenerator(config), ProjectionDiscriminator(config)]

    def _data(self, device: torch.device, monitor: Monitor) -> TrainingData:
        from dprune.training.baseline.task import TrainingData

        (dataset, ids, _), config = self.samples, self.settings.config
        images = self.images(dataset, ids, config.image_size, device, monitor)
        trained = trained_classes(self.labels, config.classes)
        return TrainingData(images, self.labels, trained, dataset.class_names, self.samples.fingerprint)


def open_train_baseline(
    model: str,
    shards: Sequence[str],
    options: BaselineOptions,
    training: TrainingOptions,
    output: Output,
    members: MemberChoice | None = None,
) -> BaselineJob:
    """Open what `dprune train-baseline` was given and fill in what was left out.

    Args:
        model: `vae` or `gan`.
        shards: of the dataset.
        options: of the model and its loss.
        training: options of the loop.
        output: the run's folder.
        members: which members of shards are images and labels.

    Raises:
        UsageError: options contradict each other.
        InputError: an input is missing, damaged, or does not fit the others.
        MismatchError: the subset was chosen from other shards.
    """
    samples = open_image_samples(shards, options.subset, members)
    labels, classes = _labels(samples.dataset, samples.ids, unconditional=options.unconditional)
    settings = options.resolve(model, options.image_size or first_side(samples.dataset), classes)
    plan = training.plan(len(samples.ids), options.plan(model))
    return BaselineJob(samples, plan, training.device, options.workers, options.strict, output, labels, settings)


def _labels(dataset: Dataset, ids: npt.NDArray[np.int64], *, unconditional: bool) -> tuple[npt.NDArray[np.int64], int]:
    """Return the labels of what is trained on, and how many classes the whole dataset has, 0 to leave them out.

    Raises:
        InputError: no sample has a label.
    """
    if unconditional:
        return np.full(len(ids), -1), 0
    every = labels_of(dataset)
    labels, classes = every[ids], int(every.max(initial=-1)) + 1
    check_labels(dataset.title, trained_classes(labels, classes), len(ids), dataset.class_names)
    return labels, classes
