"""`dprune pack`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.formats.members import MemberChoice
    from dprune.packing.settings import PackSettings


class Suffixes(click.ParamType[tuple[str, ...]]):
    """Suffixes of files such as txt,json."""

    name = "suffixes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split `value` at its commas."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip().removeprefix(".").lower() for part in str(value).split(",")]
        if not all(re.fullmatch(r"[a-z0-9_+-]+", part) for part in parts):
            self.fail(f"{value!r} is not a list of suffixes: write txt,json.", param, ctx)
        return tuple(dict.fromkeys(parts))


@click.command(cls=GroupedCommand)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@options.gathers(
    "settings", "dprune.packing.settings:PackSettings",
    options.count("--size", "Resize the shorter side to N pixels. Without it, the images' bytes are kept.",
                  group="Images", common=True, most=options.MOST_PIXELS),
    options.choice("--crop", ["center", "none"], "With --size: crop the middle square, or keep the shape.",
                   group="Images", common=True, default="center"),
    options.choice("--format", ["png", "jpg", "webp"],
                   "With --size: format of the images. png and webp are lossless.", group="Images", common=True,
                   default="png"),
    options.option("--subset", group="Data", common=True, metavar="FILE",
                   help="Pack only these samples: ids, a mask, keys, a table, or uids of DataComp; - for "
                        "stdin."),
    options.option("--labels", group="Data", common=True, metavar="FILE",
                   help="Read labels by file name or key from CSV, TSV or JSON. json:FIELD reads each image's "
                        "KEY.json."),
    options.choice("--keys", ["path", "unique"], "Refuse repeated keys, or make them unique by a number.", group="Data",
                   default="path"),
    options.option("--split", group="Data", common=True, metavar="NAME",
                   help="Split to take where folders are called train or val. none: they are classes.  "
                        "[default: train]"),
    options.option("--beside", group="Data", type=Suffixes(), default=(), metavar="SUFFIX,...",
                   help="Keep files (of tables: columns) beside each image, such as txt,json. cls is its label."),
    options.option("--image-column", group="Data", metavar="NAME",
                   help="Column of a table, or array of an .npz, that holds the images."),
    options.option("--label-column", group="Data", metavar="NAME",
                   help="Column or array that holds the labels. With none, there are no labels."),
    options.count("--shard-size", "Samples per shard.", group="Output", default=10_000),
    options.option("--strict", group="Running", is_flag=True,
                   help="Stop at the first unreadable image instead of listing it in bad.jsonl."),
    options.workers,
)  # fmt: skip
@options.members
@options.delivers("Folder for the shards.", can_stop=True, folder=True)
def command(delivery: Delivery, sources: tuple[str, ...], settings: PackSettings, members: MemberChoice) -> None:
    """Pack images or a subset of shards into WebDataset shards.

    SOURCE is a folder or zip of images, a parquet table or Hugging Face dataset of them, an .npz, shards, a stream (a
    URL, pipe:COMMAND or - for stdin), or sklearn:digits. The folder that holds an image is its label, unless --labels
    says otherwise. An interrupted pack goes on when the same command is run again.

    Tables are parquet files, folders of them, and datasets that Hugging Face's library cached or saved. Shards are a
    folder, paths, globs, brace ranges or an @list.txt; compressed tars are read as streams. sklearn:digits are the
    1,797 handwritten digits that come with scikit-learn. Several sources of any kind but streams are packed one after
    the other, with one numbering of their classes.

    A file classes.txt sets the order of the classes. Where folders are called train, val, test and the like, the
    training data is taken unless --split names another. Images in formats that shards cannot hold become PNG. Of an
    animation or a document with pages, the first image is taken. Files that are left out are counted by suffix.

    \b
    Examples:
      dprune pack photos -o shards --size 256
      dprune pack photos --labels labels.csv -o shards
      dprune pack cifar10.zip --split test -o held-out
      dprune pack shards --subset keep.npy -o pruned
      dprune pack photos more.zip old-shards -o shards --keys unique
      dprune pack imagenet-1k/data --size 256 -o shards
      dprune pack samples_50000x256x256x3.npz -o generated
      dprune select distance.npy --keep 10% | dprune pack shards --subset - -o pruned
      dprune pack pipe:'ssh host cat train.tar' -o shards
    """
    from dprune.packing.job import open_pack

    delivery.deliver(open_pack(sources, settings, delivery.output, members))
