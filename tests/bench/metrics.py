"""How fast the metrics are against public implementations, as JSON on stdout; values are compared too.

On a CPU the baselines are scipy's sqrtm formula for the Fréchet distance, and the packages vendi-score and prdc where
they are installed (`pip install vendi-score prdc`); without them their formulas, written out, on scikit-learn's
distances. On a GPU (`--device cuda`) only our own times are taken.

    python tests/bench/metrics.py
    PYTHONPATH=. python tests/bench/metrics.py --device cuda --samples 50000 --dimension 2048
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from machine import name_of, peak_gib

from dprune.measuring.groups import by_kmeans
from dprune.metrics.frechet import Moments, frechet_distance, replicate_moments
from dprune.metrics.jackknife import Blocks
from dprune.metrics.kernel import cmmd, kid
from dprune.metrics.manifold import balls, clipped_balls, manifold
from dprune.metrics.prd import prd
from dprune.metrics.vendi import vendi
from dprune.training.throughput import synchronize

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Runs = dict[str, Callable[[], Any]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--own", action="store_true", help="take our own times alone on a CPU too")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--frechet-dimension", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def correlated(samples: int, dimension: int, seed: int, device: str) -> Tensor:
    """Rows whose variances fall off like those of network features, on a mean that is not zero."""
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn((samples, dimension), generator=generator, device=device)
    mixing = torch.randn((dimension, dimension), generator=torch.Generator(device).manual_seed(99), device=device)
    scales = torch.arange(1, dimension + 1, device=device).float() ** -0.5
    return (x * scales) @ mixing / dimension**0.5 + 0.5


def compare(runs: Runs, repeats: int) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Best CPU and wall seconds of each, run in turns so that a busy machine slows all of them alike."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    values = {}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            values[name] = run()
            synchronize(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    best = {name: [min(column) for column in zip(*rows)] for name, rows in times.items()}
    return {name: {"cpu_s": round(cpu, 6), "wall_s": round(wall, 6)} for name, (cpu, wall) in best.items()}, values


def versus(times: dict[str, dict[str, float]], baseline: str, ours: str) -> dict[str, Any]:
    return {**times, "speedup_cpu": round(times[baseline]["cpu_s"] / times[ours]["cpu_s"], 2)}


def bench_frechet(dimension: int, repeats: int) -> dict[str, Any]:
    """From statistics alone: means and covariances of more samples than dimensions."""
    x, y = (correlated(3 * dimension, dimension, seed, "cpu").double() for seed in (0, 1))
    sides = [(len(rows), rows.mean(0), torch.cov(rows.T)) for rows in (x, y)]
    (_, mean, cov), (_, other_mean, other_cov) = sides
    runs: Runs = {
        # Moments are made anew each time, so that nothing is remembered from one run to the next.
        "dprune": lambda: frechet_distance(*(Moments.of_covariance(*side) for side in sides)).distance.value,
        "scipy sqrtm": lambda: by_sqrtm(mean.numpy(), cov.numpy(), other_mean.numpy(), other_cov.numpy()),
    }
    times, values = compare(runs, repeats)
    return {"dimension": dimension, **versus(times, "scipy sqrtm", "dprune"), "values": values,
            "relative_difference": abs(values["dprune"] / values["scipy sqrtm"] - 1)}  # fmt: skip


def by_sqrtm(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    from scipy.linalg import sqrtm

    trace = np.trace(sqrtm(cov @ other_cov).real)
    return float(((mean - other_mean) ** 2).sum() + np.trace(cov) + np.trace(other_cov) - 2 * trace)


def bench_vendi(x: Tensor, repeats: int) -> dict[str, Any]:
    rows = torch.nn.functional.normalize(x.double(), dim=1).numpy()
    runs: Runs = {"dprune": lambda: vendi(x, (1.0,))[1.0].value}
    if importlib.util.find_spec("vendi_score"):
        from vendi_score.vendi import score_K

        baseline = "vendi-score"
        runs[baseline] = lambda: float(score_K(rows @ rows.T))
    else:
        baseline = "eigenvalues of the N x N kernel"
        runs[baseline] = lambda: vendi_by_kernel(rows)
    times, values = compare(runs, min(repeats, 2))
    blocks = Blocks.draw(len(x))
    with_errors, _ = compare({"with errors": lambda: vendi(x, blocks=blocks)}, 1)
    return {**versus({**times, **with_errors}, baseline, "dprune"), "values": values}


def vendi_by_kernel(rows: np.ndarray) -> float:
    import scipy.linalg

    values = scipy.linalg.eigvalsh(rows @ rows.T / len(rows))
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum()))


def bench_manifold(x: Tensor, y: Tensor, repeats: int) -> dict[str, Any]:
    runs: Runs = {
        "dprune": lambda: summary(manifold(x, y, 5, 5)),
        "dprune with errors": lambda: summary(manifold(x, y, 5, 5, Blocks.draw(len(x)))),
    }
    if importlib.util.find_spec("prdc"):
        from prdc import compute_prdc

        baseline = "prdc"
        runs[baseline] = lambda: {k: float(v) for k, v in compute_prdc(y.numpy(), x.numpy(), nearest_k=5).items()}
    else:
        baseline = "prdc's formula"
        runs[baseline] = lambda: prdc_formula(y.numpy(), x.numpy(), 5)
    times, values = compare(runs, repeats)
    return {**versus(times, baseline, "dprune"), "values": values}


def summary(found: Any) -> dict[str, float]:
    return {name: getattr(found, name).value for name in ("precision", "recall", "density", "coverage")}


def bench_clipped(x: Tensor, y: Tensor, repeats: int) -> dict[str, Any]:
    blocks, baseline = Blocks.draw(len(x)), "authors' way"
    runs: Runs = {
        "dprune": lambda: clipped_summary(clipped_balls(x, y)),
        "dprune with errors": lambda: clipped_summary(clipped_balls(x, y, blocks=blocks)),
        "manifold alone, with errors": lambda: summary(manifold(x, y, blocks=blocks)),
        "dprune with errors, with the manifold": lambda: clipped_summary(balls(x, y, blocks=blocks).clipped),
        baseline: lambda: clipped_formula(y.numpy(), x.numpy(), 5),
    }
    times, values = compare(runs, repeats)
    return {**versus(times, baseline, "dprune"), "values": values}


def clipped_summary(found: Any) -> dict[str, float]:
    return {"density": found.uncapped, "coverage": found.uncalibrated}


def clipped_formula(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """Searches by scikit-learn: neighbours in the real set, a radius search, and neighbours in the other."""
    from sklearn.neighbors import NearestNeighbors

    distances, ids = NearestNeighbors(n_neighbors=k + 1).fit(real).kneighbors(real)
    radii = distances[:, k].clip(max=np.median(distances[:, k]))
    own = np.bincount(ids[:, 1:][distances[:, 1:] <= radii[:, None]], minlength=len(real))
    search = NearestNeighbors(algorithm="brute").fit(fake)
    near, which = search.radius_neighbors(real, radii.max())
    held = np.bincount(np.concatenate([w[d <= r] for w, d, r in zip(which, near, radii)]), minlength=len(fake))
    filled = search.kneighbors(real, n_neighbors=k)[0] < distances[:, k, None]
    density = held.clip(max=k).mean() / own.clip(max=k).mean()
    return {"density": float(density), "coverage": float(filled.mean())}


def prdc_formula(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """Three full matrices of distances, their k-th smallest by partition, and comparisons, as prdc has it."""
    from sklearn.metrics import pairwise_distances

    def radii(rows: np.ndarray) -> np.ndarray:
        return np.partition(pairwise_distances(rows, rows), k, axis=-1)[:, k]

    ours, theirs, cross = radii(fake), radii(real), pairwise_distances(real, fake)
    inside = cross < theirs[:, None]
    return {"precision": float(inside.any(0).mean()), "recall": float((cross < ours).any(1).mean()),
            "density": float(inside.sum(0).mean() / k), "coverage": float((cross.min(1) < theirs).mean())}  # fmt: skip


def own_times(x: Tensor, y: Tensor, repeats: int) -> dict[str, Any]:
    """Every metric with its standard errors."""
    blocks = Blocks.draw(len(x))

    def distance() -> float:
        whole, replicates = replicate_moments(x, blocks)
        return frechet_distance(whole, Moments.of(y), replicates, blocks).distance.value

    runs: Runs = {
        "frechet": distance,
        "frechet without errors": lambda: frechet_distance(Moments.of(x), Moments.of(y)).distance.value,
        "kid": lambda: kid(x, y, blocks).value,
        "cmmd": lambda: cmmd(x, y, blocks).value,
        "manifold": lambda: summary(manifold(x, y, blocks=blocks)),
        "manifold without errors": lambda: summary(manifold(x, y)),
        "clipped": lambda: clipped_summary(clipped_balls(x, y, blocks=blocks)),
        "clipped without errors": lambda: clipped_summary(clipped_balls(x, y)),
        "manifold and clipped": lambda: clipped_summary(balls(x, y, blocks=blocks).clipped),
        "vendi": lambda: vendi(x, blocks=blocks)[1.0].value,
        "prd": lambda: prd(x, y, by_kmeans, blocks=blocks).f_8.value,
    }
    times, values = compare(runs, repeats)
    return {"times": times, "values": values}


def main() -> None:
    args = arguments()
    x, y = (correlated(args.samples, args.dimension, seed, args.device) for seed in (0, 1))
    found = {"torch": torch.__version__, "threads": torch.get_num_threads(), "samples": args.samples,
             "dimension": args.dimension}  # fmt: skip
    if args.device == "cuda" or args.own:
        found |= {"device": name_of(x.device), **own_times(x, y, args.repeats),
                  "peak_gib": round(peak_gib(x.device), 2)}  # fmt: skip
    else:
        found |= {"frechet": bench_frechet(args.frechet_dimension, args.repeats), "vendi": bench_vendi(x, args.repeats),
                  "manifold": bench_manifold(x, y, args.repeats),
                  "clipped": bench_clipped(x, y, args.repeats)}  # fmt: skip
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
