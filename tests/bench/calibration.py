"""What the standard errors of `eval` are worth, by simulation, as JSON on stdout.

Gaussians are drawn again and again, the generated one a little smaller than the reference and beside it, and measured
as `eval` does. A ratio is the root mean square of the errors over the true deviation across draws: `fixed` over new
generated samples with the reference held, which is what the errors speak of, `both` over new samples of both sides.
With `--classes` the generated samples are as many of each of several classes, which lie far apart. With `--paired`
two models share their noise, and the ratio is that of their difference. `man dprune-eval` states the ranges.

    PYTHONPATH=. python tests/bench/calibration.py
    PYTHONPATH=. python tests/bench/calibration.py --dimension 8 --generated 300 --reference 500 --metrics prdc,kid
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dprune.clustering.kernels import nearest_two
from dprune.measuring.groups import by_kmeans
from dprune.metrics.differences import jackknife_error
from dprune.metrics.frechet import Moments, frechet_distance, replicate_moments
from dprune.metrics.inception_score import inception_score
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.metrics.kernel import cmmd, kid
from dprune.metrics.manifold import clipped_balls, manifold
from dprune.metrics.prd import prd
from dprune.metrics.shares import shares
from dprune.metrics.vendi import vendi

# Dimension, generated and reference samples.
SETTINGS = ((4, 300, 1000), (8, 300, 500), (8, 1000, 500), (16, 500, 1000), (32, 500, 2000))
CLUSTERS, CLASSES = 8, 10
Estimates = dict[str, Estimate]


def fixed(*shape: int) -> Tensor:
    """Numbers that stay the same in all draws: weights of a classifier, centroids, centres of classes."""
    return torch.from_numpy(np.random.default_rng(99).normal(size=shape)).float()


def _frechet(x: Tensor, y: Tensor, blocks: Blocks) -> Estimates:
    whole, replicates = replicate_moments(x, blocks)
    return {"frechet_distance": frechet_distance(whole, Moments.of(y), replicates, blocks).distance}


def _inception_score(x: Tensor, _: Tensor, blocks: Blocks) -> Estimates:
    return {"inception_score": inception_score(3 * x @ fixed(x.shape[1], CLASSES), blocks=blocks).score}


def _manifold(x: Tensor, y: Tensor, blocks: Blocks) -> Estimates:
    return vars(manifold(x, y, blocks=blocks))


def _clipped(x: Tensor, y: Tensor, blocks: Blocks) -> Estimates:
    # Where a cap holds a number, it has no deviation; so six in ten are bad, by chance.
    bad = (x.double().sum(1) * 1e4).frac().abs() < 0.6
    found = clipped_balls(torch.where(bad.unsqueeze(1), x + 20, x), y, blocks=blocks)
    return {"clipped_density": replace(found.density, value=found.uncapped), "clipped_coverage": found.coverage}


def _prd(x: Tensor, y: Tensor, blocks: Blocks) -> Estimates:
    found = prd(x, y, by_kmeans, blocks=blocks)
    return {"prd_f_8": found.f_8, "prd_f_1_8": found.f_1_8}


def _shares(x: Tensor, y: Tensor, blocks: Blocks) -> Estimates:
    centroids = fixed(CLUSTERS, x.shape[1])
    found = shares(*(nearest_two(rows, centroids)[0].long() for rows in (x, y)), CLUSTERS, blocks)
    return {"cluster_total_variation": found.total_variation, "cluster_entropy": found.entropy,
            "cluster_smallest_share": found.smallest}  # fmt: skip


METRICS: dict[str, Callable[[Tensor, Tensor, Blocks], Estimates]] = {
    "fid": _frechet,
    "is": _inception_score,
    "prdc": _manifold,
    "clipped": _clipped,
    "kid": lambda x, y, blocks: {"kid": kid(x, y, blocks)},
    "cmmd": lambda x, y, blocks: {"cmmd": cmmd(x, y, blocks)},
    "prd": _prd,
    "vendi": lambda x, y, blocks: {"vendi": vendi(x, (1.0,), blocks)[1.0]},
    "shares": _shares,
}


def models(noise: Tensor, labels: np.ndarray | None, how_many: int) -> list[Tensor]:
    """What models make of noise [n, d]: each is off the reference by more than the one before."""
    made = []
    for number in range(how_many):
        x = noise * (0.9 - 0.05 * number)
        x[:, 0] += 0.5 + 0.2 * number
        made.append(x if labels is None else x + 4 * fixed(CLASSES, x.shape[1])[labels])
    return made


def simulate(
    setting: tuple[int, int, int], metrics: Iterable[str], references: int, *, seed: int = 0, balanced: bool = False,
    stratified: bool = True, paired: bool = False,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Draw each reference once and generated samples twice for it, so that either part of the variance shows.

    Args:
        setting: dimension, generated and reference samples.
        metrics: names that `eval --metrics` takes.
        references: how many; there are twice as many sets of generated samples.
        seed: seed of the draws.
        balanced: whether samples are of classes that lie far apart, as many of each among the generated ones.
        stratified: whether blocks then hold them evenly, as those of `eval` do.
        paired: whether to tell the difference of two models that share their noise.

    Returns:
        By key: mean value, true deviation with the reference held, and the ratios `fixed` and `both`.
    """
    (dimension, generated, reference), draw = setting, np.random.default_rng(seed)
    labels = np.arange(generated) % CLASSES if balanced else None
    strata = labels if stratified else None
    values: dict[str, list[float]] = {}
    squares: dict[str, list[float]] = {}
    for pair in range(2 * references):
        if pair % 2 == 0:
            y = torch.from_numpy(draw.normal(size=(reference, dimension))).float()
            y = y + 4 * fixed(CLASSES, dimension)[draw.integers(0, CLASSES, reference)] if balanced else y
        noise = torch.from_numpy(draw.normal(size=(generated, dimension))).float()
        # New blocks for each, as each would have another seed in the world.
        blocks = Blocks.draw(generated, pair, strata=strata)
        for key, estimate in _measured(models(noise, labels, 1 + paired), y, blocks, metrics).items():
            values.setdefault(key, []).append(estimate.value)
            squares.setdefault(key, []).append(estimate.error**2)
    return {key: _ratios(np.array(values[key]).reshape(-1, 2), math.sqrt(np.mean(squares[key]))) for key in values}


