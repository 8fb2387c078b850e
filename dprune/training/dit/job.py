"""The job of `dprune train-dit`."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dprune.errors import InputError, UsageError
from dprune.formats.arrays import digest_array, read_ids
from dprune.formats.latents import open_latents
from dprune.formats.provenance import Record, digest, make_record
from dprune.formats.publish import Output
from dprune.models.architectures import ARCHITECTURES, parse_architecture
from dprune.models.files import ModelFile
from dprune.models.vae_files import check_made
from dprune.models.weights import check_file
from dprune.runtime import is_gpu
from dprune.training.dit.settings import ARCH, DEFAULTS, LABEL_DROPOUT, DiTSettings, Fold, TrainingSet
from dprune.training.job import TrainingJob
from dprune.training.plan import Plan, TrainingOptions

if TYPE_CHECKING:
    import torch

    from dprune.models.dit import DiT, DiTConfig
    from dprune.models.vae import VAE
    from dprune.training.dit.task import DiTTask

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class DiTJob(TrainingJob):
    """A diffusion transformer, trained on a subset of a latent store.

    Attributes:
        data: what is trained on.
        settings: of the model and its loss.
        plan: of the training.
        device: name of the device.
        init: file of weights to begin with, None to draw them.
        vae: file of the autoencoder that decodes pictures, None for no pictures.
    """

    data: TrainingSet
    settings: DiTSettings
    plan: Plan
    device: str
    init: Path | None
    vae: Path | None
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the model."""
        fold = {} if self.data.fold is None else {"fold": str(self.data.fold)}
        counts = {"samples": len(self.data.ids), "of": len(self.data.latents)}
        init = {} if self.init is None else {"init": ModelFile.open(self.init).as_parent()}
        return make_record(
            "train-dit",
            self.settings.options() | fold | counts | self.plan.options(),
            seed=self.plan.seed,
            fingerprint=self.data.latents.fingerprint,
            parents=self.data.parents() | init,
            tags=self.output.tags,
        )

    def check(self) -> None:
        """Hold the settings and the autoencoder to the latents.

        Raises:
            UsageError: the latents have no patches of the size that is asked for.
            InputError: the latents have no labels.
            MismatchError: another autoencoder made the latents.
        """
        latents = self.data.latents
        *_, patch = parse_architecture(self.settings.arch)
        if latents.network["size"] % patch:
            side = latents.network["size"]
            raise UsageError(f"--arch {self.settings.arch}: latents of {side} x {side} have no patches of {patch}.")
        if not self.settings.unconditional and not latents.classes:
            raise InputError(f"{latents.store.folder}: its samples have no labels: give --unconditional.")
        if self.vae is not None:
            check_made(ModelFile.open(self.vae), latents.record, str(latents.store.folder))

    def task(self, device: torch.device) -> DiTTask:
        """Make the model and hold the latents."""
        from dprune.training.dit.latents import TrainingLatents
        from dprune.training.dit.task import DiTTask

        latents, ids = self.data.latents, self.data.ids
        network = self._network(device)
        held = TrainingLatents(latents, ids, device, self.settings.place, self.plan.seed)
        _log.debug("%d latents are held on: %s.", len(held), held.place)
        fingerprint = digest([latents.fingerprint, digest_array(ids)])
        return DiTTask(network, self.settings, self.plan.seed, held, latents, fingerprint, self._preview(device))

    def _network(self, device: torch.device) -> DiT:
        """Make the network with its first weights, which do not depend on the device."""
        import torch

        from dprune.models.dit import DiT, DiTConfig
        from dprune.seeds import purpose_key

        latents = self.data.latents
        width, depth, heads, patch = parse_architecture(self.settings.arch)
        classes = 0 if self.settings.unconditional else latents.classes
        config = DiTConfig(latents.network["size"], latents.network["channels"], patch, width, depth, heads, classes)
        if self.init is not None:
            return self._initialised(config, device)
        network = DiT(config)
        network.initialize(torch.Generator().manual_seed(purpose_key(self.plan.seed, "initial weights") >> 1))
        return network.to(device)

    def _initialised(self, config: DiTConfig, device: torch.device) -> DiT:
        """Load the first weights, whose output may have a second half and whose table more labels.

        Raises:
            InputError: the file holds a network of another shape.
        """
        from dprune.models.dit_files import load_dit

        assert self.init is not None
        network = load_dit(self.init, device).model
        found = replace(network.config, learn_sigma=False)
        if replace(found, classes=config.classes) != config or found.classes < config.classes:
            raise InputError(f"--init {self.init}: holds {_described(found)}, and this is to be {_described(config)}.")
        if not config.classes:
            network.forget_labels()
        network.requires_grad_(True)
        network.pos_embed.requires_grad_(False)
        return network.train()

    def _preview(self, device: torch.device) -> VAE | None:
        if self.vae is None:
            return None
        from dprune.models.vae import load_vae

        return load_vae(self.vae, device)[0]


def _described(config: DiTConfig) -> str:
    size = f"{config.channels} x {config.input_size} x {config.input_size}"
    return (
        f"a DiT of width {config.width}, depth {config.depth}, patch {config.patch} "
        f"and {config.classes} classes for latents of {size}"
    )


def prepare(
    store: str,
    training: TrainingOptions,
    *,
    subset: str | None = None,
    fold: str | None = None,
    arch: str | None = None,
    unconditional: bool = False,
    label_dropout: float | None = None,
    time: str = "uniform",
    init: str | None = None,
    vae: str | None = None,
    place: str = "auto",
    compiles: bool | None = None,
    output: Output,
) -> DiTJob:
    """Open what `dprune train-dit` was given and fill in what was left out.

    Raises:
        UsageError: options contradict each other, or do nothing.
        InputError: an input is missing, damaged, or does not fit the others.
        MismatchError: inputs speak of different data.
    """
    if unconditional and label_dropout is not None:
        raise UsageError("--label-dropout does nothing with --unconditional: leave it out.")
    if training.evaluate_every is not None and vae is None:
        raise UsageError("--evaluate-every does nothing without an autoencoder that decodes pictures: give --vae FILE.")
    chosen = Fold.parse(fold) if fold else None
    data = TrainingSet(open_latents(store), read_ids(subset) if subset else None, chosen)
    plan = training.plan(len(data.ids), DEFAULTS)
    compiles = is_gpu(training.device) if compiles is None else compiles
    first = check_file(init, "--init") if init else None
    arch = arch or (architecture_of(first) if first else None) or ARCH
    dropout = LABEL_DROPOUT if label_dropout is None else label_dropout
    settings = DiTSettings(arch, unconditional, dropout, time, compiles, place)
    decoder = check_file(vae, "--vae") if vae else None
    job = DiTJob(data, settings, plan, training.device, first, decoder, output)
    job.check()
    return job


def architecture_of(path: Path) -> str | None:
    """Tell the --arch of a file of dprune, None for a file that does not say."""
    network = ModelFile.open(path).network
    size = tuple(network.get(key) for key in ("width", "depth", "heads"))
    name = next((name for name, known in ARCHITECTURES.items() if known == size), None)
    return f"{name}/{network['patch']}" if name else None
