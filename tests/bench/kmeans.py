"""How fast k-means is, as JSON on stdout.

On a CPU: every engine against scikit-learn's and faiss's own k-means, from the same centroids, in one process.
On a GPU (`--device cuda`): seconds of the torch engine's first iteration, which sums up all points, and of a whole run,
beside matrix products, the readable engine and a plain implementation.
With `--command`: seconds of whole commands, each in a process of its own, from half precision features in a file: on
one device, on all GPUs as threads of a process, as two ranks of torchrun, and what torchrun takes to do nothing.
With `--fit-on`: seconds of the jobs of a fit on all samples of a store and of one on 2% of them, and of the pass that
assigns all beside its floors: reading the samples, and the product by which the nearest are found. On a CPU they are
processor seconds.

    python tests/bench/kmeans.py
    PYTHONPATH=. python tests/bench/kmeans.py --fit-on
    PYTHONPATH=. python tests/bench/kmeans.py --device cuda --fit-on --iterations 100
    PYTHONPATH=. python tests/bench/kmeans.py --device cuda
    PYTHONPATH=. python tests/bench/kmeans.py --device cuda --command
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from machine import forget_peak, name_of, peak_gib, timed
from safetensors.numpy import load_file

from dprune.clustering.assigning import Assigner, assign_spans
from dprune.clustering.engines import import_faiss, make_engine
from dprune.clustering.job import ClusterSettings, open_cluster
from dprune.clustering.kernels import cluster_sums, nearest_two
from dprune.clustering.kmeans import KMeansSettings, lloyd
from dprune.clustering.points import Points, load_points
from dprune.clustering.reading import read_rows
from dprune.clustering.single import torch_pays
from dprune.clustering.spans import Spans
from dprune.clustering.starts import initial_centroids
from dprune.clustering.torch_engines import TorchEngine
from dprune.formats.features import ArrayFeatures, open_features
from dprune.formats.provenance import make_record
from dprune.formats.publish import Output
from dprune.formats.stores import Store
from dprune.namespace import HOST
from dprune.precision import float32
from dprune.runtime import Silent, take_device
from dprune.selecting.amount import Amount
from dprune.training.throughput import synchronize

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
PART = 10_000
"""Samples of a part of a store."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--parts", action="store_true", help="take what a GPU tells of a CPU too")
    parser.add_argument("--command", action="store_true", help="time whole commands")
    parser.add_argument("--fit-on", action="store_true", help="time fits on all samples and on 2% of them")
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


