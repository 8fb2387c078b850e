"""The job of `dprune sample`: what its shards are made of, and which of them this worker makes.

Nothing here imports torch, so that images that are up to date are recognised at once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.beside import Beside
from dprune.formats.jobs import Job
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import Record, difference, make_record, parent
from dprune.formats.publish import Output
from dprune.formats.shard_journal import Journal, complete_shards, existing_shards, listed_shards
from dprune.models.files import ModelFile
from dprune.models.vae_files import check_made, latent_network, open_vae
from dprune.runtime import Monitor, is_gpu, ranks
from dprune.sampling.exports import Export, Grid, Npz
from dprune.sampling.settings import Settings

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class SampleJob(Job):
    """Generated images, as far as they are this worker's to make.

    Attributes:
        model: file of the transformer.
        vae: file of the autoencoder.
        settings: what changes the images.
        exports: what is made of the images beside the shards.
        device: name of the device.
        compiles: whether the transformer's blocks are compiled.
    """

    model: ModelFile
    vae: ModelFile
    settings: Settings
    exports: tuple[Export, ...]
    device: str
    compiles: bool
    output: Output

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the shards."""
        # A file made elsewhere does not say whether its model knows classes; those of DiT and SiT do.
        conditional = self.model.network.get("classes") != 0
        quantized = latent_network(self.vae)["kind"] == "vq"
        options = self.settings.options(conditional=conditional, quantized=quantized)
        parents = {"model": self.model.as_parent(), "vae": self.vae.as_parent()}
        return make_record("sample", options, parents=parents, tags=self.output.tags)

    @property
    def beside(self) -> list[Beside]:
        """The exports."""
        return [export.beside(self.record) for export in self.exports]

    def existing(self) -> Record | None:
        """Return the record of finished or interrupted images."""
        return existing_shards(self.output.path)

    def complete(self) -> bool:
        """Tell whether all workers' shards are there."""
        return complete_shards(self.output.path)

    @property
    def _mine(self) -> range:
        here = ranks()
        return range(here.rank, self.settings.shards, here.world)

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make this worker's missing shards; the worker that finds none missing adds the exports and the manifest.

        Raises:
            InputError: a network is not sound, or the folder holds files that dprune did not write.
            MismatchError: the networks do not fit each other.
            UsageError: the device is impossible, or options are not for such networks.
            Interrupted: a signal or --stop-after ended the work; finished shards stay.
            DpruneError: out of memory.
        """
        folder, made = Path(self.output.path), dict[str, Any]()
        missing = self._missing(folder)
        if missing:
            from dprune.sampling.generation import generate

            made = generate(self, folder, missing, monitor)
        whole = self._finish(folder)
        if not whole:
            _log.info("other workers still make shards of %s; the last of them completes it.", folder)
        size, total = self.settings.shard_size, len(self.settings.seeds)
        images = sum(min(size, total - number * size) for number in self._mine)
        return {"images": images, "shards": len(self._mine), "shards_made": len(missing), "complete": whole, **made}

    def _missing(self, folder: Path) -> list[int]:
        """Return the numbers of this worker's shards that are not finished."""
        journal = Journal(folder)
        begun = journal.is_of(self.record)
        missing = [number for number in self._mine if not begun or journal.shard(number) is None]
        # Looked at last: another worker that completes the folder removes the journal.
        return [] if self._is_finished(folder) else missing

    def _is_finished(self, folder: Path) -> bool:
        found = read_manifest(folder).get("provenance")
        return found is not None and not difference(found, self.record) and complete_shards(str(folder))

    def _finish(self, folder: Path) -> bool:
        """Publish the exports and then the manifest if all shards are there, and tell whether they are."""
        journal = Journal(folder)
        shards = [shard for number in range(self.settings.shards) if (shard := journal.shard(number)) is not None]
        whole = len(shards) == self.settings.shards and journal.is_of(self.record)
        if not whole and not self._is_finished(folder):
            return False
        names = [shard.name for shard in shards] if whole else listed_shards(folder)
        for export, file in zip(self.exports, self.beside, strict=True):
            if not file.is_made():
                export.publish([folder / name for name in names], len(self.settings.seeds), file.mark)
        if whole:
            journal.finish(self.record, shards, [])
        return True


def prepare(
    model: str,
    vae: str,
    settings: Settings,
    *,
    grid: str | None = None,
    grid_count: int = 64,
    npz: str | None = None,
    device: str = "auto",
    compiles: bool | None = None,
    output: Output,
) -> SampleJob:
    """Open what `dprune sample` was given.

    Raises:
        InputError: a file is missing, damaged or of another kind.
        MismatchError: the networks do not fit each other.
        UsageError: an option is not for such networks.
    """
    on_gpu = is_gpu(device)
    if compiles and not on_gpu:
        raise UsageError("--compile: blocks are compiled for a GPU only: leave it out.")
    compiles = on_gpu if compiles is None else compiles
    exports: list[Export] = [Grid(Path(grid), grid_count)] if grid else []
    exports += [Npz(Path(npz))] if npz else []
    job = SampleJob(ModelFile.open(model), open_vae(vae), settings, tuple(exports), device, compiles, output)
    job.model.check_kind("dit", "a DiT", "train-dit")
    if job.model.network:
        check_fit(job, job.model.network)
    check_made(job.vae, parent(job.model.record, "latents"), f"the latents that {model} was trained on")
    return job


def check_fit(job: SampleJob, network: Mapping[str, Any]) -> None:
    """Hold options and autoencoder to the transformer.

    Args:
        job: the options and the autoencoder.
        network: configuration of the transformer.

    Raises:
        InputError: the configuration is not whole.
        MismatchError: the autoencoder has latents of another shape.
        UsageError: an option is not for such networks.
    """
    try:
        channels, size, classes = (network[name] for name in ("channels", "input_size", "classes"))
    except KeyError as error:
        raise InputError(f"{job.model.path}: its description is damaged ({error}): make it again.") from error
    latents, settings = latent_network(job.vae), job.settings
    if (channels, size) != (latents["channels"], latents["size"]):
        raise MismatchError(
            f"{job.model.path} makes latents of {channels} x {size} x {size}, and --vae {job.vae.path} takes "
            f"{latents['channels']} x {latents['size']} x {latents['size']}: give the one that it was trained with."
        )
    if latents["kind"] != "vq" and not settings.quantize:
        raise UsageError(f"--no-quantize: {job.vae.path} has no codes: leave it out.")
    if settings.guidance.channels is not None and settings.guidance.channels > channels:
        raise UsageError(f"--cfg-channels {settings.guidance.channels}: the latents have {channels} channels.")
    _check_classes(job, classes)


def _check_classes(job: SampleJob, count: int) -> None:
    asked = job.settings.classes
    if not count:
        for option, given in (("--classes", asked is not None), ("--cfg", job.settings.guidance.scale != 1)):
            if given:
                raise UsageError(f"{option}: {job.model.path} knows no classes: leave it out.")
    elif asked is not None and max(asked.listed, default=0) >= count:
        raise UsageError(f"--classes {asked}: {job.model.path} knows classes 0 to {count - 1}.")