def _measured(made: list[Tensor], y: Tensor, blocks: Blocks, metrics: Iterable[str]) -> Estimates:
    found: list[Estimates] = [{}, {}]
    for x, estimates in zip(made, found, strict=False):
        for name in metrics:
            estimates |= METRICS[name](x, y, blocks)
    first, second = found
    if not second:
        return first
    differences = {}
    for key, ours in first.items():
        theirs = second[key]
        value, apart = ours.value - theirs.value, np.subtract(ours.replicates, theirs.replicates)
        differences[key] = Estimate(value, jackknife_error(value, apart, blocks.sizes))
    return differences


def _ratios(values: np.ndarray, error: float) -> dict[str, float]:
    """Compare an error with the deviations of values [references, 2]."""
    held, anew = math.sqrt(np.square(values[:, 0] - values[:, 1]).mean() / 2), float(values.std(ddof=1))
    found = {"value": values.mean(), "deviation": held, "fixed": error / held, "both": error / anew}
    return {name: float(f"{number:.4g}") for name, number in found.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimension", type=int, help="of one setting; without it, all that the man page speaks of")
    parser.add_argument("--generated", type=int, default=300)
    parser.add_argument("--reference", type=int, default=500)
    parser.add_argument("--metrics", default=",".join(METRICS))
    parser.add_argument("--references", type=int, default=100, help="with two sets of generated samples each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", action="store_true")
    parser.add_argument("--unstratified", action="store_true")
    parser.add_argument("--paired", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    given = (args.dimension, args.generated, args.reference)
    found: dict[str, Any] = {}
    for setting in SETTINGS if args.dimension is None else (given,):
        name = "d={}, n={}, m={}".format(*setting)
        found[name] = simulate(
            setting, args.metrics.split(","), args.references, seed=args.seed, balanced=args.classes,
            stratified=not args.unstratified, paired=args.paired,
        )  # fmt: skip
        print(name, {key: (row["fixed"], row["both"]) for key, row in found[name].items()}, file=sys.stderr)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
