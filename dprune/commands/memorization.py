"""`dprune memorization`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.measuring.making import Embedding
    from dprune.measuring.settings import MemorizationSettings


@click.command(cls=GroupedCommand)
@options.apply(
    click.argument("generated", required=False, metavar="[GENERATED"),
    click.argument("train", required=False, metavar="TRAIN]"),
    options.gathers(
        "settings", "dprune.measuring.settings:MemorizationSettings",
        options.option("--losses", group="Data", common=True, metavar="FILE",
                       help="In place of both: losses of score el2n --per-sigma, whose gap is measured."),
        options.option("--held-out", group="Data", common=True, metavar="VAL",
                       help="Real samples that the model did not see: like GENERATED, or ids or keys in TRAIN."),
        options.option("--subset", group="Data", common=True, metavar="FILE",
                       help="Samples in TRAIN that the model was trained on: ids, keys or a mask; - for stdin."),
        options.option("--full", group="Data", common=True, is_flag=True,
                       help="Compare with all of TRAIN, whatever the model was trained on."),
        options.option("--pairs", group="Output", common=True, metavar="FILE",
                       help="Write each generated id with its nearest training id and distance (.npy)."),
        options.option("--figure", group="Output", common=True, metavar="FILE",
                       help="Draw the closest pairs side by side (PNG)."),
        options.count("--figure-count", "Number of pairs in the figure.", group="Output", default=24),
        options.option("--generated-shards", group="Output", multiple=True, metavar="SHARDS",
                       help="With --figure: the generated images, unless GENERATED is images. Repeatable."),
        options.option("--train-shards", group="Output", multiple=True, metavar="SHARDS",
                       help="With --figure: the training images, unless TRAIN is images. Repeatable."),
        options.option("--neighbours", group="Metrics", type=click.IntRange(2, 1024), metavar="N", default=50,
                       show_default=True, help="Number of neighbours that the calibrated ratio compares with."),
        options.option("--alpha", group="Metrics", type=options.Number(min=0, min_open=True), metavar="X", default=0.5,
                       show_default=True,
                       help="A sample nearer than this share of the neighbours' mean distance is a copy."),
        options.count("--cells",
                      "Cells of the copying test.  [default: one per 50 samples of the smallest set, up to 1000]",
                      group="Metrics"),
        options.count("--jackknife", "Jackknife blocks for the standard errors. 0 gives none.", group="Metrics",
                      default=20, least=0),
        options.seed,
    ),
    options.embeds(default="dinov2-b"),
    options.delivers("The result: a .json file, or - for stdout.", can_stop=True),
)  # fmt: skip
def command(
    *,
    delivery: Delivery,
    generated: str | None,
    train: str | None,
    settings: MemorizationSettings,
    embedding: Embedding,
) -> None:
    """Find generated samples that repeat training samples.

    GENERATED and TRAIN are images (a folder, zip, .npz, parquet or shards), feature stores, or arrays of features. Each
    generated sample's nearest training sample is found exactly; copies are at distance 0. Give --held-out samples, too:
    without them these numbers say little.

    Held-out samples show how near unseen samples come to the training set, how many of them count as authentic, and how
    many are flagged as calibrated copies. They also make Meehan's test possible: C_T far below 0 means copying.

    Features of images are made by --model and cached. Where the provenance of GENERATED names a training subset,
    --subset must be that one. The id of an image that was not packed is its place, from 0, in the order in which dprune
    pack takes them, unreadable images included.

    --losses takes no generated samples. It holds the diffusion loss of training samples against that of others, at each
    noise level: where a model has learnt its training set by heart, theirs is lower, most at middle noise, and long
    before it generates copies. --subset names the training samples of the store that was scored; all others are held
    out, or those of --held-out: ids, or losses of another store. Both sets should be random samples of one dataset, or
    the gap shows how these differ, too.

    \b
    Examples:
      dprune memorization samples.zip photos -o memorization.json
      dprune memorization generated-features features --held-out val -o memorization.json
      dprune memorization generated-features features --subset keep.npy -o memorization.json
      dprune memorization generated shards --figure pairs.png -o memorization.json
      dprune memorization generated shards --model inception --pairs pairs.npy -o memorization.json
      dprune memorization --losses el2n.npy --subset keep.npy -o gap.json
      dprune memorization generated.npy train.npy -o - | python -m json.tool
    """
    from dprune.measuring.memorization_job import open_memorization

    delivery.deliver(open_memorization(generated, train, settings, embedding, delivery.output))
