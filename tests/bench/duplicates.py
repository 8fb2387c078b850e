"""How fast `score duplicates` is, as JSON on stdout: in clusters, among all, and as a command.

On a CPU: in clusters, beside a plain numpy loop over the same clusters, by process time in turns.
On a GPU (`--device cuda`): seconds in clusters and among all samples, beside the floor (the same operations in one
large float32 product), from rows in the computer's memory, the memory that it takes, and the whole command from half
precision features in a file.

    python tests/bench/duplicates.py
    PYTHONPATH=. python tests/bench/duplicates.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from machine import command, forget_peak, held_gib, name_of, peak_gib, timed
from safetensors.numpy import save_file

from dprune.runtime import Silent
from dprune.scoring.similarities import largest_similarities
from dprune.training.throughput import product_rate, synchronize

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--parts", action="store_true", help="take what a GPU tells of a CPU too")
    parser.add_argument("--samples", type=int, help="100,000 on a CPU, 1,281,167 on a GPU")
    parser.add_argument("--dimension", type=int, help="384 on a CPU, 768 on a GPU")
    parser.add_argument("--clusters", type=int, help="100 on a CPU, 1000 on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def data(samples: int, dimension: int, clusters: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unit length around random centres, and the cluster of each, int64; one in a hundred is a copy."""
    draw = torch.Generator(device).manual_seed(0)
    centres = torch.randn((clusters, dimension), generator=draw, device=device)
    owner = torch.randint(clusters, (samples,), generator=draw, device=device)
    x = torch.empty((samples, dimension), device=device)
    for low in range(0, samples, 65_536):
        part = x[low : low + 65_536]
        part.normal_(generator=draw).add_(centres[owner[low : low + len(part)]])
        part /= part.norm(dim=1, keepdim=True)
    copies = samples // 100
    x[-copies:], owner[-copies:] = x[:copies], owner[:copies]
    return x, owner


def members(owner: torch.Tensor) -> list[torch.Tensor]:
    """Ids of each cluster, on the host."""
    order = owner.cpu().argsort(stable=True)
    return [ids for ids in order.split(torch.bincount(owner.cpu()).tolist()) if len(ids)]


def in_clusters(x: torch.Tensor, clusters: list[torch.Tensor], device: torch.device) -> np.ndarray:
    """The work of the command between reading and writing; the ids stand in for the order of distances."""
    found = np.empty(len(x), dtype=np.float32)
    for ids in clusters:
        rows = x.index_select(0, ids.to(x.device))
        found[ids.numpy()] = largest_similarities(rows, torch.arange(len(ids)), device, Silent())[0].cpu().numpy()
    return found


def among_all(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    return largest_similarities(x, torch.arange(len(x)), device, Silent())[0]


def plain(x: np.ndarray, clusters: list[np.ndarray]) -> np.ndarray:
    """What one writes first: all cosines of a cluster at once."""
    found = np.full(len(x), -1, dtype=np.float32)
    for ids in clusters:
        rows = x[ids]
        found[ids[1:]] = np.where(np.tri(len(ids), k=-1, dtype=bool), rows @ rows.T, -1).max(1)[1:]
    return found


def on_cpu(args: argparse.Namespace) -> dict[str, Any]:
    samples, dimension, count = args.samples or 100_000, args.dimension or 384, args.clusters or 100
    x, owner = data(samples, dimension, count, CPU)
    clusters = members(owner)
    runs: dict[str, Callable[[], np.ndarray]] = {
        "dprune": lambda: in_clusters(x, clusters, CPU),
        "numpy": lambda: plain(x.numpy(), [ids.numpy() for ids in clusters]),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    found = {}
    for _ in range(args.repeats):
        for name, run in runs.items():
            began = time.process_time()
            found[name] = run()
            times[name].append(time.process_time() - began)
    return {"samples": samples, "dimension": dimension, "clusters": count, "threads": torch.get_num_threads(),
            **{f"{name} cpu_s": round(min(values), 3) for name, values in times.items()},
            "copies_found": int((found["dprune"] > 0.9999).sum()), "copies": samples // 100,
            "largest_difference": float(np.abs(found["dprune"] - found["numpy"]).max())}  # fmt: skip


def by_part(args: argparse.Namespace) -> dict[str, Any]:
    samples, dimension, count = args.samples or 1_281_167, args.dimension or 768, args.clusters or 1000
    device = torch.device(args.device)
    x, owner = data(samples, dimension, count, device)
    clusters, rate = members(owner), product_rate(device, torch.float32)
    inside = sum(len(ids) ** 2 for ids in clusters) * dimension
    result: dict[str, Any] = {
        "device": name_of(device), "torch": torch.__version__, "samples": samples, "dimension": dimension,
        "clusters": count, "float32_product_tflops": round(rate / 1e12, 1),
    }  # fmt: skip
    forget_peak(device)
    before = held_gib(device)
    # The operations of the lower triangles.
    for name, operations, run in (
        ("in_clusters", inside, lambda: in_clusters(x, clusters, device)),
        ("among_all", samples**2 * dimension, lambda: among_all(x, device)),
    ):
        seconds = timed(run, args.repeats if name == "in_clusters" else 1, device)
        result[name] = {"s": round(seconds, 3), "floor_s": round(operations / rate, 3),
                        "of_floor": round(seconds * rate / operations, 2),
                        "peak_gib_above_data": round(peak_gib(device) - before, 2)}  # fmt: skip
    found, stored = in_clusters(x, clusters, device), x.cpu()
    x = stored
    began = time.perf_counter()
    streamed = in_clusters(stored, clusters, device)
    synchronize(device)
    result["in_clusters"] |= {
        "from_host_memory_s": round(time.perf_counter() - began, 3),
        "copies_found": int((found > 0.9999).sum()), "copies": samples // 100,
        "streamed_unlike": float(np.abs(found - streamed).max()),
    }  # fmt: skip
    forget_peak(device)
    result["command_s"] = round(whole_command(stored.half().numpy(), owner.cpu().numpy(), args.device), 2)
    return result


def whole_command(half: np.ndarray, owner: np.ndarray, device: str) -> float:
    """Seconds of the command, imports aside: reading, scoring, writing."""
    with tempfile.TemporaryDirectory() as folder:
        features, clusters = Path(folder, "features.npy"), Path(folder, "clusters.safetensors")
        np.save(features, half)
        distance = np.random.default_rng(0).random(len(owner), dtype=np.float32)
        save_file({"assignment": owner.astype(np.int32), "distance": distance}, clusters)
        began = time.perf_counter()
        command("score", "duplicates", features, "--clusters", clusters, "--device", device, "-q",
                "-o", Path(folder, "scores.npy"))  # fmt: skip
        return time.perf_counter() - began


if __name__ == "__main__":
    options = arguments()
    print(json.dumps((by_part if options.device == "cuda" or options.parts else on_cpu)(options), indent=2))
