"""What the loop trains when it trains an autoencoder."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dprune import noise
from dprune.collectives import all_sum, is_root
from dprune.models.discriminator import PatchGAN, adaptive_scale
from dprune.models.latents import sent
from dprune.models.quantizer import code_use
from dprune.models.vae import VAE
from dprune.runtime import ranks
from dprune.training.images import TrainingImages, to_unit
from dprune.training.order import Visits
from dprune.training.plan import Plan
from dprune.training.task import Task
from dprune.training.vae.evaluation import Reconstruction
from dprune.training.vae.loss import AutoencoderObjective, DiscriminatorObjective, ImageBatch
from dprune.training.vae.settings import VAESettings

REVIVE_EVERY = 100
CODES = "quantizer.embedding"
DISCRIMINATOR = "discriminator"
"""What states of runs call its tensors."""


class VAETask(Task):
    """An autoencoder on the images of a dataset.

    Args:
        vae: on the device.
        discriminator: on the device, None for none.
        distance: perceptual distance on the device, None for none.
        settings: of the losses.
        plan: of the training.
        images: what is trained on.
        evaluation: what is measured at intervals.
        fingerprint: digest of the dataset and of the ids that are trained on.
    """

    def __init__(self, vae: VAE, discriminator: PatchGAN | None, distance: nn.Module | None, settings: VAESettings,
                 plan: Plan, images: TrainingImages, evaluation: Reconstruction, fingerprint: str) -> None:  # fmt: skip
        self._vae, self._discriminator, self._settings, self._plan = vae, discriminator, settings, plan
        self._images, self._evaluation = images, evaluation
        self.samples, self.fingerprint = len(images), fingerprint
        self.repeats = _repeats(settings)
        self.network_header = {"kind": "vae", **vae.config.as_json()}
        self._ids = torch.from_numpy(images.ids).to(images.device)
        self._micro: list[ImageBatch] = []
        objective = AutoencoderObjective(vae, settings, plan.seed, distance, discriminator)
        self.networks = {"vae": vae} | ({DISCRIMINATOR: discriminator} if discriminator else {})
        self.objectives = {"vae": objective} | (
            {DISCRIMINATOR: DiscriminatorObjective(discriminator)} if discriminator else {}
        )

    def active(self, name: str, step: int) -> bool:
        """The discriminator begins late."""
        return name == "vae" or step >= self._settings.gan_start

    def batches(self, steps: Iterator[tuple[int, list[Visits]]]) -> Generator[list[ImageBatch]]:
        """Gather each step's micro-batches, with images mirrored at random."""
        steps, ahead = itertools.tee(steps)
        wanted = ([part.positions for part in parts] for _, parts in ahead)
        with contextlib.closing(self._images.batches(wanted)) as found:
            for (step, parts), pixels in zip(steps, found, strict=True):
                judged = self.active(DISCRIMINATOR, step)
                self._micro = [self._batch(part, seen, judged) for part, seen in zip(parts, pixels, strict=True)]
                yield self._micro

    def _batch(self, visits: Visits, pixels: Tensor, judged: bool) -> ImageBatch:
        positions, before = sent(torch.from_numpy(np.stack(visits)), self._ids.device)
        ids = self._ids[positions]
        if self._settings.flip:
            mirrored = noise.uniform(self._plan.seed, "flips", ids, before) < 0.5
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        return ImageBatch(ids, before, pixels, judged)

    def trial(self, size: int) -> ImageBatch:
        """Return grey images, for which all terms of the loss are computed, whatever the step."""
        side, device = self._vae.config.image_size, self._images.device
        pixels = torch.full((size, 3, side, side), 127, dtype=torch.uint8, device=device)
        ids = torch.arange(size, device=device)
        return ImageBatch(ids, torch.zeros_like(ids), pixels, judged=True, made=to_unit(pixels))

    def after_step(
        self, step: int, optimizers: Mapping[str, Optimizer], averages: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Count codes, revive dead ones, and balance the discriminator against the reconstruction for the next step."""
        tallies: dict[str, Tensor] = {}
        with torch.no_grad():
            if self._vae.config.kind == "vq":
                codes = torch.cat([micro.codes for micro in self._micro if micro.codes is not None])
                counts = self._vae.quantizer.counts(codes)
                tallies = {"codes": counts.clone(), "revived": torch.zeros_like(counts)}
                if step % REVIVE_EVERY == 0:
                    dead = self._revive(step, optimizers["vae"], averages[CODES])
                    # All ranks revive the same codes, which count once.
                    tallies["revived"] += dead * is_root()
                self._vae.quantizer.observe(all_sum(counts))
            pulls = [micro.pulls for micro in self._micro if micro.pulls is not None]
            if self._discriminator is not None and pulls:
                # Of the whole batch, which micro-batches and ranks see only parts of; so it acts a step later.
                self._discriminator.scale.copy_(adaptive_scale(*all_sum(torch.stack(pulls).sum(0))))
        return tallies

    def _revive(self, step: int, optimizer: Optimizer, average: Tensor) -> Tensor:
        """Replace dead codes by what was quantised last, forget what was known of them, and say which they are."""
        quantizer = self._vae.quantizer
        candidates = all_sum(self._candidates(step, quantizer.embedding))
        dead = quantizer.revive(candidates)
        average.copy_(torch.where(dead[:, None], candidates, average))
        moments = optimizer.state[quantizer.embedding]
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name].masked_fill_(dead[:, None], 0.0)
        return dead

    def _candidates(self, step: int, codes: Tensor) -> Tensor:
        """Draw a token of the global batch for each code; zero where another rank has it, float32 [K, c]."""
        tokens = torch.cat([micro.tokens for micro in self._micro if micro.tokens is not None])
        here, batch = ranks(), self._plan.batch_size
        size, longer = divmod(batch, here.world)
        image_tokens = self._vae.config.latent_size**2
        first = (here.rank * size + min(here.rank, longer)) * image_tokens
        numbers = torch.arange(len(codes), device=codes.device)
        drawn = noise.bits(self._plan.seed, "revived codes", numbers, step, 1)[:, 0] % (batch * image_tokens) - first
        mine = (drawn >= 0) & (drawn < len(tokens))
        return tokens[drawn.clamp(0, len(tokens) - 1)] * mine[:, None]

    def statistics(self, tallies: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the share of codes that occurred, how many were revived, and the weight of the adversarial term."""
        found = {}
        if tallies:
            used, perplexity = code_use(tallies["codes"])
            found = {"codes_used": used.item(), "perplexity": perplexity.item(),
                     "codes_revived": int(tallies["revived"].sum())}  # fmt: skip
        if self._discriminator is not None:
            found["gan_scale"] = self._discriminator.scale.item()
        return found

    def evaluate(self, step: int, folder: Path) -> dict[str, float]:
        """Measure reconstructions of held-out samples, or of a few that are trained on, and draw some."""
        self._evaluation.draw(self._vae, folder / f"step-{step:08d}.png")
        return self._evaluation.measure(self._vae)


def _repeats(settings: VAESettings) -> str:
    if settings.config.kind == "kl":
        return "each time with another noise"
    return "each time mirrored at random" if settings.flip else "each time alike"
