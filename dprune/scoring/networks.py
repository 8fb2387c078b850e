"""Checkpoint after checkpoint on the device, by one scorer whose blocks are compiled once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.models.dit_files import LoadedDiT
from dprune.models.files import fits
from dprune.scoring.device import load_model
from dprune.scoring.latents import ScoredLatents
from dprune.scoring.population import Samples
from dprune.scoring.scorer import Scorer
from dprune.scoring.settings import Settings
from dprune.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    import torch


class Networks:
    """Scorers of checkpoints of one architecture, trained on one latent store.

    Args:
        samples: what they score.
        weights: `raw` or `ema`.
        settings: noise levels, draws, precision.
        device: where the networks go.
        gradients: whether gradients are measured.
        compiles: whether to compile the blocks.
    """

    def __init__(self, samples: Samples, weights: str, settings: Settings, device: torch.device, *,
                 gradients: bool, compiles: bool) -> None:  # fmt: skip
        self._samples, self._weights, self._settings, self._device = samples, weights, settings, device
        self._gradients, self._compiles = gradients, compiles
        self._first: LoadedDiT | None = None
        self._scorer: Scorer | None = None

    def at(self, checkpoint: Checkpoint) -> Scorer:
        """Return the scorer with a checkpoint's weights; it is the same object each time.

        Raises:
            InputError: the file is damaged.
            MismatchError: the network is not one for the samples.
        """
        if self._scorer is None:
            self._first = load_model(checkpoint.file, self._samples, self._weights, self._device)
            self._scorer = Scorer(self._first.model, self._settings, gradients=self._gradients,
                                  compiles=self._compiles)  # fmt: skip
            return self._scorer
        file = checkpoint.file
        state = file.state("raw.") if self._weights == "raw" else file.weights()
        if unlike := fits(self._scorer.network, state):
            raise InputError(f"{file.path}: does not fit the checkpoints before it ({unlike}): copy the run again.")
        self._scorer.load(state)
        return self._scorer

    def latents(self, ids: npt.NDArray[np.int64]) -> ScoredLatents:
        """Return the latents of samples, normalised as the networks were trained on them."""
        assert self._first is not None
        return ScoredLatents(self._samples.latents, ids, self._first.mean, self._first.std)
