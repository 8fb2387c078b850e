"""`dprune pack`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.help_pages import GroupedCommand

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
            self.fail(f"{value!r} is no list of suffixes: write it as txt,json.", param, ctx)
        return tuple(dict.fromkeys(parts))


@click.command(cls=GroupedCommand)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@options.gathers(
    "settings", "dprune.packing.settings:PackSettings",
    options.count("--size", "Resize the shorter side to this many pixels; else bytes stay.", group="Images",
                  common=True, most=options.MOST_PIXELS),
    options.choice("--crop", ["center", "none"], "With --size: cut out the middle square, or keep the shape.",
                   group="Images", common=True, default="center"),
    options.choice("--format", ["png", "jpg", "webp"],
                   "With --size: how images are written; png and webp are lossless.", group="Images", common=True,
                   default="png"),
    options.option("--subset", group="Data", common=True, metavar="FILE",
                   help="Write only these samples: ids (.npy), keys (text), uids of DataComp, or - for stdin."),
    options.option("--labels", group="Data", common=True, metavar="FILE",
                   help="Labels by file or key: CSV, TSV, JSON or JSON lines; json:FIELD: of each image's KEY.json."),
    options.choice("--keys", ["path", "unique"], "Refuse repeated keys, or tell them apart by a number.", group="Data",
                   default="path"),
    options.option("--split", group="Data", common=True, metavar="NAME",
                   help="Take this one of folders called train, val and the like; none: as classes.  [default: train]"),
    options.option("--beside", group="Data", type=Suffixes(), default=(), metavar="SUFFIX,...",
                   help="Keep what is named like an image, such as txt,json; cls is its label. Of tables: columns."),
    options.option("--image-column", group="Data", metavar="NAME",
                   help="Column of a table, or array of an .npz archive, that holds the images."),
    options.option("--label-column", group="Data", metavar="NAME", help="The same of labels; none takes no labels."),
    options.count("--shard-size", "Samples in a shard.", group="Output", default=10_000),
    options.option("--strict", group="Running", is_flag=True,
                   help="End at the first unreadable image instead of listing it in bad.jsonl."),
    options.workers,
)  # fmt: skip
@options.members
@options.delivers("Folder that the shards go to.", can_stop=True, folder=True)
def command(delivery: Delivery, sources: tuple[str, ...], settings: PackSettings, members: MemberChoice) -> None:
    """Pack images or shards, or a subset of them, into WebDataset shards.

    SOURCE is a folder or zip of images, a table of them (parquet files or folders of them, a dataset that Hugging
    Face's library cached or saved), an .npz of images, existing shards (a folder, paths, globs, brace ranges,
    @list.txt), streamed shards (URLs, pipe:COMMAND, - for stdin, compressed tars), or sklearn:digits, the 1,797
    handwritten digits that scikit-learn ships. Several are packed one after the other, of any kinds but streams, with
    one numbering of their classes. Interrupted packs go on when the same command runs again.

    The folder that an image lies in becomes its label, unless --labels gives it; classes.txt says the order of the
    classes. Of folders called train, val, test and the like, the training data are taken unless --split says otherwise.
    Images in formats that shards do not hold become PNG, and of animations and pages the first is taken. Files that
    are left out are counted by their suffixes.

    \b
    Examples:
      dprune pack photos -o shards --size 256
      dprune pack cifar10.zip --split test -o held-out
      dprune pack photos --labels labels.csv -o shards
      dprune pack photos more.zip old-shards -o shards --keys unique
      dprune pack imagenet-1k/data --size 256 -o shards
      dprune pack samples_50000x256x256x3.npz -o generated
      dprune pack shards --subset keep.npy -o pruned
      dprune select distance.npy --keep 10% | dprune pack shards --subset - -o pruned
      dprune pack pipe:'ssh host cat train.tar' -o shards
    """
    from dprune.packing.job import open_pack

    delivery.deliver(open_pack(sources, settings, delivery.output, members))
