"""What the device does for a scoring: one network after the other, loaded, held to the samples and measured with."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dprune.errors import InputError
from dprune.formats.latents import Latents
from dprune.models.dit_files import LoadedDiT, load_dit
from dprune.models.files import ModelFile, fits
from dprune.models.latents import Normalisation
from dprune.models.vae_files import LatentScale
from dprune.precision import float32
from dprune.runtime import Monitor, check_stop, explained, take_device
from dprune.scoring.passes import Announce, Measuring, ScoredLatents
from dprune.scoring.population import Samples
from dprune.scoring.progress import Progress, Share
from dprune.scoring.scorer import Scorer
from dprune.scoring.settings import ScoreSettings

_log = logging.getLogger("dprune")


def measure_shares(
    samples: Samples, settings: ScoreSettings, shares: Iterable[Share], monitor: Monitor, announce: Announce, *,
    gradients: bool,
) -> None:  # fmt: skip
    """Measure samples by networks of one architecture.

    Args:
        samples: what is scored.
        settings: noise levels, draws, precision, device.
        shares: what is measured, one by one; a network is loaded anew where it is not that of the share before.
        monitor: asked to stop.
        announce: see `Measuring`.
        gradients: whether squared norms of gradients are measured, too.

    Raises:
        InputError: a network or the store is not sound, or they give numbers that are not finite.
        MismatchError: a network is not one for the store.
        UsageError: the device is impossible.
        Interrupted: a signal or a deadline came; what was measured stays.
        DpruneError: out of memory.
    """
    with on_device(samples, settings, announce, gradients=gradients) as networks:
        progress = measuring = None
        for share in shares:
            check_stop(monitor)
            if measuring is None or share.progress != progress:
                progress, measuring = share.progress, networks.measuring(share.file, samples.ids, share.progress)
            measuring.fill(share.portions, monitor, share.label)


@contextlib.contextmanager
def on_device(
    samples: Samples, settings: ScoreSettings, announce: Announce, *, gradients: bool
) -> Iterator[ScoredNetworks]:
    """Choose this worker's device and the arithmetic, and explain what can go wrong on it.

    Raises:
        UsageError: the device is impossible.
        DpruneError: it is out of memory.
    """
    device, remedy = take_device(settings.device), f"a --batch-size below {settings.batch_size}"
    with explained(device, remedy), float32(tf32=settings.precision == "tfloat32"):
        yield ScoredNetworks(samples, settings, device, announce, gradients=gradients)


class ScoredNetworks:
    """Networks of one architecture as one scorer, whose blocks are compiled once.

    Args:
        samples: what they score.
        settings: noise levels, draws, precision, and which weights of a checkpoint.
        device: where the networks go.
        announce: see `Measuring`.
        gradients: whether gradients are measured.
    """

    def __init__(
        self, samples: Samples, settings: ScoreSettings, device: torch.device, announce: Announce, *, gradients: bool
    ) -> None:
        self._announce = functools.cache(announce)
        self._samples, self._settings, self._device, self._gradients = samples, settings, device, gradients
        self._first: LoadedDiT | None = None
        self._scorer: Scorer | None = None

    def measuring(self, file: ModelFile, ids: npt.NDArray[np.int64], progress: Progress) -> Measuring:
        """Take a file's weights, and return what measures samples by them; before the next file it must be done.

        Args:
            file: of the network.
            ids: of the samples, sorted, int64 [n].
            progress: that is filled.

        Raises:
            InputError: the file is damaged, or no such network.
            MismatchError: the network is not one for the samples.
        """
        if self._first is None or self._scorer is None:
            self._first = self._load(file)
            progress.note(self._first.findings)
            self._scorer = Scorer(self._first.model, self._settings, gradients=self._gradients)
        else:
            state = file.state("raw.") if self._settings.weights == "raw" else file.weights()
            if unlike := fits(self._scorer.network.state_dict(), state):
                raise InputError(f"{file.path}: does not fit the checkpoints before it ({unlike}): copy the run again.")
            self._scorer.network.load_state_dict(state)
        return self._measuring(file, self._samples.latents, ids, progress, 0)

    def beside(self, file: ModelFile, others: Samples, first: int, progress: Progress) -> Measuring:
        """Return what looks at other samples by the network that `measuring` took last.

        Args:
            file: of that network.
            others: of the same autoencoder.
            first: see `ScoredLatents`.
            progress: of as many samples.

        Raises:
            MismatchError: the network is not one for them.
        """
        assert self._first is not None
        others.check_network(str(file.path), _network(self._first))
        return self._measuring(file, others.latents, others.ids, progress, first)

    def _measuring(
        self, file: ModelFile, latents: Latents, ids: npt.NDArray[np.int64], progress: Progress, first: int
    ) -> Measuring:
        assert self._first is not None
        assert self._scorer is not None
        # As the networks were trained on them.
        normalised = Normalisation(latents, self._first.mean, self._first.std)
        data = ScoredLatents(latents, ids, normalised, self._device, first)
        title = f"{file.path} in {self._settings.precision}"
        return Measuring(self._scorer, data, progress, self._settings.batch_size, title, self._announce)

    def _load(self, file: ModelFile) -> LoadedDiT:
        """Load a network and hold it to the samples."""
        loaded, samples = load_dit(file.path, self._device, self._settings.parametrization), self._samples
        if not file.network:
            loaded = loaded.scaled(*LatentScale.recorded(samples.latents.record))
        if self._settings.weights == "raw":
            state = file.state("raw.")
            if unlike := fits(loaded.model.state_dict(), state):
                raise InputError(
                    f"{file.path}: its raw weights do not fit its averaged ones ({unlike}): make it again."
                )
            loaded.model.load_state_dict(state)
        samples.check_network(str(file.path), _network(loaded))
        if loaded.conditional and (samples.latents.labels()[samples.ids] < 0).all():
            _log.warning(
                "%s has no labels, and %s was trained with labels: it is scored without any.",
                samples.latents.store.folder,
                file.path,
            )
        if strange := int(np.isin(samples.latents.labels()[samples.ids], loaded.trained.empty).sum()):
            _log.warning("%s of the samples have labels that no training sample of %s has, so their scores mean "
                         "little.", f"{strange:,}", file.path)  # fmt: skip
        return loaded


def _network(loaded: LoadedDiT) -> dict[str, Any]:
    return {**loaded.model.config.as_json(), "label_count": loaded.trained.count}
