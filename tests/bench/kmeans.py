"""How fast k-means is, as JSON on stdout.

On a CPU: every engine against scikit-learn's and faiss's own k-means, from the same centroids, in one process.
On a GPU (`--device cuda`): seconds an iteration of the torch engine, beside a matrix product of the same kind and a
plain implementation.

    python tests/bench/kmeans.py
    PYTHONPATH=. python tests/bench/kmeans.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dprune.clustering.engines import TorchEngine, import_faiss, make_engine
from dprune.clustering.kernels import cluster_sums, matmul_precision, nearest_two
from dprune.clustering.kmeans import KMeansSettings, _update, lloyd
from dprune.clustering.points import Points, load_points
from dprune.clustering.starts import initial_centroids
from dprune.formats.features import ArrayFeatures
from dprune.runtime import Silent

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--samples", type=int, help="100,000 on a CPU, 1,281,167 on a GPU")
    parser.add_argument("--dimension", type=int, help="384 on a CPU, 768 on a GPU")
    parser.add_argument("-k", type=int, help="100 on a CPU, 1000 on a GPU")
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def clustered(samples: int, dimension: int, groups: int, device: torch.device) -> torch.Tensor:
    """Points around random centres, with a mean that is not zero, made in chunks on the device."""
    generator = torch.Generator(device).manual_seed(0)
    centres = torch.randn((groups, dimension), generator=generator, device=device) + 0.5
    x = torch.empty((samples, dimension), device=device)
    for chunk in x.split(65_536):
        owner = torch.randint(groups, (len(chunk),), generator=generator, device=device)
        chunk.normal_(generator=generator).mul_(1.5).add_(centres[owner])
    return x


def on_cpu(args: argparse.Namespace) -> dict[str, Any]:
    samples, dimension, k = args.samples or 100_000, args.dimension or 384, args.k or 100
    x = clustered(samples, dimension, 2 * k, CPU).numpy()
    features = ArrayFeatures("bench", x)
    points = load_points(features, "l2", CPU, Silent())
    began = time.process_time()
    start = (initial_centroids(points, k, "kmeans++", 0) + points.centre).numpy()
    init_s = time.process_time() - began
    runs: dict[str, Callable[[], tuple[float, int]]] = {
        "scikit-learn": lambda: sklearn_kmeans(x, start, args.iterations),
        "dprune sklearn": lambda: ours(features, start, args.iterations, "sklearn"),
        "dprune torch": lambda: ours(features, start, args.iterations, "torch"),
    }
    if import_faiss() is not None:
        runs["faiss"] = lambda: faiss_kmeans(x, start, args.iterations)
        runs["dprune faiss"] = lambda: ours(features, start, args.iterations, "faiss")
    # In turns, so that a busy machine slows all of them alike.
    times: dict[str, list[float]] = {name: [] for name in runs}
    found = {}
    for _ in range(args.repeats):
        for name, run in runs.items():
            began = time.process_time()
            found[name] = run()
            times[name].append(time.process_time() - began)
    seconds = {name: min(values) for name, values in times.items()}
    best = min(seconds[name] for name in ("scikit-learn", "faiss") if name in seconds)
    rows = {
        name: {
            "cpu_s": round(seconds[name], 3),
            "cpu_s_median": round(statistics.median(times[name]), 3),
            "of_better": round(seconds[name] / best, 3),
            "inertia": found[name][0],
            "inertia_of_scikit_learn": round(found[name][0] / found["scikit-learn"][0], 7),
            "iterations": found[name][1],
        }
        for name in runs
    }
    return {"samples": samples, "dimension": dimension, "k": k, "threads": torch.get_num_threads(),
            "init_cpu_s": round(init_s, 3), "runs": rows}  # fmt: skip


def ours(features: ArrayFeatures, start: np.ndarray, iterations: int, engine: str) -> tuple[float, int]:
    """All that the command does between reading and writing: reading in, centring, Lloyd, exact distances."""
    points = load_points(features, "l2", CPU, Silent())
    settings = KMeansSettings(len(start), iterations=iterations, tolerance=0.0, engine=engine)
    placed = points.place(torch.from_numpy(start))
    solution = lloyd(points, make_engine(engine, points.x), placed, settings, Silent())
    _, nearest, _ = nearest_two(points.x, solution.centroids)
    return float(nearest.double().square().sum()), solution.iterations


def sklearn_kmeans(x: np.ndarray, start: np.ndarray, iterations: int) -> tuple[float, int]:
    from sklearn.cluster import KMeans

    model = KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0).fit(x)
    return float(model.inertia_), int(model.n_iter_)


def faiss_kmeans(x: np.ndarray, start: np.ndarray, iterations: int) -> tuple[float, int]:
    """faiss's training and the assignment that it leaves to the caller, as the others include theirs."""
    import faiss

    model = faiss.Kmeans(x.shape[1], len(start), niter=iterations, max_points_per_centroid=len(x))
    model.train(x, init_centroids=start)
    distances, _ = model.index.search(x, 1)
    return float(distances.astype(np.float64).sum()), iterations


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `run`, the device waited for."""
    run()
    times = []
    for _ in range(repeats):
        wait()
        began = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def plain_iteration(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """What one writes first: float32 without tf32, squared distances, index_add_."""
    sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
    norms = centroids.square().sum(1)
    for chunk in x.split(32_768):
        labels = (chunk.square().sum(1, keepdim=True) - 2 * chunk @ centroids.T + norms).argmin(1)
        sums.index_add_(0, labels, chunk)
        counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
    return sums / counts.clamp(min=1).unsqueeze(1)


def product_tflops(repeats: int, precision: str, device: torch.device, side: int = 8192) -> float:
    """What a large square matrix product reaches here: `tf32`, `ieee` float32, or bfloat16 for `bf16`."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn((side, side), device=device, dtype=dtype)
    with matmul_precision("ieee" if precision == "bf16" else precision):
        return 2 * side**3 / timed(lambda: a @ a, repeats) / 1e12


