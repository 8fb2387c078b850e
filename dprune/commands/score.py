"""`dprune score METHOD`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options

if TYPE_CHECKING:
    from dprune.delivery import Delivery

OUTPUT = "The scores: a .npy file, or - for stdout."


@click.group()
def command() -> None:
    """Give every sample a score to prune by.

    Scores are one float32 a sample in the order of the ids; NaN means not scored. What a high score means is the
    method's affair: dprune select takes the lowest, middle or highest.

    \b
    Examples:
      dprune score cluster-distance clusters.safetensors -o distance.npy
      dprune score random features --seed 1 -o random.npy
    """


@command.command("random")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@options.seed
@options.delivers(OUTPUT, default="-")
def random(delivery: Delivery, sources: tuple[str, ...], seed: int) -> None:
    """Score by chance: uniform in [0, 1), by seed and id alone.

    SOURCE says which samples there are: shards, a store, clusters, or an array with one row a sample.
    """
    from dprune.pruning.scores import RandomScores, open_population

    delivery.deliver(RandomScores(open_population(sources), seed, delivery.tags))


@command.command("cluster-distance")
@click.argument("clusters", metavar="CLUSTERS")
@options.delivers(OUTPUT, default="-")
def cluster_distance(delivery: Delivery, clusters: str) -> None:
    """Score by the distance to the own centroid.

    CLUSTERS is the file that dprune cluster made, or - for stdin.
    """
    from dprune.pruning.scores import DistanceScores

    delivery.deliver(DistanceScores.open(clusters, delivery.tags))
