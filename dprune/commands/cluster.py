"""`dprune cluster`."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.selecting.amount import Amount
from dprune.shell.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.clustering.job import ClusterSettings

OUTPUT = "File of the clusters, or - for stdout. With --sweep, a folder."
MOST_SWEPT = 1000


class Sweep(click.ParamType[tuple[int, ...]]):
    """Numbers of clusters as START:STOP:STEP, the stop included."""

    name = "start:stop:step"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse `value`; the step is 1 if left out."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})(?::([0-9]{1,18}))?", str(value))
        start, stop, step = (int(part or 1) for part in match.groups()) if match else (0, 0, 0)
        if not 1 <= start <= stop or not step:
            self.fail(f"{value!r} is not START:STOP:STEP with 1 <= START <= STOP: write 8:64:8.", param, ctx)
        swept = range(start, stop + 1, step)
        if len(swept) > MOST_SWEPT:
            self.fail(f"{value!r} stands for {len(swept):,} numbers of clusters: give a larger STEP, for at most "
                      f"{MOST_SWEPT:,}.", param, ctx)  # fmt: skip
        return tuple(swept)


class Levels(click.ParamType[tuple[int, ...]]):
    """Numbers of clusters, level by level, each smaller than the one before."""

    name = "k,k"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse `value`."""
        if isinstance(value, tuple):
            return value
        levels = tuple(map(int, value.split(","))) if re.fullmatch(r"[0-9]{1,18}(,[0-9]{1,18})+", value) else ()
        if not levels or levels[-1] < 1 or any(above >= below for below, above in itertools.pairwise(levels)):
            self.fail(f"{value!r} is not K,K with each smaller than the one before: write 10000,1000.", param, ctx)
        return levels


def _amount(ctx: click.Context, param: click.Parameter, value: str | None) -> Amount | None:
    try:
        return None if value is None else Amount.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(cls=GroupedCommand)
@click.argument("features", metavar="FEATURES")
@options.gathers(
    "settings", "dprune.clustering.job:ClusterSettings",
    options.count("-k", "Number of clusters.  [default: 24, or as many as --init holds]", group="Method", common=True),
    options.option("--sweep", group="Method", common=True, type=Sweep(), metavar="START:STOP:STEP",
                   help="Cluster for each of these k and plot the quality, such as 8:64:8."),
    options.option("--levels", group="Method", type=Levels(), metavar="K,K",
                   help="Cluster into the first K, then the centroids into the next K, and so on: 10000,1000."),
    options.option("--fit-on", group="Method", common=True, metavar="AMOUNT", callback=_amount,
                   help="Fit on a random share (2%) or count of the samples, then assign all in one pass."),
    options.option("--centroids", group="Method", common=True, metavar="FILE",
                   help="Centroids for --assign-only: a clusters.safetensors or a .npy [k, d]."),
    options.option("--assign-only", group="Method", common=True, is_flag=True,
                   help="Fit nothing: assign the samples to --centroids. Workers share the work."),
    options.option("--subset", group="Method", common=True, metavar="FILE",
                   help="Cluster these samples only: ids or a mask. Others are in no cluster."),
    options.choice("--metric", ["l2", "cosine"],
                   "Distance. Euclidean, or 1 - cosine by spherical k-means.  [default: l2, or that of --centroids]",
                   group="Method", common=True),
    options.option("--init", group="Method", default="kmeans++", show_default=True, metavar="kmeans++|random|FILE",
                   help="Initial centroids. FILE is a .npy [k, d] or another clusters.safetensors."),
    options.count("--n-init", "Number of starts, of which the one with the lowest inertia is kept.", group="Method",
                  default=1),
    options.count("--iterations", "Number of iterations, at most.", group="Method", default=100),
    options.option("--tolerance", group="Method", type=options.Number(min=0), metavar="X", default=1e-4,
                   show_default=True,
                   help="Stop when the shift of the centroids is less than this share of the variance."),
    options.choice("--engine", ["auto", "faiss", "torch", "sklearn"], "Library that finds the nearest centroids.",
                   group="Running", default="auto"),
    options.seed,
    options.option("--device", group="Running", common=True, metavar="NAME", default="auto", show_default=True,
                   help="Device: cpu, cuda, cuda:N or cuda:0,cuda:1."),
)  # fmt: skip
@options.delivers(OUTPUT, can_stop=True, shares_work=True)
def command(delivery: Delivery, features: str, settings: ClusterSettings) -> None:
    """Cluster features by k-means.

    FEATURES is a feature store, a .npy of shape [n, d], or a .safetensors with a tensor called features. Each sample
    gets its cluster and its distances to the nearest and the second nearest centroid.

    Without --subset all samples take part. Those that do not, and those without features, get cluster -1: no selection
    keeps them. So the clusters of a long-tailed set are its own, and not those of all the data.

    --levels clusters the centroids again, each counted once, so that the upper clusters spread evenly over the data
    however dense it is. dprune select --quota equal then divides from the top down: equally among the upper clusters,
    and inside each equally among its own.

    --fit-on needs memory for the samples of the fit alone, of which there had better be 50 or more a cluster.
    --assign-only needs none for samples: it keeps what it has assigned beside the output, span by span, until all is
    there. So the tasks of a SLURM array, or processes with RANK and WORLD_SIZE, share a billion rows, and the same
    command again does only what is missing.

    Several GPUs share the work when --device names them, or under torchrun.

    \b
    Examples:
      dprune cluster features -k 24 -o clusters.safetensors
      dprune cluster features -k 10 --subset tailed.npy -o tailed-clusters.safetensors
      dprune cluster features --sweep 8:64:8 -o sweep
      dprune cluster features --levels 10000,1000 -o clusters.safetensors
      dprune cluster features -k 1000 --fit-on 2% -o clusters.safetensors
      dprune cluster more --centroids clusters.safetensors --assign-only -o more.safetensors
      dprune cluster features.npy --metric cosine -o clusters.safetensors
      dprune cluster features -k 24 -o - | dprune score cluster-distance - -o distance.npy
      dprune cluster features -k 1000 --device cuda:0,cuda:1 -o clusters.safetensors
      torchrun --nproc-per-node 8 -m dprune cluster features -k 1000 -o clusters.safetensors
    """
    from dprune.clustering.job import open_cluster

    delivery.deliver(open_cluster(features, settings, delivery.output))