def on_gpu(args: argparse.Namespace) -> dict[str, Any]:
    samples, dimension, k = args.samples or 1_281_167, args.dimension or 768, args.k or 1000
    device = torch.device(args.device)
    x = clustered(samples, dimension, 2 * k, device)
    x -= x.mean(0)
    mean_square = float(torch.linalg.vector_norm(x, dim=1).double().square().mean())
    points = Points(x, np.ones(samples, dtype=np.bool_), (samples,), "l2", x.new_zeros(dimension), mean_square)
    init_s = timed(lambda: initial_centroids(points, k, "kmeans++", 0), 2)
    start, engine = initial_centroids(points, k, "kmeans++", 0), TorchEngine(x)
    settings = KMeansSettings(k, iterations=args.iterations, tolerance=0.0)
    flops = 2 * samples * dimension * k
    labels = engine.assign(start)
    assign_s = timed(lambda: engine.assign(start), args.repeats)
    sums_s = timed(lambda: cluster_sums(x, labels, k), args.repeats)
    step_s = timed(lambda: _update(points, engine.assign(start), start, Silent())[2].tolist(), 3 * args.repeats)
    with matmul_precision("ieee"):
        plain_s = timed(lambda: plain_iteration(x, start), args.repeats)
        exact = plain_iteration(x, start)
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    solution = lloyd(points, engine, start, settings, Silent())
    _, nearest, _ = nearest_two(x, solution.centroids)
    wait()
    run_s = time.perf_counter() - began
    with matmul_precision("ieee"):
        centroids = start
        for _ in range(solution.iterations):
            centroids = plain_iteration(x, centroids)
    plain_nearest = nearest_two(x, centroids)[1]
    products = {name: product_tflops(args.repeats, name, device) for name in ("tf32", "bf16", "ieee")}
    return {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "samples": samples, "dimension": dimension, "k": k, "init_s": round(init_s, 4),
        "iteration_s": round(step_s, 5), "assign_s": round(assign_s, 5), "sums_s": round(sums_s, 5),
        "iteration_tflops": round(flops / step_s / 1e12, 1), "assign_tflops": round(flops / assign_s / 1e12, 1),
        "product_tflops": {name: round(value, 1) for name, value in products.items()},
        "iteration_of_product": round(flops / step_s / 1e12 / products["tf32"], 3),
        "assign_of_product": round(flops / assign_s / 1e12 / products["tf32"], 3),
        "run_s": round(run_s, 4), "iterations": solution.iterations, "repaired": solution.repaired,
        "inertia": float(nearest.double().square().sum()),
        "inertia_of_plain": float(nearest.double().square().sum() / plain_nearest.double().square().sum()),
        "plain_iteration_s": round(plain_s, 5), "speedup": round(plain_s / step_s, 2),
        "labels_unlike_float32": float((nearest_two(x, start)[0] != labels).double().mean()),
        "centroids_unlike_plain": float((_update(points, labels, start, Silent())[0] - exact).abs().max()),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }  # fmt: skip


if __name__ == "__main__":
    options = arguments()
    print(json.dumps((on_gpu if options.device == "cuda" else on_cpu)(options), indent=2))
