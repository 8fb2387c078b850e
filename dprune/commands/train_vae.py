"""`dprune train-vae`: the autoencoder whose latents the diffusion model works in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.help_pages import Group, GroupedCommand

if TYPE_CHECKING:
    from dprune.formats.members import MemberChoice
    from dprune.training.plan import TrainingOptions
    from dprune.training.vae.settings import VAEOptions


class Multipliers(click.ParamType[tuple[int, ...]]):
    """Whole numbers such as 1,2,2,4."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse `value`."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.isascii() and part.isdigit() and len(part) < 10 and int(part) for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers: write 1,2,2,4.", param, ctx)
        return tuple(int(part) for part in parts)


def _weight(name: str, text: str, *, group: Group) -> options.Decorator:
    return options.option(name, group=group, type=options.Number(min=0), metavar="X", help=text)


@click.command(cls=GroupedCommand)
@options.apply(
    options.shards,
    options.gathers(
        "autoencoder", "dprune.training.vae.settings:VAEOptions",
        options.option("--subset", group="Data", common=True, metavar="FILE",
                       help="Train on these samples only: ids, keys or a mask."),
        options.option("--held-out", group="Data", common=True, multiple=True, metavar="SHARDS",
                       help="Evaluate on these shards. Without them, training images serve. Repeatable."),
        options.choice("--preset", ["base", "tiny"], group="Model", common=True, default="base",
                       text="Settings for a GPU (base) or a CPU (tiny). Other options override it."),
        options.choice("--kind", ["vq", "kl"], "Quantised or Gaussian latents.", group="Model", common=True,
                       default="vq"),
        options.count("--image-size", "Side of the images.  [default: base 256, tiny 32]", group="Model",
                      common=True, most=options.MOST_PIXELS),
        options.count("--width", "Channels at full resolution.  [default: base 128, tiny 16]", group="Model"),
        options.option("--downsample", group="Model", type=click.Choice([4, 8, 16]),
                       help="Downsampling factor.  [default: base 8, tiny 4]"),
        options.option("--multipliers", group="Model", type=Multipliers(), metavar="N,N,...",
                       help="Multiples of the width, one per resolution.  "
                          "[default: 1,2,4 for 4; 1,2,2,4 for 8; 1,1,2,2,4 for 16]"),
        options.count("--blocks", "Residual blocks per resolution.  [default: base 2, tiny 1]", group="Model"),
        options.count("--latent-channels", "Channels of the latents.  [default: base 8 (vq) or 4 (kl), tiny 4]",
                      group="Model"),
        options.count("--codes", "Number of codes in the codebook.  [default: base 16384, tiny 512]", group="Model"),
        options.option("--l2-codes", group="Model", is_flag=True, help="Scale codes to unit length."),
        _weight("--commitment", "Weight of the term that pulls the encoder to its codes.  [default: 0.25]",
                group="Loss"),
        _weight("--kl-weight", "Weight of the term that pulls Gaussian latents to a standard normal.  [default: 1e-6]",
                group="Loss"),
        options.choice("--loss", ["mse", "l1"], "Loss on the pixels.", group="Loss", default="mse"),
        options.option("--perceptual", group="Loss", metavar="none|lpips|timm:NAME",
                       help="Network whose features the perceptual loss compares.  [default: lpips if it has weights, "
                            "else none]"),
        options.option("--lpips-weights", group="Loss", metavar="FILE", help="State dict of lpips.LPIPS(net='vgg')."),
        options.option("--perceptual-weights", group="Loss", metavar="FILE",
                       help="With --perceptual timm:NAME: file of its weights."),
        _weight("--perceptual-weight", "Weight of the perceptual loss.  [default: 1]", group="Loss"),
        options.option("--gan-weight", group="Loss", type=options.Number(min=0), metavar="X", default=0.0,
                       show_default=True,
                       help="Weight of the adversarial loss. 0 trains no discriminator."),
        options.count("--gan-start", "First step with the adversarial loss.  [default: 0]", group="Loss", least=0),
        options.option("--flip", group="Data", is_flag=True, help="Mirror training images at random."),
        options.strict,
        options.workers,
    ),
    options.members,
    options.trains(
        steps="base 100000, tiny 300", batch_size="base 64, tiny 16", lr="base 1e-4, tiny 2e-3",
        warmup="base 1000, tiny 20", schedule="base constant, tiny cosine", ema="base 0.9999, tiny 0.99", clip="1",
    ),
    options.delivers("Run folder. Its model.safetensors appears when training is complete.", can_stop=True,
                     shares_work=True, folder=True),
)  # fmt: skip
def command(
    *,
    delivery: Delivery,
    shards: tuple[str, ...],
    members: MemberChoice,
    autoencoder: VAEOptions,
    training: TrainingOptions,
) -> None:
    """Train an autoencoder on images.

    The run folder gets a log, pictures, checkpoints and at last model.safetensors. A run that was stopped goes on when
    the same command is run again.

    The log is log.jsonl. Pictures show originals above their reconstructions. The weights of model.safetensors are
    averages. Images are cropped to squares. An image that cannot be decoded is named and replaced by the next one.
    Under torchrun all GPUs share each batch; their number changes nothing but rounding.

    \b
    Examples:
      dprune train-vae digits --preset tiny -o vae
      dprune train-vae shards --subset keep.npy --perceptual none -o vae
      dprune train-vae shards --held-out val --codes 4096 --downsample 16 -o vae
      dprune train-vae shards --lpips-weights lpips.pt --gan-weight 0.5 -o vae
      dprune train-vae shards --lpips-weights lpips.pt --gan-weight 0.5 --gan-start 20000 --flip -o vae
      dprune train-vae shards --kind kl --perceptual timm:resnet50 --perceptual-weights r50.pt -o vae
      torchrun --nproc-per-node 8 -m dprune train-vae shards --batch-size 256 --stop-after 3h50m -o vae
    """
    from dprune.training.vae.job import open_train_vae

    delivery.deliver(open_train_vae(shards, autoencoder, training, delivery.output, members))
