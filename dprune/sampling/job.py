"""The job of `dprune sample`: what its shards are made of, and which of them this worker makes.

Nothing here imports torch, so that images that are up to date are recognised at once.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dprune.errors import UsageError
from dprune.formats.claims import TASK, claim_of
from dprune.formats.jobs import Job
from dprune.formats.latents import PIXELS
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import FINDINGS_KEY, Record, difference, make_record, parent, with_findings
from dprune.formats.publish import Output
from dprune.formats.shard_journal import Journal, complete_shards, existing_shards, listed_shards
from dprune.formats.turns import Turns, due_pieces, peeked
from dprune.models.baselines import KIND as BASELINE
from dprune.models.files import ModelFile
from dprune.models.foreign_vaes import weights_in
from dprune.models.parametrization import parametrization_of
from dprune.models.vae_files import (
    LatentScale,
    beside_digest,
    check_made,
    decoded_network,
    latent_network,
    made_by,
    open_vae,
    vae_parents,
)
from dprune.runtime import Monitor, array_task
from dprune.sampling.cautions import cautions
from dprune.sampling.companions import COARSE, GUIDE, Companion
from dprune.sampling.exports import Export, GridExport, NpzExport
from dprune.sampling.settings import (
    DEFAULT_GRID_COUNT,
    RATES,
    SampleOptions,
    SampleSettings,
    check_classes,
    check_fit,
    refuse_diffusion,
)

_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class SampleJob(Job):
    """Generated images, as far as they are this worker's to make.

    Attributes:
        model: file of the transformer, or of a baseline.
        vae: file of the autoencoder, None for a baseline, which makes images itself.
        settings: what is asked of them.
        companions: other transformers that take part.
    """

    model: ModelFile
    vae: ModelFile | None
    settings: SampleSettings
    output: Output
    companions: tuple[Companion, ...] = ()

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the shards."""
        # A file made elsewhere does not say whether its model knows classes; those of DiT and SiT do.
        conditional = self.model.network.get("classes") != 0
        parents = {"model": self.model.as_parent()}
        if self.vae is None:
            options = self.settings.options_of_one_pass(conditional=conditional)
        else:
            quantized = latent_network(self.vae)["kind"] == "vq"
            options = self.settings.options(conditional=conditional, quantized=quantized) | beside_digest(self.vae)
            options |= {} if self.model.network else LatentScale.of(self.vae).options()
            parents |= vae_parents(self.vae)
            for one in self.companions:
                options |= one.options
                parents |= {one.role: one.file.as_parent()}
        return make_record("sample", options, parents=parents, tags=self.output.tags)

    @functools.cached_property
    def beside(self) -> list[Export]:
        """What is made of the images beside the shards."""
        given = self.settings.given
        files: list[Export] = []
        if given.grid:
            files.append(GridExport.of(given.grid, self.record, given.grid_count or DEFAULT_GRID_COUNT))
        if given.npz:
            files.append(NpzExport.of(given.npz, self.record))
        return files

    def existing(self) -> Record | None:
        """See `Job`; interrupted images count as finished ones."""
        return existing_shards(self.output.path)

    def complete(self) -> bool:
        """Tell whether all workers' shards are there."""
        return complete_shards(self.output.path)

    @property
    def claim(self) -> Path | None:
        """See `Job`; a task of an array claims shard by shard."""
        return None if array_task() else super().claim

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Make this worker's missing shards; the worker that finds none missing adds the exports and the manifest."""
        rates = dict[str, float]()
        with Turns(self._folder / TASK) as turns:
            if batches := peeked(self._deal(turns)):
                from dprune.sampling.generation import generate

                for caution in cautions(self.model, self.settings, self.companions):
                    _log.warning("%s", caution)

                def begin(findings: Record) -> Journal | None:
                    return self._begin(findings, turns, monitor)

                rates = generate(self.model, self.vae, self.settings, begin, batches, monitor, self.companions)
            whole = self._finish(turns)
        if not whole:
            _log.info("other workers are still making shards of %s; the last of them completes it.", self._folder)
        due = due_pieces(self.settings.shards)
        there = due if whole else set(due).difference(self._missing(due))
        images = sum(map(self.settings.count_in, there))
        counts = {"images": images, "shards": len(there), "shards_made": len(turns.dealt), "complete": whole}
        return counts | {name: rates.get(name) for name in RATES}

    def work(self) -> Mapping[str, Any]:
        """See `Job`."""
        missing = self._missing(due_pieces(self.settings.shards))
        return {"images": sum(map(self.settings.count_in, missing)), "shards": len(missing)}

    def summary(self) -> dict[str, Any]:
        """See `Job`."""
        counts = {"images": len(self.settings.seeds), "shards": self.settings.shards}
        return counts | {"shards_made": 0, "complete": True} | dict.fromkeys(RATES)

    def _plan(self) -> dict[str, Any]:
        """Say what there is to be in the end, see `Journal.begin`."""
        exports = [
            {"option": file.option, "path": os.path.relpath(file.path, self._folder), "mark": file.mark}
            for file in self.beside
        ]
        return {"shards": self.settings.shards, "samples": len(self.settings.seeds), "exports": exports}

    @property
    def _folder(self) -> Path:
        return Path(self.output.path)

    def _deal(self, turns: Turns) -> Iterator[list[int]]:
        count = self.settings.shards
        return turns.deal(count, self._missing, lambda number: claim_of(self._folder, number, count))

    def _begin(self, findings: Record, turns: Turns, monitor: Monitor) -> Journal | None:
        """Open the journal, None where other tasks have made everything meanwhile, as may be without locks."""
        # Of an array's tasks whoever comes first clears the folder, which a rank waits for the first of them to do.
        with turns.first("begin", monitor):
            record = with_findings(self.record, findings)
            return None if self._is_finished() else Journal.begin(self._folder, record, monitor, self._plan())

    def _missing(self, numbers: Iterable[int]) -> list[int]:
        """Return those of some shards that are not finished."""
        journal = Journal(self._folder)
        # The record waits for the digests of both files.
        begun = bool(journal.manifest()) and journal.is_of(self.record)
        missing = [number for number in numbers if not begun or journal.shard(number) is None]
        # Looked at last: another worker that completes the folder removes the journal.
        return [] if self._is_finished() else missing

    def _is_finished(self) -> bool:
        found = read_manifest(self._folder).get("provenance")
        return found is not None and not difference(found, self.record) and complete_shards(self.output.path)

    def _finish(self, turns: Turns) -> bool:
        """Publish the exports and then the manifest if all shards are there, and tell whether they are."""
        journal = Journal(self._folder)
        # By whoever loaded the network; read first, since another worker may complete the folder at any time.
        findings = journal.manifest().get("provenance", {}).get(FINDINGS_KEY, {})
        shards = [shard for number in range(self.settings.shards) if (shard := journal.shard(number)) is not None]
        whole = len(shards) == self.settings.shards and journal.is_of(self.record)
        if not whole and not self._is_finished():
            return False
        with turns.alone("finish") as mine:
            if not mine:
                return False
            names = [shard.name for shard in shards] if whole else listed_shards(self._folder)
            for export in self.beside:
                if not export.is_made():
                    export.publish([self._folder / name for name in names], self.model.class_names)
            if whole:
                journal.finish(with_findings(self.record, findings), shards, self.model.class_names)
            return True


