"""`dprune score METHOD`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.flags import FlaggedGroup, before_subcommands

if TYPE_CHECKING:
    from dprune.formats.members import MemberChoice
    from dprune.scoring.el2n_grand import El2nOptions, GrandOptions
    from dprune.scoring.monotonicity import MonotonicityOptions
    from dprune.scoring.moso import MosoOptions

OUTPUT = "The scores: a .npy file, or - for stdout."
FILE = "The scores: a .npy file; standard errors go to X.se.npy beside X.npy."


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
                       help="Noise levels, above 0 (clean) to 1 (noise); uniform: by chance for each draw."),
        options.count("--draws", "Noises at each level: 1, or an even number, in pairs.", group="Noise", common=True,
                      default=8),
        options.choice("--noise", ["shared", "own"], "The same noises for all samples, or each sample its own.",
                       group="Noise", default="shared"),
        options.choice("--weights", ["ema", "raw"], "Which weights of a checkpoint.", group="Model", default=weights),
        options.choice("--precision", ["auto", "bf16", "tf32", "fp32"], "Arithmetic; auto is bf16 on a GPU.",
                       group="Running", default="auto"),
        options.option("--compile/--no-compile", "compiles", group="Running", default=None,
                       help="Run the blocks by compiled kernels: our own or torch.compile's.  [default: on a GPU]"),
        options.count("--batch-size", "Samples in one pass through the device.", group="Running", common=True,
                      default=128),
        options.seed,
        options.device,
    )  # fmt: skip


latents = click.argument("latents", metavar="LATENTS")
subset = options.option(
    "--subset", group="Data", common=True, metavar="FILE", help="Score these ids (.npy) alone; the others get NaN."
)
per_sigma = options.option(
    "--per-sigma", group="Output", is_flag=True, help="Write the scores at each noise level, too: X.s0.06.npy."
)
checkpoints = options.option("--checkpoints", group="Method", common=True, metavar="WHICH", default="all",
                             show_default=True, help="all, the last N, or those of epochs A:B.")  # fmt: skip
model = options.option("--model", group="Model", common=True, required=True, metavar="FILE",
                       help="The model.safetensors or a checkpoint of train-dit, or a DiT or SiT.")  # fmt: skip


@click.group(cls=FlaggedGroup)
@before_subcommands
def command() -> None:
    """Give every sample a score to prune by.

    Scores are one float32 a sample in the order of the ids; NaN means not scored. What a high score means is the
    method's affair: dprune select takes the lowest, middle or highest.

    \b
    Examples:
      dprune score cluster-distance clusters.safetensors -o distance.npy
      dprune score random features --seed 1 -o random.npy
      dprune score el2n latents --model run/model.safetensors -o el2n.npy
      dprune score grand latents --model run/model.safetensors --el2n el2n.npy -o grand.npy
      dprune score grand latents --model run/model.safetensors --sigma .06,.29 --draws 16 --per-sigma -o grand.npy
      dprune score monotonicity latents run --losses losses.npy -o monotonicity.npy
      dprune score moso latents folds/* --checkpoints 3 -o moso.npy
      dprune score moso latents folds/* --sigma uniform --noise own --checkpoint-weights lr -o moso.npy
      torchrun --nproc-per-node 8 -m dprune score grand latents --model run/model.safetensors -o grand.npy
    """


@command.command("random")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@options.seed
@options.members
@options.delivers(OUTPUT, default="-")
def score_random(delivery: Delivery, sources: tuple[str, ...], seed: int, members: MemberChoice) -> None:
    """Score by chance: uniform in [0, 1), by seed and id alone.

    SOURCE says which samples there are: shards, a store, clusters, or an array with one row a sample.
    """
    from dprune.scoring.simple import open_random

    delivery.deliver(open_random(sources, seed, delivery.output, members))


@command.command("cluster-distance")
@click.argument("clusters", metavar="CLUSTERS")
@options.delivers(OUTPUT, default="-")
def score_cluster_distance(delivery: Delivery, clusters: str) -> None:
    """Score by the distance to the own centroid.

    CLUSTERS is the file that dprune cluster made, or - for stdin.
    """
    from dprune.scoring.simple import open_cluster_distance

    delivery.deliver(open_cluster_distance(clusters, delivery.output))


@command.command("el2n")
@latents
@model
@at_noise("el2n_grand:El2nOptions", options.parametrization, subset, per_sigma)
@options.delivers(FILE, can_stop=True, shares_work=True)
def score_el2n(delivery: Delivery, latents: str, model: str, scoring: El2nOptions) -> None:
    """Score by the loss of a diffusion transformer: the mean over the draws.

    LATENTS is the latent store of the samples. Where there are several noise levels, each one's losses are divided by
    their standard deviation over the samples. A rerun goes on where the last one ended; processes with RANK and
    WORLD_SIZE set share the samples, and so do the tasks of a SLURM array; the last to end writes the scores.
    """
    from dprune.scoring.el2n_grand import open_el2n

    delivery.deliver(open_el2n(latents, model, scoring, delivery.output))


@command.command("grand")
@latents
@model
@at_noise("el2n_grand:GrandOptions",
          options.option("--el2n", group="Output", common=True, metavar="FILE",
                         help="Write EL2N, which the same passes give, too."),
          options.parametrization, subset, per_sigma)  # fmt: skip
@options.delivers(FILE, can_stop=True, shares_work=True)
def score_grand(delivery: Delivery, latents: str, model: str, scoring: GrandOptions) -> None:
    """Score by the norm of the gradient of the loss over all weights: the mean over the draws.

    LATENTS is the latent store of the samples. Otherwise as el2n, which takes about half the time.
    """
    from dprune.scoring.el2n_grand import open_grand

    delivery.deliver(open_grand(latents, model, scoring, delivery.output))


@command.command("monotonicity")
@latents
@click.argument("run", metavar="RUN")
@at_noise("monotonicity:MonotonicityOptions",
          options.option("--losses", group="Output", common=True, metavar="FILE",
                         help="Write the losses by each checkpoint, too: a .npy file [N, K]."),
          checkpoints, subset, weights="raw")  # fmt: skip
@options.delivers(FILE, can_stop=True, shares_work=True)
def score_monotonicity(delivery: Delivery, latents: str, run: str, scoring: MonotonicityOptions) -> None:
    """Score by how often the loss rose from one checkpoint to the next: a share, from 0 to 1.

    LATENTS is the latent store of the samples, RUN the folder of a training with --save-every. The loss is the mean
    over the draws at one noise level (or those of --sigma uniform), which stay the same for a sample at every
    checkpoint, by the raw weights, since averages hide the rises. Shares are often equal: dprune select breaks ties by
    chance. The losses themselves serve other rules, such as their variance.
    """
    from dprune.scoring.monotonicity import open_monotonicity

    delivery.deliver(open_monotonicity(latents, run, scoring, delivery.output))


@command.command("moso")
@latents
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@at_noise("moso:MosoOptions",
          options.choice("--form", ["exact", "first-order"], "All terms, or the dot with the mean gradient alone.",
                         group="Method", default="exact"),
          options.choice("--normalize", ["zscore", "none"],
                         "Scale the scores of each fold to mean 0 and deviation 1, or leave them.", group="Method",
                         default="zscore"),
          options.option("--only-fold", group="Method", common=True, type=click.IntRange(min=0), metavar="I",
                         help="Measure this fold alone, for array jobs; its run is enough."),
          checkpoints,
          options.choice("--checkpoint-weights", ["equal", "lr"],
                         "What each checkpoint weighs: the same, or the learning rate of its step.", group="Method",
                         default="equal"),
          options.option("--subset", group="Data", common=True, metavar="FILE",
                         help="Ids (.npy) that the runs were trained on by their --subset."))  # fmt: skip
@options.delivers(FILE, can_stop=True, shares_work=True)
def score_moso(delivery: Delivery, latents: str, runs: tuple[str, ...], scoring: MosoOptions) -> None:
    """Score by how much the loss over the other samples would rise without a sample (moving one sample out).

    LATENTS is the latent store that the RUNs were trained on, each on a fold of it (train-dit --fold I/N with
    --save-every), or one RUN on all of it. Samples are scored by their own fold's run, as the mean over its
    checkpoints. Of each checkpoint the mean gradient comes first, then norms and dots with it, in about twice the
    time of grand. The paper on pruning diffusion models (arXiv 2411.12523) draws a noise level and a noise for each
    sample and weighs checkpoints by learning rates: --sigma uniform --noise own --checkpoint-weights lr. A rerun goes
    on where the last one ended; processes with RANK and WORLD_SIZE set share folds and checkpoints, and so do the
    tasks of a SLURM array.
    """
    from dprune.scoring.moso import open_moso

    delivery.deliver(open_moso(latents, runs, scoring, delivery.output))