def plain_iteration(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """What one writes first: float32 without tf32, squared distances, index_add_."""
    sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
    norms = centroids.square().sum(1)
    for chunk in x.split(32_768):
        labels = (chunk.square().sum(1, keepdim=True) - 2 * chunk @ centroids.T + norms).argmin(1)
        sums.index_add_(0, labels, chunk)
        counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
    return sums / counts.clamp(min=1).unsqueeze(1)


def product_tflops(repeats: int, precision: str, device: torch.device) -> float:
    """What a large square matrix product reaches here: `tf32`, `ieee` float32, or bfloat16 for `bf16`."""
    side = 8192 if device.type == "cuda" else 256
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn((side, side), device=device, dtype=dtype)
    with float32(tf32=precision == "tf32"):
        return 2 * side**3 / timed(lambda: a @ a, repeats, device) / 1e12


def by_kernel(args: argparse.Namespace) -> dict[str, Any]:
    samples, dimension, k = args.samples or 1_281_167, args.dimension or 768, args.k or 1000
    device = torch.device(args.device)
    x = clustered(samples, dimension, 2 * k, device)
    x -= x.mean(0)
    mean_square = float(torch.linalg.vector_norm(x, dim=1).double().square().mean())
    points = Points(x, np.ones(samples, dtype=np.bool_), (samples,), "l2", x.new_zeros(dimension), mean_square)
    init_s = timed(lambda: initial_centroids(points, k, "kmeans++", 0), 2, device)
    start, engine, readable = initial_centroids(points, k, "kmeans++", 0), make_engine("torch", x), TorchEngine(x)
    settings = KMeansSettings(k, iterations=args.iterations, tolerance=0.0)
    flops = 2 * samples * dimension * k
    labels = engine.assign(start)
    assign_s, readable_assign_s = (
        timed(lambda: each.assign(start), args.repeats, device)  # noqa: B023 - called at once
        for each in (engine, readable)
    )
    sums_s = timed(lambda: cluster_sums(x, labels, k), args.repeats, device)
    once = replace(settings, iterations=1)
    step_s = timed(lambda: lloyd(points, engine, start, once, Silent()), 3 * args.repeats, device)
    moved = lloyd(points, engine, start, once, Silent()).centroids
    with float32(tf32=False):
        plain_s = timed(lambda: plain_iteration(x, start), args.repeats, device)
        exact = plain_iteration(x, start)
    forget_peak(device)
    began = time.perf_counter()
    solution = lloyd(points, engine, start, settings, Silent())
    _, nearest, _ = nearest_two(x, solution.centroids)
    synchronize(device)
    run_s = time.perf_counter() - began
    began = time.perf_counter()
    lloyd(points, engine, start, settings, Silent())
    synchronize(device)
    iteration_s = (time.perf_counter() - began) / solution.iterations
    with float32(tf32=False):
        centroids = start
        for _ in range(solution.iterations):
            centroids = plain_iteration(x, centroids)
    plain_nearest = nearest_two(x, centroids)[1]
    products = {name: product_tflops(args.repeats, name, device) for name in ("tf32", "bf16", "ieee")}
    expected = nearest_two(x, start)[0]

    def unlike(found: torch.Tensor) -> float:
        return float((found != expected).double().mean())

    return {
        "device": name_of(device), "torch": torch.__version__,
        "samples": samples, "dimension": dimension, "k": k, "init_s": round(init_s, 4),
        "engine": type(engine).__name__, "readable_assign_s": round(readable_assign_s, 5),
        "iteration_s": round(iteration_s, 5), "first_iteration_s": round(step_s, 5),
        "assign_s": round(assign_s, 5), "sums_s": round(sums_s, 5),
        "first_iteration_tflops": round(flops / step_s / 1e12, 1), "assign_tflops": round(flops / assign_s / 1e12, 1),
        "product_tflops": {name: round(value, 1) for name, value in products.items()},
        "first_iteration_of_product": round(flops / step_s / 1e12 / products["tf32"], 3),
        "assign_of_product": round(flops / assign_s / 1e12 / products["tf32"], 3),
        "run_s": round(run_s, 4), "iterations": solution.iterations, "repaired": solution.repaired,
        "inertia": float(nearest.double().square().sum()),
        "inertia_of_plain": float(nearest.double().square().sum() / plain_nearest.double().square().sum()),
        "plain_iteration_s": round(plain_s, 5), "speedup": round(plain_s / step_s, 2),
        "labels_unlike_float32": unlike(labels), "readable_labels_unlike_float32": unlike(readable.assign(start)),
        "centroids_unlike_plain": float((moved - exact).abs().max()),
        "peak_gib": round(peak_gib(device), 2),
    }  # fmt: skip


def commands(args: argparse.Namespace) -> dict[str, Any]:
    samples, dimension, k = args.samples or 1_281_167, args.dimension or 768, args.k or 1000
    device = torch.device(args.device)
    python, gpus = [sys.executable, "-m"], torch.cuda.device_count()
    launch = [*python, "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", clustered(samples, dimension, 2 * k, device).half().cpu().numpy())
        if device.type == "cuda":
            torch.cuda.empty_cache()
        cluster = ["cluster", f"{folder}/x.npy", "-k", str(k), "--iterations", str(args.iterations), "-q",
                   "--engine", "torch", "-o", f"{folder}/c.safetensors", "--device"]  # fmt: skip
        runs = {"one device": [*python, "dprune", *cluster, args.device]}
        if gpus > 1 and device.type == "cuda":
            runs["threads"] = [*python, "dprune", *cluster, ",".join(f"cuda:{index}" for index in range(gpus))]
        if gpus > 1 or device.type == "cpu":
            runs["two ranks"] = [*launch, "-m", "dprune", *cluster, args.device]
            runs["torchrun alone"] = [*launch, "--no-python", "true"]
        seconds = {name: [elapsed(run, Path(folder)) for _ in range(args.repeats)] for name, run in runs.items()}
    return {"device": name_of(device), "gpus": gpus, "torch": torch.__version__, "samples": samples,
            "dimension": dimension, "k": k, "iterations": args.iterations,
            "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()}}  # fmt: skip


def sampled(args: argparse.Namespace) -> dict[str, Any]:
    on_gpu = args.device == "cuda"
    samples = args.samples or (1_281_167 if on_gpu else 200_000)
    dimension, k = args.dimension or (768 if on_gpu else 384), args.k or (1000 if on_gpu else 500)
    device = take_device(args.device)
    # Others may be at work on the cores.
    clock = time.perf_counter if on_gpu else time.process_time
    place = device if on_gpu or torch_pays(samples, dimension, k) else HOST
    with tempfile.TemporaryDirectory() as folder:
        store = stored(Path(folder, "features"), clustered(samples, dimension, 2 * k, device))
        forget_peak(device)
        settings = ClusterSettings(k=k, iterations=args.iterations, engine="torch" if on_gpu else "auto",
                                   device=args.device)  # fmt: skip
        some = replace(settings, fit_on=Amount.parse("2%"))
        seconds: dict[str, list[float]] = {"full": [], "fit_on": [], "assign": [], "read": []}
        inertia, peaks = {}, {}
        # The first round finds the files out of memory, and kernels that are not loaded.
        for round_ in range(args.repeats + 1):
            for name, asked in (("full", settings), ("fit_on", some)):
                forget_peak(device)
                job = open_cluster(store, asked, Output(f"{folder}/{name}{round_}.safetensors"))
                began = clock()
                inertia[name] = job.run(Silent())["inertia"]
                seconds[name].append(clock() - began)
                peaks[name] = round(peak_gib(device), 2)
            features = open_features(store)
            spans = Spans(Path(folder, f"spans{round_}"), samples, "bench")
            assigner = Assigner(load_file(f"{folder}/fit_on{round_}.safetensors")["centroids"], "l2", place)
            began = clock()
            assign_spans(features, spans, range(len(spans)), assigner, None, Silent(), lambda: False)
            seconds["assign"].append(clock() - began)
            began = clock()
            for rows in read_rows(features, 0, samples, place):
                del rows
            synchronize(device)
            seconds["read"].append(clock() - began)
    took = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    product_s = 2 * samples * dimension * k / product_tflops(args.repeats, "ieee", device) / 1e12
    return {
        "device": name_of(device), "torch": torch.__version__, "samples": samples, "dimension": dimension, "k": k,
        "iterations": args.iterations, "seconds": {name: round(value, 3) for name, value in took.items()},
        "product_s": round(product_s, 3), "assign_of_floor": round(max(took["read"], product_s) / took["assign"], 3),
        "fit_on_of_full": round(took["fit_on"] / took["full"], 3),
        "inertia_of_full": inertia["fit_on"] / inertia["full"], "peak_gib": peaks,
    }  # fmt: skip


def stored(folder: Path, x: torch.Tensor) -> str:
    """Write features to a store as `embed` does, float16, in parts of about ten thousand."""
    parts = x.split(PART)
    shards = tuple(f"{number:06d}.tar" for number in range(len(parts)))
    store = Store(folder, "features", shards, (), make_record("embed", {}))
    store.publish_manifest()
    for shard, part in zip(shards, parts, strict=True):
        rows = part.half().cpu().numpy()
        label = np.full(len(rows), -1)
        store.publish_part(shard, {"features": rows, "label": label}, shard, len(rows), [])
    return str(folder)


def elapsed(command: list[str], folder: Path) -> float:
    # What is there would be up to date.
    (folder / "c.safetensors").unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "GLOO_SOCKET_IFNAME": "lo"}
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    options = arguments()
    parts = by_kernel if options.device == "cuda" or options.parts else on_cpu
    chosen = commands if options.command else sampled if options.fit_on else parts
    print(json.dumps(chosen(options), indent=2))
