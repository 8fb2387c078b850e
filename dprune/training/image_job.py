"""What trainings on images have in common: their samples, and how these are opened."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import digest_array
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, digest, make_record
from dprune.formats.publish import Output
from dprune.formats.shards import Dataset, open_dataset
from dprune.formats.subsets import read_subset
from dprune.runtime import Monitor, Silent, ranks
from dprune.seeds import purpose_key
from dprune.training.job import TrainingJob
from dprune.training.plan import Plan

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dprune.training.images import TrainingImages


class ImageSamples(NamedTuple):
    """What is trained on.

    Attributes:
        dataset: the shards.
        ids: of the samples that are trained on, sorted, int64 [n], at least one.
        subset: the subset's description as an input, None for all samples.
    """

    dataset: Dataset
    ids: npt.NDArray[np.int64]
    subset: Record | None

    @property
    def fingerprint(self) -> str:
        """What a training that goes on must find again."""
        return digest([self.dataset.fingerprint, digest_array(self.ids)])


def open_image_samples(shards: Sequence[str], subset: str | None, members: MemberChoice | None) -> ImageSamples:
    """Open the shards and the subset of them that is trained on.

    Raises:
        InputError: one is missing or damaged, or no sample is left.
        MismatchError: the subset was chosen from other shards.
    """
    dataset = open_dataset(shards, members)
    ids, chosen = read_subset(subset, dataset) if subset else (np.arange(len(dataset), dtype=np.int64), None)
    if not len(ids):
        raise InputError(f"{subset or dataset.title}: holds no sample to train on: give more.")
    return ImageSamples(dataset, ids, chosen)


@dataclass(frozen=True)
class ImageTrainingJob(TrainingJob):
    """Networks, trained on a dataset of images or a subset of it.

    Attributes:
        samples: that are trained on.
        workers: processes that decode, None for one a core.
        strict: whether an image that cannot be decoded ends the work.
    """

    samples: ImageSamples
    plan: Plan
    device: str
    workers: int | None
    strict: bool
    output: Output

    def smaller(self, free: int) -> str:
        """See `TrainingJob`."""
        return "--preset tiny, or a smaller --width or --image-size"

    def record_of(self, command: str, options: dict[str, Any]) -> Record:
        """Return the provenance of what `command` trains on the samples."""
        dataset, _, subset = self.samples
        return make_record(
            command,
            options | self.plan.options() | dataset.choice.options(),
            seed=self.plan.seed,
            fingerprint=dataset.fingerprint,
            parents=dataset.parents() | ({} if subset is None else {"subset": subset}),
            tags=self.output.tags,
        )

    def images(
        self, dataset: Dataset, ids: npt.NDArray[np.int64], side: int, device: torch.device, monitor: Monitor
    ) -> TrainingImages:
        """Open images of `side` pixels."""
        from dprune.training.images import TrainingImages

        # Ranks agree on the step after which they end; one that left in a wait would cost all of them their steps.
        monitor = Silent() if ranks().group else monitor
        return TrainingImages(dataset, ids, side, device, self.workers, strict=self.strict, monitor=monitor)

    @contextlib.contextmanager
    def initial_weights(self) -> Iterator[None]:
        """Draw the weights of the networks that are made meanwhile, by the seed."""
        import torch

        # On the CPU, so that they do not depend on the device.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(purpose_key(self.plan.seed, "initial weights"))
            yield


def place(network: nn.Module, device: torch.device) -> None:
    """Bring a network of convolutions to the device, in the layout that is fast there."""
    import torch

    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    network.to(device, memory_format=layout)  # type: ignore[call-overload]
