"""`dprune pack`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery

if TYPE_CHECKING:
    from dprune.packing.job import PackSettings


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@options.gathers(
    "settings", "dprune.packing.job:PackSettings",
    options.count("--size", "Resize the shorter side to this many pixels; else bytes stay."),
    options.choice("--crop", ["center", "none"], "With --size: cut out the middle square, or keep the shape.",
                   default="center"),
    options.choice("--format", ["png", "jpg", "webp"],
                   "With --size: how images are written; png and webp are lossless.", default="png"),
    click.option("--subset", metavar="FILE", help="Write only these samples: ids (.npy), keys (text), or - for stdin."),
    options.choice("--keys", ["path", "unique"], "Refuse repeated keys, or tell them apart by a number.",
                   default="path"),
    options.count("--shard-size", "Samples in a shard.", default=10_000),
    click.option("--strict", is_flag=True,
                 help="End at the first unreadable image instead of listing it in bad.jsonl."),
    options.workers,
)  # fmt: skip
@options.delivers("Folder that the shards go to.", can_stop=True, folder=True)
def command(delivery: Delivery, sources: tuple[str, ...], settings: PackSettings) -> None:
    """Pack images or shards, or a subset of them, into WebDataset shards.

    SOURCE is a folder or zip of images (the folder that an image lies in becomes its label), existing shards
    (a folder, paths, globs, brace ranges, @list.txt), streamed shards (URLs, pipe:COMMAND, - for stdin, compressed
    tars), or sklearn:digits, the 1,797 handwritten digits that scikit-learn ships. Interrupted packs go on when the
    same command runs again.

    \b
    Examples:
      dprune pack photos -o shards --size 256
      dprune pack cifar10.zip -o shards
      dprune pack shards --subset keep.npy -o pruned
      dprune select distance.npy --keep 10% | dprune pack shards --subset - -o pruned
      dprune pack pipe:'ssh host cat train.tar' -o shards
    """
    from dprune.packing.job import open_pack

    delivery.deliver(open_pack(sources, settings, delivery.output))
