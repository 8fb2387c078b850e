"""The job of `dprune train-vae`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError, UsageError
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record
from dprune.formats.publish import Output
from dprune.formats.shards import Dataset, open_dataset
from dprune.runtime import Monitor
from dprune.training.image_job import ImageTrainingJob, open_image_samples, place
from dprune.training.plan import TrainingOptions
from dprune.training.vae.settings import PLANS, VAEOptions, VAESettings

if TYPE_CHECKING:
    import torch

    from dprune.models.perceptual import PerceptualDistance
    from dprune.training.images import TrainingImages
    from dprune.training.memory import Need
    from dprune.training.vae.evaluation import Reconstruction
    from dprune.training.vae.task import VAETask

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class VAEJob(ImageTrainingJob):
    """An autoencoder, trained on a dataset or a subset of it.

    Attributes:
        held_out: shards that are measured on, None to measure on samples that are trained on.
        settings: of the model and its loss.
    """

    held_out: Dataset | None
    settings: VAESettings

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the model; what is only measured on does not belong to it."""
        return self.record_of("train-vae", self.settings.options())

    @property
    def title(self) -> str:
        """See `TrainingJob`."""
        config = self.settings.config
        return f"an autoencoder of width {config.width} for images of {config.image_size} pixels"

    def need(self, *, passes: bool) -> Need:
        """See `TrainingJob`; what a discriminator or a perceptual distance takes comes on top."""
        import torch

        from dprune.models.vae import VAE
        from dprune.training.memory import need_of

        config = self.settings.config

        def reconstruct(vae: VAE) -> torch.Tensor:
            images = torch.empty(1, 3, config.image_size, config.image_size)
            return vae.decode(vae.encode(images)[:, : config.latent_channels])

        return need_of(lambda: VAE(config), reconstruct if passes else None)

    def task(self, device: torch.device, monitor: Monitor) -> VAETask:
        """Make the networks and open the images."""
        from dprune.models.discriminator import PatchGAN
        from dprune.models.paths import quicken_losses, quicken_vae
        from dprune.models.vae import VAE
        from dprune.training.vae.task import VAETask

        distance = self._distance(device)
        images = self._images(self.samples.dataset, self.samples.ids, device, monitor)
        evaluation = self._evaluation(images, distance, monitor)
        with self.initial_weights():
            vae = VAE(self.settings.config)
            discriminator = PatchGAN(self.settings.config.image_size) if self.settings.gan_weight else None
        for network in filter(None, (vae, discriminator)):
            place(network, device)
        quicken_losses(discriminator, distance, device)
        _log.debug("the autoencoder's layers run by the path: %s.", quicken_vae(vae))
        fingerprint = self.samples.fingerprint
        return VAETask(vae, discriminator, distance, self.settings, self.plan, images, evaluation, fingerprint)

    def _distance(self, device: torch.device) -> PerceptualDistance | None:
        """Load the perceptual distance."""
        library, _, name = self.settings.perceptual.partition(":")
        if library == "none":
            return None
        from dprune.models.perceptual import LPIPS, FeatureDistance

        assert self.settings.perceptual_file is not None
        if library == "lpips":
            return LPIPS(self.settings.perceptual_file).to(device)
        from dprune.embedding.timm_backbone import load_timm

        found = load_timm(name, self.settings.perceptual_file, self.settings.config.image_size, None, "--perceptual")
        if not hasattr(found.module, "forward_intermediates"):
            raise UsageError(f"--perceptual timm:{name}: gives no features at several depths: choose another network.")
        return FeatureDistance(found.module, found.mean, found.std).to(device)

    def _images(
        self, dataset: Dataset, ids: npt.NDArray[np.int64], device: torch.device, monitor: Monitor
    ) -> TrainingImages:
        return self.images(dataset, ids, self.settings.config.image_size, device, monitor)

    def _evaluation(
        self, images: TrainingImages, distance: PerceptualDistance | None, monitor: Monitor
    ) -> Reconstruction:
        from dprune.training.vae.evaluation import Reconstruction

        if self.held_out is None:
            return Reconstruction(images, "train", distance)
        ids = np.arange(len(self.held_out), dtype=np.int64)
        return Reconstruction(self._images(self.held_out, ids, images.device, monitor), "held_out", distance)


def open_train_vae(
    shards: Sequence[str],
    options: VAEOptions,
    training: TrainingOptions,
    output: Output,
    members: MemberChoice | None = None,
) -> VAEJob:
    """Open what `dprune train-vae` was given and fill in what was left out.

    Raises:
        UsageError: options contradict each other.
        InputError: an input is missing, damaged, or does not fit the others.
        MismatchError: the subset was chosen from other shards.
    """
    settings = options.resolve()
    samples = open_image_samples(shards, options.subset, members)
    held_out = open_dataset(options.held_out, members) if options.held_out else None
    if held_out is not None and not len(held_out):
        raise InputError(f"--held-out {options.held_out[0]}: holds no sample to measure on: leave it out.")
    plan = training.plan(len(samples.ids), PLANS[options.preset])
    return VAEJob(samples, plan, training.device, options.workers, options.strict, output, held_out, settings)
