"""How fast the exact nearest-neighbour search is, as JSON on stdout.

On a CPU: beside faiss's exact search and the bare float32 products, by process time in turns.
On a GPU (`--device cuda`): 50,000 queries against 1,281,167 rows of 768, from rows on the device and from half
precision rows in the computer's memory, beside the arithmetic floor (the same operations in one large bfloat16
product), the search's own products alone, and a plain float32 search by tiles.

    python tests/bench/nearest.py
    PYTHONPATH=. python tests/bench/nearest.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import torch
from machine import forget_peak, held_gib, name_of, peak_gib, timed

from dprune.clustering.engines import import_faiss
from dprune.metrics.bounds import optimistic_scores, products
from dprune.metrics.nearest import nearest, squared_distances
from dprune.metrics.reading import SIZES
from dprune.precision import float32
from dprune.training.throughput import product_rate, synchronize

if TYPE_CHECKING:
    from collections.abc import Callable

COPIES = 100


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--parts", action="store_true", help="take what a GPU tells of a CPU too")
    parser.add_argument("--queries", type=int, help="2,000 on a CPU, 50,000 on a GPU")
    parser.add_argument("--rows", type=int, help="50,000 on a CPU, 1,281,167 on a GPU")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--classes", type=int, default=1000, help="clusters that the rows come from, in order")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def features(count: int, dimension: int, classes: int, seed: int, device: torch.device) -> torch.Tensor:
    """Points around random centres, sorted by class as the files of a data set are, with a mean that is not zero."""
    draw = torch.Generator(device).manual_seed(0)
    centres = torch.randn((classes, dimension), generator=draw, device=device) + 0.5
    draw.manual_seed(seed)
    x = torch.empty((count, dimension), device=device)
    owner = torch.arange(count, device=device) * classes // count
    for low in range(0, count, 65_536):
        part = x[low : low + 65_536]
        part.normal_(generator=draw).add_(centres[owner[low : low + len(part)]])
    return x


def data(args: argparse.Namespace, queries: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and rows that half precision holds exactly, the first queries copies of rows."""
    device = torch.device(args.device)
    train = features(rows, args.dimension, args.classes, 1, device).half().float()
    asked = features(queries, args.dimension, args.classes, 2, device).half().float()
    asked[:COPIES] = train[:: rows // COPIES][:COPIES]
    return asked, train


def check(asked: torch.Tensor, train: torch.Tensor, found: Any) -> dict[str, Any]:
    """Compare some queries with a search by float64 differences, and look at the planted copies."""
    some = range(0, len(asked), max(1, len(asked) // 20))
    wrong = 0
    for i in some:
        squares = torch.cat([squared_distances(asked[i].expand_as(part), part) for part in train.split(100_000)])
        distance, place = squares.sort(stable=True)
        k = found.id.shape[1]
        wrong += not (torch.equal(place[:k], found.id[i]) and torch.equal(distance[:k].sqrt(), found.distance[i]))
    planted = torch.arange(COPIES, device=asked.device) * (len(train) // COPIES)
    return {"checked": len(some), "wrong": wrong, "zeros": int((found.distance[:, 0] == 0).sum()),
            "copies_found": int((found.id[:COPIES, 0] == planted).sum()),
            "compared_per_query": round(found.compared / len(asked), 2)}  # fmt: skip


def on_cpu(args: argparse.Namespace) -> dict[str, Any]:
    queries, rows = args.queries or 2_000, args.rows or 50_000
    asked, train = data(args, queries, rows)
    faiss, results = import_faiss(), {}
    for k in args.neighbours:
        runs: dict[str, Callable[[], Any]] = {
            "products alone": lambda: [asked @ part.T for part in train.split(SIZES["cpu"].columns)],
            "dprune": lambda k=k: nearest(asked, train, k),
        }
        if faiss is not None:
            faiss.omp_set_num_threads(torch.get_num_threads())
            runs["faiss"] = lambda k=k: faiss.knn(asked.numpy(), train.numpy(), k)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.repeats):
            for name, run in runs.items():
                began = time.process_time()
                run()
                times[name].append(time.process_time() - began)
        found = nearest(asked, train, k)
        results[k] = {f"{name} cpu_s": round(min(values), 3) for name, values in times.items()}
        results[k] |= check(asked, train, found)
        if faiss is not None:
            ids = torch.from_numpy(runs["faiss"]()[1])
            results[k]["ids_that_faiss_orders_otherwise"] = int((ids != found.id).sum())
    return {"queries": queries, "rows": rows, "dimension": args.dimension, "threads": torch.get_num_threads(),
            "neighbours": results}  # fmt: skip


def own_products(asked: torch.Tensor, train: torch.Tensor) -> None:
    """The products of the search and nothing else, in its tiles; the width is that of its operands."""
    width = -(-(asked.shape[1] + 5) // 8) * 8
    a, b = (torch.nn.functional.pad(x, (0, width - x.shape[1])).bfloat16() for x in (asked, train))
    sizes = SIZES[asked.device.type]
    with products():
        for columns in b.split(sizes.columns):
            for span in a.split(sizes.scores // sizes.columns):
                optimistic_scores(span, columns)


def plain(asked: torch.Tensor, train: torch.Tensor, k: int) -> torch.Tensor:
    """What one writes first: float32 without tf32, squared distances and topk by tiles; inexact near ties."""
    values = asked.new_full((len(asked), k), torch.inf)
    ids = torch.zeros((len(asked), k), dtype=torch.int64, device=asked.device)
    for low in range(0, len(train), 8192):
        part = train[low : low + 8192]
        squares = asked.square().sum(1, keepdim=True) - 2 * asked @ part.T + part.square().sum(1)
        best, place = torch.cat([values, squares], 1).topk(k, largest=False)
        ids = torch.where(place < k, ids.gather(1, place.clamp(max=k - 1)), place - k + low)
        values = best
    return ids


def by_part(args: argparse.Namespace) -> dict[str, Any]:
    queries, rows, device = args.queries or 50_000, args.rows or 1_281_167, torch.device(args.device)
    asked, train = data(args, queries, rows)
    stored = train.half().cpu().numpy()
    operations = 2 * queries * rows * args.dimension
    rate = product_rate(device, torch.bfloat16)
    floor = operations / rate
    result: dict[str, Any] = {
        "device": name_of(device), "torch": torch.__version__, "queries": queries, "rows": rows,
        "dimension": args.dimension, "bf16_product_tflops": round(rate / 1e12, 1), "floor_s": round(floor, 4),
        "own_products_s": round(timed(lambda: own_products(asked, train), args.repeats, device), 4),
    }  # fmt: skip
    for k in args.neighbours:
        forget_peak(device)
        before = held_gib(device)
        seconds = timed(lambda k=k: nearest(asked, train, k), args.repeats, device)
        found = nearest(asked, train, k)
        peak = peak_gib(device) - before
        began = time.perf_counter()
        streamed = nearest(asked, stored, k)
        synchronize(device)
        from_memory = time.perf_counter() - began
        single = nearest(asked, train, k, precision="float32")
        result[f"k={k}"] = {
            "search_s": round(seconds, 4), "of_floor": round(seconds / floor, 2),
            "from_host_memory_s": round(from_memory, 3), "peak_gib_above_data": round(peak, 2),
            "same_in_float32_and_streamed": all(
                torch.equal(found.id, x.id) and torch.equal(found.distance, x.distance) for x in (streamed, single)
            ),
        } | check(asked, train, found)  # fmt: skip
    with float32(tf32=False):
        began = time.perf_counter()
        ids = plain(asked, train, 1)
        synchronize(device)
        result["plain_float32_s"] = round(time.perf_counter() - began, 3)
    result["plain_wrong_ids"] = int((ids[:, 0] != nearest(asked, train).id[:, 0]).sum())
    return result


if __name__ == "__main__":
    options = arguments()
    print(json.dumps((by_part if options.device == "cuda" or options.parts else on_cpu)(options), indent=2))
