"""`dprune select`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.formats.checked_json import INT64
from dprune.help_pages import GroupedCommand
from dprune.selecting.amount import Amount

if TYPE_CHECKING:
    from dprune.formats.members import MemberChoice
    from dprune.selecting.job import SelectSettings

MOST_BYTES_OF_GROUPS = 8 << 20


def _amount(ctx: click.Context, param: click.Parameter, value: str | None) -> Amount | None:
    try:
        return None if value is None else Amount.parse(value, pruned=param.name == "prune")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _groups(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    text = value
    if value.startswith("@"):
        from dprune.formats.whole_files import read_file

        text = read_file(value[1:], MOST_BYTES_OF_GROUPS).decode("utf-8", "replace")
    try:
        groups = tuple(int(name) for name in text.replace(",", " ").split())
        if any(abs(group) > INT64 for group in groups):
            raise ValueError
        return groups
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither numbers (3,17,42) nor an @file of them.") from None


@click.command(cls=GroupedCommand)
@click.argument("scores", required=False, metavar="[SCORES]")
@options.gathers(
    "settings", "dprune.selecting.job:SelectSettings",
    options.option("--keep", group="Choice", common=True, metavar="AMOUNT", callback=_amount,
                   help="Keep a share (0.25, 1/4, 25%) or a count (500)."),
    options.option("--prune", group="Choice", common=True, metavar="AMOUNT", callback=_amount,
                   help="Prune a share or a count; the paper's PR."),
    options.option("--count", group="Choice", is_flag=True,
                   help="Take a bare 1 for one sample; in a loop over shares it might mean all of them."),
    options.choice("--order", ["lowest", "middle", "highest", "random"], "Which scores to keep.", group="Choice",
                   common=True, default="lowest"),
    options.option("--clusters", group="Groups", common=True, metavar="FILE",
                   help="Choose inside each cluster of this clusters.safetensors."),
    options.option("--groups", group="Groups", common=True, metavar="FILE",
                   help="Choose inside each group of this .npy, or by a feature store's labels."),
    options.choice("--quota", ["proportional", "equal"], "Keep the same share, or the same count, of each group.",
                   group="Groups", common=True, default="proportional"),
    options.count("--cap", "Keep at most this many of each group.", group="Groups", common=True),
    options.option("--only", group="Groups", common=True, metavar="GROUPS", callback=_groups,
                   help="Keep only from these groups: 3,17,42 or @FILE."),
    options.option("--within", group="Data", common=True, multiple=True, metavar="FILE",
                   help="Choose among these only: ids, or with --shards keys as text or uids. Repeatable."),
    options.option("--without", group="Data", common=True, multiple=True, metavar="FILE",
                   help="Choose none of these. Repeatable."),
    options.option("--or", "unions", group="Data", common=True, multiple=True, metavar="FILE",
                   help="Add these to the result. Repeatable."),
    options.choice("--format", ["npy", "keys", "datacomp"],
                   "Write ids, keys as text, or uids of DataComp (u8,u8), for which --shards names the samples.",
                   group="Output", common=True, default="npy"),
    options.option("--figure", group="Output", common=True, type=click.Path(dir_okay=False),
                   help="Draw the lowest, middle and highest of each group."),
    options.option("--shards", group="Data", common=True, multiple=True, metavar="SHARDS",
                   help="What the ids are of: shards, or a folder of clip-retrieval. Repeatable."),
    options.seed,
)  # fmt: skip
@options.members
@options.delivers("The subset: a .npy file of ids, or what --format says; - for stdout.", default="-")
def command(delivery: Delivery, scores: str | None, settings: SelectSettings, members: MemberChoice) -> None:
    """Choose the samples to keep, by scores, clusters and set algebra.

    SCORES is one number a sample (.npy, or - for stdin); NaN is never kept. Counts are exact. The highest at
    keep k are what the lowest at 1 - k leave; ties are broken by a seeded hash of the id. Without SCORES, subsets
    are intersected, subtracted and united, or drawn with --order random.

    An AMOUNT with a point, a slash, an exponent or % is a share (0.25, .5, 1/4, 25%, 1e-3, 1.0 for all); of digits
    alone it is a count. A bare 1 is refused: write 100% for all, or add --count for one sample.

    Without --clusters and --groups the choice is among all samples, as the paper makes it by scores of models and by
    chance; by the distance to the centre it chooses inside each cluster.

    Keys as text and uids of DataComp stand for ids where --shards names the samples, and --format writes them. So a
    choice of rows of clip-retrieval becomes one of shards, whose order is another.

    \b
    Examples:
      dprune select distance.npy --clusters clusters.safetensors --keep 0.25 -o keep.npy
      dprune select distance.npy --clusters clusters.safetensors --quota equal -o even.npy
      dprune select --order random --keep 10% --clusters clusters.safetensors -o held-out.npy
      dprune select el2n.npy --prune 0.9 --order highest --without held-out.npy -o keep.npy
      dprune select --within a.npy --without b.npy -o difference.npy
      dprune select distance.npy --keep 0.3 --shards clip-embeddings --format keys -o keep.txt
      dprune select --within uids.npy --shards shards -o keep.npy
    """
    from dprune.selecting.job import open_select

    delivery.deliver(open_select(scores, settings, delivery.output, members))
