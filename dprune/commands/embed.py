"""`dprune embed`: features of the images in shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.embedding.settings import EmbedOptions
    from dprune.formats.members import MemberChoice


@click.command(cls=GroupedCommand)
@options.shards
@options.gathers(
    "embedding", "dprune.embedding.settings:EmbedOptions",
    options.option("--model", group="Model", common=True, default="dinov2-b", show_default=True, metavar="MODEL",
                   help="Network, such as dinov2-b, inception, pixels, timm:NAME or open_clip:ARCH/TAG."),
    options.option("--weights", group="Model", common=True, metavar="FILE",
                   help="File of the network's weights (safetensors or torch), in place of the hub's."),
    options.image_size,
    options.option("--crop-pct", group="Model", type=options.Number(0, 1, min_open=True), metavar="X",
                   help="With timm:NAME: share of the resized image that the centre crop keeps."),
    options.resize,
    options.color,
    options.count("--pca", "With --model pixels: number of principal components to keep.", group="Model"),
    options.option("--normalize", group="Output", is_flag=True, help="Scale each feature vector to unit length."),
    options.choice("--dtype", ["float16", "float32"], "Data type of the stored features.", group="Output",
                   default="float16"),
    options.strict,
    options.network_precision,
    options.choice("--decode", ["cpu", "gpu"],
                   "Where JPEGs are decoded. The result of gpu differs slightly from that of Pillow.", group="Running",
                   default="cpu"),
    options.device,
    options.batch_size,
    options.workers,
    options.count("--seed", "Seed that chooses the images that --pca is fitted to.", group="Running", default=0,
                  least=0),
)  # fmt: skip
@options.members
@options.delivers("Feature store: a folder with one file per shard.", can_stop=True, shares_work=True, folder=True)
def command(*, delivery: Delivery, shards: tuple[str, ...], members: MemberChoice, embedding: EmbedOptions) -> None:
    """Turn the images of shards into a store of features.

    Networks by name are dinov2-s, -b and -l, dinov3-s, -b and -l, clip-b32, clip-l14, inception (for FID) and pixels,
    which needs no weights. A rerun embeds only the shards that are missing.

    Processes with RANK and WORLD_SIZE set share the shards of one store, and so do the tasks of a SLURM array. An image
    that cannot be decoded gets a row of NaN and is listed in its shard's file. The dinov2 networks see 224 pixels, the
    clip networks have OpenAI's weights, and inception stores logits, too.

    --resize is for inception: clean resizes and scales images as clean-fid does, pytorch as pytorch-fid does, and
    tensorflow as the first FID, guided-diffusion and EDM do. The manual of dprune eval says which published statistics
    go with which.

    --decode gpu has the GPU decode JPEGs, which pays where the network is faster than Pillow. The features differ in
    their last digits, so compare only features that were made in one way. FID is defined with Pillow, so inception
    refuses this option.

    \b
    Examples:
      dprune embed shards --model dinov2-b -o features
      dprune embed 'shards/{000000..000099}.tar' --model clip-l14 -o clip
      dprune embed shards --model inception -o inception
      dprune embed shards --model pixels --image-size 16 --color grey -o pixels
      dprune embed shards --model timm:resnet10t --weights mine.safetensors --image-size 64 -o features
      dprune embed shards --model pixels --image-size 16 --pca 64 -o pixels
      dprune embed shards --model dinov2-b --decode gpu -o features
      torchrun --nproc-per-node 8 -m dprune embed shards --stop-after 3h50m -o features
    """
    from dprune.embedding.job import open_embed

    delivery.deliver(open_embed(shards, embedding, delivery.output, members))
