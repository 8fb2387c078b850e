"""`dprune select`."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.selecting.amount import parse_share
from dprune.shell.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.formats.members import MemberChoice
    from dprune.selecting.settings import SelectSettings


def _tail(ctx: click.Context, param: click.Parameter, value: str | None) -> Fraction | None:
    try:
        return None if value is None else parse_share(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(cls=GroupedCommand)
@click.argument("scores", required=False, metavar="[SCORES]")
@options.gathers(
    "settings", "dprune.selecting.settings:SelectSettings",
    options.option("--keep", group="Choice", common=True, metavar="AMOUNT", callback=options.parse_amount,
                   help="Keep this share (0.25, 1/4, 25%) or count (500)."),
    options.option("--prune", group="Choice", common=True, metavar="AMOUNT", callback=options.parse_amount,
                   help="Prune this share or count, which the paper calls PR."),
    options.option("--as-many-as", group="Choice", metavar="FILE",
                   help="Keep as many as this subset holds. It takes the place of --keep."),
    options.option("--count", group="Choice", is_flag=True,
                   help="Take a bare 1 for one sample. In a loop over shares it might mean all of them."),
    options.choice("--order", ["lowest", "middle", "highest", "interval", "random"],
                   "Which scores to keep. interval takes every m-th of them as sorted.  [default: lowest]",
                   group="Choice", common=True),
    options.option("--below", group="Choice", common=True, type=options.Number(), metavar="X",
                   help="Keep only scores less than X."),
    options.option("--above", group="Choice", type=options.Number(), metavar="X", help="Keep only scores over X."),
    options.option("--clusters", group="Groups", common=True, metavar="FILE",
                   help="Choose inside each cluster of this file."),
    options.option("--groups", group="Groups", common=True, metavar="FILE",
                   help="Choose inside each class of these shards. A store, or groups as .npy or CSV, will do, too."),
    options.choice("--quota", ["proportional", "equal"],
                   "Quota of each group. Keep the same share of each, or the same count.", group="Groups", common=True,
                   default="proportional"),
    options.option("--repeat", group="Groups", common=True, is_flag=True,
                   help="Write weights that draw all groups equally often. Samples of small ones come again."),
    options.count("--cap", "Keep at most this many of each group. Without SCORES they are drawn at random.",
                  group="Groups", common=True),
    options.option("--counts", group="Groups", metavar="GROUP:N",
                   help="Keep these counts, such as dog:500,5-9:20. Groups not named give none. @FILE reads a file."),
    options.option("--tail", group="Groups", metavar="SHARE", callback=_tail,
                   help="Make a long-tailed set. Counts decay over the groups, the last to this share of the first."),
    options.option("--only", group="Groups", common=True, metavar="GROUPS",
                   help="Keep only these groups, such as dog,cat or 3,40-49. @FILE reads them from a file."),
    options.option("--within", group="Data", common=True, multiple=True, metavar="FILE",
                   help="Choose among these only. Ids or a mask, or with --shards keys or uids. Repeatable."),
    options.option("--without", group="Data", common=True, multiple=True, metavar="FILE",
                   help="Choose none of these. Repeatable."),
    options.option("--or", "unions", group="Data", multiple=True, metavar="FILE",
                   help="Add these to the result. Repeatable."),
    options.choice("--format", ["npy", "csv", "keys", "datacomp"],
                   "Ids, a table, keys, or DataComp's uids.",
                   group="Output", common=True, default="npy"),
    options.option("--figure", group="Output", common=True, type=click.Path(dir_okay=False),
                   help="Draw the lowest, middle and highest of each group."),
    options.option("--shards", group="Data", common=True, multiple=True, metavar="SHARDS",
                   help="Shards that the ids belong to. A store or rows of clip-retrieval will do, too. Repeatable."),
    options.seed,
)  # fmt: skip
@options.members
@options.delivers("File of the subset, or - for stdout.", default="-")
def command(delivery: Delivery, scores: str | None, settings: SelectSettings, members: MemberChoice) -> None:
    """Choose the samples to keep, by scores, clusters or sets.

    SCORES holds one number per sample (.npy, CSV, or - for stdin). Without it, subsets are intersected, subtracted and
    united, or drawn at random.

    A score of NaN is never kept. Counts are exact. The highest at keep k are what the lowest at 1 - k leave. Ties are
    broken by a seeded hash of the id.

    With --order interval the sorted scores are cut into as many spans of one length as samples are kept, and the middle
    of each is kept: all levels of the score are there, and none of its extremes is favoured. A smaller subset is then
    no part of a larger one.

    --below and --above keep by value, without the X itself. The samples that they leave are the candidates that --keep,
    --quota and --cap speak of, and without those all are kept.

    --repeat writes no ids but weights.npy for train-dit --weights: how often each sample comes in an epoch, 0 for those
    left out. Each group is drawn as often as the largest has samples, or all groups together --keep times. Inside a
    group the counts of two samples differ by one at most, and the samples with one more are those that --order keeps,
    at random where there are no SCORES.

    An AMOUNT with a point, a slash, an exponent or % is a share (0.25, .5, 1/4, 25%, 1e-3, 1.0 for all). One of digits
    alone is a count. A bare 1 is refused: write 100% for all, or add --count for one sample.

    Without --clusters and --groups the choice is among all samples, as in the paper for scores of models and for
    random subsets. With the distance to the centre the paper chooses inside each cluster. --groups takes labels
    from shards or a store, or numbers from a .npy. With both options each class of each cluster is a group (a
    stratum), and --only names classes. A class is called by its name in classes.txt or by its number; a name with a
    comma needs double quotes. An equal quota of clusters with levels (dprune cluster --levels) is divided from the top
    down, but not with --counts or --tail, and so are the draws of --repeat.

    --counts and --tail compose a set of groups, at random where there are no SCORES. --tail does what is usual for
    long-tailed CIFAR: of C groups in the order of their numbers, group c gives n * SHARE^(c / (C - 1)), with the
    largest n that the groups allow. Both speak of classes where --clusters and --groups are given, and --quota then
    divides the count of a class among its clusters. dprune report takes a set that was so composed at random for a data
    set of its own: all of it counts as unpruned, and --within it is chosen from.

    With --shards, keys and uids of DataComp (u8,u8) are read in place of ids, and --format writes them; for writing,
    shards in --groups will do. In this way a choice among rows of clip-retrieval becomes one among shards, whose order
    differs.

    A CSV of SCORES or groups has a column of keys or ids and one of values. A first line names them: key,score. Of
    several columns of values FILE:COLUMN names one. --format csv writes such a table, with all that is known of each
    sample. Keys and tables in a file begin with a line of provenance; on stdout they have none.

    \b
    Examples:
      dprune select distance.npy --clusters clusters.safetensors --keep 0.25 -o keep.npy
      dprune select el2n.npy --prune 0.9 --order highest -o keep.npy
      dprune select --order random --keep 10% --groups shards -o test.npy
      dprune select --groups shards --cap 100 -o balanced.npy
      dprune select distance.npy --clusters clusters.safetensors --groups shards --keep 0.25 -o strata.npy
      dprune select duplicates.npy --below 0.95 -o unique.npy
      dprune select el2n.npy --keep 0.25 --order interval -o spread.npy
      dprune select --clusters clusters.safetensors --repeat -o weights.npy
      dprune select --groups shards --tail 0.01 -o tailed.npy
      dprune select --groups shards --counts cat:500,dog:20 -o few-dogs.npy
      dprune select distance.npy --clusters clusters.safetensors --as-many-as even.npy -o proportional.npy
      dprune select --within a.npy --without b.npy -o difference.npy
      dprune select distance.npy --clusters clusters.safetensors --quota equal -o even.npy
      dprune select el2n.npy --keep 500 --without test.npy -o keep.npy
      dprune select distance.npy --keep 0.3 --shards clip-embeddings --format keys -o keep.txt
      dprune select scores.csv --keep 0.3 --shards shards --format csv > keep.csv
      dprune select --within uids.npy --shards shards -o keep.npy
    """
    from dprune.selecting.job import open_select

    delivery.deliver(open_select(scores, settings, delivery.output, members))
