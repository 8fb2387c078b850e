"""How fast k-center and herding rank features, as JSON on stdout.

Beside each stands a plain loop, which reads all rows at every step: a few hundred of its steps are timed, and told as
they are and for as many as are ranked. Seconds on a CPU are those of processors. Rows are made as float16, as stores
hold them; what a command reads first is timed with `--command`, which runs `score k-center` and `score herding` in
processes of their own.

    python tests/bench/orders.py
    PYTHONPATH=. python tests/bench/orders.py --device cuda
    PYTHONPATH=. python tests/bench/orders.py --device cuda --command
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from kmeans import clustered, product_tflops
from machine import forget_peak, name_of, peak_gib, timed

from dprune.formats.features import ArrayFeatures
from dprune.kernels.available import triton_works
from dprune.runtime import Silent
from dprune.scoring.farthest_first import farthest_first
from dprune.scoring.kernel_herding import herding, mean_kernels
from dprune.scoring.orders import load_stored
from dprune.scoring.vectors import Vectors
from dprune.selecting.amount import Amount
from dprune.training.throughput import synchronize

if TYPE_CHECKING:
    from collections.abc import Callable


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--command", action="store_true", help="time whole commands")
    parser.add_argument("--methods", nargs="+", choices=["k-center", "herding"], default=["k-center", "herding"])
    parser.add_argument("--samples", type=int, help="100,000 on a CPU, 1,281,167 on a GPU")
    parser.add_argument("--dimension", type=int, help="384 on a CPU, 768 on a GPU")
    parser.add_argument("--up-to", default="10%", help="how many are ranked")
    parser.add_argument("--plain-steps", type=int, default=200, help="steps of the plain loops that are timed")
    parser.add_argument("--plain-rows", type=int, default=2048, help="rows whose mean kernel is timed plainly")
    return parser.parse_args()


def seconds(run: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    synchronize(device)
    began = clock()
    found = run()
    synchronize(device)
    return clock() - began, found


class Plain:
    """What one writes first, in float32: with numpy on a CPU, with torch on a GPU."""

    def __init__(self, x: torch.Tensor, width: float) -> None:
        self.x = x if x.is_cuda else x.numpy()
        self.xp: Any = torch if x.is_cuda else np
        self.gamma = 1 / width**2

    def k_center(self, first: int, steps: int) -> list[int]:
        order, nearest = [first], self.xp.full_like(self.x[:, 0], torch.inf)
        for _ in range(steps):
            nearest = self.xp.minimum(nearest, 2 - 2 * (self.x @ self.x[order[-1]]))
            order.append(int(nearest.argmax()))
        return order

    def herding(self, means: Any, steps: int) -> list[int]:
        order, values = list[int](), means + 0
        for _ in range(steps):
            order.append(int(values.argmax()))
            values = values + means - self.xp.exp(self.gamma * (self.x @ self.x[order[-1]] - 1))
            values[order] = -torch.inf
        return order

    def mean_kernels(self, rows: int) -> Any:
        """The mean kernels of the first few rows."""
        blocks = (self.x[low : low + 256] for low in range(0, rows, 256))
        return [self.xp.exp(self.gamma * (block @ self.x.T - 1)).mean(1) for block in blocks]


def sizes(args: argparse.Namespace) -> tuple[int, int, torch.device]:
    gpu = args.device == "cuda"
    return (
        args.samples or (1_281_167 if gpu else 100_000),
        args.dimension or (768 if gpu else 384),
        torch.device(args.device),
    )


def ranking(args: argparse.Namespace) -> dict[str, Any]:
    samples, dimension, device = sizes(args)
    count = Amount.parse(args.up_to).count(samples, "lowest")
    made = clustered(samples, dimension, max(2, samples // 1000), device).half()
    features = ArrayFeatures("bench", made.cpu().numpy())
    del made
    read_s, (stored, _) = seconds(lambda: load_stored(features, device, Silent(), None), device)
    found = {"device": name_of(device), "torch": torch.__version__, "threads": torch.get_num_threads(),
             "samples": samples, "dimension": dimension, "ranked": count, "fused": triton_works(device),
             "to_device_s": round(read_s, 2)}  # fmt: skip
    x = torch.nn.functional.normalize(stored.float())
    ties, steps = np.random.default_rng(0).permutation(samples), min(args.plain_steps, count - 1)
    if "k-center" in args.methods:
        found["k_center"] = ranking_by_k_center(x, ties, count, steps)
    if "herding" in args.methods:
        # A GPU takes the rows as they are stored.
        given = stored if device.type == "cuda" else x
        found["herding"] = ranking_by_herding(given, x, ties, count, steps, min(args.plain_rows, samples))
    return found | {"floors": floors(stored if device.type == "cuda" else x, count)}


def ranking_by_k_center(x: torch.Tensor, ties: np.ndarray, count: int, steps: int) -> dict[str, Any]:
    forget_peak(x.device)
    taken_s, order = seconds(lambda: farthest_first(x, ties, count, x.device, Silent()), x.device)
    peak, plain = peak_gib(x.device), Plain(x, 1.0)
    plain.k_center(int(order[0]), 2)
    plain_s, plain_order = seconds(lambda: plain.k_center(int(order[0]), steps), x.device)
    whole, same = plain_s / steps * count, float((np.array(plain_order[:steps]) == order[:steps]).mean())
    return {
        "s": round(taken_s, 2), "peak_gib": round(peak, 2), "us_a_step": round(1e6 * taken_s / count, 1),
        "plain_us_a_step": round(1e6 * plain_s / steps, 1), "plain_s_extrapolated": round(whole, 1),
        "faster": round(whole / taken_s, 2), "same_as_plain": same,
    }  # fmt: skip


def ranking_by_herding(
    given: torch.Tensor, x: torch.Tensor, ties: np.ndarray, count: int, steps: int, rows: int
) -> dict[str, Any]:
    device = x.device
    forget_peak(device)
    taken_s, (order, width) = seconds(lambda: herding(given, ties, count, device, Silent(), most_tabled=0), device)
    peak, plain = peak_gib(device), Plain(x, width)
    means_s, means = seconds(lambda: mean_kernels(Vectors(given, device), 1 / (2 * width**2), Silent()), device)
    start = means if x.is_cuda else means.numpy()
    plain.herding(start, 2)
    plain_s, plain_order = seconds(lambda: plain.herding(start, steps), device)
    plain_means_s = seconds(lambda: plain.mean_kernels(rows), device)[0] / rows * len(x)
    whole = plain_means_s + plain_s / steps * count
    return {
        "s": round(taken_s, 2), "peak_gib": round(peak, 2), "means_s": round(means_s, 2),
        "us_a_step": round(1e6 * (taken_s - means_s) / count, 1), "plain_us_a_step": round(1e6 * plain_s / steps, 1),
        "plain_means_s_extrapolated": round(plain_means_s, 1), "plain_s_extrapolated": round(whole, 1),
        "faster": round(whole / taken_s, 2), "same_as_plain": float((np.array(plain_order) == order[:steps]).mean()),
    }  # fmt: skip


def floors(x: torch.Tensor, count: int) -> dict[str, Any]:
    """What no way around reading all rows at each step, or around multiplying all pairs, could do in less."""
    samples, dimension = x.shape
    # A copy reads and writes.
    read = timed(lambda: x.clone(), 3, x.device) / 2
    rate = product_tflops(3, "tf32" if x.is_cuda else "ieee", x.device)
    return {
        "read_rows_us": round(1e6 * read, 1), "read_rows_at_each_step_s": round(read * count, 1),
        "product_tflops": round(rate, 2), "products_of_pairs_s": round(samples**2 * dimension / rate / 1e12, 1),
        "products_with_ranked_s": round(2 * samples * count * dimension / rate / 1e12, 2),
    }  # fmt: skip


def commands(args: argparse.Namespace) -> dict[str, Any]:
    samples, dimension, device = sizes(args)
    environment, found = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}, {}
    with tempfile.TemporaryDirectory() as folder:
        x = clustered(samples, dimension, max(2, samples // 1000), device).half().cpu().numpy()
        np.save(f"{folder}/x.npy", x)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        for method in args.methods:
            command = [sys.executable, "-m", "dprune", "score", method, f"{folder}/x.npy", "--up-to", args.up_to, "-q",
                       "--device", args.device, "-o", f"{folder}/{method}.npy"]  # fmt: skip
            began = time.perf_counter()
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            found[method] = round(time.perf_counter() - began, 2)
    return {"device": name_of(device), "torch": torch.__version__, "samples": samples, "dimension": dimension,
            "up_to": args.up_to, "seconds": found}  # fmt: skip


if __name__ == "__main__":
    options = arguments()
    print(json.dumps((commands if options.command else ranking)(options), indent=2))
