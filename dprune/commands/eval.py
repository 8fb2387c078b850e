"""`dprune eval`: generated samples held against a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.measuring.making import Embedding
    from dprune.measuring.settings import EvalSettings


@click.command(cls=GroupedCommand)
@options.apply(
    click.argument("generated", metavar="GENERATED"),
    click.argument("reference", metavar="REFERENCE"),
    options.gathers(
        "settings", "dprune.measuring.settings:EvalSettings",
        options.option("--metrics", group="Metrics", common=True, metavar="LIST",
                       help="Of fid,is,prdc,kid,cmmd,prd,vendi,shares.  [default: all that the inputs allow]"),
        options.option("--subset", group="Data", common=True, metavar="FILE",
                       help="Hold them against these ids of the reference only."),
        options.option("--clusters", group="Data", common=True, metavar="FILE",
                       help="Compare the shares of these clusters, too."),
        options.option("--logits", group="Data", metavar="FILE",
                       help="A .npy [n, classes] of the generated samples, for the Inception score."),
        options.option("--save-stats", group="Output", common=True, metavar="FILE",
                       help="Write the reference's statistics; a later eval takes them as REFERENCE."),
        options.option("--against", group="Metrics", common=True, metavar="FILE",
                       help="Say how each metric differs from this result of eval, with the error of the difference."),
        options.option("--fid-infinity", "infinity", group="Metrics", is_flag=True,
                       help="Extrapolate the Fréchet distance to infinitely many samples of both sides, too."),
        options.option("--held-out", group="Data", common=True, metavar="VAL",
                       help="Real samples for a yardstick: as GENERATED, or a .npy of ids in REFERENCE."),
        options.count("--splits", "Parts in which the Inception score is computed.", group="Metrics", default=10),
        options.count("--k", "Neighbours for precision and recall.", group="Metrics", default=3),
        options.count("--density-k", "Neighbours for density and coverage.", group="Metrics", default=5),
        options.option("--orders", group="Metrics", metavar="LIST", default="0.5,1,2,inf", show_default=True,
                       help="Orders of the Vendi score."),
        options.count("--jackknife", "Blocks of generated samples for the standard errors; 0 gives none.",
                      group="Metrics", default=20, least=0),
        options.seed,
    ),
    options.embeds(default="inception"),
    options.delivers("The result: a .json file, or - for stdout.", can_stop=True),
)  # fmt: skip
def command(
    *, delivery: Delivery, generated: str, reference: str, settings: EvalSettings, embedding: Embedding
) -> None:
    """Compare generated samples with a reference by Fréchet distance and other metrics.

    GENERATED and REFERENCE are images (a folder, zip, .npz, parquet or shards), whose features are made by --model
    and kept in the cache, or feature stores, .npy or .safetensors of features. Statistics of --save-stats, or a .npz
    with mu and sigma as pytorch-fid, clean-fid, guided-diffusion and others write them, allow the Fréchet distance
    (fid) alone. The latter do not say for which --model and --resize they are: man dprune-eval has a table.

    Further metrics: the Inception score (is), precision, recall, density and coverage (prdc), KID, CMMD, the
    precision-recall curve (prd), the Vendi score, and the shares of clusters and classes. Where classes were asked for,
    as dprune sample does, a generated sample counts as what most of its 5 nearest reference samples are, and how often
    that is the class asked for is stated, too. Standard errors are those of other generated samples, with the
    reference held fixed, so they tell how much of a difference between two models that face the same reference is
    chance. Compare Fréchet distances at equal counts of samples only, and where both sides have labels at equal
    shares of the classes: others are warned of.

    Beside the Fréchet distance stands a yardstick: that of as many real samples (--held-out, or where REFERENCE has
    twice as many as GENERATED a part of it) to the rest of the reference, and the ratio of generated to real, both at
    one count and to the same rest.

    --against takes the result of a baseline that was measured alike, such as the unpruned model's, and says of each
    metric how far it is from there. Models that were sampled with the same seeds share their noise, so the error of
    their difference is far smaller than both errors say.

    \b
    Examples:
      dprune eval generated shards -o metrics.json
      dprune eval samples.zip photos -o metrics.json
      dprune eval samples.npz VIRTUAL_imagenet256_labeled.npz --resize tensorflow -o metrics.json
      dprune eval generated-features features --subset keep.npy --clusters clusters.safetensors -o metrics.json
      dprune eval generated shards --model dinov2-b --metrics fid,prdc,vendi -o metrics.json
      dprune eval generated-features features --held-out held-out.npy -o metrics.json
      dprune eval generated shards --metrics fid --save-stats shards.safetensors -o metrics.json
      dprune eval other shards.safetensors -o - | jq .metrics.frechet_distance
      dprune eval pruned shards --against unpruned.json -o metrics.json
    """
    from dprune.measuring.eval_job import open_eval

    delivery.deliver(open_eval(generated, reference, settings, embedding, delivery.output))
