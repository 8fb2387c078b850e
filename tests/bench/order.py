"""What the order of training costs where samples are not drawn alike, as JSON on stdout.

Seconds of an epoch's order, and of finding the place of a run that goes on, at the size of ImageNet; and microseconds
that the times of a batch take where samples have noise levels of their own, beside those of a batch without, launched
and as a CUDA graph, whose times must be the same bits.

    PYTHONPATH=. python tests/bench/order.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from machine import name_of, timed

from dprune import noise
from dprune.training.dit.noise_levels import NoiseLevels
from dprune.training.order import Drawing, Order


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=80, help="of the run")
    parser.add_argument("--repeats", type=int, default=20)
    return parser.parse_args()


def orders(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds until the first batch of a run that goes on at three quarters, and of an epoch there."""
    draw = np.random.default_rng(0)
    weights, easiest = draw.random(args.samples) * 2, draw.permutation(args.samples)
    steps, found = args.epochs * args.samples // args.batch, {}
    for name, drawing in {"plain": Drawing(), "weights": Drawing(weights), "curriculum": Drawing(None, easiest),
                          "both": Drawing(weights, easiest)}.items():  # fmt: skip
        began = time.perf_counter()
        order = Order(args.samples, args.batch, 0, drawing, steps)
        order.visits(steps * 3 // 4)
        there = time.perf_counter()
        order.visits(steps * 3 // 4 + order.length // args.batch + 1)
        found[name] = {"goes_on_s": there - began, "epoch_s": time.perf_counter() - there}
    return found


def levels(args: argparse.Namespace, time_: str) -> dict[str, float | bool]:
    """Microseconds of the times of a batch, without levels and with them."""
    device, draw = torch.device(args.device), np.random.default_rng(0)
    least = np.where(draw.random(args.samples) < 0.5, 0.9 * draw.random(args.samples), 0).astype(np.float32)
    found = NoiseLevels(least, np.arange(args.samples), None, time_, device)
    ids = torch.from_numpy(draw.integers(0, args.samples, args.batch)).to(device)
    visits = torch.zeros_like(ids)

    def plain() -> torch.Tensor:
        return noise.uniform(0, "time of training", ids, visits)

    def levelled() -> torch.Tensor:
        return found.times(plain(), ids)

    times = levelled()
    limit = 1 - torch.from_numpy(least).to(device)[ids]
    shown: dict[str, float | bool] = {"within": bool((times <= limit + 1.2e-7).all())}
    for name, run in {"plain_us": plain, "levels_us": levelled}.items():
        shown[name] = 1e6 * timed(run, args.repeats, device)
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = levelled()
        shown["graph_us"] = 1e6 * timed(graph.replay, args.repeats, device)
        shown["same_bits"] = bool((made == times).all())
        on_cpu = NoiseLevels(least, np.arange(args.samples), None, time_, torch.device("cpu"))
        ours = on_cpu.times(plain().cpu(), ids.cpu())
        shown["from_cpu"] = float((ours - times.cpu()).abs().max())
    return shown


def main() -> None:
    args = arguments()
    found = {"device": name_of(torch.device(args.device)), "samples": args.samples, "orders": orders(args)}
    for time_ in ("uniform", "logit-normal"):
        found[f"times_{time_}"] = levels(args, time_)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
