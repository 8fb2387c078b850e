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
from dprune.formats.arrays import digest_array
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, digest, make_record
from dprune.formats.publish import Output
from dprune.formats.shards import Dataset, open_dataset
from dprune.formats.subsets import read_subset
from dprune.runtime import Monitor, Silent, ranks
from dprune.seeds import purpose_key
from dprune.training.job import TrainingJob
from dprune.training.plan import Plan, TrainingOptions
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
class VAEJob(TrainingJob):
    """An autoencoder, trained on a dataset or a subset of it.

    Attributes:
        dataset: the shards.
        ids: of the samples that are trained on, sorted, int64 [n].
        subset: the subset's description as an input, None for all samples.
        held_out: shards that are measured on, None to measure on samples that are trained on.
        settings: of the model and its loss.
        workers: processes that decode, None for one a core.
        strict: whether an image that cannot be decoded ends the work.
    """

    dataset: Dataset
    ids: npt.NDArray[np.int64]
    subset: Record | None
    held_out: Dataset | None
    settings: VAESettings
    plan: Plan
    device: str
    workers: int | None
    strict: bool
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the model; what is only measured on does not belong to it."""
        subset = {} if self.subset is None else {"subset": self.subset}
        return make_record(
            "train-vae",
            self.settings.options() | self.plan.options() | self.dataset.choice.options(),
            seed=self.plan.seed,
            fingerprint=self.dataset.fingerprint,
            parents=self.dataset.parents() | subset,
            tags=self.output.tags,
        )

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

    def smaller(self, free: int) -> str:
        """See `TrainingJob`."""
        return "--preset tiny, or a smaller --width or --image-size"

    def task(self, device: torch.device, monitor: Monitor) -> VAETask:
        """Make the networks and open the images."""
        import torch

        from dprune.models.discriminator import PatchGAN
        from dprune.models.paths import quicken_losses, quicken_vae
        from dprune.models.vae import VAE
        from dprune.training.vae.task import VAETask

        distance = self._distance(device)
        # Ranks agree on the step after which they end; one that left in a wait would cost all of them their steps.
        monitor = Silent() if ranks().group else monitor
        images = self._images(self.dataset, self.ids, device, monitor)
        evaluation = self._evaluation(images, distance, monitor)
        # Drawn on the CPU, so that they do not depend on the device.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(purpose_key(self.plan.seed, "initial weights"))
            vae = VAE(self.settings.config)
            discriminator = PatchGAN(self.settings.config.image_size) if self.settings.gan_weight else None
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        for network in (vae, discriminator):
            if network is not None:
                network.to(device, memory_format=layout)  # type: ignore[call-overload]
        quicken_losses(discriminator, distance, device)
        _log.debug("the autoencoder's layers run by the path: %s.", quicken_vae(vae))
        fingerprint = digest([self.dataset.fingerprint, digest_array(self.ids)])
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
        from dprune.training.images import TrainingImages

        side = self.settings.config.image_size
        return TrainingImages(dataset, ids, side, device, self.workers, strict=self.strict, monitor=monitor)

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
    dataset, subset = open_dataset(shards, members), options.subset
    ids, chosen = read_subset(subset, dataset) if subset else (np.arange(len(dataset), dtype=np.int64), None)
    if not len(ids):
        raise InputError(f"{subset or dataset.title}: holds no sample to train on: give more.")
    held_out = open_dataset(options.held_out, members) if options.held_out else None
    if held_out is not None and not len(held_out):
        raise InputError(f"--held-out {options.held_out[0]}: holds no sample to measure on: leave it out.")
    return VAEJob(
        dataset, ids, chosen, held_out, settings, training.plan(len(ids), PLANS[options.preset]), training.device,
        options.workers, options.strict, output,
    )  # fmt: skip
