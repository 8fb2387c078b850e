"""The losses of an autoencoder and of its discriminator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dprune import noise
from dprune.models.discriminator import PatchGAN, discriminator_loss, generator_loss
from dprune.models.vae import VAE
from dprune.training.images import to_unit
from dprune.training.vae.settings import VAESettings

Terms = dict[str, Tensor]


@dataclass
class ImageBatch:
    """A micro-batch, and what its passes leave for each other and for the end of the step.

    Attributes:
        ids: of the samples, int64 [n].
        visits: how often each was visited before, int64 [n].
        pixels: uint8 [n, 3, H, W].
        judged: whether the discriminator takes part, where there is one.
        tokens: what was quantised, float32 [n * h * w, c].
        codes: the codes that it became, int64 [n, h * w].
        made: reconstructions, float32 [n, 3, H, W]; only where a discriminator wants them.
        pulls: gradients of the reconstruction's and of the adversarial loss at the decoder's last layer, [2, ...].
    """

    ids: Tensor
    visits: Tensor
    pixels: Tensor
    judged: bool = False
    tokens: Tensor | None = None
    codes: Tensor | None = None
    made: Tensor | None = None
    pulls: Tensor | None = None


class AutoencoderObjective(nn.Module):
    """The loss of encoder, decoder and codebook.

    Each term is a mean over the elements of a sample: of its pixels, its latents or its patches.

    Args:
        vae: the autoencoder.
        settings: the weights of the terms.
        seed: of the noise in Gaussian latents.
        distance: perceptual distance, None for none.
        discriminator: None for no adversarial loss.
    """

    def __init__(self, vae: VAE, settings: VAESettings, seed: int, distance: nn.Module | None,
                 discriminator: PatchGAN | None) -> None:  # fmt: skip
        super().__init__()
        self.vae, self.distance = vae, distance
        self._settings, self._seed = settings, seed
        # In a tuple, since the discriminator's parameters are not this objective's to train.
        self._discriminator = (discriminator,)

    def forward(self, micro: ImageBatch) -> tuple[Tensor, Terms]:
        """Return the sum of the samples' losses, and of their terms for the log.

        With a discriminator the first has the gradient of the sum, but another value.
        """
        images = to_unit(micro.pixels)
        latents, terms, penalty = self._latents(images, micro)
        made = self.vae.decode(latents).float()
        discriminator = self._discriminator[0]
        if discriminator is None or not micro.judged:
            similarity = self._dissimilarity(made, images, terms)
            loss = similarity + penalty
            return loss.sum(), _sums({"loss": loss, **terms})
        surrogate, value = self._with_discriminator(discriminator, made, images, terms, micro)
        return surrogate + penalty.sum(), _sums({"loss": value + penalty, **terms})

    def _latents(self, images: Tensor, micro: ImageBatch) -> tuple[Tensor, Terms, Tensor]:
        """Return what is decoded, the terms that speak of it, and what they add to the loss, [n]."""
        settings = self._settings
        if self.vae.config.kind == "vq":
            found = self.vae.quantizer(self.vae.encode(images))
            micro.tokens, micro.codes = found.tokens, found.codes
            penalty = found.codebook + settings.commitment * found.commitment
            return found.latents, {"commitment": found.commitment}, penalty
        mean, logvar = self.vae.moments(images)
        drawn = noise.normal(self._seed, "posterior", micro.ids, micro.visits, mean.shape[1:])
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
        # Per pixel as the reconstruction's loss, so that the weight means what it means in latent diffusion.
        penalty = settings.kl_weight * divergence / images[0].numel()
        return mean + drawn * (0.5 * logvar).exp(), {"kl": divergence}, penalty

    def _dissimilarity(self, made: Tensor, images: Tensor, terms: Terms) -> Tensor:
        """Return how unlike the images their reconstructions are, [n]."""
        error = made - images
        error = error.square() if self._settings.loss == "mse" else error.abs()
        total = terms["reconstruction"] = error.flatten(1).mean(1)
        if self.distance is not None:
            terms["perceptual"] = self.distance(made, images)
            total = total + self._settings.perceptual_weight * terms["perceptual"]
        return total

    def _with_discriminator(self, discriminator: PatchGAN, made: Tensor, images: Tensor, terms: Terms, micro: ImageBatch
                     ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return a scalar whose gradient is that of both losses, and their values, [n].

        Each loss is differentiated with respect to the image once; from there the decoder's last layer gives what
        balances the two, and the rest of the network is passed once for both.
        """
        image = made.detach().requires_grad_()
        similarity = self._dissimilarity(image, images, terms)
        adversarial = generator_loss(_judged(discriminator, image))
        terms["adversarial"] = adversarial
        pulls = [torch.autograd.grad(loss.sum(), image)[0] for loss in (similarity, adversarial)]
        weight = self.vae.last_weight
        micro.pulls = torch.stack(
            [torch.autograd.grad(made, weight, pull, retain_graph=True)[0].float() for pull in pulls]
        )
        micro.made = image.detach()
        scale = self._settings.gan_weight * discriminator.scale
        surrogate = (made * (pulls[0] + scale * pulls[1])).sum()
        return surrogate, (similarity + scale * adversarial).detach()


def _judged(discriminator: PatchGAN, images: Tensor) -> Tensor:
    """Return the discriminator's logits without giving its parameters gradients."""
    fixed = {name: value.detach() for name, value in discriminator.state_dict(keep_vars=True).items()}
    logits: Tensor = functional_call(discriminator, fixed, (images,))
    return logits.float()


class DiscriminatorObjective(nn.Module):
    """The loss of the discriminator, which sees images and what the autoencoder has just made of them."""

    def __init__(self, discriminator: PatchGAN) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, micro: ImageBatch) -> tuple[Tensor, Terms]:
        """Return the sum of the samples' losses, twice: to differentiate and for the log."""
        assert micro.made is not None
        real, made = self.discriminator(torch.cat((to_unit(micro.pixels), micro.made))).float().chunk(2)
        loss = discriminator_loss(real, made)
        return loss.sum(), _sums({"discriminator": loss})


def _sums(terms: Terms) -> Terms:
    return {name: value.detach().sum() for name, value in terms.items()}
