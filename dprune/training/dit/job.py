"""The job of `dprune train-dit`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError, UsageError
from dprune.formats.arrays import digest_array
from dprune.formats.latents import open_latents
from dprune.formats.named_sources import NamedStore
from dprune.formats.provenance import Record, digest, make_record
from dprune.formats.publish import Output
from dprune.formats.subsets import read_chosen
from dprune.models.architectures import ARCHITECTURES, parse_architecture
from dprune.models.files import ModelFile
from dprune.runtime import Monitor, ranks
from dprune.seeds import purpose_key
from dprune.training.dit.per_sample import read_per_sample
from dprune.training.dit.settings import DiTOptions, DiTSettings, Fold, TrainingSet, check_predicts_velocity
from dprune.training.job import TrainingJob
from dprune.training.plan import Plan, TrainingOptions

if TYPE_CHECKING:
    import torch

    from dprune.models.dit import DiT, DiTConfig
    from dprune.training.dit.noise_levels import NoiseLevels
    from dprune.training.dit.task import DiTTask
    from dprune.training.memory import Need

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class DiTJob(TrainingJob):
    """A diffusion transformer, trained on a subset of a latent store.

    Attributes:
        data: what is trained on.
        settings: of the model and its loss.
    """

    data: TrainingSet
    settings: DiTSettings
    plan: Plan
    device: str
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the model."""
        fold = {} if self.data.fold is None else {"fold": str(self.data.fold)}
        counts = {"samples": len(self.data.ids), "of": len(self.data.latents)}
        init = self.settings.init
        begun = {} if init is None else {"init": ModelFile.open(init).as_parent()}
        return make_record(
            "train-dit",
            self.settings.options() | fold | counts | self.plan.options(),
            seed=self.plan.seed,
            fingerprint=self.data.latents.fingerprint,
            parents=self.data.parents() | begun,
            tags=self.output.tags,
        )

    @property
    def title(self) -> str:
        """See `TrainingJob`."""
        return f"--arch {self.settings.arch}"

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        told, found = self.data.told, dict(super().work())
        if told.weights is not None:
            found |= {"samples": len(self.data.ids), "visits_per_epoch": told.epoch(self.data.ids)}
        if told.sigma_min is not None:
            found["samples_of_all_noise_levels"] = int((told.sigma_min.values[self.data.ids] == 0).sum())
        if told.curriculum is not None:
            found["all_samples_from_step"] = -(-self.plan.steps // 2)
        return found

    def need(self, *, passes: bool) -> Need:
        """See `TrainingJob`."""
        return self._need_of(self.settings.arch, passes=passes)

    def smaller(self, free: int) -> str:
        """See `TrainingJob`: the largest architecture that fits."""
        patch = self.settings.arch.partition("/")[2]
        smaller = (f"{name}/{patch}" for name in reversed(ARCHITECTURES))
        fitting = next((arch for arch in smaller if self._need_of(arch, passes=True).likely(1) <= free), None)
        return f"--arch {fitting}" if fitting else "a device with more memory"

    def _need_of(self, arch: str, *, passes: bool) -> Need:
        import torch

        from dprune.flow import flow_loss
        from dprune.models.dit import DiT
        from dprune.training.memory import need_of

        config = self._config(arch)

        def loss(network: DiT) -> torch.Tensor:
            data = torch.empty(1, config.channels, config.input_size, config.input_size)
            return flow_loss(network, data, data, torch.empty(1), torch.empty(1, dtype=torch.int64))

        return need_of(lambda: DiT(config), loss if passes else None)

    def task(self, device: torch.device, monitor: Monitor) -> DiTTask:
        """Make the model and hold the latents."""
        import torch

        from dprune.models.paths import quicken_dit
        from dprune.models.vae import vae_of
        from dprune.training.dit.latents import TrainingLatents
        from dprune.training.dit.task import DiTTask

        latents, ids, told = self.data.latents, self.data.ids, self.data.told
        network, wait = self._network(device)
        dtype = torch.bfloat16 if self.plan.precision == "bf16" else torch.float32
        path = quicken_dit(network, dtype, compiles=self.settings.compile)
        _log.debug("the blocks run by the path: %s.", path)
        held = TrainingLatents(latents, ids, device, self.settings.place, self.plan.seed)
        _log.debug("%d latents are held on: %s.", len(held), held.place)
        levels = self._levels(device)
        drawing = told.drawing(ids, self.plan.seed, told.weights_of(ids) if levels is None else levels.weights)
        given = [digest_array(array.values) for array in told.given.values()]
        fingerprint = digest([latents.fingerprint, digest_array(ids), *given])
        preview = None if self.settings.vae is None else vae_of(self.settings.vae, device)
        return DiTTask(network, self.settings, self.plan.seed, held, latents, self.data.classes, drawing, levels,
                       fingerprint, preview, wait)  # fmt: skip

    def _levels(self, device: torch.device) -> NoiseLevels | None:
        """Return the noise levels of the samples, None where all are trained on at all of them."""
        from dprune.training.dit.noise_levels import NoiseLevels

        told, ids = self.data.told, self.data.ids
        if told.sigma_min is None or not (least := told.sigma_min.values[ids]).any():
            return None
        return NoiseLevels(least, ids, told.weights_of(ids), self.settings.time, device)

    def _network(self, device: torch.device) -> tuple[DiT, Callable[[], None]]:
        """Make the network; return it, and what waits for its first weights, which do not depend on the device."""
        from dprune.training.dit.first_weights import begun

        config = self._config(self.settings.arch)
        if self.settings.init is not None:
            return _initialised(self.settings.init, self.settings.predicts, config, device), lambda: None
        seed = purpose_key(self.plan.seed, "initial weights") >> 1
        # The ranks of a group exchange their weights before they make trials.
        return begun(config, seed, device, waits=device.type == "cpu" or ranks().group)

    def _config(self, arch: str) -> DiTConfig:
        from dprune.models.dit import DiTConfig

        latents = self.data.latents
        width, depth, heads, patch = parse_architecture(arch)
        classes = 0 if self.settings.unconditional else latents.classes
        return DiTConfig(latents.network["size"], latents.network["channels"], patch, width, depth, heads, classes)


def _initialised(path: Path, predicts: str, config: DiTConfig, device: torch.device) -> DiT:
    """Load the first weights, whose output may have a second half and whose table more labels.

    Raises:
        InputError: the file holds a network of another shape.
        UsageError: it does not predict velocities, or does not show what it predicts.
    """
    from dprune.models.dit_files import load_dit

    network = load_dit(path, device, predicts, config.heads).model
    check_predicts_velocity(path, network.config.parametrization)
    found = replace(network.config, learn_sigma=False)
    if replace(found, classes=config.classes) != config or found.classes < config.classes:
        raise InputError(f"--init {path}: holds {_described(found)}, and this run needs {_described(config)}.")
    if not config.classes:
        network.forget_labels()
    network.requires_grad_(True)
    network.pos_embed.requires_grad_(False)
    return network.train()


def _described(config: DiTConfig) -> str:
    size = f"{config.channels} x {config.input_size} x {config.input_size}"
    return (
        f"a DiT of width {config.width}, depth {config.depth}, patch {config.patch} "
        f"and {config.classes} classes for latents of {size}"
    )


def open_train_dit(store: str, options: DiTOptions, training: TrainingOptions, output: Output) -> DiTJob:
    """Open what `dprune train-dit` was given and fill in what was left out.

    Raises:
        UsageError: options contradict each other, or do nothing.
        InputError: an input is missing, damaged, or does not fit the others.
        MismatchError: inputs speak of different data.
    """
    if training.evaluate_every is not None and options.vae is None:
        raise UsageError("--evaluate-every does nothing without an autoencoder that decodes pictures: give --vae FILE.")
    settings = options.resolve(training.device)
    fold = Fold.parse(options.fold) if options.fold else None
    latents = open_latents(store)
    subset = read_chosen(options.subset, NamedStore(latents.store)) if options.subset else None
    told = read_per_sample(latents, weights=options.weights, sigma_min=options.sigma_min, curriculum=options.curriculum)
    data = TrainingSet(latents, subset, fold, told)
    settings.check(data.latents)
    told.check(data.ids)
    if not settings.unconditional:
        data.check_labels()
    plan = replace(training.plan(told.epoch(data.ids), settings.defaults()), optimizer=options.optimizer)
    return DiTJob(data, settings, plan, training.device, output)
