"""`dprune eval`: generated samples held against a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.help_pages import GroupedCommand

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
                       help="Metrics: fid,is,prdc,kid,cmmd,prd,vendi,shares,paired,clipped-density,"
                            "clipped-coverage."),
        options.option("--subset", group="Data", common=True, metavar="FILE",
                       help="Compare with these samples of the reference only: ids, keys or a mask."),
        options.option("--clusters", group="Data", common=True, metavar="FILE",
                       help="Compare the shares of these clusters, too."),
        options.option("--trained-on", group="Data", metavar="FILE",
                       help="Samples that the model was trained on, for their shares: ids, keys or a mask."),
        options.option("--logits", group="Data", metavar="FILE",
                       help="Logits of the generated samples, a .npy [n, classes], for the Inception score."),
        options.option("--save-stats", group="Output", common=True, metavar="FILE",
                       help="Write the statistics of the reference. A later eval takes them as REFERENCE."),
        options.option("--against", group="Metrics", common=True, metavar="FILE",
                       help="Compare with this result of eval. Each metric gets its difference and the error of that."),
        options.option("--fid-infinity", "infinity", group="Metrics", is_flag=True,
                       help="Extrapolate the Fréchet distance to infinitely many samples, too."),
        options.option("--held-out", group="Data", common=True, metavar="VAL",
                       help="Real samples as a baseline: like GENERATED, or ids or keys in REFERENCE."),
        options.count("--splits", "Number of splits over which the Inception score is averaged.", group="Metrics",
                      default=10),
        options.count("--k", "Number of neighbours for precision and recall.", group="Metrics", default=3),
        options.count("--density-k", "Number of neighbours for density and coverage, clipped or not.", group="Metrics",
                      default=5),
        options.option("--orders", group="Metrics", metavar="LIST", default="0.5,1,2,inf", show_default=True,
                       help="Orders of the Vendi score."),
        options.count("--jackknife", "Jackknife blocks for the standard errors. 0 gives none.",
                      group="Metrics", default=20, least=0),
        options.seed,
    ),
    options.embeds(default="inception"),
    options.delivers("The result: a .json file, or - for stdout.", can_stop=True),
)  # fmt: skip
def command(
    *, delivery: Delivery, generated: str, reference: str, settings: EvalSettings, embedding: Embedding
) -> None:
    """Compare generated samples with a reference (FID and others).

    GENERATED and REFERENCE are images (a folder, zip, .npz, parquet or shards), feature stores, or arrays of features.
    REFERENCE may also be statistics, of --save-stats or a .npz with mu and sigma. Compare Fréchet distances at equal
    counts of samples only.

    Features of images are made by --model and cached. Statistics allow the Fréchet distance (fid) alone. Those of
    pytorch-fid, clean-fid, guided-diffusion and others do not say which --model and --resize they are for; the manual
    has a table. Where both sides have labels, their classes should have equal shares, too; otherwise there is a
    warning.

    Without --metrics, all but paired, clipped-density and clipped-coverage are computed, as far as the inputs allow.

    Further metrics are the Inception score (is), precision, recall, density and coverage (prdc), KID, CMMD, the
    precision-recall curve (prd), the Vendi score, and the shares of clusters and classes. Where classes were asked for,
    as dprune sample does, a generated sample counts as the class of most of its 5 nearest reference samples; how often
    that is the class asked for is reported, too.

    clipped-density and clipped-coverage are shares of good samples, as far as samples are near enough to the reference,
    and as far as they cover it. Both are 1 where samples are as good as real ones, fall in proportion to the bad ones,
    and pay no heed to outliers of either side.

    Shares are held to those of the training set, too, in one number: the slope of generated over training shares, 1
    where a model follows them. A model that was trained on all samples of the reference or of the clusters says so
    itself. For others --trained-on names the subset of these: after train-dit --weights or --fold, the ids that it was
    trained on.

    --metrics paired takes samples of two models with the same seeds, which are known by their keys: the mean cosine and
    distance of the pairs, beside those of shuffled samples, of all and inside each class, and how often a sample's
    nearest neighbour in REFERENCE is its partner. So models of disjoint halves of a dataset show whether they generate
    the same content.

    Standard errors are those of other generated samples, with the reference held fixed. So they tell how much of a
    difference between two models that are compared with the same reference is chance.

    The Fréchet distance is reported beside that of as many real samples to the rest of the reference, with the ratio of
    the two. The real samples are those of --held-out, or part of REFERENCE where it has twice as many samples as
    GENERATED.

    --against takes the result of a baseline that was measured alike, such as the unpruned model's. Models that were
    sampled with the same seeds share their noise, so the error of their difference is far smaller than both errors
    suggest.

    \b
    Examples:
      dprune eval samples.zip photos -o metrics.json
      dprune eval generated shards --model dinov2-b --metrics fid,prdc -o metrics.json
      dprune eval generated-features features --held-out held-out.npy -o metrics.json
      dprune eval pruned shards --against unpruned.json -o metrics.json
      dprune eval generated-features features --subset keep.npy --clusters clusters.safetensors -o metrics.json
      dprune eval first-half second-half --metrics paired -o paired.json
      dprune eval samples.npz VIRTUAL_imagenet256_labeled.npz --resize tensorflow -o metrics.json
      dprune eval generated shards --metrics fid --save-stats shards.safetensors -o metrics.json
      dprune eval other shards.safetensors -o - | jq .metrics.frechet_distance
    """
    from dprune.measuring.eval_job import open_eval

    delivery.deliver(open_eval(generated, reference, settings, embedding, delivery.output))