def open_sample(model: str, options: SampleOptions, output: Output) -> SampleJob:
    """Open what `dprune sample` was given.

    Args:
        model: file of the transformer, or of a baseline.
        options: what is asked of it, and what decodes its latents.

    Raises:
        InputError: a file is missing, damaged or of another kind.
        MismatchError: the networks do not fit each other.
        UsageError: an option cannot be read, contradicts another, or is not for such networks.
    """
    file = ModelFile.open(weights_in(Path(model), "transformer"))
    if file.network.get("kind") == BASELINE:
        return _open_baseline(file, options, output)
    return _open_diffusion(model, file, options, output)


def _open_baseline(file: ModelFile, options: SampleOptions, output: Output) -> SampleJob:
    """Open a model that makes images in one pass; see `open_sample`."""
    file.check_kind(BASELINE, "a VAE or a GAN", "train-baseline")
    file.digest_ahead()
    refuse_diffusion(options, file)
    settings = options.resolve(file.class_names, str(file.path))
    check_classes(settings, file.network, file.path)
    return SampleJob(file, None, settings, output)


def _open_diffusion(model: str, file: ModelFile, options: SampleOptions, output: Output) -> SampleJob:
    """Open a transformer and its autoencoder; see `open_sample`."""
    file.check_kind("dit", "a DiT", "train-dit")
    latents = parent(file.record, "latents")
    decoder = options.vae or _undecoded(model, latents)
    options, vae = replace(options, vae=decoder), open_vae(decoder)
    if not file.network and (scale := LatentScale.of(vae)) != LatentScale():
        said = vae.path.with_name("config.json")
        _log.info(
            "%s is taken to expect latents as %s says: minus %g, times %g.", model, said, scale.shift, scale.factor
        )
    # While torch is imported and the weights are loaded.
    for one in (vae, file):
        one.digest_ahead()
    settings = options.resolve(file.class_names, model)
    settings = replace(settings, parametrization=parametrization_of(file, options.parametrization))
    companions = tuple(
        Companion.open(role, path, options.parametrization)
        for role, path in ((COARSE, options.coarse), (GUIDE, options.guide))
        if path
    )
    job = SampleJob(file, vae, settings, output, companions)
    if file.network:
        check_fit(settings, file.network, decoded_network(vae, file.network["input_size"], latents), file.path)
    check_made(vae, latents, f"the latents that {model} was trained on")
    for companion in companions:
        companion.check_headers(file, vae)
    return job


def _undecoded(model: str, latents: Record) -> str:
    """Return what decodes nothing, where a transformer makes pixels.

    Raises:
        UsageError: it makes latents.
    """
    if made_by(latents) != PIXELS:
        raise UsageError(f"--vae is missing: {model} makes latents: give the autoencoder that its training set was "
                         "encoded with.")  # fmt: skip
    return PIXELS
