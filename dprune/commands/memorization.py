"""`dprune memorization`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.measuring.making import Embedding
    from dprune.measuring.settings import MemorizationSettings


@click.command(cls=GroupedCommand)
@options.apply(
    click.argument("generated", metavar="GENERATED"),
    click.argument("train", metavar="TRAIN"),
    options.gathers(
        "settings", "dprune.measuring.settings:MemorizationSettings",
        options.option("--held-out", group="Data", common=True, metavar="VAL",
                       help="Samples that the model did not see: as GENERATED, or a .npy of ids in TRAIN."),
        options.option("--subset", group="Data", common=True, metavar="FILE",
                       help="The ids in TRAIN that the model was trained on (.npy), or -."),
        options.option("--full", group="Data", common=True, is_flag=True,
                       help="Compare with all of TRAIN, whatever the model was trained on."),
        options.option("--pairs", group="Output", common=True, metavar="FILE",
                       help="Write generated id, training id and distance, sorted (.npy)."),
        options.option("--figure", group="Output", common=True, metavar="FILE",
                       help="Draw the closest pairs side by side (PNG)."),
        options.count("--figure-count", "Pairs in the figure.", group="Output", default=24),
        options.option("--generated-shards", group="Output", multiple=True, metavar="SHARDS",
                       help="With --figure: the images, unless GENERATED is images. Repeatable."),
        options.option("--train-shards", group="Output", multiple=True, metavar="SHARDS",
                       help="With --figure: the images, unless TRAIN is images. Repeatable."),
        options.option("--neighbours", group="Metrics", type=click.IntRange(2, 1024), metavar="N", default=50,
                       show_default=True, help="Neighbourhood of the calibrated ratio."),
        options.option("--alpha", group="Metrics", type=options.Number(min=0, min_open=True), metavar="X", default=0.5,
                       show_default=True, help="Nearer than this times the neighbourhood's mean distance is a copy."),
        options.count("--cells",
                      "Cells of the copying test.  [default: one for each 50 of the smallest set, up to 1000]",
                      group="Metrics"),
        options.count("--jackknife", "Blocks of the standard errors; 0 for none.", group="Metrics", default=20,
                      least=0),
        options.seed,
    ),
    options.embeds(default="dinov2-b"),
    options.delivers("The result: a .json file, or - for stdout.", can_stop=True),
)  # fmt: skip
def command(
    *, delivery: Delivery, generated: str, train: str, settings: MemorizationSettings, embedding: Embedding
) -> None:
    """Find generated samples that repeat training samples.

    GENERATED and TRAIN are images (a folder, zip, .npz, parquet or shards), whose features are made and cached, or
    feature stores or arrays of features (.npy, .safetensors). Each generated sample's nearest training sample is found
    exactly, whatever the sizes; copies are at distance 0. Held-out samples show how near unseen ones come, how many of
    them are authentic and how many are flagged as calibrated copies, without which these numbers say little, and make
    Meehan's test possible: C_T far below 0 means copying. Where the provenance of GENERATED names a training subset,
    --subset must be that one. The id of an image that was not packed is its place, from 0, in the order in which
    dprune pack takes them, those that cannot be read included.

    \b
    Examples:
      dprune memorization generated-features features --held-out val-features -o memorization.json
      dprune memorization generated-features features --subset keep.npy --held-out held-out.npy -o memorization.json
      dprune memorization generated shards --model dinov2-b --pairs pairs.npy --figure pairs.png -o memorization.json
      dprune memorization samples.zip photos -o memorization.json
      dprune memorization generated.npy train.npy -o - | python -m json.tool
    """
    from dprune.measuring.memorization_job import open_memorization

    delivery.deliver(open_memorization(generated, train, settings, embedding, delivery.output))
