"""`dprune score METHOD`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.flags import FlaggedGroup, before_subcommands

if TYPE_CHECKING:
    from dprune.formats.members import MemberChoice
    from dprune.scoring.duplicates import DuplicatesOptions
    from dprune.scoring.el2n_grand import El2nOptions, GrandOptions
    from dprune.scoring.herding import HerdingOptions
    from dprune.scoring.influence import InfluenceOptions
    from dprune.scoring.monotonicity import MonotonicityOptions
    from dprune.scoring.moso import MosoOptions
    from dprune.scoring.orders import OrderOptions

OUTPUT = "File of the scores (.npy), or - for stdout."
FILE = "File of the scores (.npy). Standard errors go to X.se.npy beside X.npy."


def at_noise(source: str, *own: options.Decorator, weights: str = "ema") -> options.Decorator:
    """Add the options of scores by models; they reach the command as one `scoring`.

    Args:
        source: dataclass that gathers them, `module:Class` in `dprune.scoring`.
        own: options of the method.
        weights: which of a checkpoint's are the default.
    """
    return options.gathers(
        "scoring", f"dprune.scoring.{source}", *own,
        options.option("--sigma", group="Noise", common=True, default=".06", show_default=True, metavar="X,...",
                       help="Noise levels from 0 (clean) to 1 (noise). uniform draws one at random each time."),
        options.count("--draws", "Number of noises per level. It is 1 or even, since noises come in pairs.",
                      group="Noise", common=True, default=8),
        options.choice("--noise", ["shared", "own"], "Whether all samples share their noises or have their own.",
                       group="Noise", default="shared"),
        options.choice("--weights", ["ema", "raw"], "Weights of a checkpoint to use: averaged or raw.", group="Model",
                       default=weights),
        options.choice("--precision", ["auto", "bf16", "tf32", "fp32"],
                       "Precision of the arithmetic. auto is bf16 on a GPU.", group="Running", default="auto"),
        options.option("--compile/--no-compile", "compiles", group="Running", default=None,
                       help="Compile the blocks, with dprune's kernels or by torch.compile.  [default: on a GPU]"),
        options.count("--batch-size", "Samples per forward pass.", group="Running", common=True,
                      default=128),
        options.seed,
        options.device,
    )  # fmt: skip


def over_features(source: str, *own: options.Decorator, ranks: bool = True, metrics: bool = True) -> options.Decorator:
    """Add the options of scores over features; they reach the command as one `scoring`.

    Args:
        source: dataclass that gathers them, `module:Class` in `dprune.scoring`.
        own: options of the method.
        ranks: whether the scores are ranks, of which some may be left out.
        metrics: whether distances may be those of features that are not of unit length.
    """
    metric = options.choice("--metric", ["cosine", "l2"],
                            "Distance. Euclidean, of features scaled to unit length or not.", group="Method",
                            common=True, default="cosine")  # fmt: skip
    up_to = options.option("--up-to", group="Method", common=True, metavar="AMOUNT", callback=options.parse_amount,
                           help="Rank only this share (10%, .1) or count (5000). The others share one last rank.  "
                                "[default: all]")  # fmt: skip
    return options.gathers(
        "scoring", f"dprune.scoring.{source}", *own,
        options.option("--clusters", group="Method", common=True, metavar="FILE",
                       help="Score inside each cluster of this file, for select with the same --clusters."),
        options.option("--subset", group="Method", common=True, metavar="FILE",
                       help="Score these samples only, among themselves: ids or a mask. Others get NaN."),
        *([metric] if metrics else []),
        *([up_to] if ranks else []),
        options.seed,
        options.device,
    )  # fmt: skip


features = click.argument("features", metavar="FEATURES")
latents = click.argument("latents", metavar="LATENTS")
subset = options.option(
    "--subset",
    group="Data",
    common=True,
    metavar="FILE",
    help="Score these samples only: ids, keys or a mask. The others get NaN.",
)
per_sigma = options.option(
    "--per-sigma",
    group="Output",
    is_flag=True,
    help="Write the scores at each noise level, too, to X.s0.06.npy and so on.",
)
checkpoints = options.option("--checkpoints", group="Method", common=True, metavar="WHICH", default="all",
                             show_default=True, help="Checkpoints to use: all, the last N, or epochs A:B.")  # fmt: skip
model = options.option("--model", group="Model", common=True, required=True, metavar="FILE",
                       help="Model or checkpoint of train-dit, or weights of a DiT or SiT.")  # fmt: skip


@click.group("score", cls=FlaggedGroup, subcommand_metavar="METHOD [ARGS]...")
@before_subcommands
def command() -> None:
    """Give every sample a score to prune by.

    Scores are one float32 per sample, in the order of the ids. NaN marks samples without a score. dprune select keeps
    the lowest, middle or highest; each method says what a high score means.

    \b
    Examples:
      dprune score cluster-distance clusters.safetensors -o distance.npy
      dprune score random features --seed 1 -o random.npy
      dprune score el2n latents --model run/model.safetensors -o el2n.npy
      dprune score moso latents folds/* --checkpoints 3 -o moso.npy
    """


@command.command("random")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@options.seed
@options.members
@options.delivers(OUTPUT, default="-")
def score_random(delivery: Delivery, sources: tuple[str, ...], seed: int, members: MemberChoice) -> None:
    """Score by chance.

    SOURCE says which samples there are: shards, a store, clusters, or an array with one row per sample. Scores are
    uniform in [0, 1) and depend on the seed and the id alone.

    \b
    Examples:
      dprune score random features -o random.npy
      dprune score random shards --seed 1 | dprune select - --keep 10% -o keep.npy
    """
    from dprune.scoring.simple import open_random

    delivery.deliver(open_random(sources, seed, delivery.output, members))


@command.command("cluster-distance")
@click.argument("clusters", metavar="CLUSTERS")
@options.delivers(OUTPUT, default="-")
def score_cluster_distance(delivery: Delivery, clusters: str) -> None:
    """Score by the distance to the own centroid.

    CLUSTERS is the file that dprune cluster made, or - for stdin. A high score means that a sample is unlike its
    cluster.

    \b
    Examples:
      dprune score cluster-distance clusters.safetensors -o distance.npy
      dprune score cluster-distance clusters.safetensors | dprune select - --keep 0.25 -o keep.npy
    """
    from dprune.scoring.simple import open_cluster_distance

    delivery.deliver(open_cluster_distance(clusters, delivery.output))


@command.command("k-center")
@features
@over_features("orders:OrderOptions")
@options.delivers(OUTPUT, default="-")
def score_k_center(delivery: Delivery, features: str, scoring: OrderOptions) -> None:
    """Score by the rank at which a sample is taken to cover all.

    FEATURES is a feature store, a .npy of shape [n, d], or a .safetensors with a tensor called features. The first
    sample is that nearest to the mean; each next one is the furthest from all that are taken (k-center greedy). So
    select keeps the lowest, subsets of all sizes are nested, and no sample is further from the first n than twice
    what the best n could do.

    With --clusters each cluster is ranked by itself. Copies of a taken sample come last. Ties go by the seed. What
    --up-to leaves unranked shares one rank, the last, so that a share of select means what it means without.

    \b
    Examples:
      dprune score k-center features -o k-center.npy
      dprune score k-center features --up-to 10% | dprune select - --keep 10% -o keep.npy
      dprune score k-center features --clusters clusters.safetensors -o k-center.npy
    """
    from dprune.scoring.k_center import open_k_center

    delivery.deliver(open_k_center(features, scoring, delivery.output))


@command.command("duplicates")
@features
@over_features("duplicates:DuplicatesOptions",
               options.choice("--prefer", ["nearest", "furthest"],
                              "Which samples come first, by their distance to the centre.", group="Method",
                              common=True, default="nearest"),
               options.option("--of", group="Output", common=True, metavar="FILE",
                              help="Write the id of the earlier sample, too, as a .npy [N]. It is -1 for none."),
               ranks=False, metrics=False)  # fmt: skip
@options.delivers(OUTPUT, default="-")
def score_duplicates(delivery: Delivery, features: str, scoring: DuplicatesOptions) -> None:
    """Score by how similar a sample is to an earlier one.

    FEATURES is a feature store, a .npy of shape [n, d], or a .safetensors with a tensor called features. Samples are
    put in the order of their distance to the centre of their cluster, or without --clusters to the mean. The score is
    the largest cosine to a sample that comes earlier. So select --below 0.95 drops repeats, and of a set of copies,
    which are at 1, one stays. The first sample of a cluster has no earlier one, and gets -1.

    It compares samples of one cluster alone, as SemDeDup does (arXiv 2303.09540), whose authors prefer the furthest.
    Samples at one distance are ordered by the seed.

    Which cosine stands for the same image depends on the features. Those of a network that tells few classes apart
    are all alike: look at --figure of dprune select before you drop half of the samples.

    \b
    Examples:
      dprune score duplicates features --clusters clusters.safetensors -o duplicates.npy
      dprune score duplicates features | dprune select - --below 0.95 -o unique.npy
    """
    from dprune.scoring.duplicates import open_duplicates

    delivery.deliver(open_duplicates(features, scoring, delivery.output))


@command.command("herding")
@features
@over_features(
    "herding:HerdingOptions",
    options.option("--bandwidth", group="Method", common=True, type=options.Number(0, min_open=True), metavar="X",
                   help="Width of the Gaussian kernel, a distance.  [default: the median]"),
)  # fmt: skip
@options.delivers(OUTPUT, default="-")
def score_herding(delivery: Delivery, features: str, scoring: HerdingOptions) -> None:
    """Score by the rank at which a sample is taken to resemble all.

    FEATURES is a feature store, a .npy of shape [n, d], or a .safetensors with a tensor called features. Each step
    takes the sample that brings the mean of a Gaussian kernel over all that are taken nearest to the mean over all
    samples (kernel herding). So the first n are a small copy of the whole, more even than n at random, and subsets of
    all sizes are nested: select keeps the lowest.

    With --clusters each cluster is ranked by itself, with a mean and a median of its own. The median is of the
    distances between distinct samples, at most 2,000 of them that the seed chooses. Everything else is as in k-center.

    \b
    Examples:
      dprune score herding features -o herding.npy
      dprune score herding features --up-to 10% | dprune select - --keep 10% -o keep.npy
      dprune score herding features --clusters clusters.safetensors -o herding.npy
    """
    from dprune.scoring.herding import open_herding

    delivery.deliver(open_herding(features, scoring, delivery.output))


@command.command("el2n")
@latents
@model
@at_noise("el2n_grand:El2nOptions", options.parametrization, subset, per_sigma)
@options.delivers(FILE, can_stop=True, shares_work=True)
def score_el2n(delivery: Delivery, latents: str, model: str, scoring: El2nOptions) -> None:
    """Score by the loss of a diffusion transformer.

    LATENTS is the latent store of the samples. The score is the mean loss over the draws, so a high score means that a
    sample is hard to denoise. A rerun goes on where the last one ended.

    Where there are several noise levels, the losses of each are divided by their standard deviation over the samples.
    Processes with RANK and WORLD_SIZE set share the samples, and so do the tasks of a SLURM array; the last to end
    writes the scores.

    \b
    Examples:
      dprune score el2n latents --model run/model.safetensors -o el2n.npy
      dprune score el2n latents --model run/model.safetensors --draws 16 -o el2n.npy
    """
    from dprune.scoring.el2n_grand import open_el2n

    delivery.deliver(open_el2n(latents, model, scoring, delivery.output))


@command.command("grand")
@latents
@model
@at_noise("el2n_grand:GrandOptions",
          options.option("--el2n", group="Output", common=True, metavar="FILE",
                         help="Write the EL2N scores, too, which the same passes give."),
          options.parametrization, subset, per_sigma)  # fmt: skip
@options.delivers(FILE, can_stop=True, shares_work=True)
def score_grand(delivery: Delivery, latents: str, model: str, scoring: GrandOptions) -> None:
    """Score by the norm of the gradient of the loss over all weights.

    LATENTS is the latent store of the samples. The score is the mean norm over the draws, so a high score means that a
    sample moves the weights far. It takes about twice the time of el2n.

    Everything else is as in el2n.

    \b
    Examples:
      dprune score grand latents --model run/model.safetensors -o grand.npy
      dprune score grand latents --model SiT-XL-2-256.pt -o grand.npy
      dprune score grand latents --model run/model.safetensors --el2n el2n.npy -o grand.npy
      dprune score grand latents --model run/model.safetensors --sigma .06,.29 --draws 16 --per-sigma -o grand.npy
      torchrun --nproc-per-node 8 -m dprune score grand latents --model run/model.safetensors -o grand.npy
    """
    from dprune.scoring.el2n_grand import open_grand

    delivery.deliver(open_grand(latents, model, scoring, delivery.output))


@command.command("monotonicity")
@latents
@click.argument("run", metavar="RUN")
@at_noise("monotonicity:MonotonicityOptions",
          options.option("--losses", group="Output", common=True, metavar="FILE",
                         help="Write the loss at each checkpoint, too, as a .npy [N, K]."),
          checkpoints, subset, weights="raw")  # fmt: skip
@options.delivers(FILE, can_stop=True, shares_work=True)
def score_monotonicity(delivery: Delivery, latents: str, run: str, scoring: MonotonicityOptions) -> None:
    """Score by how often the loss rose from one checkpoint to the next.

    LATENTS is the latent store of the samples, and RUN the folder of a training with --save-every. The score is a share
    from 0 to 1, so a high score means that a sample was often forgotten.

    The loss is the mean over the draws at one noise level, or at those of --sigma uniform. The draws of a sample are
    the same at every checkpoint. The raw weights are used, since averaging hides the rises. Shares are often equal, and
    dprune select breaks ties at random. The losses themselves serve other rules, such as their variance.

    \b
    Examples:
      dprune score monotonicity latents run -o monotonicity.npy
      dprune score monotonicity latents run --losses losses.npy -o monotonicity.npy
    """
    from dprune.scoring.monotonicity import open_monotonicity

    delivery.deliver(open_monotonicity(latents, run, scoring, delivery.output))


@command.command("moso")
@latents
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@at_noise("moso:MosoOptions",
          options.choice("--form", ["exact", "first-order"],
                         "Form of the score. All terms, or only the dot product with the mean gradient.",
                         group="Method", default="exact"),
          options.choice("--normalize", ["zscore", "none"],
                         "Scale the scores of each fold to mean 0 and deviation 1, or leave them.", group="Method",
                         default="zscore"),
          options.option("--only-fold", group="Method", common=True, type=click.IntRange(min=0), metavar="I",
                         help="Measure only this fold, as in array jobs. Its run is enough."),
          checkpoints,
          options.choice("--checkpoint-weights", ["equal", "lr"],
                         "Weight of each checkpoint: the same, or the learning rate of its step.", group="Method",
                         default="equal"),
          options.option("--subset", group="Data", common=True, metavar="FILE",
                         help="Samples that the runs were trained on with --subset: ids, keys or a mask."))  # fmt: skip
@options.delivers(FILE, can_stop=True, shares_work=True)
def score_moso(delivery: Delivery, latents: str, runs: tuple[str, ...], scoring: MosoOptions) -> None:
    """Score by how much the loss on the other samples would rise without a sample.

    MoSo is short for moving one sample out. LATENTS is the latent store that the RUNs were trained on, each on a fold
    of it (train-dit --fold I/N with --save-every), or one RUN on all of it. A high score means that a sample helps the
    others.

    Samples are scored by the run of their own fold, as the mean over its checkpoints. At each checkpoint the mean
    gradient is computed first, then norms and dot products with it, which takes about twice the time of grand.

    The paper on pruning diffusion models (arXiv 2411.12523) draws a noise level and a noise for each sample and weights
    checkpoints by learning rates: --sigma uniform --noise own --checkpoint-weights lr.

    A rerun goes on where the last one ended. Processes with RANK and WORLD_SIZE set share folds and checkpoints, and so
    do the tasks of a SLURM array.

    \b
    Examples:
      dprune score moso latents folds/* --checkpoints 3 -o moso.npy
      dprune score moso latents folds/* --only-fold 0 -o fold-0.npy
      dprune score moso latents folds/* --sigma uniform --noise own --checkpoint-weights lr -o moso.npy
    """
    from dprune.scoring.moso import open_moso

    delivery.deliver(open_moso(latents, runs, scoring, delivery.output))


@command.command("influence")
@latents
@model
@at_noise("influence:InfluenceOptions",
          options.option("--target", group="Data", common=True, required=True, metavar="FILE|STORE",
                         help="Samples to help: ids, keys or a mask of LATENTS, or another latent store."),
          options.parametrization, subset, per_sigma)  # fmt: skip
@options.delivers(FILE, can_stop=True, shares_work=True)
def score_influence(delivery: Delivery, latents: str, model: str, scoring: InfluenceOptions) -> None:
    """Score by what training on a sample does for the loss of target samples.

    LATENTS is the latent store of the samples. The score is the dot product of a sample's gradient with the mean
    gradient of the targets, so a high score means that a step on the sample lowers their loss, and one below zero that
    it raises it. Targets may be wanted samples of LATENTS, or held-out ones in a store of the same autoencoder.

    The mean gradient is over all noise levels and draws. It is computed first, which takes about the time of grand for
    the targets, and the samples take about a third more than that. Errors and reliability are those of the samples'
    draws, for the mean gradient as it was found. Targets and samples meet at the same noises, which ranks better and
    adds to all scores what these have in common; --noise own leaves that out, but for targets that are scored.

    Everything else is as in el2n.

    \b
    Examples:
      dprune score influence latents --model run/model.safetensors --target wanted.npy -o influence.npy
      dprune score influence latents --model run/model.safetensors --target held-out --sigma .3 -o influence.npy
    """
    from dprune.scoring.influence import open_influence

    delivery.deliver(open_influence(latents, model, scoring, delivery.output))
