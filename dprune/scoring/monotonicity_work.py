"""What the device does for loss monotonicity: losses by one checkpoint after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dprune.runtime import Monitor, check_stop
from dprune.scoring.device import computing
from dprune.scoring.networks import Networks
from dprune.scoring.passes import Measuring
from dprune.scoring.progress import Piece, Progress
from dprune.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    from dprune.scoring.monotonicity_job import MonotonicityJob


def measure(
    job: MonotonicityJob, work: Sequence[tuple[Checkpoint, Progress, Sequence[Piece]]], monitor: Monitor
) -> None:
    """Measure pieces by checkpoints.

    Raises:
        InputError: a checkpoint or the store is not sound, or they give numbers that are not finite.
        MismatchError: a network is not one for the store.
        UsageError: the device is impossible.
        Interrupted: a signal or a deadline came; what was measured stays.
        DpruneError: out of memory.
    """
    with computing(job.device, job.settings, job.batch_size) as device:
        networks = Networks(job.samples, job.weights, job.settings, device, gradients=False, compiles=job.compiles)
        for checkpoint, progress, pieces in work:
            check_stop(monitor)
            scorer = networks.at(checkpoint)
            title = f"{checkpoint.file.path} in {job.settings.precision}"
            data = networks.latents(job.samples.ids)
            Measuring(scorer, data, progress, job.batch_size, title).fill(pieces, monitor, f"step {checkpoint.step}")
