"""What the device does for a scoring: loading a model, and measuring pieces with it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from dprune.errors import InputError
from dprune.models.dit_files import LoadedDiT, load_dit
from dprune.models.files import ModelFile, fits
from dprune.precision import float32
from dprune.runtime import Monitor, explained, take_device
from dprune.scoring.latents import ScoredLatents
from dprune.scoring.passes import Measuring
from dprune.scoring.population import Samples
from dprune.scoring.progress import Piece, Progress
from dprune.scoring.scorer import Scorer
from dprune.scoring.settings import Settings

if TYPE_CHECKING:
    from dprune.scoring.el2n_grand import ScoreJob

_log = logging.getLogger("dprune")


def load_model(file: ModelFile, samples: Samples, weights: str | None, device: torch.device) -> LoadedDiT:
    """Load a network and hold it to the samples.

    Args:
        file: of the network.
        samples: what it is to score.
        weights: `raw` for the raw ones of a checkpoint, else the averaged ones.
        device: where it goes.

    Raises:
        InputError: the file is damaged, or no such network.
        MismatchError: it is not one for the samples.
    """
    loaded = load_dit(file.path, device)
    if weights == "raw":
        state = file.state("raw.")
        if unlike := fits(loaded.model, state):
            raise InputError(f"{file.path}: its raw weights do not fit its averaged ones ({unlike}): make it again.")
        loaded.model.load_state_dict(state)
    config = loaded.model.config
    samples.check_network(str(file.path), {**config.as_json(), "label_count": loaded.label_count})
    if loaded.conditional and not samples.has_labels():
        _log.warning(
            "%s has no labels, and %s knows some: it is told of none.", samples.latents.store.folder, file.path
        )
    return loaded


@contextlib.contextmanager
def computing(name: str, settings: Settings, batch_size: int) -> Iterator[torch.device]:
    """Choose this worker's device and the arithmetic, and explain what can go wrong on it.

    Args:
        name: of the device, as it was given.
        settings: with the precision.
        batch_size: that memory may be too small for.

    Raises:
        UsageError: the device is impossible.
        DpruneError: it is out of memory.
    """
    device = take_device(name)
    with explained(device, f"a --batch-size below {batch_size}"), float32(tf32=settings.precision == "tfloat32"):
        yield device


def measure(job: ScoreJob, progress: Progress, pieces: Sequence[Piece], monitor: Monitor) -> None:
    """Measure pieces of a job.

    Raises:
        InputError: the model or the store is not sound, or they give numbers that are not finite.
        MismatchError: the model is not one for the store.
        UsageError: the device is impossible.
        Interrupted: a signal or a deadline came; what was measured stays.
        DpruneError: out of memory.
    """
    with computing(job.device, job.settings, job.batch_size) as device:
        loaded = load_model(job.model, job.samples, job.weights, device)
        scorer = Scorer(loaded.model, job.settings, gradients=job.gradients, compiles=job.compiles)
        data = ScoredLatents(job.samples.latents, job.samples.ids, loaded.mean, loaded.std)
        title = f"{job.model.path} in {job.settings.precision}"
        Measuring(scorer, data, progress, job.batch_size, title).fill(pieces, monitor)
