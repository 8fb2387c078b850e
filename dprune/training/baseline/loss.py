"""The losses of the baselines: the evidence lower bound of a VAE, and the hinge losses of a GAN."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dprune import noise
from dprune.models.discriminator import discriminator_loss, generator_loss
from dprune.models.generator import ImageGenerator
from dprune.models.prior_vae import PriorVAE
from dprune.models.projection_discriminator import ProjectionDiscriminator
from dprune.training.baseline.augmentation import Augmentation

Terms = dict[str, Tensor]


class LabelledImages(NamedTuple):
    """A micro-batch.

    Attributes:
        ids: of the samples, int64 [n].
        visits: how often each was visited before, int64 [n].
        labels: int64 [n], -1 for none.
        images: in [-1, 1], float32 [n, 3, H, W].
    """

    ids: Tensor
    visits: Tensor
    labels: Tensor
    images: Tensor


class BoundObjective(nn.Module):
    """The negative evidence lower bound of a VAE, in nats a number of the image.

    Args:
        vae: the model.
        kl_weight: weight of the divergence from the prior; 1 is the bound.
        seed: of the noise in the latents.
    """

    def __init__(self, vae: PriorVAE, kl_weight: float, seed: int) -> None:
        super().__init__()
        self.vae, self._kl_weight, self._seed = vae, kl_weight, seed

    def forward(self, micro: LabelledImages) -> tuple[Tensor, Terms]:
        """Return the sum of the samples' losses, and of their terms for the log.

        Of these `error` is the mean square of what reconstructions are off by, and `kl` in nats an image.
        """
        mean, logvar = self.vae.encoder(micro.images, micro.labels)
        drawn = noise.normal(self._seed, "posterior", micro.ids, micro.visits, mean.shape[1:])
        made = self.vae.generator(mean + drawn * (0.5 * logvar).exp(), micro.labels)
        error = (made - micro.images).square().flatten(1).mean(1)
        log_deviation = self.vae.log_deviation
        likelihood = 0.5 * (error * (-2 * log_deviation).exp() + math.log(2 * math.pi)) + log_deviation
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)
        loss = likelihood + self._kl_weight * divergence / micro.images[0].numel()
        return loss.sum(), _sums({"loss": loss, "error": error, "kl": divergence})


class GeneratorObjective(nn.Module):
    """The loss of a generator: how unreal the discriminator finds its images.

    Args:
        generator: the model.
        discriminator: judges; its parameters are not this objective's to train.
        augmentation: of what it judges.
        seed: of the noise.
    """

    def __init__(self, generator: ImageGenerator, discriminator: ProjectionDiscriminator, augmentation: Augmentation,
                 seed: int) -> None:  # fmt: skip
        super().__init__()
        self.generator, self._seed = generator, seed
        self._judge = discriminator, augmentation

    def forward(self, micro: LabelledImages) -> tuple[Tensor, Terms]:
        """Return the sum of the samples' losses, twice: to differentiate and for the log."""
        discriminator, augmentation = self._judge
        made = _made(self.generator, micro, self._seed, "noise of the generator")
        seen = augmentation(made, "generator", micro.ids, micro.visits)
        fixed = {name: value.detach() for name, value in discriminator.state_dict(keep_vars=True).items()}
        loss = generator_loss(functional_call(discriminator, fixed, (seen, micro.labels)))
        return loss.sum(), _sums({"loss": loss})


class JudgingObjective(nn.Module):
    """The loss of a discriminator, which sees images and as many that are generated for it.

    Args:
        discriminator: the model.
        generator: makes images; its parameters are not this objective's to train.
        augmentation: of what is judged.
        seed: of the noise.
    """

    def __init__(self, discriminator: ProjectionDiscriminator, generator: ImageGenerator, augmentation: Augmentation,
                 seed: int) -> None:  # fmt: skip
        super().__init__()
        self.discriminator, self._seed = discriminator, seed
        self._other = generator, augmentation

    def forward(self, micro: LabelledImages) -> tuple[Tensor, Terms]:
        """Return the sum of the samples' losses, and of their terms for the log.

        Of these `told_apart` is the share of both kinds of images that are taken for what they are.
        """
        generator, augmentation = self._other
        with torch.no_grad():
            made = _made(generator, micro, self._seed, "noise for the discriminator")
        seen = torch.cat((augmentation(micro.images, "images", micro.ids, micro.visits),
                          augmentation(made, "discriminator", micro.ids, micro.visits)))  # fmt: skip
        real, false = self.discriminator(seen, micro.labels.repeat(2)).chunk(2)
        loss = discriminator_loss(real, false)
        right = 0.5 * ((real > 0).float() + (false < 0).float()).squeeze(1)
        return loss.sum(), _sums({"discriminator": loss, "told_apart": right})


def _made(generator: ImageGenerator, micro: LabelledImages, seed: int, purpose: str) -> Tensor:
    """Generate an image for each label, from noise that belongs to the visit."""
    drawn = noise.normal(seed, purpose, micro.ids, micro.visits, (generator.config.latent_size,))
    images: Tensor = generator(drawn, micro.labels)
    return images


def _sums(terms: Terms) -> Terms:
    return {name: value.detach().sum() for name, value in terms.items()}
