"""`dprune train-baseline`: a VAE or a GAN that makes images in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.formats.members import MemberChoice
    from dprune.training.baseline.settings import BaselineOptions
    from dprune.training.plan import TrainingOptions

AUGMENTATIONS = ("colour", "translation", "cutout")


class Augmentations(click.ParamType[tuple[str, ...]]):
    """Words such as colour,translation, in the order in which they are applied."""

    name = "words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse `value`."""
        words = value if isinstance(value, tuple) else tuple(filter(None, str(value).split(",")))
        if unknown := set(words) - set(AUGMENTATIONS):
            self.fail(f"{min(unknown)!r} is none of {', '.join(AUGMENTATIONS)}.", param, ctx)
        return tuple(word for word in AUGMENTATIONS if word in words)


@click.command(cls=GroupedCommand)
@options.apply(
    click.argument("model", type=click.Choice(["vae", "gan"]), metavar="vae|gan", help="What is trained."),
    options.shards,
    options.gathers(
        "baseline", "dprune.training.baseline.settings:BaselineOptions",
        options.option("--subset", group="Data", common=True, metavar="FILE",
                       help="Train on these samples only: ids, keys or a mask."),
        options.choice("--preset", ["base", "tiny"], group="Model", common=True, default="base",
                       text="Settings for a GPU (base) or a CPU (tiny). Other options override it."),
        options.count("--image-size", "Side of the images: 8, 16, 32, 64, 128 or 256.  [default: that of the first "
                                      "image]", group="Model", common=True, most=options.MOST_PIXELS),
        options.count("--width", "Channels at full resolution.  [default: base 64, tiny 32]", group="Model"),
        options.count("--latent-size", "Random numbers that an image is made of.  [default: base 128, tiny 64]",
                      group="Model"),
        options.option("--unconditional", group="Model", common=True, is_flag=True, help="Train without labels."),
        options.option("--kl-weight", group="Loss", type=options.Number(min=0), metavar="X",
                       help="VAE: weight of the divergence from the prior.  [default: 1]"),
        options.option("--discriminator-rate", group="Loss", type=options.Number(0, min_open=True), metavar="X",
                       help="GAN: multiple of the learning rate for the discriminator.  [default: 4]"),
        options.option("--augment", group="Loss", common=True, type=Augmentations(), metavar="WORDS", default=(),
                       help="GAN: differentiable augmentation, such as colour,translation,cutout.  [default: none]"),
        options.option("--flip", group="Data", is_flag=True, help="Mirror training images at random."),
        options.strict,
        options.workers,
    ),
    options.members,
    options.trains(
        steps="base 30000, tiny 1000", batch_size="base 128, tiny 32", lr="vae 1e-3; gan base 1e-4, tiny 2e-4",
        ema="0.999",
    ),
    options.delivers("Run folder. Its model.safetensors appears when training is complete.", can_stop=True,
                     shares_work=True, folder=True),
)  # fmt: skip
def command(
    *,
    delivery: Delivery,
    model: str,
    shards: tuple[str, ...],
    members: MemberChoice,
    baseline: BaselineOptions,
    training: TrainingOptions,
) -> None:
    """Train a VAE or a GAN on images, to hold a DiT to.

    Both make an image in one pass, of its class where the shards have labels, and dprune sample draws from them without
    an autoencoder. So a study can tell whether pruned data harm them as they harm a diffusion model.

    The run folder gets a log, pictures, checkpoints and at last model.safetensors. A run that was stopped goes on when
    the same command is run again, and a finished one with a larger --steps.

    The VAE has one vector of Gaussian latents for an image, and learns by how much pixels deviate. The GAN has a hinge
    loss, spectral normalisation and a discriminator that projects on classes. On small sets --augment keeps that from
    learning the images by heart. The log is log.jsonl. Its loss is the bound in nats per number of an image (VAE) or
    that of the generator (GAN), and told_apart is the share of images that the discriminator takes for what they are.
    Pictures show the first 64 seeds. The weights of model.safetensors are averages. Images are cropped to squares. An
    image that cannot be decoded is named and replaced by the next one. Under torchrun all GPUs share each batch; their
    number changes nothing but rounding.

    \b
    Examples:
      dprune train-baseline vae digits --subset keep.npy --preset tiny -o vae
      dprune train-baseline gan shards --augment colour,translation,cutout -o gan
      torchrun --nproc-per-node 8 -m dprune train-baseline gan shards -o gan
    """
    from dprune.training.baseline.job import open_train_baseline

    delivery.deliver(open_train_baseline(model, shards, baseline, training, delivery.output, members))
