"""`dprune embed`: features of the images in shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.embedding.settings import EmbedOptions
    from dprune.formats.members import MemberChoice


@click.command(cls=GroupedCommand)
@options.shards
@options.gathers(
    "embedding", "dprune.embedding.settings:EmbedOptions",
    options.option("--model", group="Model", common=True, default="dinov2-b", show_default=True, metavar="MODEL",
                   help="Short name, timm:NAME, open_clip:ARCH/TAG, inception or pixels."),
    options.option("--weights", group="Model", common=True, metavar="FILE",
                   help="Weights as safetensors or torch file instead of the hub's."),
    options.image_size,
    options.option("--crop-pct", group="Model", type=options.Number(0, 1, min_open=True), metavar="X",
                   help="Share of the resized image that the centre crop keeps (timm)."),
    options.resize,
    options.color,
    options.count("--pca", "Principal components kept of pixels.", group="Model"),
    options.option("--normalize", group="Output", is_flag=True, help="Give features unit length."),
    options.choice("--dtype", ["float16", "float32"], "Type of the stored features.", group="Output",
                   default="float16"),
    options.strict,
    options.network_precision,
    options.choice("--decode", ["cpu", "gpu"], "Where JPEGs are decoded: cpu is Pillow, gpu differs from it slightly.",
                   group="Running", default="cpu"),
    options.device,
    options.batch_size,
    options.workers,
    options.count("--seed", "Chooses the images that --pca is fitted to.", group="Running", default=0, least=0),
)  # fmt: skip
@options.members
@options.delivers("Feature store, a folder with one file a shard.", can_stop=True, shares_work=True, folder=True)
def command(*, delivery: Delivery, shards: tuple[str, ...], members: MemberChoice, embedding: EmbedOptions) -> None:
    """Turn the images of shards into a store of features.

    Short names of networks are dinov2-s, -b, -l (at 224 pixels), dinov3-s, -b, -l, clip-b32 and clip-l14 (OpenAI's
    weights), inception (for FID, with logits) and pixels (no weights needed). A rerun embeds only the shards that
    are missing; processes with RANK and WORLD_SIZE set share the shards of one store, and so do the tasks of a SLURM
    array. An image that cannot be decoded gets a row of NaN and is listed in its part.

    --resize is for inception: clean brings images to its size and scale as clean-fid does, pytorch as pytorch-fid,
    tensorflow as the first FID, guided-diffusion and EDM. man dprune-eval says whose statistics go with which.

    --decode gpu has the GPU decode JPEGs, for networks that are quicker than Pillow: features differ in their last
    digits, so compare such that were made one way. FID is defined with Pillow, and inception refuses it.

    \b
    Examples:
      dprune embed shards --model dinov2-b -o features
      dprune embed 'shards/{000000..000099}.tar' --model clip-l14 -o clip
      dprune embed shards --model dinov2-b --decode gpu -o features
      dprune embed shards --model timm:resnet10t --weights mine.safetensors --image-size 64 -o features
      dprune embed shards --model pixels --image-size 16 --color grey --pca 64 -o pixels
      torchrun --nproc-per-node 8 -m dprune embed shards --stop-after 3h50m -o features
    """
    from dprune.embedding.job import open_embed

    delivery.deliver(open_embed(shards, embedding, delivery.output, members))
